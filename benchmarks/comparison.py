"""Time rivals in interleaved rounds, so that a slow moment of the machine falls on all of them."""

import gc
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from statistics import quantiles
from typing import Final, Self


@dataclass(frozen=True, slots=True)
class Effort:
    """How many rounds, and by how much to cut the work done in each."""

    rounds: int
    divisor: int

    def share_of(self, count: int) -> int:
        """`count`, cut to this effort."""
        return max(1, count // self.divisor)


FULL: Final = Effort(rounds=30, divisor=1)
QUICK: Final = Effort(rounds=2, divisor=100)


async def _nothing() -> None:
    pass


@dataclass(frozen=True, slots=True)
class Rival:
    """One way to do the work. `run` does it so many times; `prepare` comes before each `run` and is not timed.

    `target` is the highest ratio to the floor that is aimed at.
    """

    name: str
    run: Callable[[int], Awaitable[None]]
    prepare: Callable[[], Awaitable[None]] = _nothing
    target: float | None = None


@dataclass(frozen=True, slots=True)
class Spread:
    """The middle of what was measured, and the quartiles around it."""

    lower: float
    median: float
    upper: float

    @classmethod
    def of(cls, values: Sequence[float]) -> Self:
        """The spread of at least two `values`."""
        return cls(*quantiles(values, n=4, method="inclusive"))


@dataclass(frozen=True, slots=True)
class Row:
    """What was measured of one rival: nanoseconds for doing the work once, and its ratio to the floor."""

    name: str
    nanoseconds: Spread
    ratio: Spread
    target: float | None


@dataclass(frozen=True, slots=True)
class Comparison:
    """The rows of one table; the first is the floor. `notes` go below."""

    title: str
    rows: Sequence[Row]
    notes: Sequence[str] = ()


async def compare(
    title: str, rivals: Sequence[Rival], *, count: int, effort: Effort, notes: Sequence[str] = ()
) -> Comparison:
    """Time each of `rivals`, the first of which is the floor, doing its work `count` times a round."""
    for rival in rivals:
        await _nanoseconds(rival, count)  # to warm up
    measured: dict[str, list[float]] = {rival.name: [] for rival in rivals}
    gc.freeze()  # collecting all that the rivals have imported would take longer than the rounds
    try:
        for number in range(effort.rounds):
            first = number % len(rivals)
            for rival in (*rivals[first:], *rivals[:first]):  # none is always measured in the wake of the same other
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
                # Ratios within a round: what slows the machine for a while cancels out.
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
    gc.disable()  # a collection would fall on whoever happens to run
    try:
        start = time.perf_counter_ns()
        await rival.run(count)
        return (time.perf_counter_ns() - start) / count
    finally:
        gc.enable()
