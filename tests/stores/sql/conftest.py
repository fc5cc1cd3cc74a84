"""Databases for the tests of the SQL store: a real PostgreSQL server, and SQLite files."""

import os
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from uuid import uuid4

import pytest

from kit.mariadb_server import MariaDBServer
from kit.mariadb_server import mariadb_server as running_mariadb
from kit.postgres_server import PostgresServer, postgres_server
from kit.sql_database import Database
from tokenflight.stores.sql import SQLTokenStore


@pytest.fixture(scope="session")
def server() -> Iterator[PostgresServer]:
    """A PostgreSQL server that the tests may stop and start."""
    with postgres_server() as server:
        yield server


@pytest.fixture
def postgres_url(request: pytest.FixtureRequest) -> str:
    """A PostgreSQL server that stays up."""
    named = os.environ.get("TOKENFLIGHT_TEST_POSTGRES_URL")
    return named or request.getfixturevalue("server").url


@pytest.fixture
async def postgres(postgres_url: str) -> AsyncIterator[Database]:
    """An empty table on PostgreSQL."""
    database = Database(postgres_url, f"tokens_{uuid4().hex}")
    async with database.opened() as store:
        await store.create_table()
    yield database
    await database.run("drop table if exists {table}")


@pytest.fixture
def directory() -> Iterator[Path]:
    """An empty directory, in memory where the system has such a place: SQLite syncs its file at each write."""
    in_memory = Path("/dev/shm")
    with TemporaryDirectory(dir=in_memory if in_memory.is_dir() else None) as name:
        yield Path(name)


@pytest.fixture
async def sqlite(directory: Path) -> Database:
    """An empty table in a SQLite file."""
    database = Database(f"sqlite+aiosqlite:///{directory}/tokens.db", "tokens")
    async with database.opened() as store:
        await store.create_table()
    return database


@pytest.fixture(scope="session")
def mariadb_server() -> Iterator[MariaDBServer]:
    """A MariaDB server."""
    with running_mariadb() as server:
        yield server


@asynccontextmanager
async def mariadb_table(server: MariaDBServer, driver: str) -> AsyncIterator[Database]:
    database = Database(server.url(driver), f"tokens_{uuid4().hex}")
    async with database.opened() as store:
        await store.create_table()
    yield database
    await database.run("drop table if exists {table}")


@pytest.fixture
async def asyncmy(mariadb_server: MariaDBServer) -> AsyncIterator[Database]:
    """An empty table on MariaDB, reached through asyncmy."""
    async with mariadb_table(mariadb_server, "asyncmy") as database:
        yield database


@pytest.fixture
async def aiomysql(mariadb_server: MariaDBServer) -> AsyncIterator[Database]:
    """An empty table on MariaDB, reached through aiomysql."""
    async with mariadb_table(mariadb_server, "aiomysql") as database:
        yield database


ON_MARIADB = [pytest.param(driver, marks=pytest.mark.external) for driver in ("asyncmy", "aiomysql")]


@pytest.fixture(params=["postgres", "sqlite", *ON_MARIADB])
def database(request: pytest.FixtureRequest) -> Database:
    """An empty table on each of them."""
    found = request.getfixturevalue(request.param)
    assert isinstance(found, Database)
    return found


@pytest.fixture
async def store(database: Database) -> AsyncIterator[SQLTokenStore]:
    """A store on the empty table."""
    async with database.opened() as store:
        yield store
