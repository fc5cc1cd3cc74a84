"""Measure the time of `import tokenflight`."""

import subprocess
import sys
import time
from statistics import median
from typing import Final

from benchmarks.comparison import Effort, Spread
from benchmarks.report import Cell, Table

STATEMENTS: Final = ("pass", "import httpx", "import tokenflight")
TARGET: Final = 1.3


async def importing(effort: Effort) -> list[Table]:
    """Compare `import tokenflight` with `import httpx`, each in an interpreter of its own."""
    for statement in STATEMENTS:
        _run(statement)  # compile the modules
    rounds = [{statement: _run(statement) for statement in STATEMENTS} for _ in range(effort.rounds)]
    httpx, tokenflight = (
        [each[statement] - each["pass"] for each in rounds] for statement in ("import httpx", "import tokenflight")
    )
    ratio = Spread.of([mine / least for mine, least in zip(tokenflight, httpx, strict=True)])
    rows: list[list[Cell]] = [
        ["import httpx", *_milliseconds(httpx), 1.0, None, None],
        [
            "import tokenflight",
            *_milliseconds(tokenflight),
            ratio.median,
            f"{ratio.lower:.2f}-{ratio.upper:.2f}",
            f"≤ {TARGET:.2f}",
        ],
    ]
    start = median(each["pass"] for each in rounds)
    return [
        Table(
            "Importing, in an interpreter of its own",
            ("what", "ms", "quartiles", "ratio to httpx", "quartiles", "target"),
            rows,
            notes=[f"The bare start of the interpreter, {start * 1e3:.0f} ms, is taken off, round by round."],
        )
    ]


def _run(statement: str) -> float:
    """The seconds in which a new interpreter runs `statement`."""
    start = time.perf_counter()
    subprocess.run([sys.executable, "-c", statement], check=True)
    return time.perf_counter() - start


def _milliseconds(seconds: list[float]) -> tuple[float, str]:
    spread = Spread.of([each * 1e3 for each in seconds])
    return spread.median, f"{spread.lower:.1f}-{spread.upper:.1f}"
