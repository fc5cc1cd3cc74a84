"""Whose connections a store uses: those of its own beside an app's engine, or with `share_pool` the app's."""

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from sqlalchemy import NullPool, Pool, QueuePool, event, text
from sqlalchemy.ext.asyncio import AsyncEngine, create_async_engine

from kit.sql_database import Database, checked_out_of
from kit.stores import KEY
from kit.support import login
from tokenflight import ConfigurationError, OIDCProvider, StoredTokens, StoreUnavailable, TokenRefresher, TokenSet
from tokenflight.stores.sql import SQLTokenStore
from tokenflight.stores.sql._engines import MAX_CONNECTIONS_BESIDE
from tokenflight.stores.sql._limits import SQLLimits
from tokenflight.testing import FakeProvider


async def test_k7_requests_that_hold_all_connections_of_the_app_get_their_tokens(
    database: Database, fake: FakeProvider, provider: OIDCProvider
) -> None:
    users = [f"user-{number}" for number in range(15)]
    all_hold_one = asyncio.Barrier(len(users))

    async def handle_request(user_id: str) -> TokenSet:
        async with engine.connect() as connection:
            await connection.execute(text("select 1"))
            await all_hold_one.wait()
            return await refresher.get_valid_token(user_id)

    async with database.engine() as engine, TokenRefresher(provider, store_on(engine, database)) as refresher:
        for user_id in users:
            await refresher.save_tokens(user_id, login(fake, user_id, life_left=-1))
        await asyncio.gather(*map(handle_request, users))
    assert fake.refreshes() == len(users)


async def test_k7_a_shared_pool_is_the_only_one_and_is_waited_for(database: Database) -> None:
    async with database.engine(pool_size=1, max_overflow=0) as engine:
        limits = SQLLimits(statement_timeout_seconds=0.2)
        store = store_on(engine, database, share_pool=True, _limits=limits)
        await store.save(KEY, StoredTokens(TokenSet("one")))
        assert isinstance(engine.pool, QueuePool)
        assert engine.pool.checkedin() == 1
        async with engine.connect():
            with pytest.raises(StoreUnavailable) as caught:
                await store.load(KEY)
        assert caught.value.code == "timeout"
        await store.aclose()
        assert engine.pool.checkedin() == 1


async def test_all_stores_on_an_engine_share_a_few_connections_beside_its_pool(postgres: Database) -> None:
    with open_connections() as connections:
        async with postgres.engine(pool_size=20) as engine:
            stores = [store_on(engine, postgres) for _ in range(10)]
            await asyncio.gather(*(store.load(KEY) for store in stores for _ in range(5)))
            assert len(connections) == MAX_CONNECTIONS_BESIDE
            assert checked_out_of(engine) == 0
            for store in stores[1:]:
                await store.aclose()
            assert len(connections) == MAX_CONNECTIONS_BESIDE
            await stores[0].aclose()
            assert not connections
            await stores[0].load(KEY)
            assert len(connections) == 1


async def test_an_app_that_disposes_of_its_engine_closes_the_connections_of_its_stores(database: Database) -> None:
    with open_connections() as connections:
        async with database.engine() as engine:
            await store_on(engine, database).load(KEY)
            await store_on(engine, database, autocommit=False).load(KEY)
            assert len(connections) == 2
        assert not connections


async def test_closing_a_store_does_not_tell_the_app_that_its_engine_was_disposed_of(database: Database) -> None:
    disposed: list[object] = []
    async with database.engine() as engine:
        event.listen(engine.sync_engine, "engine_disposed", disposed.append)
        store = store_on(engine, database)
        await store.load(KEY)
        await store.aclose()
        assert disposed == []


async def test_the_connections_beside_an_apps_pool_are_made_as_the_app_makes_its_own(postgres: Database) -> None:
    connected, executed, parameters = [], [], []
    options = {"server_settings": {"application_name": "the app"}}
    async with postgres.engine(connect_args=options, isolation_level="SERIALIZABLE") as engine:

        def log_in(_dialect: object, _record: object, _arguments: object, given: dict[str, Any]) -> None:
            parameters.append(given["server_settings"])

        event.listen(engine.sync_engine, "do_connect", log_in)
        event.listen(engine.sync_engine, "connect", lambda *_: connected.append("connect"))
        event.listen(engine.sync_engine, "before_cursor_execute", lambda *_: executed.append("execute"))
        store = store_on(engine, postgres)
        await store.load(KEY)
        assert (connected, executed, parameters) == (["connect"], ["execute"], [options["server_settings"]])
        names = await postgres.run("select state from pg_stat_activity where application_name = 'the app'")
        assert names == [("idle",)]  # not "idle in transaction"
        async with engine.connect() as connection:
            level = await connection.execute(text("show transaction_isolation"))
            assert level.scalar_one() == "serializable"
        await store.aclose()


@pytest.mark.parametrize("share_pool", [False, True])
async def test_h4_an_engine_of_an_event_loop_that_is_closed_is_refused_with_what_to_do(
    postgres: Database, *, share_pool: bool
) -> None:
    engine = create_async_engine(postgres.url)
    store = store_on(engine, postgres, share_pool=share_pool)
    await asyncio.to_thread(asyncio.run, leave_in_the_pool(engine, store))
    for each in (store, store_on(engine, postgres, share_pool=share_pool)):
        with pytest.raises(
            ConfigurationError, match=r"give the store a URL or an engine with poolclass=NullPool"
        ) as caught:
            await each.load(KEY)
        assert caught.value.code == "wrong_event_loop"


@pytest.mark.parametrize("share_pool", [False, True])
async def test_h4_an_engine_that_was_disposed_of_serves_another_event_loop(
    postgres: Database, *, share_pool: bool
) -> None:
    engine = create_async_engine(postgres.url)
    store = store_on(engine, postgres, share_pool=share_pool)

    async def use() -> None:
        await store.load(KEY)
        await engine.dispose()

    await asyncio.to_thread(asyncio.run, use())
    await use()


async def test_h4_an_engine_without_a_pool_serves_two_event_loops_at_once(postgres: Database) -> None:
    engine = create_async_engine(postgres.url, poolclass=NullPool)
    store = store_on(engine, postgres)
    await store.save(KEY, StoredTokens(TokenSet("one")))
    await asyncio.to_thread(asyncio.run, store.load(KEY))
    assert await store.load(KEY) is not None


@pytest.mark.parametrize("closes", [True, False])
async def test_a_sqlite_engine_serves_one_event_loop_after_the_other(sqlite: Database, *, closes: bool) -> None:
    async with sqlite.engine() as engine:
        store = store_on(engine, sqlite)

        async def use() -> None:
            await store.save(KEY, saved := StoredTokens(TokenSet("one")))
            assert await asyncio.gather(*(store.load(KEY) for _ in range(10))) == [saved] * 10
            if closes:
                await store.aclose()

        for _ in range(2):
            await asyncio.to_thread(asyncio.run, use())


async def leave_in_the_pool(engine: AsyncEngine, store: SQLTokenStore) -> None:
    """Use the store, and leave its connection in the pool. It is closed, or garbage collection would complain."""
    connections: list[Any] = []
    event.listen(engine.sync_engine, "connect", lambda connection, _record: connections.append(connection))
    await store.load(KEY)
    [connection] = connections
    await connection.driver_connection.close()


def store_on(engine: AsyncEngine, database: Database, **settings: Any) -> SQLTokenStore:
    return SQLTokenStore(engine, table=database.table, **settings)


@contextmanager
def open_connections() -> Iterator[list[object]]:
    """The driver's connections that have been made from now on and not closed."""
    connections: list[object] = []

    def connected(connection: object, _record: object) -> None:
        connections.append(connection)

    def closed(connection: object, _record: object) -> None:
        connections.remove(connection)

    event.listen(Pool, "connect", connected)
    event.listen(Pool, "close", closed)
    try:
        yield connections
    finally:
        event.remove(Pool, "connect", connected)
        event.remove(Pool, "close", closed)
