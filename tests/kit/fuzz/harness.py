"""One target under atheris, in a process of its own: ``python -m kit.fuzz.harness TARGET [OPTION ...] [CORPUS]``."""

import sys
import time
from importlib import import_module
from typing import Any, Final

atheris: Any = import_module("atheris")  # has no types, and no wheel for every platform

with atheris.instrument_imports(include=["tokenflight", "email", "json", "urllib"], enable_loader_override=False):
    from kit.fuzz.targets import TARGETS

SLOWEST_INPUT_SECONDS: Final = 0.5
"""Of processor time: a hundred times what the slowest few kilobytes should take."""


def main() -> None:
    """Run until libFuzzer's options say to stop, or a promise is broken."""
    program, name, *options = sys.argv
    run = TARGETS[name].run

    def run_in_time(data: bytes) -> None:
        before = time.thread_time()
        run(data)
        taken = time.thread_time() - before
        assert taken < SLOWEST_INPUT_SECONDS, f"{len(data)} bytes took {taken:.1f} s"

    atheris.Setup([program, *options], run_in_time)
    atheris.Fuzz()


if __name__ == "__main__":
    main()
