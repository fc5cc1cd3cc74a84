"""The demo's display: one table, updated while the scenes play, and printed once at the end."""

import asyncio
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, fields
from typing import Final

from rich.console import Console
from rich.live import Live
from rich.spinner import Spinner
from rich.table import Table
from rich.text import Text

from tokenflight.cli.demo._scenes import Scene
from tokenflight.cli.demo._stage import Counts, Meter

REFRESH_SECONDS: Final = 0.1

_COUNT_HEADERS: Final = (
    "API\ncalls",
    "token\nrequests",
    "\nrefreshes",
    "tokens\nreused",
    "failed\ncalls",
    "tokens\nadopted",
)
"""In the order of the fields of `Counts`."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """The counts of a scene and its duration in seconds. `problem` is the first thing that went wrong, if any."""

    scene: Scene
    counted: Counts
    seconds: float
    problem: str | None = None

    @property
    def ok(self) -> bool:
        """Whether every count is as expected."""
        return self.problem is None and self.counted == self.scene.expected


class Board:
    """The table: the finished scenes, the current one with the counts of `meter`, and the ones to come."""

    def __init__(self, scenes: Sequence[Scene], meter: Meter, *, unicode: bool) -> None:
        self._scenes = scenes
        self._meter = meter
        self._outcomes: list[Outcome] = []
        self._good, self._bad = ("✓", "✗") if unicode else ("+", "x")
        self._spinner = Spinner("dots" if unicode else "line")

    def add(self, outcome: Outcome) -> None:
        """Show the outcome of the current scene, and make the next scene the current one."""
        self._outcomes.append(outcome)

    def __rich__(self) -> Table:
        table = Table(box=None, padding=(0, 1, 0, 0), pad_edge=False)
        table.add_column("", min_width=1)
        table.add_column("scene\nwhat is expected", no_wrap=True)
        for header in _COUNT_HEADERS:
            table.add_column(header, justify="right", no_wrap=True)
        table.add_column("\ntime", justify="right", no_wrap=True, min_width=len("0.0 s"))
        for outcome in self._outcomes:
            mark = Text(self._good, "green") if outcome.ok else Text(self._bad, "bold red")
            table.add_row(mark, *_cells(outcome.scene, outcome.counted, wrong="bold red"), f"{outcome.seconds:.1f} s")
        playing, *to_come = self._scenes[len(self._outcomes) :] or (None,)
        if playing is not None:
            table.add_row(self._spinner, *_cells(playing, self._meter.reading()))
        for scene in to_come:
            table.add_row("", *_cells(scene, None))
        return table


@asynccontextmanager
async def shown(board: Board, console: Console) -> AsyncIterator[None]:
    """Show `board` live while the block runs, if `console` is a terminal, and print it once at the end."""
    with Live(board, console=console, auto_refresh=False, transient=True) as live:
        ticker = asyncio.create_task(_tick(live))  # not rich's own thread: this thread changes the table
        try:
            yield
        finally:
            ticker.cancel()
    console.print(board)


def print_summary(outcomes: Sequence[Outcome], seconds: float, console: Console) -> None:
    """Print each problem, then one line about all scenes."""
    failed = [outcome for outcome in outcomes if not outcome.ok]
    console.print()
    for outcome in failed:
        if outcome.problem is not None:
            console.print(Text(f"{outcome.scene.title}: {outcome.problem}"))
    if failed:
        console.print(Text(f"{len(failed)} of {len(outcomes)} scenes did not go as expected.", "bold red"))
    else:
        console.print(Text(f"Every count is as expected, after {seconds:.1f} s.", "bold green"))


async def _tick(live: Live) -> None:
    while True:
        live.refresh()
        await asyncio.sleep(REFRESH_SECONDS)


def _cells(scene: Scene, counted: Counts | None, *, wrong: str = "") -> Iterator[Text]:
    """The title and each count, above the promise and the expected count. `wrong` is the style of a wrong count."""
    yield Text.assemble(scene.title, "\n", (scene.promise, "dim"))
    for field in fields(Counts):
        expected = getattr(scene.expected, field.name)
        count = expected if counted is None else getattr(counted, field.name)
        shown = "" if counted is None else f"{count:,}"
        yield Text.assemble((shown, "" if count == expected else wrong), "\n", (f"{expected:,}", "dim"))
