"""How the tests are distributed over the worker processes of pytest-xdist."""

from typing import Final

from xdist.scheduler import LoadScopeScheduling  # type: ignore[import-untyped]

TOGETHER: Final = (
    "tests/cli/test_demo.py",
    "tests/interop/",
    "tests/storms/",
    "tests/test_benchmarks.py",
    "tests/refresher/test_p7_disks.py",
    "tests/refresher/test_x10_first_records.py",
)
"""Where tests share what takes long to start, or start so many processes that one at a time is enough."""


class Distribution(LoadScopeScheduling):  # type: ignore[misc]
    """Gives the tests of each part in `TOGETHER` to one worker, and every other test to any."""

    def _split_scope(self, nodeid: str) -> str:
        """The name of what goes to one worker with the test `nodeid`."""
        return next((part for part in TOGETHER if nodeid.startswith(part)), nodeid)
