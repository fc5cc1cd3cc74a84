"""What a SQL store keeps in its table, and what each operation costs."""

import logging
import os
import stat
import traceback
import tracemalloc
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any, Final
from uuid import uuid4

import pytest
from sqlalchemy import Pool, event, text

from kit.codecs import over_codecs
from kit.format1 import DIRECTORY, check_that_all_is_read_and_written_again, copy_private, postgresql_table
from kit.sql_database import Database, checked_out_of, statements_sent
from kit.stores import KEY, keys_of
from kit.support import login
from tokenflight import (
    OIDCProvider,
    StoreCorrupted,
    StoredTokens,
    StoreUnavailable,
    TokenKey,
    TokenRefresher,
    TokenSet,
)
from tokenflight.stores.codec import JSONCodec, RecordCodec
from tokenflight.stores.sql import SQLTokenStore
from tokenflight.stores.sql._limits import SQLLimits
from tokenflight.stores.sql._sqlite_file import create_private_file
from tokenflight.testing import FakeProvider


async def test_a_cold_read_is_one_statement_and_a_renewal_four(
    store: SQLTokenStore, database: Database, fake: FakeProvider, provider: OIDCProvider
) -> None:
    async with TokenRefresher(provider, store) as refresher:
        await refresher.save_tokens("alice", login(fake, "alice"))
    async with TokenRefresher(provider, store) as refresher:
        with statements_sent() as statements:
            await refresher.get_valid_token("alice")
            assert statements == ["SELECT"]
            statements.clear()
            await refresher.refresh_token("alice")
            # MySQL does not return what an update has set: there it takes one statement more.
            take_lease = ["UPDATE", "SELECT"] if is_mysql(database) else ["INSERT"]
            assert statements == [*take_lease, "SELECT", "UPDATE", "UPDATE"]
    assert fake.requests() == 1


async def test_each_operation_of_the_store_is_one_statement(store: SQLTokenStore, database: Database) -> None:
    with statements_sent() as statements:
        await store.save(KEY, record := StoredTokens(TokenSet("one")))
        # The ticket first. Without upserts, a row that is not there costs one statement more.
        assert statements == ["SELECT", *(["UPDATE", "INSERT"] if is_mysql(database) else ["INSERT"])]
        statements.clear()
        await store.load(KEY)
        await store.replace(KEY, StoredTokens(TokenSet("two")), expected=record.version)
        async with store.lease(KEY, timeout=0):
            # MySQL does not return what an update has set.
            acquired = ["UPDATE", "SELECT"] if is_mysql(database) else ["INSERT"]
            assert statements == ["SELECT", "UPDATE", *acquired]
            statements.clear()
        assert statements == ["UPDATE"]
        statements.clear()
        await store.delete(KEY)
        assert statements == ["SELECT", "UPDATE"]  # the marker tells of the record


def is_mysql(database: Database) -> bool:
    return database.url.startswith("mysql")


async def test_no_transaction_is_begun_or_committed_for_a_single_statement(postgres: Database) -> None:
    with queries_sent() as queries:
        async with postgres.opened() as store:
            sent = await transactions_around_a_load(store, queries)
        async with postgres.engine() as engine:  # the app's, which begins a transaction for every other user of it
            store = SQLTokenStore(engine, table=postgres.table)
            sent_on_the_apps_engine = await transactions_around_a_load(store, queries)
        async with postgres.opened(autocommit=False) as store:
            sent_in_transactions = await transactions_around_a_load(store, queries)
    assert sent == []
    assert sent_on_the_apps_engine == []
    assert sent_in_transactions == ["BEGIN", "COMMIT"]


PLANTED: Final = [("idp", ""), ("", "alice"), ("%ff", "alice"), ("idp", "a%62"), ("idp", "50%")]


async def test_n15_rows_that_others_planted_end_no_listing_and_are_told(
    database: Database, store: SQLTokenStore, caplog: pytest.LogCaptureFixture
) -> None:
    for number, (provider, user_id) in enumerate(PLANTED):
        names = f"'{number}', '{provider}', '{user_id}'"
        await database.run(f"insert into {{table}} (id, provider, user_id, record) values ({names}, 'record')")
    await store.save(KEY, StoredTokens(TokenSet("access")))
    assert await keys_of(store) == [KEY]
    told = [message for message in caplog.messages if message.startswith("passed over")]
    assert len(told) == len(PLANTED)
    assert await keys_of(store, "idp") == [KEY]


async def test_n15_a_planted_row_whose_names_are_no_text_ends_no_listing(sqlite: Database) -> None:
    await sqlite.run("insert into {table} (id, provider, user_id, record) values ('1', x'ff', x'', x'7b7d')")
    async with sqlite.opened() as store:
        await store.save(KEY, StoredTokens(TokenSet("access")))
        assert await keys_of(store) == [KEY]


@contextmanager
def queries_sent() -> Iterator[list[str]]:
    """What goes to a PostgreSQL server in text, on connections made from now on."""
    queries: list[str] = []

    def watch(connection: Any, _record: object) -> None:
        connection.driver_connection.add_query_logger(lambda query: queries.append(query.query))

    event.listen(Pool, "connect", watch)
    try:
        yield queries
    finally:
        event.remove(Pool, "connect", watch)


async def transactions_around_a_load(store: SQLTokenStore, queries: list[str]) -> list[str]:
    """The commands that begin and end a transaction, on a connection that is warm."""
    await store.save(KEY, StoredTokens(TokenSet("warm")))
    queries.clear()
    await store.load(KEY)
    return [query.split()[0].rstrip(";") for query in queries if query.startswith(("BEGIN", "COMMIT", "ROLLBACK"))]


@over_codecs
async def test_records_are_stored_as_the_codec_makes_them(database: Database, codec: RecordCodec) -> None:
    tokens = TokenSet("at_secret-" * 3)
    async with database.opened(codec=codec) as store:
        await store.save(KEY, saved := StoredTokens(TokenSet("one")))
        await store.replace(KEY, StoredTokens(tokens), expected=saved.version)
        [(stored,)] = await database.run("select record from {table}")
        assert codec.decode(KEY, stored).tokens == tokens
        assert (b"at_secret" in stored) == isinstance(codec, JSONCodec)
        record = await store.load(KEY)
        assert record is not None
        assert record.tokens == tokens


async def test_p4_a_damaged_record_is_corrupted_and_left_as_it_is(store: SQLTokenStore, database: Database) -> None:
    await store.save(KEY, StoredTokens(TokenSet("one")))
    await store.save(TokenKey("idp", "bob"), StoredTokens(TokenSet("two")))
    async with database.engine() as engine, engine.begin() as connection:
        # As a literal, because a bug of aiomysql lets it send no bytes (aio-libs/aiomysql#1080).
        damaged = r"'\x80ff'" if database.url.startswith("postgresql") else "x'80ff'"
        await connection.execute(text(f"update {database.table} set record = {damaged}"))
    with pytest.raises(StoreCorrupted):
        await store.load(KEY)
    assert await database.run("select count(*) from {table} where record is not null") == [(2,)]
    await store.save(KEY, StoredTokens(TokenSet("login")))
    assert await store.load(KEY) is not None
    assert await store.delete(TokenKey("idp", "bob")) is True


async def test_system_d_records_of_format_1_in_a_sqlite_file_are_read_and_written_in_format_2(directory: Path) -> None:
    copy_private(DIRECTORY / "sqlite.db", directory / "tokens.db")
    database = Database(f"sqlite+aiosqlite:///{directory}/tokens.db", "tokenflight_tokens")
    async with database.opened() as store:
        await store.create_table()
        await check_that_all_is_read_and_written_again(store, "sqlite", partial(records_in, database))


async def test_system_d_records_of_format_1_in_postgresql_are_read_and_written_in_format_2(postgres_url: str) -> None:
    table, create_table, rows = postgresql_table()
    database = Database(postgres_url, f"tokens_{uuid4().hex}")
    columns = ", ".join(rows[0])
    values = ", ".join(f":{name}" for name in rows[0])
    async with database.engine() as engine, engine.begin() as connection:
        await connection.execute(text(create_table.replace(table, database.table)))
        await connection.execute(text(f"insert into {database.table} ({columns}) values ({values})"), rows)
    async with database.opened() as store:
        await store.create_table()
        await check_that_all_is_read_and_written_again(store, "postgresql", partial(records_in, database))
    await database.run("drop table {table}")


async def records_in(database: Database) -> list[bytes]:
    return [record for (record,) in await database.run("select record from {table}")]


async def test_names_stay_readable_in_the_table_unless_a_database_can_not_hold_them(
    store: SQLTokenStore, database: Database
) -> None:
    keys = [
        TokenKey("idp", "Ann O'Neil <ann@example.com>"),
        TokenKey("idp", "100%"),
        TokenKey("idp", "a\x00b"),
        TokenKey("\ud83d\ude00", "\U0001f600"),  # a pair of lone surrogates is not the character
        TokenKey("\U0001f600", "\ud83d\ude00"),
    ]
    for key in keys:
        await store.save(key, StoredTokens(TokenSet("one")))
    names = set(await database.run("select provider, user_id from {table}"))
    assert names == {
        ("idp", "Ann O'Neil <ann@example.com>"),
        ("idp", "100%25"),
        ("idp", "a%00b"),
        ("%ed%a0%bd%ed%b8%80", "\U0001f600"),
        ("\U0001f600", "%ed%a0%bd%ed%b8%80"),
    }
    found = store.keys()
    assert {key async for key in found} == set(keys)


async def test_keys_come_in_pages_each_with_a_connection_of_its_own(database: Database) -> None:
    async with database.engine() as engine:
        store = SQLTokenStore(engine, table=database.table, share_pool=True, _limits=SQLLimits(keys_per_read=3))
        keys = {TokenKey(provider, f"user-{number}") for provider in ("idp", "other") for number in range(5)}
        for key in keys:
            await store.save(key, StoredTokens(TokenSet("one")))
        with statements_sent() as statements:
            found = set()
            async for key in store.keys():
                assert checked_out_of(engine) == 0
                found.add(key)
            assert found == keys
            assert statements == ["DELETE", *["SELECT"] * 5]  # of old markers, and the pages
        assert {key.user_id async for key in store.keys("other")} == {f"user-{number}" for number in range(5)}


@pytest.mark.long
@pytest.mark.timeout(120)
async def test_l2_the_keys_of_100000_users_are_read_in_the_memory_of_a_few(postgres: Database) -> None:
    await postgres.run(
        "insert into {table} (id, provider, user_id, version, record) "
        "select encode(sha256(n::text::bytea), 'hex'), 'idp', 'user-' || n, 'v', 'record' "
        "from generate_series(1, 100000) n"
    )
    async with postgres.opened() as store:
        await anext(aiter(store.keys()))
        tracemalloc.start()
        seen = 0
        async for _ in store.keys("idp"):
            seen += 1
        _, peak = tracemalloc.get_traced_memory()
        tracemalloc.stop()
    assert seen == 100_000
    assert peak < 4_000_000


async def test_l1_no_token_is_logged_or_told_in_an_error_even_by_an_engine_that_logs_everything(
    database: Database, caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str]
) -> None:
    secret = "at_secret-secret-secret"
    tokens = TokenSet(secret, refresh_token="rt_secret-secret-secret")
    for name in ("sqlalchemy.engine", "sqlalchemy.pool", "asyncpg", "aiosqlite"):
        caplog.set_level(logging.DEBUG, name)
    async with database.engine(echo="debug", echo_pool="debug") as engine, database.opened() as own:
        for store in (SQLTokenStore(engine, table=database.table), own):
            await store.save(KEY, record := StoredTokens(tokens))
            await store.replace(KEY, StoredTokens(tokens), expected=record.version)
            assert await store.load(KEY) is not None
            assert "select" in caplog.text.lower()
        await database.run("alter table {table} rename column record to recording")
        for store in (SQLTokenStore(engine, table=database.table), own):
            with pytest.raises(StoreUnavailable) as caught:
                await store.save(KEY, StoredTokens(tokens))
            told = "".join(traceback.format_exception(caught.value))
            assert "secret" not in told + repr(caught.value.__dict__)
            assert (caught.value.__cause__, caught.value.__context__) == (None, None)
    assert "<record>" in caplog.text
    captured = capfd.readouterr()
    assert "secret-secret" not in caplog.text + captured.out + captured.err
    assert "access_token" not in caplog.text + captured.out + captured.err


async def test_p5_a_sqlite_file_is_made_so_that_its_owner_alone_can_read_it(sqlite: Database, directory: Path) -> None:
    async with sqlite.opened() as store:
        await store.save(KEY, StoredTokens(TokenSet("one")))
    async with sqlite.blocked():
        modes = {entry.name: stat.S_IMODE(entry.stat().st_mode) for entry in os.scandir(directory)}
    assert modes["tokens.db"] == 0o600
    assert set(modes.values()) == {0o600}  # the journal's, too


@pytest.mark.parametrize("authority", ["", "//", "//localhost"])
@pytest.mark.parametrize("options", ["uri=true", "mode=rwc&uri=1", "cache=private&uri=True"])
async def test_p5_a_sqlite_file_named_by_a_uri_is_private_too(directory: Path, authority: str, options: str) -> None:
    database = Database(f"sqlite+aiosqlite:///file:{authority}{directory}/of%2520alice.db?{options}", "tokens")
    async with database.opened() as store:
        await store.create_table()
        await store.save(KEY, StoredTokens(TokenSet("one")))
    assert {entry.name: stat.S_IMODE(entry.stat().st_mode) for entry in os.scandir(directory)} == {"of alice.db": 0o600}


@pytest.mark.parametrize("mode", ["ro", "rw", "memory"])
def test_a_sqlite_file_that_its_uri_does_not_create_is_not_created(directory: Path, mode: str) -> None:
    create_private_file(f"file:{directory}/tokens.db", {"mode": mode, "uri": "true"})
    assert list(os.scandir(directory)) == []


@pytest.mark.parametrize("url", ["{path}", "file:{path}?uri=true"])
@pytest.mark.parametrize("target", ["outside", "nowhere"])
async def test_p6_a_link_in_the_place_of_a_sqlite_file_is_refused(directory: Path, url: str, target: str) -> None:
    (directory / "outside").touch()
    path = directory / "tokens.db"
    path.symlink_to(directory / target)
    async with Database(f"sqlite+aiosqlite:///{url.format(path=path)}", "tokens").opened() as store:
        for _ in range(2):
            with pytest.raises(StoreUnavailable, match="is a symbolic link"):
                await store.create_table()
    assert {entry.name for entry in os.scandir(directory)} == {"outside", "tokens.db"}
    assert not (directory / "outside").stat().st_size


async def test_a_row_that_breaks_a_rule_of_the_apps_own_is_no_conflict(postgres: Database) -> None:
    await postgres.run("alter table {table} add column tenant text not null default 'one', add check (tenant <> 'one')")
    tokens = TokenSet("at_secret-" * 3)
    async with postgres.opened() as store:
        with pytest.raises(StoreUnavailable, match="23514") as caught:
            await store.save(KEY, StoredTokens(tokens))
    assert "secret" not in "".join(traceback.format_exception(caught.value))
