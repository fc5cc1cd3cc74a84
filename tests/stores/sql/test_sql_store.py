"""The SQL store on a real PostgreSQL server and on SQLite files: what it keeps, and who has the lease."""

import asyncio
import logging
import os
import signal
import stat
import sys
import time
import traceback
import tracemalloc
from asyncio.subprocess import PIPE, Process
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Final
from uuid import uuid4

import pytest
from sqlalchemy import Connection, Executable, MetaData, NullPool, QueuePool, event, func, inspect, select, text, update
from sqlalchemy.engine.interfaces import DBAPIConnection
from sqlalchemy.exc import DBAPIError
from sqlalchemy.ext.asyncio import AsyncEngine, create_async_engine

from kit.codecs import CODECS
from kit.format1 import DIRECTORY, check_that_all_is_read_and_written_again, copy_private, postgresql_table
from kit.postgres_server import PostgresServer, pgbouncer, postgres_server
from kit.support import login
from tokenflight import (
    ClientSecretBasic,
    ConfigurationError,
    LeaseTimeout,
    OIDCProvider,
    StoreConflict,
    StoreCorrupted,
    StoredTokens,
    StoreError,
    StoreUnavailable,
    TokenKey,
    TokenRefresher,
    TokenSet,
    TokenStore,
)
from tokenflight.stores.codec import JSONCodec, RecordCodec
from tokenflight.stores.sql import SQLTokenStore, token_table
from tokenflight.stores.sql import _database as _sql_database
from tokenflight.stores.sql import _statements as _sql_statements
from tokenflight.stores.sql import _store as sql
from tokenflight.stores.sql import _table as _sql_table
from tokenflight.stores.sql._database import Result
from tokenflight.testing import FakeProvider
from tokenflight.testing.conformance import StoreConformance

KEY: Final = TokenKey("idp", "alice")
EACH_CODEC: Final = [
    pytest.param(codec, id=type(codec).__name__, marks=() if isinstance(codec, JSONCodec) else pytest.mark.long)
    for codec in CODECS
]

WORKER: Final = """
import asyncio, sys
from tokenflight import StoredTokens, TokenKey, TokenSet
from tokenflight.stores.sql import SQLTokenStore

KEY = TokenKey("idp", "alice")

async def hold(store):
    async with store.lease(KEY, timeout=10) as lease:
        print("held", flush=True)
        while line := await asyncio.to_thread(sys.stdin.readline):
            print(lease.is_held(), flush=True)
    print("released", flush=True)

async def count_up(store):
    for _ in range(10):
        async with store.lease(KEY, timeout=30):
            record = await store.load(KEY)
            number = int(record.tokens.access_token.removeprefix("access-"))
            await store.replace(KEY, StoredTokens(TokenSet(f"access-{number + 1}")), expected=record.version)

async def main(what, url, table, lease_duration):
    store = SQLTokenStore(url, table=table, lease_duration=float(lease_duration))
    await {"hold": hold, "count_up": count_up}[what](store)
    await store.aclose()

asyncio.run(main(*sys.argv[1:]))
"""


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

    async def run(self, statement: str) -> list[Any]:
        """What `statement` finds; ``{table}`` in it is the table."""
        async with self.engine() as engine, engine.begin() as connection:
            result = await connection.execute(text(statement.format(table=self.table)))
            return [tuple(row) for row in result] if result.returns_rows else []

    @asynccontextmanager
    async def blocked(self) -> AsyncIterator[None]:
        """Nobody else can change a row of the table."""
        async with self.engine() as engine, engine.begin() as connection:
            await connection.execute(text(f"update {self.table} set provider = provider"))
            yield


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


@pytest.fixture(params=["postgres", "sqlite"])
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


class SQLConformance(StoreConformance):
    """The shipped suite on a database."""

    database: Database
    settings: dict[str, Any]

    @asynccontextmanager
    async def open_store(self) -> AsyncIterator[TokenStore]:
        async with self.database.opened(**self.settings) as store:
            yield store


@pytest.mark.parametrize("codec", EACH_CODEC)
class TestOnPostgreSQL(SQLConformance):
    @pytest.fixture(autouse=True)
    def empty_table(self, postgres: Database, codec: RecordCodec) -> None:
        self.database, self.settings = postgres, {"codec": codec}


@pytest.mark.parametrize("codec", EACH_CODEC)
class TestOnSQLite(SQLConformance):
    @pytest.fixture(autouse=True)
    def empty_table(self, sqlite: Database, codec: RecordCodec) -> None:
        self.database, self.settings = sqlite, {"codec": codec}


@pytest.mark.long
class TestWithoutUpserts(SQLConformance):
    @pytest.fixture(autouse=True)
    def empty_table(self, sqlite: Database, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(_sql_statements, "UPSERTS", {})  # as for a database of which the store knows none
        self.database, self.settings = sqlite, {}


@pytest.mark.long
class TestInTransactions(SQLConformance):
    @pytest.fixture(autouse=True)
    def empty_table(self, postgres: Database) -> None:
        self.database, self.settings = postgres, {"autocommit": False}


@asynccontextmanager
async def worker(what: str, database: Database, *, lease_duration: float = 60.0) -> AsyncIterator[Process]:
    """A process that does `what`, killed at the end if need be."""
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-c", WORKER, what, database.url, database.table, str(lease_duration)),
        stdin=PIPE,
        stdout=PIPE,
        # A killed process would leave half a coverage file.
        env={name: value for name, value in os.environ.items() if not name.startswith("COVERAGE_")},
    )
    try:
        yield process
    finally:
        if process.returncode is None:
            process.kill()
        await process.communicate()


async def line_of(process: Process) -> str:
    assert process.stdout is not None
    return (await process.stdout.readline()).decode().strip()


async def ask(process: Process) -> None:
    assert process.stdin is not None
    process.stdin.write(b"\n")
    await process.stdin.drain()


async def is_free(store: TokenStore, key: TokenKey = KEY) -> bool:
    try:
        async with store.lease(key, timeout=0):
            return True
    except LeaseTimeout:
        return False


async def rows_of(database: Database) -> int:
    [(number,)] = await database.run("select count(*) from {table}")
    assert isinstance(number, int)
    return number


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(10):
        while not condition():  # noqa: ASYNC110 - what is waited for tells nobody
            await asyncio.sleep(0.01)


@asynccontextmanager
async def counted(store: SQLTokenStore) -> AsyncIterator[list[str]]:
    """The statements that the store sends, and what the connection says to the server besides."""
    engine = store._database._engine().sync_engine
    statements: list[str] = []

    def note(connection: Connection, cursor: object, statement: str, *others: object) -> None:
        statements.append(statement.split(maxsplit=1)[0])

    event.listen(engine, "before_cursor_execute", note)
    yield statements
    event.remove(engine, "before_cursor_execute", note)


# Records that an earlier version wrote.


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


# What a renewal costs.


async def test_a_cold_read_is_one_statement_and_a_renewal_four(
    store: SQLTokenStore, fake: FakeProvider, provider: OIDCProvider
) -> None:
    async with TokenRefresher(provider, store) as refresher:
        await refresher.save_tokens("alice", login(fake, "alice"))
    async with counted(store) as statements, TokenRefresher(provider, store) as refresher:
        await refresher.get_valid_token("alice")
        assert statements == ["SELECT"]
        statements.clear()
        await refresher.refresh_token("alice")
        assert statements == ["INSERT", "SELECT", "UPDATE", "UPDATE"]
    assert fake.requests() == 1


async def test_each_operation_of_the_store_is_one_statement(store: SQLTokenStore) -> None:
    async with counted(store) as statements:
        await store.save(KEY, record := StoredTokens(TokenSet("one")))
        assert statements == ["INSERT"]
        await store.load(KEY)
        await store.replace(KEY, StoredTokens(TokenSet("two")), expected=record.version)
        async with store.lease(KEY, timeout=0):
            assert statements == ["INSERT", "SELECT", "UPDATE", "INSERT"]
        assert statements[4:] == ["UPDATE"]
        await store.delete(KEY)
        assert statements[5:] == ["DELETE"]


async def test_no_transaction_is_begun_or_committed_for_a_single_statement(postgres: Database) -> None:
    async with postgres.opened() as store:
        await store.save(KEY, StoredTokens(TokenSet("warm")))
        sent = await messages_sent(store, postgres)
    async with postgres.engine() as engine:  # the app's, which begins transactions for everybody else
        store = SQLTokenStore(engine, table=postgres.table)
        await store.save(KEY, StoredTokens(TokenSet("warm")))
        sent_on_the_apps_engine = await messages_sent(store, postgres)
    async with postgres.opened(autocommit=False) as store:
        await store.save(KEY, StoredTokens(TokenSet("warm")))
        sent_in_transactions = await messages_sent(store, postgres)
    assert sent == []
    assert sent_on_the_apps_engine == []
    assert sent_in_transactions == ["BEGIN", "COMMIT"]


async def messages_sent(store: SQLTokenStore, database: Database) -> list[str]:
    """What goes to the server around one load, in text."""
    engine = store._database._engine()
    async with engine.connect() as connection:
        raw = (await connection.get_raw_connection()).driver_connection
    assert raw is not None
    queries: list[str] = []
    raw.add_query_logger(lambda query: queries.append(query.query))
    await store.load(KEY)
    return [query.split()[0].rstrip(";") for query in queries if query.startswith(("BEGIN", "COMMIT", "ROLLBACK"))]


async def test_x11_no_connection_is_held_while_the_provider_is_asked(
    database: Database, fake: FakeProvider, provider: OIDCProvider
) -> None:
    checked_out: list[int] = []
    all_are_asked = asyncio.Barrier(3)

    class Watching:
        name = provider.name

        async def renew(self, user_id: str, tokens: TokenSet | None) -> TokenSet:
            await all_are_asked.wait()
            checked_out.append(checked_out_of(engine))
            return await provider.renew(user_id, tokens)

    async with database.engine(pool_size=1, max_overflow=0) as engine:
        store = SQLTokenStore(engine, table=database.table)
        async with TokenRefresher(Watching(), store) as refresher:
            for user_id in ("alice", "bob", "carol"):
                await refresher.save_tokens(user_id, login(fake, user_id, life_left=-1))
            await asyncio.gather(*(refresher.get_valid_token(user_id) for user_id in ("alice", "bob", "carol")))
    assert checked_out == [0, 0, 0]


def checked_out_of(engine: AsyncEngine) -> int:
    """How many of the pool's connections are in use."""
    assert isinstance(engine.pool, QueuePool)
    return engine.pool.checkedout()


# The lease.


async def test_x2_refreshers_that_share_a_database_renew_each_user_once(
    database: Database, fake: FakeProvider, provider: OIDCProvider
) -> None:
    users = [f"user-{number}" for number in range(10)]
    async with database.opened() as one, database.opened() as two:
        refreshers = [TokenRefresher(provider, one), TokenRefresher(provider, two)]
        for user_id in users:
            await refreshers[0].save_tokens(user_id, login(fake, user_id, life_left=-1))
        got = await asyncio.gather(*(each.get_valid_token(user_id) for user_id in users for each in refreshers))
        assert got[::2] == got[1::2]
        for each in refreshers:
            await each.aclose()
    assert fake.requests() == len(users)


async def test_x3_a_lease_is_extended_for_as_long_as_it_is_held(database: Database) -> None:
    async with database.opened(lease_duration=0.4) as store, database.opened() as other:
        async with store.lease(KEY, timeout=0) as lease:
            held_until = time.monotonic() + 1.2
            while time.monotonic() < held_until:
                assert lease.is_held()
                assert not await is_free(other)
                await asyncio.sleep(0.05)
        assert not lease.is_held() or await is_free(other)


async def test_x3_a_lease_that_can_not_be_extended_lapses_and_is_held_again_if_nobody_took_it(
    database: Database,
) -> None:
    async with database.opened(lease_duration=0.4) as store, store.lease(KEY, timeout=0) as lease:
        began = time.monotonic()
        async with database.blocked():
            await until(lambda: not lease.is_held())
            assert time.monotonic() - began < 1
        await until(lease.is_held)


async def test_x4_x3_a_holder_that_stood_still_has_lost_its_lease_and_frees_no_other(postgres: Database) -> None:
    async with (
        worker("hold", postgres, lease_duration=0.5) as sleeper,
        postgres.opened() as store,
        postgres.opened() as third,
    ):
        assert await line_of(sleeper) == "held"
        await ask(sleeper)
        assert await line_of(sleeper) == "True"
        sleeper.send_signal(signal.SIGSTOP)
        async with store.lease(KEY, timeout=10) as lease:
            sleeper.send_signal(signal.SIGCONT)
            await ask(sleeper)
            assert await line_of(sleeper) == "False"
            assert sleeper.stdin is not None
            sleeper.stdin.close()
            assert await line_of(sleeper) == "released"
            assert not await is_free(third)
            assert lease.is_held()


async def test_x7_the_lease_of_a_killed_process_is_free_when_its_duration_is_over(database: Database) -> None:
    async with worker("hold", database, lease_duration=1.0) as holder, database.opened() as store:
        assert await line_of(holder) == "held"
        assert not await is_free(store)
        killed_at = time.monotonic()
        holder.kill()
        async with store.lease(KEY, timeout=30):
            assert 0.2 < time.monotonic() - killed_at < 2


async def test_a_lease_leaves_no_row_behind_for_a_user_without_record(store: SQLTokenStore, database: Database) -> None:
    async with store.lease(KEY, timeout=0):
        assert await rows_of(database) == 1
    assert await rows_of(database) == 0


async def test_a_delete_under_a_lease_keeps_the_lease_and_its_release_removes_the_row(
    store: SQLTokenStore, database: Database
) -> None:
    await store.save(KEY, StoredTokens(TokenSet("one")))
    async with database.opened() as other, store.lease(KEY, timeout=0):
        assert await other.delete(KEY) is True
        assert await other.delete(KEY) is False
        assert not await is_free(other)
        assert await rows_of(database) == 1
    assert await rows_of(database) == 0


async def test_a_release_that_is_cancelled_still_happens(store: SQLTokenStore, database: Database) -> None:
    async with database.opened() as other:
        for _ in range(5):
            entered = asyncio.Event()

            async def hold(entered: asyncio.Event) -> None:
                async with store.lease(KEY, timeout=5):
                    entered.set()

            holder = asyncio.create_task(hold(entered))
            await entered.wait()
            holder.cancel()
            await asyncio.sleep(0)
            holder.cancel()
            await asyncio.wait([holder])
            async with other.lease(KEY, timeout=5):
                pass


async def test_a_take_that_was_given_up_while_the_database_hung_keeps_no_lease(
    store: SQLTokenStore, database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    await store.save(KEY, StoredTokens(TokenSet("one")))
    async with database.opened() as other:
        monkeypatch.setattr("tokenflight.stores._cancellation.CANCELLATION_SECONDS", 0.1)
        async with database.blocked():
            with pytest.raises(TimeoutError):
                async with asyncio.timeout(0.1):
                    await store.lease(KEY, timeout=0).__aenter__()
        async with other.lease(KEY, timeout=5):
            pass


async def test_processes_that_take_turns_lose_no_update(sqlite: Database) -> None:
    async with sqlite.opened() as store:
        await store.save(KEY, StoredTokens(TokenSet("access-0")))
        async with worker("count_up", sqlite) as one, worker("count_up", sqlite) as other:
            assert [await one.wait(), await other.wait()] == [0, 0]
        record = await store.load(KEY)
    assert record is not None
    assert record.tokens.access_token == "access-20"


# Trouble.


async def test_connections_that_died_in_the_pool_are_replaced_unnoticed(postgres: Database) -> None:
    async with postgres.opened() as store:
        await store.save(KEY, record := StoredTokens(TokenSet("one")))
        await cut_off_all(postgres)
        assert await store.load(KEY) is not None
        await cut_off_all(postgres)
        await store.replace(KEY, StoredTokens(TokenSet("two")), expected=record.version)
        await cut_off_all(postgres)
        async with store.lease(KEY, timeout=0):
            await cut_off_all(postgres)
        await cut_off_all(postgres)
        with pytest.raises(StoreUnavailable):  # whether there was one would be unknown
            await store.delete(KEY)
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
            assert await cut_off_all(postgres, waiting=True) == 1
        await replacing
        with pytest.raises(StoreConflict):
            await store.replace(KEY, StoredTokens(TokenSet("three")), expected=saved.version)
        assert await store.load(KEY) == replaced


@pytest.mark.parametrize("creates", [False, True], ids=["a save", "a creation"])
async def test_a_write_that_is_run_again_does_not_undo_the_renewal_that_came_between(
    store: SQLTokenStore, database: Database, monkeypatch: pytest.MonkeyPatch, *, creates: bool
) -> None:
    run = store._database.run
    renewals: list[StoredTokens] = []

    async def run_twice(statement: Executable, parameters: Mapping[str, object], **settings: Any) -> Result:
        """As after a connection that was lost before the reply, while another process renewed."""
        await run(statement, parameters, **settings)
        if not renewals:
            saved = await other.load(KEY)
            assert saved is not None
            assert saved.tokens == TokenSet("login")
            renewals.append(StoredTokens(TokenSet("renewed")))
            await other.replace(KEY, renewals[0], expected=saved.version)
        return await run(statement, parameters, **settings)

    async with database.opened() as other:
        monkeypatch.setattr(store._database, "run", run_twice)
        login = StoredTokens(TokenSet("login"))
        await (store.replace(KEY, login, expected=None) if creates else store.save(KEY, login))
        assert [await other.load(KEY)] == renewals


async def cut_off_all(database: Database, *, waiting: bool = False) -> int:
    """End the server's side of all connections but this one's, or of those that wait for a lock."""
    idle = "wait_event_type = 'Lock'" if waiting else "state = 'idle'"
    cut = await database.run(
        "select pg_terminate_backend(pid, 5000) from pg_stat_activity where pid <> pg_backend_pid() "
        f"and backend_type = 'client backend' and {idle}"
    )
    return len(cut)


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
            await until(lease.is_held)  # nobody took it: extended again
        record = await store.load(KEY)
        assert record is not None
        assert record.version == saved.version
        assert await is_free(store)


async def test_a_database_that_hangs_is_given_up_and_the_statement_with_it(
    postgres: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_sql_database, "STATEMENT_TIMEOUT_SECONDS", 0.3)
    async with postgres.opened() as store:
        await store.save(KEY, record := StoredTokens(TokenSet("one")))
        async with postgres.blocked():
            with pytest.raises(StoreUnavailable) as caught:
                await store.replace(KEY, StoredTokens(TokenSet("two")), expected=record.version)
        assert caught.value.code == "timeout"
        await store.replace(KEY, StoredTokens(TokenSet("three")), expected=record.version)


async def test_a_locked_file_is_waited_for_and_then_given_up(sqlite: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    impatient = Database(f"{sqlite.url}?timeout=0.01", sqlite.table)
    async with impatient.opened() as store:
        async with sqlite.blocked():
            saving = asyncio.create_task(store.save(KEY, saved := StoredTokens(TokenSet("one"))))
            await asyncio.sleep(0.1)
            assert not saving.done()
        await saving
        monkeypatch.setattr(_sql_database, "STATEMENT_TIMEOUT_SECONDS", 0.3)
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


async def test_p4_a_damaged_record_is_corrupted_and_left_as_it_is(store: SQLTokenStore, database: Database) -> None:
    await store.save(KEY, StoredTokens(TokenSet("one")))
    await store.save(TokenKey("idp", "bob"), StoredTokens(TokenSet("two")))
    async with database.engine() as engine, engine.begin() as connection:
        await connection.execute(update(token_table(MetaData(), database.table)).values(record=b"\x80 no record"))
    with pytest.raises(StoreCorrupted):
        await store.load(KEY)
    assert await database.run("select count(*) from {table} where record is not null") == [(2,)]
    await store.save(KEY, StoredTokens(TokenSet("login")))
    assert await store.load(KEY) is not None
    assert await store.delete(TokenKey("idp", "bob")) is True


@pytest.mark.parametrize("codec", CODECS, ids=lambda codec: type(codec).__name__)
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


# The table, and the engine.


async def test_a_table_can_be_created_by_several_at_once_and_again(database: Database) -> None:
    fresh = Database(database.url, f"tokens_{uuid4().hex}")
    stores = [fresh.store() for _ in range(10)]
    for store in stores:
        await store._database.run(select(1))  # connected, they reach the server at the same moment
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
    store = database.store()
    engine = store._database._engine()
    connections: list[DBAPIConnection] = []
    event.listen(engine.sync_engine, "close", lambda connection, record: connections.remove(connection))
    event.listen(engine.sync_engine, "connect", lambda connection, record: connections.append(connection))
    await asyncio.gather(*(store.load(KEY) for _ in range(3)))
    assert connections
    await store.aclose()
    assert not connections


async def test_p5_a_sqlite_file_is_made_so_that_its_owner_alone_can_read_it(sqlite: Database, directory: Path) -> None:
    async with sqlite.opened() as store:
        await store.save(KEY, StoredTokens(TokenSet("one")))
    async with sqlite.blocked():
        modes = {entry.name: stat.S_IMODE(entry.stat().st_mode) for entry in os.scandir(directory)}
    assert modes["tokens.db"] == 0o600
    assert set(modes.values()) == {0o600}  # the journal's, too


async def test_a_row_that_breaks_a_rule_of_the_apps_own_is_no_conflict(postgres: Database) -> None:
    await postgres.run("alter table {table} add column tenant text not null default 'one', add check (tenant <> 'one')")
    tokens = TokenSet("at_secret-" * 3)
    async with postgres.opened() as store:
        with pytest.raises(StoreUnavailable, match="23514") as caught:
            await store.save(KEY, StoredTokens(tokens))
    assert "secret" not in "".join(traceback.format_exception(caught.value))


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


async def test_keys_come_in_pages_each_with_a_connection_of_its_own(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sql, "KEYS_PER_READ", 3)
    store = database.store()
    keys = {TokenKey(provider, f"user-{number}") for provider in ("idp", "other") for number in range(5)}
    for key in keys:
        await store.save(key, StoredTokens(TokenSet("one")))
    engine = store._database._engine()
    async with counted(store) as statements:
        found = set()
        async for key in store.keys():
            assert checked_out_of(engine) == 0
            found.add(key)
        assert found == keys
        assert len(statements) == 5
    assert {key.user_id async for key in store.keys("other")} == {f"user-{number}" for number in range(5)}
    await store.aclose()


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


def test_settings_that_make_no_sense_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ConfigurationError, match="lease_duration"):
        SQLTokenStore("sqlite+aiosqlite://", lease_duration=0)
    metadata = MetaData()
    from sqlalchemy import Column, Integer, Table

    with pytest.raises(ConfigurationError, match="lease_owner, lease_until, provider"):
        SQLTokenStore("sqlite+aiosqlite://", table=Table("other", metadata, Column("id", Integer)))
    monkeypatch.setattr(sql, "SECONDS_NOW", {"postgresql": "1"})
    with pytest.raises(ConfigurationError, match="not for sqlite"):
        SQLTokenStore("sqlite+aiosqlite://")


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
        stores = [SQLTokenStore(engine, table=f"tokens_{uuid4().hex}", autocommit=False)]
        await stores[0].create_table()
        stores.append(SQLTokenStore(engine, table=stores[0]._table, autocommit=False))
        refreshers = [TokenRefresher(provider, store) for store in stores]
        for user_id in users:
            await refreshers[0].save_tokens(user_id, login(fake, user_id, life_left=-1))
        got = await asyncio.gather(*(each.get_valid_token(user_id) for user_id in users for each in refreshers))
        assert got[::2] == got[1::2]
        for each in refreshers:
            await each.aclose()
        async with engine.begin() as connection:
            left = await connection.execute(select(func.count(stores[0]._table.c.lease_owner)))
            assert left.scalar_one() == 0
        await engine.dispose()
    assert fake.requests() == len(users)


async def run_twice(store: SQLTokenStore, monkeypatch: pytest.MonkeyPatch) -> None:
    """From now on, each statement runs twice, as after a connection that was lost before the reply."""
    run = store._database.run

    async def again(statement: Executable, parameters: Mapping[str, object], **settings: Any) -> Result:
        await run(statement, parameters, **settings)
        return await run(statement, parameters, **settings)

    monkeypatch.setattr(store._database, "run", again)


async def test_a_replacement_or_lease_whose_reply_was_lost_counts_once(
    store: SQLTokenStore, database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    await store.save(KEY, saved := StoredTokens(TokenSet("one")))
    async with database.opened() as other:
        await run_twice(store, monkeypatch)
        await store.replace(KEY, replaced := StoredTokens(TokenSet("two")), expected=saved.version)
        assert await other.load(KEY) == replaced
        await other.delete(KEY)
        await store.replace(KEY, created := StoredTokens(TokenSet("three")), expected=None)
        assert await other.load(KEY) == created
        async with store.lease(KEY, timeout=0) as lease:
            assert lease.is_held()
            assert not await is_free(other)
        assert await is_free(other)


async def test_x4_an_extension_that_comes_too_late_is_none_of_the_successors_lease(
    store: SQLTokenStore, database: Database
) -> None:
    parameters = {"given_id": _sql_table.row_id(KEY), "given_owner": "somebody who stood still"}
    async with database.opened() as other, other.lease(KEY, timeout=0):
        before = await database.run("select lease_owner, lease_until from {table}")
        assert not await store._database.changes(store._statements.extend, parameters)
        assert await database.run("select lease_owner, lease_until from {table}") == before


async def test_x10_a_first_login_between_the_statements_of_a_release_stays_and_the_lease_is_free(
    store: SQLTokenStore, database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    changes = store._database.changes

    async def log_in_between(statement: Executable, parameters: Mapping[str, object], **settings: Any) -> bool:
        changed = await changes(statement, parameters, **settings)
        if statement is store._statements.release_with_record and not changed:
            await other.save(KEY, StoredTokens(TokenSet("login")))
        return changed

    async with database.opened() as other:
        monkeypatch.setattr(store._database, "changes", log_in_between)
        async with store.lease(KEY, timeout=0):
            pass
        record = await other.load(KEY)
        assert record is not None
        assert record.tokens == TokenSet("login")
        assert await is_free(other)


async def test_a_delete_between_whose_statements_the_lease_is_released_leaves_no_row(
    store: SQLTokenStore, database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    changes = store._database.changes

    async def release_between(statement: Executable, parameters: Mapping[str, object], **settings: Any) -> bool:
        if statement is store._statements.clear_record:
            await holder.__aexit__(None, None, None)
        return await changes(statement, parameters, **settings)

    async with database.opened() as other:
        await store.save(KEY, StoredTokens(TokenSet("one")))
        holder = other.lease(KEY, timeout=0)
        await holder.__aenter__()
        monkeypatch.setattr(store._database, "changes", release_between)
        assert await store.delete(KEY) is True
    assert await rows_of(database) == 0


async def test_a_login_that_changes_no_row_is_not_taken_for_stored(
    store: SQLTokenStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def change_nothing(*arguments: object, **settings: object) -> bool:
        return False

    monkeypatch.setattr(store._database, "changes", change_nothing)
    with pytest.raises(StoreUnavailable) as caught:
        await store.save(KEY, StoredTokens(TokenSet("login")))
    assert caught.value.code == "contended"


async def test_a_lease_that_was_given_back_is_extended_no_more(
    database: Database, caplog: pytest.LogCaptureFixture
) -> None:
    async with database.opened(lease_duration=0.4) as store:
        async with store.lease(KEY, timeout=0):
            await asyncio.sleep(0.15)  # extended by now
        assert not [task for task in asyncio.all_tasks() if task.get_name() == "tokenflight lease"]
        async with store.lease(KEY, timeout=0):
            pass
        await asyncio.sleep(0.2)
    assert "lapsed" not in caplog.text


async def test_a_wait_for_a_lease_ends_when_its_time_is_over(database: Database) -> None:
    async with database.opened() as store, database.opened() as other, store.lease(KEY, timeout=0):
        with pytest.MonkeyPatch.context() as patch:
            for name in ("SHORTEST_POLL_SECONDS", "BRISK_POLL_SECONDS"):
                patch.setattr(sql, name, 5.0)
            began = time.monotonic()
            with pytest.raises(LeaseTimeout):
                await other.lease(KEY, timeout=0.1).__aenter__()
            assert time.monotonic() - began < 2


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


async def test_a_statement_whose_connections_are_lost_again_and_again_is_given_up(
    postgres: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    tries = 0

    async def lose_the_connection(*_: object) -> Result:
        nonlocal tries
        tries += 1
        raise DBAPIError("select 1", {}, Exception("lost"), connection_invalidated=True)

    monkeypatch.setattr(_sql_database, "_execute", lose_the_connection)
    async with postgres.opened() as store:
        with pytest.raises(StoreUnavailable):
            await store.load(KEY)
    assert tries == 2


async def test_a_delete_that_happened_is_told_though_the_row_could_not_be_removed(
    store: SQLTokenStore, database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    changes = store._database.changes

    async def fail_at_the_end(statement: Executable, parameters: Mapping[str, object], **settings: Any) -> bool:
        if statement is store._statements.delete_without_record:
            raise StoreUnavailable("down")
        return await changes(statement, parameters, **settings)

    await store.save(KEY, StoredTokens(TokenSet("one")))
    async with database.opened() as other, other.lease(KEY, timeout=0):
        monkeypatch.setattr(store._database, "changes", fail_at_the_end)
        assert await store.delete(KEY) is True
    assert await store.load(KEY) is None
