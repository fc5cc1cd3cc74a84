"""Answer the given questions, or all of them, by measuring; or draw the answers. Nothing is asserted."""

import argparse
import asyncio
import logging
import os
import platform
from collections.abc import Awaitable, Callable, Sequence
from importlib import import_module
from keyword import iskeyword
from pathlib import Path
from typing import Final, TypeAlias

import httpx

from benchmarks import results
from benchmarks.comparison import FULL, QUICK, Comparison, Effort
from benchmarks.report import Table
from benchmarks.table import render

Answer: TypeAlias = Callable[[Effort], Awaitable[Sequence[Comparison | Table]]]

QUESTIONS: Final = (
    "hot-path",
    "waiters",
    "trouble",
    "stampede",
    "processes",
    "throughput",
    "memory",
    "stores",
    "fleet",
    "import",
)
"""A function in a module answers each question; both have the question's name, or a longer one for a Python keyword."""

_RESULTS: Final = Path(".benchmarks")
_PICTURES: Final = Path("docs", "benchmarks")


def main() -> None:
    """Read the command line, then measure and print, or draw."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("questions", nargs="*", metavar="question", help=f"one of {', '.join(QUESTIONS)}; or pictures")
    parser.add_argument("--quick", action="store_true", help="tiny sizes: whether it runs, not how fast")
    parser.add_argument(
        "--json", type=Path, nargs="?", const=_RESULTS, metavar="DIRECTORY", help="also write the results there"
    )
    parser.add_argument("--from", dest="source", type=Path, default=_RESULTS, metavar="DIRECTORY", help="for pictures")
    parser.add_argument("--to", dest="target", type=Path, default=_PICTURES, metavar="DIRECTORY", help="for pictures")
    arguments = parser.parse_args()
    if arguments.questions == ["pictures"]:
        draw(arguments.source, arguments.target)
        return
    if unknown := set(arguments.questions) - set(QUESTIONS):
        parser.error(f"no such question: {', '.join(sorted(unknown))}")
    logging.getLogger().addHandler(logging.NullHandler())  # the benchmarks count failures, so logs of them add nothing
    effort = QUICK if arguments.quick else FULL
    print(
        f"{platform.python_implementation()} {platform.python_version()}, httpx {httpx.__version__}, "
        f"{platform.platform()}, {os.cpu_count()} CPUs"
    )
    print(f"Medians of {effort.rounds} interleaved rounds where nothing else is said; garbage collection off")
    asyncio.run(_answer(arguments.questions or QUESTIONS, effort, arguments.json))


def draw(source: Path, target: Path) -> None:
    """Draw what is in `source` into `target`."""
    from benchmarks import pictures  # noqa: PLC0415 - only drawing needs it

    for path in pictures.draw(results.read(source), target):
        print(path)


async def _answer(questions: Sequence[str], effort: Effort, directory: Path | None) -> None:
    for question in questions:
        reports = await _function(question)(effort)
        for report in reports:
            print(f"\n{question}: {render(report)}", flush=True)
        if directory is not None:
            results.write(results.Results(question, results.measured_on(), reports), directory)


def _function(question: str) -> Answer:
    """The function that answers `question`. Imported here, because each question may need other packages."""
    name = f"{question}ing" if iskeyword(question) else question.replace("-", "_")
    answer: Answer = getattr(import_module(f"benchmarks.{name}"), name)
    return answer


if __name__ == "__main__":
    main()
