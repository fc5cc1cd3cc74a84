"""Lost connections, and databases that are down, hang or lack the table."""

import asyncio
from collections.abc import Awaitable, Callable
from uuid import uuid4

import pytest

from kit.postgres_server import PostgresServer
from kit.sql_database import Database, Driver
from kit.stores import KEY, is_free, until
from tokenflight import (
    StoreConflict,
    StoredTokens,
    StoreError,
    StoreUnavailable,
    TokenSet,
)
from tokenflight.stores.sql._limits import SQLLimits


async def test_connections_that_died_in_the_pool_are_replaced_unnoticed(postgres: Database) -> None:
    async with postgres.opened() as store:
        await store.save(KEY, record := StoredTokens(TokenSet("one")))
        await postgres.cut_off_all()
        assert await store.load(KEY) is not None
        await postgres.cut_off_all()
        await store.replace(KEY, StoredTokens(TokenSet("two")), expected=record.version)
        await postgres.cut_off_all()
        async with store.lease(KEY, timeout=0):
            await postgres.cut_off_all()
        await postgres.cut_off_all()
        assert await store.delete(KEY) is True


async def test_a_connection_lost_in_the_middle_of_a_replacement_leaves_it_to_be_written_once(
    postgres: Database,
) -> None:
    async with postgres.opened() as store:
        await store.save(KEY, saved := StoredTokens(TokenSet("one")))
        async with postgres.blocked():
            replaced = StoredTokens(TokenSet("two"))
            replacing = asyncio.create_task(store.replace(KEY, replaced, expected=saved.version))
            await asyncio.sleep(0.1)
            assert await postgres.cut_off_all(waiting=True) == 1
        await replacing
        with pytest.raises(StoreConflict):
            await store.replace(KEY, StoredTokens(TokenSet("three")), expected=saved.version)
        assert await store.load(KEY) == replaced


async def test_a_statement_whose_connections_are_lost_again_and_again_is_given_up(postgres: Database) -> None:
    class Losing(Driver):
        """The server ends the connection before each statement."""

        tries = 0

        async def before(self, statement: str) -> None:
            self.tries += 1
            await postgres.cut_off_all()

    driver = Losing()
    async with postgres.opened_through(driver) as store:
        with pytest.raises(StoreUnavailable):
            await store.load(KEY)
    assert driver.tries == 2


async def test_p7_a_server_that_is_down_is_unavailable_to_every_operation_and_then_works_again(
    server: PostgresServer,
) -> None:
    database = Database(server.url, f"tokens_{uuid4().hex}")
    async with database.opened(lease_duration=0.4) as store:
        await store.create_table()
        await store.save(KEY, saved := StoredTokens(TokenSet("one")))
        async with store.lease(KEY, timeout=0) as lease:
            server.stop()
            try:
                operations: list[Callable[[], Awaitable[object]]] = [
                    lambda: store.load(KEY),
                    lambda: store.save(KEY, StoredTokens(TokenSet("two"))),
                    lambda: store.replace(KEY, StoredTokens(TokenSet("two")), expected=saved.version),
                    lambda: store.delete(KEY),
                    lambda: store.lease(KEY, timeout=1).__aenter__(),
                    lambda: anext(aiter(store.keys())),
                    store.create_table,
                ]
                for operation in operations:
                    with pytest.raises(StoreUnavailable) as caught:
                        await operation()
                    assert (caught.value.__cause__, caught.value.__context__) == (None, None)
                await until(lambda: not lease.is_held())
            finally:
                server.start()
            await until(lease.is_held)  # extended again: no other process took it
        record = await store.load(KEY)
        assert record is not None
        assert record.version == saved.version
        assert await is_free(store)


@pytest.mark.parametrize("driver", ["asyncpg", "psycopg"])
async def test_a_database_that_hangs_is_given_up_and_the_statement_with_it(postgres: Database, driver: str) -> None:
    database = Database(postgres.url.replace("asyncpg", driver), postgres.table)
    async with database.opened(_limits=SQLLimits(statement_timeout_seconds=0.3)) as store:
        await store.save(KEY, record := StoredTokens(TokenSet("one")))
        async with postgres.blocked():
            with pytest.raises(StoreUnavailable) as caught:
                await store.replace(KEY, StoredTokens(TokenSet("two")), expected=record.version)
        assert caught.value.code == "timeout"
        await store.replace(KEY, StoredTokens(TokenSet("three")), expected=record.version)


async def test_a_locked_file_is_waited_for_and_then_given_up(sqlite: Database) -> None:
    # The driver waits for hardly any time itself.
    impatient = Database(f"{sqlite.url}?timeout=0.01", sqlite.table)
    saved = StoredTokens(TokenSet("one"))
    async with impatient.opened() as store, sqlite.blocked():
        saving = asyncio.create_task(store.save(KEY, saved))
        await asyncio.sleep(0.1)
        assert not saving.done()
    async with impatient.opened(_limits=SQLLimits(statement_timeout_seconds=0.3)) as store:
        await saving
        async with sqlite.blocked():
            with pytest.raises(StoreUnavailable) as caught:
                await store.replace(KEY, StoredTokens(TokenSet("two")), expected=saved.version)
        assert caught.value.code == "timeout"
        await store.replace(KEY, StoredTokens(TokenSet("three")), expected=saved.version)


async def test_a_missing_table_is_told_with_what_to_do(database: Database) -> None:
    absent = Database(database.url, "not_there")
    async with absent.opened() as store:
        for operation in (store.load(KEY), store.save(KEY, StoredTokens(TokenSet("one"))), store.delete(KEY)):
            with pytest.raises(StoreError, match=r"not_there is missing; call .*create_table") as caught:
                await operation
            assert caught.value.code == "missing_table"
        with pytest.raises(StoreError, match="create_table"):
            await store.lease(KEY, timeout=0).__aenter__()


async def test_k11_a_server_that_takes_no_more_connections_is_unavailable(server: PostgresServer) -> None:
    postgres = Database(server.url, "not_there")
    await postgres.run("create role limited login connection limit 0")
    try:
        url = server.url.replace("postgres@", "limited@")
        async with Database(url, postgres.table).opened() as store:
            with pytest.raises(StoreUnavailable, match=r"no more connections \(53300\)"):
                await store.load(KEY)
    finally:
        await postgres.run("drop role limited")
