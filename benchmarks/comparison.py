"""Time rivals in interleaved rounds, so that a slow moment of the machine affects all of them alike."""

import gc
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from statistics import quantiles
from typing import Final, Self


@dataclass(frozen=True, slots=True)
class Effort:
    """The number of rounds, and the divisor of the work in each round."""

    rounds: int
    divisor: int

    def share_of(self, count: int) -> int:
        """`count`, divided for this effort."""
        return max(1, count // self.divisor)


FULL: Final = Effort(rounds=30, divisor=1)
QUICK: Final = Effort(rounds=2, divisor=100)


async def _nothing() -> None:
    pass


@dataclass(frozen=True, slots=True)
class Rival:
    """One way to do the work. `run` does it a given number of times; `prepare` runs before each `run`, untimed.

    `target` is the highest acceptable ratio to the floor.
    """

    name: str
    run: Callable[[int], Awaitable[None]]
    prepare: Callable[[], Awaitable[None]] = _nothing
    target: float | None = None


@dataclass(frozen=True, slots=True)
class Spread:
    """The median of the measured values, and the quartiles around it."""

    lower: float
    median: float
    upper: float

    @classmethod
    def of(cls, values: Sequence[float]) -> Self:
        """The spread of at least two `values`."""
        return cls(*quantiles(values, n=4, method="inclusive"))


@dataclass(frozen=True, slots=True)
class Row:
    """The measurement of one rival: nanoseconds for one unit of work, and the ratio to the floor."""

    name: str
    nanoseconds: Spread
    ratio: Spread
    target: float | None


@dataclass(frozen=True, slots=True)
class Comparison:
    """The rows of one table, the floor first, and `notes` below them."""

    title: str
    rows: Sequence[Row]
    notes: Sequence[str] = ()


async def compare(
    title: str, rivals: Sequence[Rival], *, count: int, effort: Effort, notes: Sequence[str] = ()
) -> Comparison:
    """Time each of `rivals`, the floor first, with `count` units of work a round."""
    for rival in rivals:
        await _nanoseconds(rival, count)  # warm up
    measured: dict[str, list[float]] = {rival.name: [] for rival in rivals}
    gc.freeze()  # collecting the objects of all imports would take longer than the rounds
    try:
        for number in range(effort.rounds):
            first = number % len(rivals)
            for rival in (*rivals[first:], *rivals[:first]):  # so that none always follows the same other one
                measured[rival.name].append(await _nanoseconds(rival, count))
    finally:
        gc.unfreeze()
    floor = measured[rivals[0].name]
    return Comparison(
        title,
        [
            Row(
                rival.name,
                Spread.of(measured[rival.name]),
                # The ratio within a round cancels out a slow spell of the machine.
                Spread.of([mine / least for mine, least in zip(measured[rival.name], floor, strict=True)]),
                rival.target,
            )
            for rival in rivals
        ],
        notes,
    )


async def _nanoseconds(rival: Rival, count: int) -> float:
    await rival.prepare()
    gc.collect()
    gc.disable()  # a collection would count against the rival that happens to run
    try:
        start = time.perf_counter_ns()
        await rival.run(count)
        return (time.perf_counter_ns() - start) / count
    finally:
        gc.enable()
