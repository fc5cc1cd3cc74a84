"""K4, K8, W5: a holder of a lease that was cut off leaves a trace in the row for the next one."""

import asyncio
import time
from typing import Final

import pytest

from kit import sql_store_worker
from kit.sql_database import Database
from kit.stores import KEY
from kit.workers import line_of, worker
from tokenflight import StoredTokens, TokenSet
from tokenflight.stores.sql import SQLTokenStore

RECORD: Final = StoredTokens(TokenSet("access", refresh_token="refresh"))


async def unreleased_for(store: SQLTokenStore) -> float | None:
    async with store.lease(KEY, timeout=10) as lease:
        return lease.unreleased_for()


async def cut_off(database: Database, *, duration: float = 0.2) -> None:
    """Take the lease, lose it, and never give it back."""
    async with database.opened(lease_duration=duration) as other:
        lease = await other._acquire(KEY, 0)
        lease.released()  # it is extended no more, as if its process stood still
        await asyncio.sleep(duration + 0.05)


async def test_k4_a_lease_that_was_given_back_leaves_no_trace(store: SQLTokenStore) -> None:
    assert await unreleased_for(store) is None
    assert await unreleased_for(store) is None


async def test_k4_the_next_holder_hears_of_one_that_was_cut_off_and_so_do_those_after_it(
    database: Database, store: SQLTokenStore
) -> None:
    await store.save(KEY, RECORD)
    await cut_off(database)
    for _ in range(3):
        silent = await unreleased_for(store)
        assert silent is not None
        assert silent < 10
    assert await store.load(KEY) == RECORD


async def test_k4_the_trace_goes_with_each_write_of_the_record(database: Database, store: SQLTokenStore) -> None:
    async def save() -> None:
        await store.save(KEY, StoredTokens(RECORD.tokens))

    async def replace() -> None:
        record = await store.load(KEY)
        assert record is not None
        await store.replace(KEY, StoredTokens(TokenSet("new")), expected=record.version)

    async def delete() -> None:
        await store.delete(KEY)

    async def create() -> None:
        await store.replace(KEY, StoredTokens(TokenSet("first")), expected=None)

    for write in (save, replace, delete, create):
        for is_taken_over in (False, True):
            if is_taken_over and write is not save:
                continue
            await cut_off(database, duration=0.1)
            if is_taken_over:
                assert await unreleased_for(store) is not None
            await write()
            assert await unreleased_for(store) is None, (write.__name__, is_taken_over)


async def test_k4_a_write_under_the_lease_keeps_the_lease(database: Database, store: SQLTokenStore) -> None:
    await store.save(KEY, RECORD)
    await cut_off(database)
    async with store.lease(KEY, timeout=10), database.opened() as other:
        await store.replace(KEY, StoredTokens(TokenSet("new")), expected=RECORD.version)
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.2):
                await unreleased_for(other)
    assert await unreleased_for(store) is None


async def test_k4_the_trace_goes_when_the_holder_gives_its_lease_back_after_all(
    database: Database, store: SQLTokenStore
) -> None:
    await store.save(KEY, RECORD)
    async with database.opened(lease_duration=0.1) as late, late.lease(KEY, timeout=0) as held:
        held.released()  # type: ignore[attr-defined] # it is extended no more, as if its process stood still
        await asyncio.sleep(0.2)
    assert await unreleased_for(store) is None


async def test_k4_a_trace_is_forgotten_within_the_hour(database: Database, store: SQLTokenStore) -> None:
    await store.save(KEY, RECORD)
    await cut_off(database)
    two_hours_ago = round((time.time() - 7200) * 1000)
    await database.run(f"update {{table}} set lease_owner = '|{two_hours_ago}', lease_until = 0")
    assert await unreleased_for(store) is None


async def test_w5_k8_a_killed_holder_costs_seven_seconds_at_most_and_the_next_one_hears_of_it(
    postgres: Database,
) -> None:
    async with postgres.opened() as store:
        await store.save(KEY, RECORD)
        async with worker(sql_store_worker, "hold", postgres.url, postgres.table, "7") as process:
            assert await line_of(process) == "held"
            process.kill()
            await process.wait()
            killed_at = time.monotonic()
            async with store.lease(KEY, timeout=10) as lease:
                assert time.monotonic() - killed_at <= 7.5
                silent = lease.unreleased_for()
    assert silent is not None
    assert 5 <= silent <= 9
