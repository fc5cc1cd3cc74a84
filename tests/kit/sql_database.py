"""A database with the table of one test, and a double of its driver that a test can step into."""

from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Connection, Engine, QueuePool, event, text
from sqlalchemy.engine.interfaces import DBAPICursor
from sqlalchemy.ext.asyncio import AsyncEngine, create_async_engine
from sqlalchemy.util import await_only

from tokenflight.stores.sql import SQLTokenStore


class Driver:
    """Stands between a store and its driver; override what a test needs. This one passes everything on."""

    async def before(self, statement: str) -> None:
        """Called before the database runs `statement`."""

    async def after(self, statement: str, changed_rows: int) -> bool:
        """Called after the database has run `statement`. Return True to have it run once more."""
        return False

    def execute(self, cursor: DBAPICursor, statement: str, parameters: Any) -> bool:
        await_only(self.before(statement))
        cursor.execute(statement, parameters)
        while await_only(self.after(statement, cursor.rowcount)):
            cursor.execute(statement, parameters)
        return True


@dataclass(frozen=True)
class Database:
    """Where the table of one test is."""

    url: str
    table: str

    def store(self, **settings: Any) -> SQLTokenStore:
        """A store on an engine of its own."""
        return SQLTokenStore(self.url, table=self.table, **settings)

    @asynccontextmanager
    async def opened(self, **settings: Any) -> AsyncIterator[SQLTokenStore]:
        """A store that is closed at the end."""
        store = self.store(**settings)
        try:
            yield store
        finally:
            await store.aclose()

    @asynccontextmanager
    async def engine(self, **settings: Any) -> AsyncIterator[AsyncEngine]:
        """An app's engine."""
        engine = create_async_engine(self.url, **settings)
        try:
            yield engine
        finally:
            await engine.dispose()

    @asynccontextmanager
    async def opened_through(self, driver: Driver, **settings: Any) -> AsyncIterator[SQLTokenStore]:
        """A store whose statements on the table pass through `driver`, each a transaction of its own."""

        def execute(cursor: DBAPICursor, statement: str, parameters: Any, _context: object) -> bool:
            return self.table in statement and driver.execute(cursor, statement, parameters)

        async with self.engine(isolation_level="AUTOCOMMIT") as engine:
            event.listen(engine.sync_engine, "do_execute", execute)
            store = SQLTokenStore(engine, table=self.table, **settings)
            try:
                yield store
            finally:
                await store.aclose()

    async def run(self, statement: str) -> list[Any]:
        """What `statement` finds; ``{table}`` in it is the table."""
        async with self.engine() as engine, engine.begin() as connection:
            result = await connection.execute(text(statement.format(table=self.table)))
            return [tuple(row) for row in result] if result.returns_rows else []

    async def count_rows(self) -> int:
        """How many rows the table has."""
        [(number,)] = await self.run("select count(*) from {table}")
        assert isinstance(number, int)
        return number

    @asynccontextmanager
    async def blocked(self) -> AsyncIterator[None]:
        """No one else can change a row of the table."""
        async with self.engine() as engine, engine.begin() as connection:
            await connection.execute(text(f"update {self.table} set provider = provider"))
            yield

    async def cut_off_all(self, *, waiting: bool = False) -> int:
        """End PostgreSQL's side of all connections but this one's, or of those that wait for a lock; how many."""
        idle = "wait_event_type = 'Lock'" if waiting else "state = 'idle'"
        cut = await self.run(
            "select pg_terminate_backend(pid, 5000) from pg_stat_activity where pid <> pg_backend_pid() "
            f"and backend_type = 'client backend' and {idle}"
        )
        return len(cut)


@contextmanager
def statements_sent() -> Iterator[list[str]]:
    """The first words of all statements that SQLAlchemy sends."""
    statements: list[str] = []

    def note(_connection: Connection, _cursor: object, statement: str, *_: object) -> None:
        statements.append(statement.split(maxsplit=1)[0])

    event.listen(Engine, "before_cursor_execute", note)
    try:
        yield statements
    finally:
        event.remove(Engine, "before_cursor_execute", note)


def checked_out_of(engine: AsyncEngine) -> int:
    """How many of the pool's connections are in use."""
    assert isinstance(engine.pool, QueuePool)
    return engine.pool.checkedout()
