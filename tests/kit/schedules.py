"""Deterministic exploration of schedules: a seed decides which callback is next, how long replies take, what fails.

`explore` plays a scenario once per seed, on an event loop without I/O whose clock is virtual, and returns the first
seed under which a rule was broken. `play` plays that schedule again, to the last callback.

What asyncio promises is kept: a callback runs after the one that scheduled it, and the steps of a task follow each
other. Under half of the seeds callbacks also run in the order in which they became ready, as asyncio documents; only
replies come at any time. Under the other half any ready callback may be next, so that nothing rests on that order.
"""

import asyncio
import heapq
import random
import time
from collections import defaultdict, deque
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Iterable
from contextlib import AbstractAsyncContextManager, asynccontextmanager, suppress
from contextvars import ContextVar
from dataclasses import dataclass, field
from enum import Enum
from functools import partial
from typing import Any, Final, TypeVar

import time_machine

from kit.support import NOW
from tokenflight import (
    Lease,
    MemoryTokenStore,
    ProviderUnavailable,
    ReauthenticationRequired,
    StoredTokens,
    StoreUnavailable,
    TokenKey,
    TokenSet,
    Version,
)

T = TypeVar("T")

TICK_SECONDS: Final = 0.001
"""How long a callback takes on the virtual clock, so that a timer, and so any reply, may come between any two."""

MAX_CALLBACKS: Final = 20_000
"""A schedule that takes more has no end."""

PLACE: Final[ContextVar[str]] = ContextVar("place", default="")
"""Where the running code does what it does, for the trace; a task inherits it from the one that started it."""

STALL_SECONDS: Final = 500.0
"""Longer than the library waits for anything."""


class Hang(Exception):  # noqa: N818 - named for what the loop has come to
    """Nothing can happen any more, or there is no end to it."""


class ScheduleLoop(asyncio.BaseEventLoop):
    """An event loop without I/O: its clock is virtual, and `choose` picks among so many ready callbacks.

    Where nothing is ready, the clock jumps to the next timer. The wall clock goes with it.
    """

    _ready: deque[asyncio.Handle]
    _scheduled: list[asyncio.TimerHandle]

    def __init__(self, choose: Callable[[int], int], wall: time_machine.Traveller) -> None:
        super().__init__()
        self._choose = choose
        self._wall = wall
        self._now = 0.0
        self._callbacks_left = MAX_CALLBACKS

    def time(self) -> float:
        """Virtual seconds since the loop was made."""
        return self._now

    def _run_once(self) -> None:
        self._take_due_timers()
        if not self._ready:
            if not self._scheduled:
                raise Hang("nothing can happen any more")
            self._now = self._scheduled[0].when()
            self._take_due_timers()
        if not self._callbacks_left:
            raise Hang(f"no end after {MAX_CALLBACKS} callbacks")
        self._callbacks_left -= 1
        self._now += TICK_SECONDS
        self._wall.move_to(NOW + self._now)
        index = self._choose(len(self._ready))
        handle = self._ready[index]
        del self._ready[index]
        if not handle.cancelled():
            handle._run()

    def _take_due_timers(self) -> None:
        while self._scheduled and (self._scheduled[0].cancelled() or self._scheduled[0].when() <= self._now):
            timer = heapq.heappop(self._scheduled)
            if not timer.cancelled():
                self._ready.append(timer)

    def _write_to_self(self) -> None:
        """Nobody sleeps who would have to be woken."""

    def sweep(self) -> None:
        """End what a broken schedule left behind, so that nothing warns of it later, and close."""
        self._callbacks_left = MAX_CALLBACKS
        with suppress(Hang):
            while tasks := asyncio.all_tasks(self):
                for task in tasks:
                    task.cancel()
                self.run_until_complete(asyncio.wait(tasks))
        self.close()


class Schedule:
    """What one seed decides, and what came of it: a trace, and the rules that were broken."""

    def __init__(self, seed: int, wall: time_machine.Traveller) -> None:
        self.random = random.Random(seed)
        self.trace: list[str] = []
        self.broken: list[str] = []
        self._longest_pause = self.random.choice((0, 2, 8, 40))
        self._latest_arrival = self.random.choice((0, 10, 50, 300))
        in_order = self.random.random() < 0.5
        self.loop = ScheduleLoop((lambda _: 0) if in_order else self.random.randrange, wall)
        self.loop.set_exception_handler(self._on_unhandled)

    def note(self, what: str) -> None:
        """Add `what` to the trace, with the time and the task that did it."""
        self.trace.append(f"{self.loop.time():9.3f} {self.actor}{PLACE.get()}: {what}")

    @property
    def actor(self) -> str:
        """The name of the running task."""
        task = asyncio.current_task(self.loop)
        return "the loop" if task is None else task.get_name()

    def require(self, holds: bool, rule: str) -> None:
        """Note that `rule` is broken unless it `holds`. Raises nothing: it might be taken for a fault."""
        if not holds:
            self.note(f"BROKEN: {rule}")
            self.broken.append(rule)

    async def pause(self) -> None:
        """Take as long as half an operation takes: not even a turn of the loop, one, or some."""
        ticks = self.random.randint(-1, self._longest_pause)
        if ticks >= 0:
            await asyncio.sleep(ticks * TICK_SECONDS)

    async def arrive(self) -> None:
        """Come at any moment of the schedule."""
        await asyncio.sleep(self.random.randint(0, self._latest_arrival) * TICK_SECONDS)

    def _on_unhandled(self, _: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
        self.require(False, f"every exception is handled, but {context.get('exception', context['message'])!r} was not")


Scenario = Callable[[Schedule], Coroutine[Any, Any, None]]


@dataclass(frozen=True, slots=True)
class Finding:
    """The rules that were broken under `seed`, and how it came to that."""

    seed: int
    broken: tuple[str, ...]
    trace: tuple[str, ...]

    def __str__(self) -> str:
        return "\n".join((f"seed {self.seed}: {self.broken[0]}", *self.trace))


def explore(scenario: Scenario, seeds: Iterable[int]) -> Finding | None:
    """Play `scenario` under each of `seeds`; the first that breaks a rule, or None."""
    return next((finding for seed in seeds if (finding := play(scenario, seed)) is not None), None)


def play(scenario: Scenario, seed: int) -> Finding | None:
    """Play `scenario` under `seed`; what it broke, or None if it kept all rules."""
    random.seed(seed)  # the jitter of the library's cool-downs
    with time_machine.travel(NOW, tick=False) as wall:
        schedule = Schedule(seed, wall)
        loop = schedule.loop
        try:
            loop.run_until_complete(loop.create_task(scenario(schedule), name="the scenario"))
        except Exception as exc:  # noqa: BLE001 - whatever it is, it belongs to the seed
            schedule.require(False, f"the scenario ends, but it met {exc!r}")
        left = sorted(task.get_name() for task in asyncio.all_tasks(loop))
        schedule.require(not left, f"no task is left, but {left} are")
        broken, trace = tuple(schedule.broken), tuple(schedule.trace)
        loop.sweep()
    return Finding(seed, broken, trace) if broken else None


class Fault(Enum):
    """What goes wrong with an operation of the store or with a request to the provider."""

    UNREACHABLE = "it fails, and nothing has happened"
    REPLY_LOST = "it seems to fail, but it has happened"
    STALLED = "it has happened, but nobody waits long enough to hear of it"


class PausingStore(MemoryTokenStore):
    """A store in memory whose operations take their time, before they happen and after.

    `faults` has, for each operation by name, what goes wrong with the next ones. `writes` are the token sets written
    so far, None for a delete; `written_by` is the place there of each task's last write, by the task's name.
    """

    def __init__(self, schedule: Schedule) -> None:
        super().__init__()
        self._schedule = schedule
        self.faults: defaultdict[str, list[Fault]] = defaultdict(list)
        self.faulted = 0
        self.holders = 0
        self.writes: list[TokenSet | None] = []
        self.written_by: dict[str, int] = {}

    async def load(self, key: TokenKey) -> StoredTokens | None:
        return await self._take_time("load", partial(super().load, key))

    async def save(self, key: TokenKey, record: StoredTokens) -> None:
        await self._take_time("save", partial(super().save, key, record), (record.tokens,))

    async def replace(self, key: TokenKey, record: StoredTokens, *, expected: Version | None) -> None:
        await self._take_time("replace", partial(super().replace, key, record, expected=expected), (record.tokens,))

    async def delete(self, key: TokenKey) -> bool:
        return await self._take_time("delete", partial(super().delete, key), (None,))

    def lease(self, key: TokenKey, *, timeout: float) -> AbstractAsyncContextManager[Lease]:
        return self._take_time_over(super().lease(key, timeout=timeout))

    @asynccontextmanager
    async def _take_time_over(self, lease: AbstractAsyncContextManager[Lease]) -> AsyncIterator[Lease]:
        await self._schedule.pause()
        async with lease as held:
            self.holders += 1
            try:
                await self._take_time("lease", _nothing)
                yield held
                await self._take_time("release", _nothing)
            finally:
                self.holders -= 1

    async def _take_time(
        self, name: str, operation: Callable[[], Awaitable[T]], written: tuple[TokenSet | None, ...] = ()
    ) -> T:
        await self._schedule.pause()
        fault = self.faults[name].pop(0) if self.faults[name] else None
        self.faulted += fault is not None
        if fault is Fault.UNREACHABLE:
            self._schedule.note(f"{name} fails")
            raise StoreUnavailable("unreachable")
        result = await operation()
        self._schedule.note(f"{name}{''.join(f' {label(tokens)}' for tokens in written)}")
        if written:
            self.written_by[self._schedule.actor] = len(self.writes)
            self.writes.extend(written)
        await self._schedule.pause()
        if fault is Fault.REPLY_LOST:
            self._schedule.note(f"the reply to {name} is lost")
            raise StoreUnavailable("the reply is lost")
        if fault is Fault.STALLED:
            self._schedule.note(f"{name} stalls")
            await asyncio.sleep(STALL_SECONDS)
        return result


@dataclass(slots=True)
class Grant:
    """What a login gave: a chain of token sets, each renewed with the refresh token of the one before.

    `unanswered` are refresh tokens spent in requests that had no reply: using these again is excused.
    """

    first: TokenSet
    current: TokenSet
    spent: set[str] = field(default_factory=set)
    unanswered: set[str] = field(default_factory=set)
    revoked: bool = False


class StrictProvider:
    """A provider that rotates refresh tokens, and revokes the grant when it sees a spent one again."""

    name = "idp"

    def __init__(self, schedule: Schedule) -> None:
        self._schedule = schedule
        self._issued = 0
        self._asking = 0
        self._failed_at = -STALL_SECONDS
        self._grants: dict[str, Grant] = {}
        self.faults: list[Fault] = []
        self.faulted = 0
        self.least_pause = 0.0
        """Seconds that must lie between a request that failed and the next."""
        self.requests = 0
        self.renewals = 0
        self.reuses = 0
        self.excused_reuses = 0

    def log_in(self) -> TokenSet:
        """A login: the first token set of a new grant."""
        tokens = self._issue()
        self._grants[tokens.access_token] = Grant(tokens, tokens)
        return tokens

    def grant(self, tokens: TokenSet) -> Grant:
        """The grant that `tokens` belong to."""
        return self._grants[tokens.access_token]

    async def renew(self, user_id: str, tokens: TokenSet | None) -> TokenSet:
        """Renew as a strict authorization server does; one user has one renewal under way at most."""
        if tokens is None:
            raise ReauthenticationRequired("there is nothing to renew", code="no_tokens")
        schedule = self._schedule
        schedule.require(not self._asking, "no two renewals of a user are under way at once")
        schedule.require(
            schedule.loop.time() >= self._failed_at + self.least_pause, "nothing is sent before the cool-down is over"
        )
        self.requests += 1
        self._asking += 1
        try:
            return await self._answer(tokens)
        except ProviderUnavailable:
            self._failed_at = schedule.loop.time()
            raise
        finally:
            self._asking -= 1

    async def _answer(self, tokens: TokenSet) -> TokenSet:
        await self._schedule.pause()
        fault = self.faults.pop(0) if self.faults else None
        self.faulted += fault is not None
        if fault is Fault.UNREACHABLE:
            self._schedule.note("the provider is unreachable")
            raise ProviderUnavailable("unreachable")
        grant = self.grant(tokens)
        if grant.revoked or tokens.refresh_token != grant.current.refresh_token:
            self._look_for_reuse(tokens, grant)
            await self._schedule.pause()
            raise ReauthenticationRequired("invalid_grant")
        spent = str(tokens.refresh_token)
        grant.spent.add(spent)
        grant.current = renewed = self._issue()
        self._grants[renewed.access_token] = grant
        self.renewals += 1
        self._schedule.note(f"the provider renews {label(tokens)} as {label(renewed)}")
        if fault is not None:
            grant.unanswered.add(spent)
        await self._schedule.pause()
        if fault is Fault.REPLY_LOST:
            self._schedule.note("the provider's reply is lost")
            raise ProviderUnavailable("no reply", code="outcome_unknown")
        if fault is Fault.STALLED:
            self._schedule.note("the provider stalls")
            await asyncio.sleep(STALL_SECONDS)
        return renewed

    def _look_for_reuse(self, tokens: TokenSet, grant: Grant) -> None:
        self._schedule.note(f"the provider refuses {label(tokens)}")
        if tokens.refresh_token not in grant.spent:
            return
        grant.revoked = True
        if tokens.refresh_token in grant.unanswered:
            self.excused_reuses += 1
        else:
            self.reuses += 1
            self._schedule.require(False, "no spent refresh token is sent")

    def _issue(self) -> TokenSet:
        self._issued += 1
        return TokenSet(
            f"at_{self._issued:016}",
            refresh_token=f"rt_{self._issued:016}",
            issued_at=time.time(),
            expires_at=time.time() + 3600,
        )


def label(tokens: TokenSet | None) -> str:
    """`tokens` for a trace: what no log may show can be told apart by a number."""
    return "nothing" if tokens is None else f"token set {int(tokens.access_token[3:])}"


async def _nothing() -> None:
    pass
