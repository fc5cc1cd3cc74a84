"""Thousands of schedules: whatever the order of events, the flights keep their rules."""

import asyncio
import logging
import os
import random
import time
from collections import Counter, defaultdict
from collections.abc import Awaitable, Callable, Coroutine, Iterable
from contextlib import AbstractAsyncContextManager, AsyncExitStack, nullcontext
from dataclasses import dataclass
from functools import partial
from itertools import pairwise
from typing import Final, Protocol

import pytest

from kit.schedules import PLACE, Fault, Finding, PausingStore, Scenario, Schedule, StrictProvider, explore, label, play
from kit.tally import Counts, Tally
from tokenflight import (
    Lease,
    ReauthenticationRequired,
    RefreshPolicy,
    StoredTokens,
    StoreUnavailable,
    TokenflightError,
    TokenKey,
    TokenRefresher,
    TokenSet,
    Version,
)
from tokenflight._core.course import Course, Landing, Need
from tokenflight._core.pending import Renewal

USER: Final = "alice"
KEY: Final = TokenKey(StrictProvider.name, USER)

ONCE: Final = range(1, 2)

SCHEDULES: Final = 500
MANY_SCHEDULES: Final = 40_000
PLANTED_BUG_SCHEDULES: Final = 200

SEED_VARIABLE: Final = "SCHEDULE_SEED"
"""The environment variable that names one schedule to run alone."""

EXPIRED, DUE, AGING, FRESH = -10.0, 100.0, 310.0, 2000.0
"""Seconds of life left."""

LATER_SECONDS: Final = 200.0
"""After that, flights and cool-downs are over, copies in memory are not trusted, and what was unsaved is saved."""

LONGEST_WAIT_SECONDS: Final = 300.0
"""More than a flight may take, with all its deadlines."""

STORE_OPERATIONS: Final = ("load", "lease", "release", "replace", "save", "delete")
"""Those of flights first."""

PROVIDER_ERRORS: Final = frozenset({"provider_unavailable", "outcome_unknown", "deadline_exceeded", "cooling_down"})
STORE_ERRORS: Final = frozenset({"store_unavailable", "timeout", "lease_timeout", "unsaved", "deadline_exceeded"})


class Ask(Protocol):
    """A way to ask a refresher for a token set of a user."""

    __name__: str

    async def __call__(self, refresher: TokenRefresher, user_id: str, /) -> TokenSet: ...


async def get(refresher: TokenRefresher, user_id: str) -> TokenSet:
    return await refresher.get_valid_token(user_id)


async def get_for_long(refresher: TokenRefresher, user_id: str) -> TokenSet:
    return await refresher.get_valid_token(user_id, min_validity=2500)


async def renew(refresher: TokenRefresher, user_id: str) -> TokenSet:
    return await refresher.refresh_token(user_id)


def without(rejected: TokenSet) -> Ask:
    """The way of a caller to whom an API answered 401."""

    async def get_another(refresher: TokenRefresher, user_id: str) -> TokenSet:
        return await refresher.get_valid_token(user_id, rejected=rejected.access_token)

    return get_another


def holding(row: TokenSet) -> Ask:
    """The way of a caller who keeps token sets itself, and holds `row`."""

    async def ensure(refresher: TokenRefresher, user_id: str) -> TokenSet:
        result = await refresher.ensure_valid_token(user_id, row)
        assert result.should_update == (result.tokens != row)
        return result.tokens

    return ensure


@dataclass(frozen=True, slots=True)
class Parts:
    """What a world is made of; a planted bug takes the place of a part."""

    refresher: type[TokenRefresher] = TokenRefresher
    store: type[PausingStore] = PausingStore


class World:
    """A user, some refreshers that share a store as processes do, their callers, and the rules for all of them.

    Each scenario adds to the rules: `allowed` are the codes of the errors that callers may be told, `requests` says
    how many of them the provider may get, `recovers` that all faults end before the refreshers are closed,
    `may_serve_unsaved` that token sets may be served which can't be stored, `serves` that what is stored stays valid
    long enough to stand in for a renewal that fails, `ends_logged_out` that nothing may be stored in the end,
    `ends_logged_in` that what is stored in the end has to come from the last login.
    """

    def __init__(self, schedule: Schedule, parts: Parts) -> None:
        self.schedule = schedule
        self.random = schedule.random
        self.provider = StrictProvider(schedule)
        self.store = parts.store(schedule)
        self.refreshers: list[TokenRefresher] = []
        self.allowed: frozenset[str] = frozenset()
        self.requests: range | None = None
        self.recovers = True
        self.may_serve_unsaved = False
        self.serves = False
        self.ends_logged_out = False
        self.ends_logged_in = False
        self._login: TokenSet | None = None
        self.all_have_come = asyncio.Event()
        self._users_lost = 0
        self._refresher = parts.refresher
        self._open = AsyncExitStack()
        self._actors: list[asyncio.Task[None]] = []
        self._last_word: Counter[TokenRefresher] = Counter()
        self._rejected: defaultdict[TokenRefresher, set[str]] = defaultdict(set)
        self._trust: float | None = None
        self._to_come = 0
        self._places: dict[TokenRefresher, str] = {}
        self._is_unsaved = False

    async def begin(
        self, life_left: float, *, refreshers: int | None = None, trust: float | None = 60, stored: bool = True
    ) -> TokenSet:
        """Log the user in, and wait until `life_left` seconds are left. Some refreshers then have a copy in memory."""
        self._trust = trust
        for _ in range(self.random.randint(1, 3) if refreshers is None else refreshers):
            refresher = self._refresher(self.provider, self.store, policy=RefreshPolicy(cache_ttl=trust))
            self._places[refresher] = f" at refresher {len(self.refreshers)}"
            self.refreshers.append(refresher)
            self._open.push_async_callback(self._close, refresher)
        tokens = self.provider.log_in()
        if stored:
            await self.store.save(KEY, StoredTokens(tokens))
            for refresher in self.refreshers:
                if self.random.random() < 0.5:
                    PLACE.set(self._places[refresher])
                    await refresher.get_valid_token(USER)
        assert tokens.expires_at is not None
        await asyncio.sleep(tokens.expires_at - life_left - time.time())
        return tokens

    def some_faults(self, *kinds: Fault) -> list[Fault]:
        """One to three of `kinds`."""
        return self.random.choices(kinds, k=self.random.randint(1, 3))

    # Who acts, each at a moment of its own.

    def callers(self, *asks: Ask, at_most: int = 10) -> None:
        """Some callers, each of whom asks some refresher in one of these ways."""
        self._to_come = self.random.randint(1, at_most)
        for _ in range(self._to_come):
            self.act("caller", self._call(self.random.choice(self.refreshers), self.random.choice(asks)))

    def rejections(self, tokens: TokenSet) -> None:
        """Some callers whom an API answered 401 to."""
        for _ in range(self.random.randint(1, 6)):
            refresher = self.random.choice(self.refreshers)
            self.act("caller", self._call(refresher, without(tokens), rejected=tokens.access_token))

    def cancellations(self) -> None:
        """Cancel none of those who act so far, the first, half or all of them."""
        actors = list(self._actors)
        half = self.random.sample(actors, len(actors) // 2)
        for actor in self.random.choice(([], actors[:1], half, actors)):
            self.act("canceller", self._cancel(actor))

    def logins(self, number: int) -> None:
        """The user logs in so many times."""
        for _ in range(number):
            refresher = self.random.choice(self.refreshers)
            self.act("login", self._say(refresher, partial(self._log_in, refresher)))

    def logouts(self, number: int) -> None:
        """The user logs out so many times."""
        for _ in range(number):
            refresher = self.random.choice(self.refreshers)
            self.act("logout", self._say(refresher, partial(refresher.delete_tokens, USER)))

    def closings(self, number: int) -> None:
        """So many refreshers are closed."""
        for refresher in self.random.sample(self.refreshers, number):
            self.act("closer", self._close_early(refresher))

    def act(self, name: str, doing: Coroutine[None, None, None]) -> None:
        """Let somebody do something."""
        self._actors.append(asyncio.create_task(doing, name=f"{name} {len(self._actors)}"))

    async def _cancel(self, actor: "asyncio.Task[None]") -> None:
        await self.schedule.arrive()
        self.schedule.note(f"cancels {actor.get_name()}")
        actor.cancel()

    async def _log_in(self, refresher: TokenRefresher) -> None:
        self._login = self.provider.log_in()
        await refresher.save_tokens(USER, self._login)

    async def _say(self, refresher: TokenRefresher, word: Callable[[], Awaitable[object]]) -> None:
        await self.schedule.arrive()
        PLACE.set(self._places[refresher])
        try:
            await word()
        except TokenflightError as error:
            self._judge_error(error)
        else:
            self.schedule.note("is done")
            place = self.store.written_by[self.schedule.actor]
            self._last_word[refresher] = max(self._last_word[refresher], place)

    async def _close_early(self, refresher: TokenRefresher) -> None:
        await self.schedule.arrive()
        self.refreshers.remove(refresher)
        await self._close(refresher)

    async def _close(self, refresher: TokenRefresher) -> None:
        try:
            await refresher.aclose()
        except StoreUnavailable as error:
            self.schedule.note(f"closing says {error.code}")
            self.schedule.require(not self.recovers, "closing stores what could not be stored before")
            self._is_unsaved = True

    async def _call(self, refresher: TokenRefresher, ask: Ask, *, rejected: str | None = None) -> None:
        await self.schedule.arrive()
        self._to_come -= 1
        if not self._to_come:
            self.all_have_come.set()
        if rejected is not None:
            self._rejected[refresher].add(rejected)
        unwanted, last_word = set(self._rejected[refresher]), self._last_word[refresher]
        PLACE.set(self._places[refresher])
        self.schedule.note(f"asks to {ask.__name__}")
        began = self.schedule.loop.time()
        try:
            tokens = await ask(refresher, USER)
        except TokenflightError as error:
            self._judge_error(error)
            self.schedule.require(ask is renew or not self.serves, "nobody is told of an outage who can be served")
        else:
            self._judge_tokens(tokens, unwanted, last_word)
        waited = self.schedule.loop.time() - began
        self.schedule.require(waited <= LONGEST_WAIT_SECONDS, "nobody waits for longer than all deadlines together")

    def _judge_error(self, error: TokenflightError) -> None:
        self.schedule.note(f"is told {error.code}" + (f" because of {error.__cause__!r}" if error.__cause__ else ""))
        is_allowed = error.code in self.allowed
        self.schedule.require(is_allowed, f"nobody is told {error.code} here")
        self._users_lost += isinstance(error, ReauthenticationRequired) and not is_allowed

    def _judge_tokens(self, tokens: TokenSet, unwanted: set[str], last_word: int) -> None:
        require = self.schedule.require
        places = [place for place, written in enumerate(self.store.writes) if written == tokens]
        self.schedule.note(f"gets {label(tokens)}")
        require(tokens.expires_at is not None and tokens.expires_at > time.time(), "nobody gets an expired token")
        require(tokens.access_token not in unwanted, "nobody gets a token that was rejected before")
        require(bool(places) or self.may_serve_unsaved, "nobody gets a token set before it is stored")
        require(not places or places[-1] >= last_word, "nobody gets a token set from before the last login or logout")

    # How it ends.

    async def end(self) -> None:
        """Wait for everybody, and ask everywhere once more, later."""
        if self._actors:
            await asyncio.wait(self._actors)
        for actor in self._actors:
            error = None if actor.cancelled() else actor.exception()
            self.schedule.require(error is None, f"{actor.get_name()} meets no {error!r}")
        if self.recovers:
            self.provider.faults.clear()
            self.store.faults.clear()
            self.allowed = frozenset()
            self.serves = False
        await asyncio.sleep(LATER_SECONDS)
        excused = self.allowed
        for refresher in self.refreshers:
            self.allowed = excused | self._reasons_to_log_in()
            if self._trust is not None:
                self._last_word[refresher] = len(self.store.writes) - 1  # by now everybody has heard of it
            await self._call(refresher, get)

    async def close(self) -> None:
        """Close all refreshers."""
        await self._open.aclose()

    def look_back(self) -> None:
        """Check what must be true when all is over."""
        require, writes, provider = self.schedule.require, self.store.writes, self.provider
        require(not self.store.holders, "no lease is left")
        for before, after in pairwise(writes):
            if after is not None and after != provider.grant(after).first:
                require(before is not None, "a logout stays a logout")
                require(before is None or provider.grant(before) is provider.grant(after), "a login wins")
        require(not self.ends_logged_out or not writes or writes[-1] is None, "a logout has the last word")
        if self.ends_logged_in:
            stored = writes[-1]
            require(stored is not None and provider.grant(stored).first == self._login, "a login has the last word")
        if self.requests is not None:
            require(provider.requests in self.requests, f"there are {self.requests} requests, not {provider.requests}")
        if writes and writes[-1] is not None and not self._reasons_to_log_in() and not self._is_unsaved:
            require(writes[-1] == provider.grant(writes[-1]).current, "what the provider issued last is stored")

    def counts(self) -> Counts:
        """What happened."""
        return Counts(
            schedules=1,
            refreshes=self.provider.renewals,
            faults=self.provider.faulted + self.store.faulted,
            reuses=self.provider.reuses,
            excused_reuses=self.provider.excused_reuses,
            users_lost=self._users_lost,
        )

    def _reasons_to_log_in(self) -> frozenset[str]:
        """The error that later callers may be told, if the user was logged out or the provider lost a reply."""
        last = self.store.writes[-1] if self.store.writes else None
        if last is None:
            return frozenset({"no_tokens"})
        grant = self.provider.grant(last)
        return frozenset({"refused"} if grant.revoked or last.refresh_token in grant.unanswered else ())


async def a_crowd_comes(world: World) -> None:
    """S1, S3, S8, X8: one request, whoever is cancelled, and however many processes there are."""
    await world.begin(world.random.choice((EXPIRED, DUE)), trust=world.random.choice((60, None)))
    world.requests = ONCE
    world.callers(get, get_for_long)
    world.cancellations()


async def a_token_ages(world: World) -> None:
    """Callers get what there is at once; one request in the background."""
    await world.begin(AGING, trust=world.random.choice((60, None)))
    world.requests = ONCE
    world.callers(get, get_for_long)
    world.cancellations()


async def a_token_is_rejected(world: World) -> None:
    """S7, S11: stragglers with the same 401 make one request, and nobody gets the token again."""
    tokens = await world.begin(world.random.choice((FRESH, AGING)))
    world.requests = ONCE
    world.rejections(tokens)
    world.callers(get)
    world.cancellations()
    world.rejections(tokens)  # of whom nobody is cancelled


async def renewals_are_forced(world: World) -> None:
    """Each who forces a renewal makes one or joins one."""
    await world.begin(world.random.choice((FRESH, DUE)))
    world.callers(renew, get_for_long)
    world.cancellations()


async def users_come_and_go(world: World) -> None:
    """X9, X10: logins and logouts win over the renewals under way, in whatever process."""
    await world.begin(world.random.choice((EXPIRED, DUE, AGING, FRESH)))
    logouts = world.random.randint(0, 2)
    world.logouts(logouts)
    world.logins(world.random.randint(0 if logouts else 1, 2))
    world.allowed = frozenset({"no_tokens"} if logouts else ())
    world.callers(get, get_for_long, renew)
    world.cancellations()


async def saving_fails(world: World) -> None:
    """P1: the callers get the rotated token, nobody sends the spent one, and it is stored in the end or told of."""
    await world.begin(world.random.choice((EXPIRED, DUE)))
    world.recovers = world.random.random() < 0.8
    faults = world.some_faults(Fault.UNREACHABLE, Fault.REPLY_LOST, Fault.STALLED)
    world.store.faults["replace"] = faults if world.recovers else [Fault.UNREACHABLE] * 1000
    world.requests = ONCE
    world.may_serve_unsaved = True
    world.allowed = frozenset({"lease_timeout"} if len(world.refreshers) > 1 else ())
    world.callers(get, get_for_long)
    world.cancellations()


async def the_store_fails(world: World) -> None:
    """P7: whatever operation fails, nothing is lost."""
    await world.begin(world.random.choice((EXPIRED, DUE, AGING)))
    for operation in world.random.sample(STORE_OPERATIONS[:4], 2):
        world.store.faults[operation] = world.some_faults(Fault.UNREACHABLE, Fault.REPLY_LOST)
    world.may_serve_unsaved = True
    world.allowed = STORE_ERRORS | {"cooling_down"}
    world.callers(get, get_for_long, renew)
    world.cancellations()


async def the_provider_is_down(world: World) -> None:
    """S4, T1, T4, T5: the failure is shared, the cool-down kept, and all is well afterwards."""
    life_left = world.random.choice((EXPIRED, DUE))
    await world.begin(life_left)
    world.provider.faults = world.some_faults(Fault.UNREACHABLE)
    world.provider.least_pause = 0.5 if len(world.refreshers) == 1 else 0.0
    world.requests = range(1, len(world.provider.faults) + 2)
    world.allowed = frozenset({"provider_unavailable", "cooling_down"})
    world.serves = life_left is DUE
    world.callers(get, get_for_long)
    world.cancellations()


async def a_reply_is_lost(world: World) -> None:
    """T4, T6, S6: it is not replayed at once, and what came of it is told as it is."""
    life_left = world.random.choice((EXPIRED, DUE))
    await world.begin(life_left)
    world.provider.faults = [world.random.choice((Fault.REPLY_LOST, Fault.STALLED))]
    world.provider.least_pause = 0.5 if len(world.refreshers) == 1 else 0.0
    world.allowed = PROVIDER_ERRORS | {"refused", "lease_timeout"}
    world.serves = life_left is DUE and Fault.STALLED not in world.provider.faults
    world.callers(get, get_for_long, renew)
    world.cancellations()


async def the_grant_is_revoked(world: World) -> None:
    """T3: a dead refresh token is sent once, by whatever process."""
    tokens = await world.begin(world.random.choice((EXPIRED, DUE)))
    world.provider.grant(tokens).revoked = True
    world.requests = ONCE
    world.allowed = frozenset({"refused"})
    world.callers(get, get_for_long, renew)
    world.cancellations()


async def callers_keep_the_tokens(world: World) -> None:
    """S8: callers who hold the same row make one request, also those who come with it too late."""
    row = await world.begin(world.random.choice((EXPIRED, DUE)), stored=world.random.random() < 0.5)
    world.requests = range(2)
    world.callers(holding(row))
    world.cancellations()


async def a_user_with_a_row_logs_out(world: World) -> None:
    """X9: a logout is not undone by the rows that callers came with before."""
    stored = world.random.random() < 0.5
    row = await world.begin(world.random.choice((EXPIRED, DUE)), refreshers=1, stored=stored)
    world.allowed = frozenset({"no_tokens"})
    world.ends_logged_out = True
    world.callers(holding(row))
    await world.all_have_come.wait()
    world.cancellations()
    world.logouts(1)


async def a_user_with_a_row_logs_in(world: World) -> None:
    """X10: a login is not overwritten by the rows that callers came with before."""
    row = await world.begin(world.random.choice((EXPIRED, DUE)), refreshers=1, stored=False)
    world.ends_logged_in = True
    world.callers(holding(row))
    await world.all_have_come.wait()
    world.cancellations()
    world.logins(1)


async def a_refresher_closes(world: World) -> None:
    """L3: what is under way is finished and stored."""
    await world.begin(world.random.choice((EXPIRED, DUE, AGING)))
    world.requests = range(2)
    world.allowed = frozenset({"closed"})
    world.callers(get, get_for_long)
    world.closings(world.random.randint(1, len(world.refreshers)))
    world.cancellations()


async def everything_happens(world: World) -> None:
    """All of it at once."""
    tokens = await world.begin(world.random.choice((EXPIRED, DUE, AGING, FRESH)))
    failing = world.random.sample(STORE_OPERATIONS, 2)
    for operation in failing:
        world.store.faults[operation] = world.some_faults(*Fault)
    world.provider.faults = world.some_faults(*Fault)
    world.may_serve_unsaved = True
    world.allowed = PROVIDER_ERRORS | STORE_ERRORS | {"no_tokens", "refused", "closed"}
    world.callers(get, get_for_long, renew)
    world.rejections(tokens)
    world.logins(world.random.randint(0, 2))
    world.logouts(world.random.randint(0, 1))
    if "replace" not in failing:  # closed while it can't store, a refresher loses what it renewed, and says so
        world.closings(world.random.randint(0, len(world.refreshers) - 1))
    world.cancellations()


SCENARIOS: Final = (
    a_crowd_comes,
    a_token_ages,
    a_token_is_rejected,
    renewals_are_forced,
    users_come_and_go,
    saving_fails,
    the_store_fails,
    the_provider_is_down,
    a_reply_is_lost,
    the_grant_is_revoked,
    callers_keep_the_tokens,
    a_user_with_a_row_logs_out,
    a_user_with_a_row_logs_in,
    a_refresher_closes,
    everything_happens,
)


def scenarios(parts: Parts = Parts(), *, tell: Callable[[Counts], None] = lambda _: None) -> Scenario:
    """Each seed's choice of a scenario, in a world made of `parts`; `tell` hears what happened."""

    async def choose(schedule: Schedule) -> None:
        scenario = schedule.random.choice(SCENARIOS)
        schedule.note(scenario.__name__)
        world = World(schedule, parts)
        try:
            await scenario(world)
            await world.end()
        finally:
            await world.close()
        world.look_back()
        tell(world.counts())

    return choose


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
    """The bug: what the provider returned is in memory before it is in the store."""

    async def _save(self, course: Course, renewal: Renewal, lease: AsyncExitStack) -> Landing:
        self._memory.keep(USER, StoredTokens(renewal.tokens, Version("not written yet")), time.time())
        return await super()._save(course, renewal, lease)


class CancelsFlightsWithTheirWaiters(TokenRefresher):
    """The bug: a waiter awaits the flight's task itself, unshielded, and takes it along when it is cancelled."""

    async def _obtain(self, user_id: str, need: Need) -> TokenSet:
        try:
            return await super()._obtain(user_id, need)
        except asyncio.CancelledError:
            for task in self._flights._tasks:
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
        again = f"{SEED_VARIABLE}={finding.seed} pytest tests/test_schedules.py -k test_no_schedule_breaks_a_rule"
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
