"""The contract, on a Redis server and on a cluster."""

import os
import uuid
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager

import pytest
from redis.asyncio import RedisCluster

from kit.codecs import over_codecs
from kit.redis_server import running_server
from tokenflight import (
    TokenStore,
)
from tokenflight.stores.codec import RecordCodec
from tokenflight.stores.redis import RedisTokenStore
from tokenflight.testing.conformance import StoreConformance


@pytest.fixture(scope="module")
def named_url() -> Iterator[str]:
    """The server named in the environment, or one of our own."""
    if url := os.environ.get("TOKENFLIGHT_TEST_REDIS_URL"):
        yield url
    else:
        with running_server() as server:
            yield server.url


@over_codecs
class TestRedisTokenStore(StoreConformance):
    @pytest.fixture(autouse=True)
    def new_prefix(self, named_url: str, codec: RecordCodec) -> None:
        self.url = named_url
        self.prefix = f"tokenflight-test:{uuid.uuid4()}"
        self.codec = codec

    @asynccontextmanager
    async def open_store(self) -> AsyncIterator[TokenStore]:
        store = RedisTokenStore(self.url, prefix=self.prefix, codec=self.codec)
        yield store
        await store.aclose()


@pytest.mark.long
class TestRedisTokenStoreOnACluster(StoreConformance):
    @pytest.fixture(autouse=True)
    def new_prefix(self, cluster_port: int) -> None:
        self.port = cluster_port
        self.prefix = f"tokenflight-test:{uuid.uuid4()}"

    @asynccontextmanager
    async def open_store(self) -> AsyncIterator[TokenStore]:
        async with RedisCluster(host="127.0.0.1", port=self.port) as client:
            store = RedisTokenStore(client, prefix=self.prefix)
            yield store
            await store.aclose()
