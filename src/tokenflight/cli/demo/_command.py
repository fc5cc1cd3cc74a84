"""``tokenflight demo``: the library keeps its promises before your eyes."""

import asyncio
import logging
import time
from collections.abc import Sequence
from functools import partial
from typing import Final

from rich.console import Console

from tokenflight.cli._signals import run
from tokenflight.cli.demo._calls import CLIENT_ID, Tally
from tokenflight.cli.demo._display import Board, Outcome, print_summary, shown
from tokenflight.cli.demo._scenes import SCENES, Scene
from tokenflight.cli.demo._stage import Stage, open_stage
from tokenflight.testing import FakeProvider

SCENE_TIMEOUT_SECONDS: Final = 30.0


def demo() -> int:
    """Show on a fake provider that each token is refreshed once.

    The demo starts the provider on a loopback socket and a file store in a temporary directory. It plays scenes in
    which other programs fail, and counts the requests at the server. It takes less than ten seconds. The exit status
    is 1 if any count is wrong.
    """
    # Without a handler, logging would print the warning that the provider is down across the display.
    logging.getLogger("tokenflight").addHandler(logging.NullHandler())
    fake = FakeProvider(client_id=CLIENT_ID, client_secret=None)
    outcomes = run(partial(play_all, SCENES, fake, Console(highlight=False)))
    return 0 if all(outcome.ok for outcome in outcomes) else 1


async def play_all(scenes: Sequence[Scene], fake: FakeProvider, console: Console) -> list[Outcome]:
    """Play `scenes` one after the other, show them on `console`, and return their outcomes."""
    outcomes: list[Outcome] = []
    started = time.perf_counter()
    async with open_stage(fake) as stage:
        console.print(f"Playing on a fake provider at {fake.issuer}.\n")
        board = Board(scenes, stage.meter, unicode=console.encoding.startswith("utf"))
        async with shown(board, console):
            for scene in scenes:
                outcomes.append(await play(scene, stage))
                board.add(outcomes[-1])
    print_summary(outcomes, time.perf_counter() - started, console)
    return outcomes


async def play(scene: Scene, stage: Stage) -> Outcome:
    """Play `scene` and count its requests. An exception becomes the problem of the outcome."""
    stage.meter.restart()
    started = time.perf_counter()
    try:
        async with asyncio.timeout(SCENE_TIMEOUT_SECONDS):
            tally = await scene.play(stage)
    except TimeoutError:
        tally = Tally(problem=f"it did not end within {SCENE_TIMEOUT_SECONDS:.0f} s")
    except Exception as exc:  # noqa: BLE001 - the display shows it, and the exit status is 1
        tally = Tally(problem=_in_words(exc))
    return Outcome(scene, stage.meter.reading(tally), time.perf_counter() - started, tally.problem)


def _in_words(exc: Exception) -> str:
    while isinstance(exc, ExceptionGroup):
        exc = exc.exceptions[0]
    return f"{type(exc).__name__}: {exc}"
