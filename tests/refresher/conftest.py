"""What the tests of the refresher share: a store that fails, hangs and waits when a test tells it to, and stores that
several processes can open.
"""

from collections.abc import Iterator
from pathlib import Path
from uuid import uuid4

import pytest

from kit.postgres_server import PostgresServer, postgres_server
from kit.redis_server import RedisServer, running_server
from kit.storms.stores import StoreSpec
from tokenflight import MemoryTokenStore
from tokenflight.testing import FaultyStore


@pytest.fixture
def store() -> FaultyStore:
    """An empty store, which a test may put faults into."""
    return FaultyStore(MemoryTokenStore())


@pytest.fixture(scope="module")
def redis() -> Iterator[RedisServer]:
    with running_server() as server:
        yield server


@pytest.fixture(scope="module")
def postgres() -> Iterator[PostgresServer]:
    with postgres_server() as server:
        yield server


@pytest.fixture
def spec(request: pytest.FixtureRequest, tmp_path: Path) -> StoreSpec:
    """An empty store that several processes can open, of the kind that a test names in ``indirect`` parameters."""
    name = f"processes_{uuid4().hex}"
    match request.param:
        case "files":
            return StoreSpec("file", str(tmp_path / "tokens"))
        case "Redis":
            return StoreSpec("redis", request.getfixturevalue("redis").url, name)
        case "PostgreSQL":
            return StoreSpec("sql", request.getfixturevalue("postgres").url, name)
        case _:
            return StoreSpec("sql", f"sqlite+aiosqlite:///{tmp_path / 'tokens.db'}", name)
