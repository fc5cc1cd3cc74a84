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
from collections import deque
from collections.abc import Callable, Coroutine, Iterable
from contextlib import suppress
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any, Final, TypeVar

import time_machine

from kit.support import NOW

T = TypeVar("T")

TICK_SECONDS: Final = 0.001
"""How long a callback takes on the virtual clock, so that a timer, and so any reply, may come between any two."""

MAX_CALLBACKS: Final = 20_000
"""A schedule that takes more has no end."""

PLACE: Final[ContextVar[str]] = ContextVar("place", default="")
SPEAKER: Final[ContextVar[str]] = ContextVar("speaker", default="")
"""Who has logged in or out: the write is a task of the refresher's."""
"""Where the running code does what it does, for the trace; a task inherits it from the one that started it."""


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
