"""The lease of a SQL store: one holder at a time, for a limited time, and no row left behind."""

import asyncio
import signal
import time

import pytest

from kit import sql_store_worker
from kit.sql_database import Database, Driver, checked_out_of
from kit.stores import KEY, is_free, take, until
from kit.support import login
from kit.workers import ask, line_of, worker
from tokenflight import (
    LeaseTimeout,
    OIDCProvider,
    StoreConflict,
    StoredTokens,
    TokenRefresher,
    TokenSet,
)
from tokenflight.stores.sql import SQLTokenStore
from tokenflight.stores.sql._limits import SQLLimits
from tokenflight.testing import FakeProvider


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
        store = SQLTokenStore(engine, table=database.table, share_pool=True)
        async with TokenRefresher(Watching(), store) as refresher:
            for user_id in ("alice", "bob", "carol"):
                await refresher.save_tokens(user_id, login(fake, user_id, life_left=-1))
            await asyncio.gather(*(refresher.get_valid_token(user_id) for user_id in ("alice", "bob", "carol")))
    assert checked_out == [0, 0, 0]


async def test_x3_a_lease_is_extended_for_as_long_as_it_is_held(database: Database) -> None:
    async with database.opened(lease_duration=0.4) as store, database.opened() as other:
        async with store.lease(KEY, timeout=0) as lease:
            held_until = time.monotonic() + 1.2
            while time.monotonic() < held_until:
                assert lease.is_held()
                assert not await is_free(other)
                await asyncio.sleep(0.05)
        assert not lease.is_held() or await is_free(other)


async def test_x3_a_lease_that_can_not_be_extended_lapses_and_is_held_again_unless_another_took_it(
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
        worker(sql_store_worker, "hold", postgres.url, postgres.table, "0.5") as sleeper,
        postgres.opened() as store,
        postgres.opened() as third,
    ):
        assert await line_of(sleeper) == "held"
        assert await ask(sleeper) == "True"
        sleeper.send_signal(signal.SIGSTOP)
        async with store.lease(KEY, timeout=10) as lease:
            sleeper.send_signal(signal.SIGCONT)
            assert await ask(sleeper) == "False"
            assert sleeper.stdin is not None
            sleeper.stdin.close()
            assert await line_of(sleeper) == "released"
            assert not await is_free(third)
            assert lease.is_held()


async def test_x4_an_extension_that_comes_too_late_is_none_of_the_successors_lease(database: Database) -> None:
    class Stalling(Driver):
        """Lets no extension of a lease through until `go_on`."""

        go_on, extended = asyncio.Event(), asyncio.Event()

        async def before(self, statement: str) -> None:
            if "SET lease_until" in statement:
                await self.go_on.wait()

        async def after(self, statement: str, changed_rows: int) -> bool:
            if "SET lease_until" in statement:
                assert changed_rows == 0
                self.extended.set()
            return False

    driver = Stalling()
    async with (
        database.opened_through(driver, lease_duration=0.4) as store,
        database.opened() as other,
        store.lease(KEY, timeout=0) as lease,
        other.lease(KEY, timeout=10) as successor,
    ):
        before = await database.run("select lease_owner, lease_until from {table}")
        driver.go_on.set()
        await driver.extended.wait()
        assert await database.run("select lease_owner, lease_until from {table}") == before
        assert (lease.is_held(), successor.is_held()) == (False, True)


async def test_x7_the_lease_of_a_killed_process_is_free_when_its_duration_is_over(database: Database) -> None:
    async with (
        worker(sql_store_worker, "hold", database.url, database.table, "1.0") as holder,
        database.opened() as store,
    ):
        assert await line_of(holder) == "held"
        assert not await is_free(store)
        killed_at = time.monotonic()
        holder.kill()
        async with store.lease(KEY, timeout=30):
            assert 0.2 < time.monotonic() - killed_at < 2


async def test_a_lease_leaves_no_row_behind_for_a_user_without_record(store: SQLTokenStore, database: Database) -> None:
    async with store.lease(KEY, timeout=0):
        assert await database.count_rows() == 1
    assert await database.count_rows() == 0


async def test_a_delete_under_a_lease_keeps_the_lease_and_its_release_leaves_the_marker(
    store: SQLTokenStore, database: Database
) -> None:
    await store.save(KEY, StoredTokens(TokenSet("one")))
    async with database.opened() as other, store.lease(KEY, timeout=0):
        assert await other.delete(KEY) is True
        assert await other.delete(KEY) is False
        assert not await is_free(other)
        assert await database.count_rows() == 1
    assert await is_free(store)
    with pytest.raises(StoreConflict, match="logged out"):
        await store.replace(KEY, StoredTokens(TokenSet("old", issued_at=0)), expected=None)


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


async def test_an_attempt_that_was_given_up_while_the_database_hung_keeps_no_lease(database: Database) -> None:
    async with database.opened(_limits=SQLLimits(cancellation_seconds=0.1)) as store, database.opened() as other:
        await store.save(KEY, StoredTokens(TokenSet("one")))
        async with database.blocked():
            with pytest.raises(TimeoutError):
                async with asyncio.timeout(0.1):
                    await store.lease(KEY, timeout=0).__aenter__()
        await take(other, timeout=5)


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
    patient = SQLLimits(shortest_poll_seconds=5.0, brisk_poll_seconds=5.0)
    async with database.opened() as store, database.opened(_limits=patient) as other, store.lease(KEY, timeout=0):
        began = time.monotonic()
        with pytest.raises(LeaseTimeout):
            await other.lease(KEY, timeout=0.1).__aenter__()
        assert time.monotonic() - began < 2


async def test_processes_that_take_turns_lose_no_update(sqlite: Database) -> None:
    async with sqlite.opened() as store:
        await store.save(KEY, StoredTokens(TokenSet("access-0")))
        arguments = ("count_up", sqlite.url, sqlite.table, "60")
        async with worker(sql_store_worker, *arguments) as one, worker(sql_store_worker, *arguments) as other:
            assert [await one.wait(), await other.wait()] == [0, 0]
        record = await store.load(KEY)
    assert record is not None
    assert record.tokens.access_token == "access-20"
