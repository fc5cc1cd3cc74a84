"""The targets under coverage-guided fuzzing, a minute each, each in a process of its own.

Where atheris has no wheel, seeds are changed at random instead, which finds less: the table at the end of the run
says so. Where it has one, it must be installed.
"""

import os
import platform
import random
import re
import subprocess
import sys
import time
from importlib.util import find_spec
from pathlib import Path
from typing import Final

import pytest

from kit.fuzz.targets import TARGETS, Target
from kit.tally import Counts, Tally

SECONDS: Final = 60
TESTS: Final = Path(__file__).parents[1]

MAX_INPUT_BYTES: Final = 8 * 1024
HUNG_SECONDS: Final = 20
MAX_MEMORY_MIB: Final = 1024

ATHERIS_HAS_A_WHEEL: Final = (
    sys.platform == "linux"
    and platform.machine() == "x86_64"
    and sys.implementation.name == "cpython"
    and sys.version_info < (3, 15)
)
"""The same condition as that of the dependency group ``fuzz``."""


@pytest.mark.long
@pytest.mark.timeout(SECONDS * 4)
@pytest.mark.parametrize("name", TARGETS)
def test_r6_p4_a5_a_minute_of_fuzzing_breaks_no_promise(name: str, tmp_path: Path, tally: Tally) -> None:
    if ATHERIS_HAS_A_WHEEL:
        assert find_spec("atheris"), "atheris is missing: run `uv run --group fuzz pytest -m long`"
        tally.add(f"fuzz: {name}", Counts(faults=_fuzz_by_coverage(TARGETS[name], tmp_path)))
    else:
        tally.add(f"fuzz: {name}, blindly (no atheris here)", Counts(faults=_fuzz_blindly(TARGETS[name])))


def _fuzz_by_coverage(target: Target, directory: Path) -> int:
    """Run atheris; return how many inputs it tried."""
    corpus = directory / "corpus"
    corpus.mkdir()
    for number, seed in enumerate(target.seeds):
        (corpus / f"seed-{number}").write_bytes(seed)
    dictionary = directory / "words"
    dictionary.write_text("".join(f'"{_escaped(word)}"\n' for word in target.words))
    options = {
        "max_total_time": SECONDS,
        "max_len": MAX_INPUT_BYTES,
        "timeout": HUNG_SECONDS,
        "rss_limit_mb": MAX_MEMORY_MIB,
        "dict": dictionary,
        "artifact_prefix": f"{directory}{os.sep}",
    }
    arguments = [target.name, *(f"-{key}={value}" for key, value in options.items()), str(corpus)]
    done = subprocess.run(
        [sys.executable, "-m", "kit.fuzz.harness", *arguments],
        cwd=TESTS,
        capture_output=True,
        timeout=SECONDS * 3,
        check=False,
    )
    output = (done.stdout + done.stderr).decode(errors="replace")
    found = {path.name: path.read_bytes()[:500] for path in directory.iterdir() if path.name.startswith(_FOUND)}
    tried = re.search(r"Done (\d+) runs", output)
    assert done.returncode == 0, f"{found}\n{output[-5000:]}"
    assert tried, output[-5000:]
    return int(tried[1])


_FOUND: Final = ("crash-", "timeout-", "oom-", "slow-unit-", "leak-")


def _fuzz_blindly(target: Target) -> int:
    """Run changed seeds; return how many."""
    chance = random.Random(target.name)
    end, tried = time.monotonic() + SECONDS, 0
    while time.monotonic() < end:
        data = chance.choice(target.seeds)
        for _ in range(chance.randrange(1, 8)):
            at = chance.randrange(len(data) + 1)
            data = data[:at] + chance.choice(target.words) * chance.randrange(1, 4) + data[at + chance.randrange(9) :]
        target.run(data)
        tried += 1
    return tried


def _escaped(word: bytes) -> str:
    return "".join(f"\\x{byte:02x}" for byte in word)
