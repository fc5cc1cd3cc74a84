"""The table and the engine: the store's own or the app's, on one event loop or several."""

import asyncio
import traceback
from typing import Any
from uuid import uuid4

import pytest
from sqlalchemy import Column, Integer, MetaData, NullPool, Pool, QueuePool, Table, event, inspect, select, text
from sqlalchemy.ext.asyncio import AsyncEngine, create_async_engine

from kit import sql_dialects
from kit.postgres_server import PostgresServer, pgbouncer
from kit.sql_database import Database
from kit.stores import KEY
from kit.support import login
from tokenflight import (
    ClientSecretBasic,
    ConfigurationError,
    OIDCProvider,
    StoredTokens,
    StoreError,
    TokenRefresher,
    TokenSet,
)
from tokenflight.stores.sql import SQLTokenStore, token_table
from tokenflight.testing import FakeProvider


async def test_a_table_can_be_created_by_several_at_once_and_again(database: Database) -> None:
    fresh = Database(database.url, f"tokens_{uuid4().hex}")
    stores = [fresh.store() for _ in range(10)]
    for store in stores:  # connected, they reach the server at the same moment
        with pytest.raises(StoreError, match="is missing"):
            await store.load(KEY)
    await asyncio.gather(*(store.create_table() for store in stores))
    await stores[0].save(KEY, StoredTokens(TokenSet("one")))
    await stores[1].create_table()
    assert await stores[2].load(KEY) is not None
    await asyncio.gather(*(store.aclose() for store in stores))
    await fresh.run("drop table {table}")


async def test_the_table_can_be_one_of_the_apps_own_on_an_engine_that_stays_open(database: Database) -> None:
    metadata = MetaData()
    table = token_table(metadata, f"app_{uuid4().hex}")
    async with database.engine() as engine:
        async with engine.begin() as connection:
            await connection.run_sync(metadata.create_all)
        store = SQLTokenStore(engine, table=table)
        await store.create_table()
        await store.save(KEY, record := StoredTokens(TokenSet("one")))
        assert isinstance(engine.pool, QueuePool)
        pooled = engine.pool.checkedin()
        await store.aclose()
        assert engine.pool.checkedin() == pooled > 0
        async with engine.connect() as connection:
            assert (await connection.execute(select(table.c.version))).scalar_one() == record.version
            assert await connection.run_sync(lambda sync: inspect(sync).get_pk_constraint(table.name)) is not None
        async with engine.begin() as connection:
            await connection.run_sync(metadata.drop_all)


async def test_x1_stores_on_one_database_in_memory_lose_no_write_and_give_each_lease_once() -> None:
    """SQLAlchemy has one connection to it for all: what happens at once on that is one transaction."""
    fake, engine = FakeProvider(), create_async_engine("sqlite+aiosqlite://")
    one, another = SQLTokenStore(engine), SQLTokenStore(engine)
    await one.create_table()
    users = [f"user-{number}" for number in range(20)]
    try:
        async with fake.client() as http:
            provider = OIDCProvider(fake.issuer, ClientSecretBasic("app", "s3cret"), http_client=http)
            async with TokenRefresher(provider, one) as first, TokenRefresher(provider, another) as second:
                await asyncio.gather(*(first.save_tokens(user, login(fake, user, life_left=-1)) for user in users))

                sets = await asyncio.gather(*(r.get_valid_token(user) for user in users for r in (first, second)))
    finally:
        await engine.dispose()

    assert len({tokens.access_token for tokens in sets}) == fake.refreshes() == len(users)
    assert fake.reuses() == 0


async def test_closing_a_store_closes_the_connections_of_its_own_engine(database: Database) -> None:
    connections: list[object] = []

    def connected(connection: object, _record: object) -> None:
        connections.append(connection)

    def closed(connection: object, _record: object) -> None:
        connections.remove(connection)

    event.listen(Pool, "connect", connected)
    event.listen(Pool, "close", closed)
    try:
        store = database.store()
        await asyncio.gather(*(store.load(KEY) for _ in range(3)))
        assert connections
        await store.aclose()
        assert not connections
    finally:
        event.remove(Pool, "connect", connected)
        event.remove(Pool, "close", closed)


@pytest.mark.parametrize(
    ("engine", "told"),
    [
        (42, "engine must be"),
        ("no url", "ArgumentError"),
        ("sqlite:///tokens.db", "asyncio driver"),
        ("postgresql+nothing://app:hunter2@localhost/app", "asyncio driver"),
    ],
)
def test_an_engine_that_can_not_be_used_is_refused_without_telling_its_password(engine: Any, told: str) -> None:
    with pytest.raises(ConfigurationError, match=told) as caught:
        SQLTokenStore(engine)
    assert "hunter2" not in "".join(traceback.format_exception(caught.value))


def test_settings_that_make_no_sense_are_refused() -> None:
    with pytest.raises(ConfigurationError, match="lease_duration"):
        SQLTokenStore("sqlite+aiosqlite://", lease_duration=0)
    with pytest.raises(ConfigurationError, match="lease_owner, lease_until, provider"):
        SQLTokenStore("sqlite+aiosqlite://", table=Table("other", MetaData(), Column("id", Integer)))
    sql_dialects.register()
    with pytest.raises(ConfigurationError, match=r"engine must be for one of postgresql, .*, not for unknown"):
        SQLTokenStore("unknown+sqlite_double://")


async def test_s10_an_engine_of_another_event_loop_is_refused(postgres: Database) -> None:
    async with postgres.engine() as engine:
        store = SQLTokenStore(engine, table=postgres.table)
        await store.save(KEY, StoredTokens(TokenSet("one")))
        with pytest.raises(ConfigurationError, match="another event loop") as caught:
            await asyncio.to_thread(asyncio.run, store.load(KEY))
        assert caught.value.code == "wrong_event_loop"
        assert await store.load(KEY) is not None


def test_one_store_serves_one_event_loop_after_the_other(database: Database) -> None:
    store = database.store()

    async def use(number: int) -> None:
        await store.save(KEY, StoredTokens(TokenSet(f"access-{number}")))
        async with store.lease(KEY, timeout=0):
            record = await store.load(KEY)
        assert record is not None
        assert record.tokens.access_token == f"access-{number}"
        await store.aclose()

    for number in range(2):
        asyncio.run(use(number))


async def test_an_engine_serves_another_event_loop_after_the_first_has_ended(postgres: Database) -> None:
    def use(store: SQLTokenStore, engine: AsyncEngine) -> None:
        async def use_it() -> None:
            await store.save(KEY, StoredTokens(TokenSet("one")))
            await engine.dispose()

        asyncio.run(use_it())

    engine = create_async_engine(postgres.url, poolclass=NullPool)
    store = SQLTokenStore(engine, table=postgres.table)
    for _ in range(2):
        await asyncio.to_thread(use, store, engine)


@pytest.mark.long
@pytest.mark.timeout(120)
async def test_x11_a_pooler_that_gives_each_transaction_another_connection_breaks_nothing(
    server: PostgresServer, fake: FakeProvider, provider: OIDCProvider
) -> None:
    users = [f"user-{number}" for number in range(30)]
    with pgbouncer(server) as pooler:
        engine = create_async_engine(
            pooler.url,
            poolclass=NullPool,
            connect_args={
                "statement_cache_size": 0,
                "prepared_statement_cache_size": 0,
                "prepared_statement_name_func": lambda: f"tokenflight_{uuid4().hex}",
            },
        )
        table = f"tokens_{uuid4().hex}"
        stores = [SQLTokenStore(engine, table=table, autocommit=False) for _ in range(2)]
        await stores[0].create_table()
        refreshers = [TokenRefresher(provider, store) for store in stores]
        for user_id in users:
            await refreshers[0].save_tokens(user_id, login(fake, user_id, life_left=-1))
        got = await asyncio.gather(*(each.get_valid_token(user_id) for user_id in users for each in refreshers))
        assert got[::2] == got[1::2]
        for each in refreshers:
            await each.aclose()
        async with engine.begin() as connection:
            left = await connection.execute(text(f"select count(lease_owner) from {table}"))
            assert left.scalar_one() == 0
        await engine.dispose()
    assert fake.requests() == len(users)
