"""Real Redis servers for the tests of the Redis store."""

from collections.abc import AsyncIterator, Iterator

import pytest

from kit.redis_server import RedisServer, running_cluster, running_server
from tokenflight.stores.redis import RedisTokenStore


@pytest.fixture(scope="session")
def shared_server() -> Iterator[RedisServer]:
    """The server that all tests of this process share."""
    with running_server() as server:
        yield server


@pytest.fixture
def server(shared_server: RedisServer) -> RedisServer:
    """A server with an empty database and its own settings."""
    with shared_server.client() as client:
        client.flushall()
        client.config_set("maxmemory", 0)
        client.config_set("maxmemory-policy", "noeviction")
    return shared_server


@pytest.fixture(scope="session")
def cluster_port() -> Iterator[int]:
    """The port of a cluster."""
    with running_cluster() as port:
        yield port


@pytest.fixture
async def store(server: RedisServer) -> AsyncIterator[RedisTokenStore]:
    """A store on the empty database."""
    store = RedisTokenStore(server.url)
    yield store
    await store.aclose()
