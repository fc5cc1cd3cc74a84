"""Thousands of schedules: whatever the order of events, the flights keep their rules."""

import asyncio
import logging
import os
import random
import time
from collections.abc import Iterable
from contextlib import AbstractAsyncContextManager, AsyncExitStack, nullcontext
from functools import partial
from typing import Final

import pytest

from kit.schedules.explorer import Finding, Schedule, explore, play
from kit.schedules.parts import PausingStore
from kit.schedules.scenarios import scenarios
from kit.schedules.world import KEY, USER, Parts
from kit.tally import Tally
from tokenflight import (
    Lease,
    StoredTokens,
    TokenKey,
    TokenRefresher,
    TokenSet,
    Version,
)
from tokenflight._core.outcome import Outcome
from tokenflight._core.pending import Successor
from tokenflight._core.renewal import Renewal
from tokenflight._core.requirement import Requirement
from tokenflight._singleflight import Flight

SCHEDULES: Final = 500
MANY_SCHEDULES: Final = 40_000
PLANTED_BUG_SCHEDULES: Final = 200

SEED_VARIABLE: Final = "SCHEDULE_SEED"
"""The environment variable that names one schedule to run alone."""


# Bugs, each planted in place of a part.


class StoreWithoutLease(PausingStore):
    """The bug: everybody gets the lease."""

    def lease(self, key: TokenKey, *, timeout: float) -> AbstractAsyncContextManager[Lease]:
        return nullcontext(Lease())


class StoreThatReplacesAnything(PausingStore):
    """The bug: a renewal is written whatever has become of the record."""

    async def replace(self, key: TokenKey, record: StoredTokens, *, expected: Version | None) -> None:
        async def write() -> None:
            self._records[key] = record

        await self._take_time("replace", write, (record.tokens,))


class PublishesBeforeItSaves(TokenRefresher):
    """The bug: what the provider returned is in the cache before it is in the store."""

    def _start_renewal(self, user_id: str, requirement: Requirement) -> Flight[Outcome]:
        class PublishingRenewal(Renewal):
            async def _save(self, successor: Successor, lease: AsyncExitStack) -> Outcome:
                self._state.cache.keep(USER, successor.record, time.time())
                return await super()._save(successor, lease)

        renewal = PublishingRenewal(self._state, KEY, requirement)
        return self._state.flights.start(user_id, renewal.run, serves_all=requirement == Requirement())


class CancelsFlightsWithTheirWaiters(TokenRefresher):
    """The bug: a waiter awaits the flight's task itself, unshielded, and takes it along when it is cancelled."""

    async def _obtain(self, user_id: str, requirement: Requirement) -> TokenSet:
        try:
            return await super()._obtain(user_id, requirement)
        except asyncio.CancelledError:
            for task in self._state.flights._tasks:
                task.cancel()
            raise


def find(planted: Parts) -> Finding:
    """What exploring finds where a bug is `planted`, and finds again under the same seed."""
    finding = explore(scenarios(planted), range(PLANTED_BUG_SCHEDULES))
    assert finding is not None
    assert play(scenarios(planted), finding.seed) == finding
    return finding


def test_x2_the_planted_bug_of_a_store_without_a_lease_is_found_and_found_again() -> None:
    assert "no two renewals of a user are under way at once" in find(Parts(store=StoreWithoutLease)).broken


def test_x9_the_planted_bug_of_a_store_that_replaces_whatever_is_there_is_found_and_found_again() -> None:
    assert "a logout stays a logout" in find(Parts(store=StoreThatReplacesAnything)).broken


def test_p8_the_planted_bug_of_publishing_before_saving_is_found_and_found_again() -> None:
    found = find(Parts(refresher=PublishesBeforeItSaves))
    assert "nobody gets a token set before it is stored" in found.broken


def test_s3_the_planted_bug_of_waiters_without_a_shield_is_found_and_found_again() -> None:
    found = find(Parts(refresher=CancelsFlightsWithTheirWaiters))
    assert "nobody is told flight_cancelled here" in found.broken


# The explorer itself.


def test_a_schedule_in_which_nothing_can_happen_any_more_is_found() -> None:
    async def wait_for_ever(schedule: Schedule) -> None:
        await asyncio.Event().wait()

    found = explore(wait_for_ever, range(1))
    assert found is not None
    assert "nothing can happen any more" in found.broken[0]


def test_a_schedule_without_an_end_is_found() -> None:
    async def go_round(schedule: Schedule) -> None:
        while True:
            await schedule.pause()
            await asyncio.sleep(0)

    found = explore(go_round, range(1))
    assert found is not None
    assert "no end" in found.broken[0]


def test_a_task_left_behind_is_found() -> None:
    async def leave_a_task(schedule: Schedule) -> None:
        schedule.loop.create_task(asyncio.sleep(1), name="forgotten")

    found = explore(leave_a_task, range(1))
    assert found is not None
    assert found.broken == ("no task is left, but ['forgotten'] are",)


def test_all_orders_of_three_tasks_are_played() -> None:
    orders: set[str] = set()

    async def race(schedule: Schedule) -> None:
        order: list[str] = []

        async def run(name: str) -> None:
            await schedule.pause()
            order.append(name)

        await asyncio.gather(*map(run, "abc"))
        orders.add("".join(order))

    assert explore(race, range(100)) is None
    assert len(orders) == 6


# The library.


def keep_all_rules(seeds: Iterable[int], tally: Tally) -> None:
    """Fail with the first of `seeds` that breaks a rule, and with the way to run it alone."""
    finding = explore(scenarios(tell=partial(tally.add, "schedules")), seeds)
    if finding is not None:
        again = (
            f"{SEED_VARIABLE}={finding.seed} pytest tests/refresher/test_schedules.py -k test_no_schedule_breaks_a_rule"
        )
        pytest.fail(f"{finding}\nRun it again with: {again}", pytrace=False)


def test_no_schedule_breaks_a_rule(tally: Tally) -> None:
    alone = os.environ.get(SEED_VARIABLE)
    keep_all_rules(range(SCHEDULES) if alone is None else [int(alone)], tally)


@pytest.mark.long
@pytest.mark.timeout(900)
def test_none_of_very_many_schedules_breaks_a_rule(tally: Tally, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.CRITICAL, logger="tokenflight")  # the memory cannot hold the logs of so many
    first = random.getrandbits(40)  # never explored before
    keep_all_rules(range(first, first + MANY_SCHEDULES), tally)
