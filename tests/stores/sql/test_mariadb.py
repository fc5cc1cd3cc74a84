"""What is MariaDB's own: its clock, collations, locks and error numbers. These tests need its server on the machine."""

import asyncio
import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from typing import Any

import pytest
from sqlalchemy import Connection, event, text
from sqlalchemy.ext.asyncio import create_async_engine

from kit.mariadb_server import MariaDBServer
from kit.sql_database import Database, statements_sent
from kit.stores import KEY, is_free, keys_of, take
from tokenflight import StoreConflict, StoredTokens, StoreError, StoreUnavailable, TokenKey, TokenSet
from tokenflight.stores.base import Version
from tokenflight.stores.sql import SQLTokenStore
from tokenflight.stores.sql._limits import SQLLimits

pytestmark = pytest.mark.external


@pytest.fixture(params=["asyncmy", "aiomysql"])
def mariadb(request: pytest.FixtureRequest) -> Database:
    """An empty table, reached through each of the drivers."""
    found = request.getfixturevalue(request.param)
    assert isinstance(found, Database)
    return found


@pytest.mark.parametrize(
    "change",
    [datetime(2026, 10, 25, 1, tzinfo=UTC), datetime(2027, 3, 28, 1, tzinfo=UTC)],
    ids=["end of summer time", "start of summer time"],
)
async def test_k19_a_lease_lasts_its_duration_when_the_clocks_are_changed(mariadb: Database, change: datetime) -> None:
    changes_at = change.timestamp()
    async with (
        store_at(mariadb, changes_at - 30) as holder,
        store_at(mariadb, changes_at + 29) as early,
        store_at(mariadb, changes_at + 31) as late,
        holder.lease(KEY, timeout=0),
    ):
        assert not await is_free(early)
        assert await is_free(late)


async def test_versions_and_names_that_differ_in_case_alone_are_not_the_same(mariadb: Database) -> None:
    async with mariadb.opened() as store:
        await store.save(KEY, StoredTokens(TokenSet("one"), version=Version("version")))
        with pytest.raises(StoreConflict):
            await store.replace(KEY, StoredTokens(TokenSet("two")), expected=Version("VERSION"))
        await store.save(upper := TokenKey("IDP", "ALICE"), StoredTokens(TokenSet("one")))
        assert await keys_of(store, "IDP") == [upper]


async def test_names_are_kept_whole_in_a_database_with_a_narrow_character_set(mariadb: Database) -> None:
    key = TokenKey("idp", "\U0001f600" * 20_000)
    async with mariadb.opened() as store:
        await store.save(key, StoredTokens(TokenSet("one")))
        assert await keys_of(store) == [key]


async def test_the_dialect_for_mariadb_alone_works_too(mariadb: Database) -> None:
    database = Database(mariadb.url.replace("mysql+", "mariadb+"), mariadb.table)
    async with database.opened() as store:
        await store.save(KEY, saved := StoredTokens(TokenSet("one")))
        await take(store)
        assert await store.load(KEY) == saved


@pytest.mark.parametrize("autocommit", [True, False])
async def test_the_stores_connections_lock_no_gaps_and_the_apps_stay_as_they_are(
    mariadb: Database, *, autocommit: bool
) -> None:
    settings = "select @@tx_isolation, @@autocommit, @@innodb_lock_wait_timeout"
    found: list[tuple[object, ...]] = []

    def look(connection: Connection, *_: object) -> None:
        cursor = connection.connection.cursor()
        cursor.execute(settings)
        found.extend(cursor.fetchall())
        cursor.close()

    async with mariadb.engine() as engine:
        event.listen(engine.sync_engine, "before_cursor_execute", look)
        store = SQLTokenStore(engine, table=mariadb.table, autocommit=autocommit)
        await store.load(KEY)
        assert found == [("READ-COMMITTED", int(autocommit), 1)]
        async with engine.connect() as connection:
            assert list(await connection.execute(text(settings))) == [("REPEATABLE-READ", 0, 50)]
        await store.aclose()


async def test_k19_processes_that_contend_for_a_few_users_get_no_error_but_timeouts(mariadb: Database) -> None:
    async def use(store: SQLTokenStore, key: TokenKey, number: int) -> None:
        for _ in range(3):
            async with store.lease(key, timeout=20):
                record = await store.load(key)
                if record is None:
                    await store.save(key, StoredTokens(TokenSet("new")))
                elif number % 3:
                    await store.replace(key, StoredTokens(TokenSet("next")), expected=record.version)
                else:
                    await store.delete(key)

    async with mariadb.opened() as one, mariadb.opened() as other:
        await asyncio.gather(
            *(use(store, TokenKey("idp", f"user-{n % 4}"), n) for store in (one, other) for n in range(12))
        )
    assert await mariadb.run("select count(lease_owner) from {table}") == [(0,)]


async def test_connections_that_the_server_killed_are_replaced_unnoticed(
    mariadb: Database, mariadb_server: MariaDBServer
) -> None:
    async with mariadb.opened() as store:
        await store.save(KEY, saved := StoredTokens(TokenSet("one")))
        await asyncio.gather(*(store.load(KEY) for _ in range(3)))
        await kill_connections(mariadb_server)
        assert await asyncio.gather(*(store.load(KEY) for _ in range(3))) == [saved] * 3


async def test_p7_a_server_that_is_down_is_unavailable_and_then_works_again(
    mariadb: Database, mariadb_server: MariaDBServer
) -> None:
    async with mariadb.opened() as store:
        await store.save(KEY, saved := StoredTokens(TokenSet("one")))
        async with store.lease(KEY, timeout=0):
            mariadb_server.stop()
            try:
                for operation in (store.load(KEY), store.save(KEY, saved), store.delete(KEY)):
                    with pytest.raises(StoreUnavailable):
                        await operation
            finally:
                mariadb_server.start()
        assert await store.load(KEY) == saved
        assert await is_free(store)


async def test_h1_a_server_that_became_read_only_is_unavailable_and_then_works_again(
    mariadb: Database, mariadb_server: MariaDBServer
) -> None:
    async with mariadb.opened() as store:
        await store.save(KEY, saved := StoredTokens(TokenSet("one")))
        async with setting(mariadb_server, "read_only", "1"):
            with statements_sent() as statements, pytest.raises(StoreUnavailable, match=r"read-only \(1290\)"):
                await store.delete(KEY)
            assert statements.count("UPDATE") == 2
            assert await store.load(KEY) == saved
        assert await store.delete(KEY) is True


async def test_h1_writes_work_though_the_pool_is_full_of_read_only_connections(mariadb: Database) -> None:
    async with mariadb.engine() as engine:
        read_only = True

        def connected(connection: Any, _record: object) -> None:
            if read_only:
                run_on(connection, "set session transaction read only")

        event.listen(engine.sync_engine, "connect", connected)
        store = SQLTokenStore(engine, table=mariadb.table)
        await asyncio.gather(*(store.load(KEY) for _ in range(3)))
        read_only = False
        await store.save(KEY, StoredTokens(TokenSet("one")))
        assert await store.delete(KEY) is True


async def test_k11_a_server_that_takes_no_more_connections_is_unavailable(
    mariadb: Database, mariadb_server: MariaDBServer
) -> None:
    async with setting(mariadb_server, "max_connections", "10"), mariadb.engine(pool_size=10) as engine:
        connections = [engine.connect() for _ in range(10)]
        with pytest.raises(Exception, match="1040"):  # noqa: PT012 - the server counts those that are closing too
            for connection in connections:
                await connection.start()
            await engine.connect().start()
        async with mariadb.opened() as store:
            with pytest.raises(StoreUnavailable, match=r"no more connections \(1040\)"):
                await store.load(KEY)
        for connection in connections:
            if connection.sync_connection is not None:
                await connection.close()


async def test_a_write_that_was_given_up_while_it_waited_for_a_lock_is_not_made_later(mariadb: Database) -> None:
    async with mariadb.opened(_limits=SQLLimits(statement_timeout_seconds=0.2)) as store:
        await store.save(KEY, saved := StoredTokens(TokenSet("one")))
        async with mariadb.blocked():
            with pytest.raises(StoreUnavailable) as caught:
                await store.save(KEY, StoredTokens(TokenSet("two")))
            assert caught.value.code == "timeout"
            await asyncio.sleep(1.2)  # a second by the server's clock
        assert await store.load(KEY) == saved


@pytest.mark.parametrize("share_pool", [False, True])
async def test_l1_no_token_is_logged_by_an_apps_engine_that_logs_everything(
    mariadb: Database, caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str], *, share_pool: bool
) -> None:
    for name in ("sqlalchemy.engine", "sqlalchemy.pool", "asyncmy", "aiomysql"):
        caplog.set_level(logging.DEBUG, name)
    secret = StoredTokens(TokenSet("secret-secret"))
    async with mariadb.engine(echo="debug") as engine:
        store = SQLTokenStore(engine, table=mariadb.table, share_pool=share_pool)
        await store.save(KEY, secret)
        assert await store.load(KEY) == secret
        await mariadb.run("drop table {table}")
        with pytest.raises(StoreError, match="is missing"):
            await store.save(KEY, secret)
    captured = capfd.readouterr()
    told = caplog.text + captured.out + captured.err
    assert "secret-secret" not in told
    assert b"secret-secret".hex() not in told
    assert "unhex" in told


@asynccontextmanager
async def store_at(database: Database, now: float) -> AsyncIterator[SQLTokenStore]:
    """A store for whose statements it is `now`, in a time zone that has summer time."""
    async with database.engine() as engine:

        def connected(connection: Any, _record: object) -> None:
            run_on(connection, f"set timestamp = {now}")

        event.listen(engine.sync_engine, "connect", connected)
        store = SQLTokenStore(engine, table=database.table, lease_duration=60)
        yield store
        await store.aclose()


@asynccontextmanager
async def setting(server: MariaDBServer, name: str, value: str) -> AsyncIterator[None]:
    """The server has another setting for as long as the context lasts."""
    [(before,)] = await run_as_root(server, f"select @@global.{name}")
    await run_as_root(server, f"set global {name} = {value}")
    try:
        yield
    finally:
        await run_as_root(server, f"set global {name} = {before}")


async def kill_connections(server: MariaDBServer) -> None:
    """End the server's side of all connections of the app's."""
    for (number,) in await run_as_root(server, "select id from information_schema.processlist where user = 'app'"):
        await run_as_root(server, f"kill {number}")


async def run_as_root(server: MariaDBServer, statement: str) -> list[Any]:
    engine = create_async_engine(server.url("aiomysql", user="root"))
    try:
        async with engine.connect() as connection:
            result = await connection.execute(text(statement))
            return [tuple(row) for row in result] if result.returns_rows else []
    finally:
        await engine.dispose()


def run_on(connection: Any, statement: str) -> None:
    cursor = connection.cursor()
    cursor.execute(statement)
    cursor.close()
