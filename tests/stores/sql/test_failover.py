"""H1: connections in the pool that lead to a server which is read-only now, or hold plans for a table that changed."""

import asyncio
import os
import signal
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final
from uuid import uuid4

import pytest
from sqlalchemy import text
from sqlalchemy.engine.interfaces import DBAPICursor
from sqlalchemy.exc import DBAPIError
from sqlalchemy.ext.asyncio import create_async_engine

from kit.postgres_server import PostgresServer, postgres_server
from kit.sql_database import Database, Driver, statements_sent
from kit.stores import KEY, take
from tokenflight import StoredTokens, StoreUnavailable, TokenSet
from tokenflight.stores.sql import SQLTokenStore

SOCKET: Final = ".s.PGSQL.5432"

Operation = Callable[[SQLTokenStore, StoredTokens], Awaitable[object]]

WRITES: Final[dict[str, Operation]] = {
    "save": lambda store, _saved: store.save(KEY, StoredTokens(TokenSet("two"))),
    "replace": lambda store, saved: store.replace(KEY, StoredTokens(TokenSet("two")), expected=saved.version),
    "delete": lambda store, _saved: store.delete(KEY),
    "lease": lambda store, _saved: take(store, timeout=0),
}


@pytest.mark.parametrize("write", WRITES.values(), ids=WRITES)
@pytest.mark.parametrize("engine", ["url", "given", "shared", "psycopg"])
async def test_h1_writes_work_as_soon_as_the_server_does_though_the_pool_is_full_of_read_only_connections(
    postgres: Database, write: Operation, engine: str
) -> None:
    async with postgres.opened() as writing:
        await writing.save(KEY, saved := StoredTokens(TokenSet("one")))
    async with store_on(postgres, engine) as store:
        async with read_only(postgres):
            await asyncio.gather(*(store.load(KEY) for _ in range(5)))
        assert await write(store, saved) is not False


async def test_h1_a_server_that_stays_read_only_is_asked_twice_and_unavailable(postgres: Database) -> None:
    async with read_only(postgres), postgres.opened() as store:
        with statements_sent() as statements, pytest.raises(StoreUnavailable, match=r"read-only \(25006\)"):
            await store.save(KEY, StoredTokens(TokenSet("one")))
    assert statements.count("INSERT") == 2


@pytest.mark.parametrize("engine", ["url", "psycopg"])
async def test_h1_a_table_altered_under_the_plans_of_pooled_connections_goes_unnoticed(
    postgres: Database, engine: str
) -> None:
    async with store_on(postgres, engine) as store:
        await store.save(KEY, saved := StoredTokens(TokenSet("one")))
        for _ in range(8):  # psycopg prepares a statement when it runs for the sixth time
            await asyncio.gather(*(store.load(KEY) for _ in range(5)))
        await postgres.run("alter table {table} alter column version type varchar(100)")
        assert await asyncio.gather(*(store.load(KEY) for _ in range(5))) == [saved] * 5


async def test_h1_an_error_that_the_app_sees_on_its_own_engine_costs_it_no_connection(postgres: Database) -> None:
    async with postgres.engine() as engine, engine.connect() as connection:
        store = SQLTokenStore(engine, table=postgres.table)
        await store.load(KEY)
        await connection.execute(text("set transaction read only"))
        with pytest.raises(DBAPIError) as caught:
            await connection.execute(text(f"delete from {postgres.table}"))
        assert not caught.value.connection_invalidated
        assert not connection.invalidated


async def test_h1_a_server_that_crashes_and_recovers_costs_no_more_than_errors_of_the_tree(
    server: PostgresServer,
) -> None:
    database = Database(server.url, f"tokens_{uuid4().hex}")
    async with database.opened() as store:
        await store.create_table()
        await store.save(KEY, saved := StoredTokens(TokenSet("one")))
        await asyncio.gather(*(store.load(KEY) for _ in range(5)))
        before = await checkpointer_of(database)
        await kill_a_backend(database)
        async with asyncio.timeout(20):
            while await checkpointer_of(database) in (before, None):
                with suppress(StoreUnavailable):
                    assert await store.load(KEY) == saved
        assert await asyncio.gather(*(store.load(KEY) for _ in range(5))) == [saved] * 5
        assert await store.delete(KEY) is True
    await database.run("drop table {table}")


@pytest.mark.parametrize("code", ["57P01", "57P02", "57P03"])
async def test_h1_a_connection_over_which_a_server_tells_of_its_shutdown_is_replaced(
    postgres: Database, code: str
) -> None:
    class ShuttingDown(Driver):
        """The server tells of its shutdown once, and then does not close the connection."""

        told = False

        def execute(self, cursor: DBAPICursor, statement: str, parameters: Any) -> bool:
            if not self.told:
                self.told = True
                cursor.execute(f"do $$ begin raise exception 'shutting down' using errcode = '{code}'; end $$")
            return super().execute(cursor, statement, parameters)

    async with postgres.opened_through(ShuttingDown()) as store:
        await store.save(KEY, StoredTokens(TokenSet("one")))
        assert await store.load(KEY) is not None


async def kill_a_backend(database: Database) -> None:
    """Have the server end all other backends too, and recover."""
    async with database.engine() as engine, engine.connect() as connection:
        os.kill(await connection.scalar(text("select pg_backend_pid()")), signal.SIGKILL)
        with pytest.raises(DBAPIError):
            await connection.execute(text("select 1"))


async def checkpointer_of(database: Database) -> object:
    """Its process: a server that recovers starts another one. None while the server takes no connection."""
    try:
        return await database.run("select pid from pg_stat_activity where backend_type = 'checkpointer'")
    except Exception:  # noqa: BLE001 - asyncpg's errors come through as they are while it connects
        return None


async def test_h1_a_failover_behind_an_address_that_moves_loses_no_write(tmp_path: Path) -> None:
    """The old primary goes on serving its connections, read-only; new ones reach the promoted standby."""
    async with primary_and_standby() as (primary, standby), proxy(tmp_path, primary) as target:
        url = f"postgresql+asyncpg://postgres@/postgres?host={tmp_path}"
        old, database = Database(primary.url, "tokens"), Database(url, "tokens")
        async with database.opened() as store:
            await store.create_table()
            await store.save(KEY, saved := StoredTokens(TokenSet("one")))
            await asyncio.gather(*(store.load(KEY) for _ in range(5)))
            await replicated(old)
            await set_read_only(old)
            with pytest.raises(StoreUnavailable, match=r"read-only \(25006\)"):
                await store.save(KEY, StoredTokens(TokenSet("lost")))
            await asyncio.gather(*(store.load(KEY) for _ in range(5)))
            standby.promote()
            target.server = standby

            await store.replace(KEY, replaced := StoredTokens(TokenSet("two")), expected=saved.version)
            await take(store)
            assert await asyncio.gather(*(store.load(KEY) for _ in range(5))) == [replaced] * 5
        async with Database(standby.url, "tokens").opened() as new, old.opened() as behind:
            assert (await new.load(KEY), await behind.load(KEY)) == (replaced, saved)


@dataclass
class Target:
    """Where new connections lead."""

    server: PostgresServer


@asynccontextmanager
async def primary_and_standby() -> AsyncIterator[tuple[PostgresServer, PostgresServer]]:
    with postgres_server() as primary, postgres_server(primary) as standby:
        yield primary, standby


@asynccontextmanager
async def proxy(directory: Path, server: PostgresServer) -> AsyncIterator[Target]:
    """An address in `directory` from which each new connection leads to the target of the moment."""
    target, pipes = Target(server), set[asyncio.Task[None]]()

    async def pipe(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while data := await reader.read(65536):
                writer.write(data)
        except ConnectionError:
            pass  # as an end
        finally:
            writer.close()

    async def connected(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        server_reader, server_writer = await asyncio.open_unix_connection(target.server.directory / SOCKET)
        pipes.update(map(asyncio.create_task, (pipe(reader, server_writer), pipe(server_reader, writer))))

    async with await asyncio.start_unix_server(connected, directory / SOCKET):
        yield target
        for each in pipes:
            each.cancel()
        await asyncio.wait(pipes)


async def replicated(primary: Database) -> None:
    """Wait until the standby has all that the primary has."""
    caught_up = "select 1 from pg_stat_replication where replay_lsn = pg_current_wal_lsn()"
    async with asyncio.timeout(10):
        while not await primary.run(caught_up):  # noqa: ASYNC110
            await asyncio.sleep(0.02)


async def set_read_only(primary: Database) -> None:
    """Take all writes from the connections of a primary, also from those that are there."""
    async with primary.engine(isolation_level="AUTOCOMMIT") as engine, engine.connect() as connection:
        await connection.execute(text("alter system set default_transaction_read_only = on"))
        await connection.execute(text("select pg_reload_conf()"))
        is_read_only = text("select current_setting('default_transaction_read_only')::boolean")
        async with asyncio.timeout(10):
            while not await connection.scalar(is_read_only):  # noqa: ASYNC110
                await asyncio.sleep(0.02)


@asynccontextmanager
async def store_on(database: Database, engine: str) -> AsyncIterator[SQLTokenStore]:
    """A store with an engine of its own, through either driver, one on an app's engine, or one that shares its pool."""
    if engine in {"given", "shared"}:
        async with database.engine() as given:
            yield SQLTokenStore(given, table=database.table, share_pool=engine == "shared")
        return
    driver = "psycopg" if engine == "psycopg" else "asyncpg"
    async with Database(database.url.replace("asyncpg", driver), database.table).opened() as store:
        yield store


@asynccontextmanager
async def read_only(database: Database) -> AsyncIterator[None]:
    """Connections made in this context are read-only for as long as they live."""
    settings = {"server_settings": {"default_transaction_read_only": "off"}}
    engine = create_async_engine(database.url, isolation_level="AUTOCOMMIT", connect_args=settings)
    async with engine.connect() as connection:
        name = (await connection.execute(text("select current_database()"))).scalar_one()
        await connection.execute(text(f"alter database {name} set default_transaction_read_only = on"))
        try:
            yield
        finally:
            await connection.execute(text(f"alter database {name} reset default_transaction_read_only"))
    await engine.dispose()
