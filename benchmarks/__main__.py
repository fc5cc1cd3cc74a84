"""Answer the questions asked for, all of them by default, one table each; nothing is asserted."""

import argparse
import asyncio
import os
import platform
from typing import Final

import httpx

from benchmarks.auth_flow import auth_flow
from benchmarks.comparison import FULL, QUICK, Effort
from benchmarks.file_store import file_store
from benchmarks.hot_path import hot_path
from benchmarks.table import render
from benchmarks.waiters import waiters

_QUESTIONS: Final = {
    "hot-path": hot_path,
    "auth-flow": auth_flow,
    "waiters": waiters,
    "file-store": file_store,
}


def main() -> None:
    """Read the command line, measure and print."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("questions", nargs="*", metavar="question", help=f"one of {', '.join(_QUESTIONS)}")
    parser.add_argument("--quick", action="store_true", help="tiny sizes: whether it runs, not how fast")
    arguments = parser.parse_args()
    if unknown := set(arguments.questions) - _QUESTIONS.keys():
        parser.error(f"no such question: {', '.join(sorted(unknown))}")
    effort = QUICK if arguments.quick else FULL
    print(
        f"{platform.python_implementation()} {platform.python_version()}, httpx {httpx.__version__}, "
        f"{platform.platform()}, {os.cpu_count()} CPUs"
    )
    print(f"Medians of {effort.rounds} interleaved rounds; ratios within a round; garbage collection off")
    asyncio.run(_answer(arguments.questions or list(_QUESTIONS), effort))


async def _answer(questions: list[str], effort: Effort) -> None:
    for question in questions:
        for comparison in await _QUESTIONS[question](effort):
            print(f"\n{question}: {render(comparison)}", flush=True)


if __name__ == "__main__":
    main()
