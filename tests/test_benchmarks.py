"""The benchmarks run and print their rows; no figure is asserted."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


def run_benchmarks(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-W", "error", "-m", "benchmarks", *arguments],
        cwd=ROOT,
        capture_output=True,
        encoding="utf-8",
        env={"PYTHONUTF8": "1", **os.environ},
        timeout=50,
        check=False,
    )


@pytest.mark.parametrize(
    ("question", "rows"),
    [
        ("hot-path", ["a coroutine that returns a constant", "get_valid_token, cached"]),
        (
            "auth-flow",
            ["fixed bearer token", "BearerAuth", "without auth", "fixed bearer token", "BearerAuth"],
        ),
        ("waiters", ["awaiting one future, not cancel-safe", "shielding one task", "get_valid_token, one flight"]),
        (
            "file-store",
            [
                "durable write, blocking",
                "durable write, in a thread",
                "FileTokenStore.save",
                "read, blocking",
                "read, in a thread",
                "FileTokenStore.load",
            ],
        ),
    ],
)
def test_a_question_prints_the_median_and_the_ratio_of_each_rival(question: str, rows: list[str]) -> None:
    finished = run_benchmarks(question, "--quick")

    assert (finished.returncode, finished.stderr) == (0, "")
    assert re.findall(r"^  (\S.*?) +\d+\.\d (?:ns|µs|ms) .* \d+\.\d\d ", finished.stdout, re.MULTILINE) == rows


def test_an_unknown_question_is_an_error_that_names_it() -> None:
    finished = run_benchmarks("lukewarm-path", "--quick")

    assert finished.returncode == 2
    assert "lukewarm-path" in finished.stderr
