"""The ``tokenflight`` command. The packages that it needs come with ``tokenflight[cli]``."""

import sys
from importlib.util import find_spec
from typing import Final

__all__ = ["main"]

USAGE_ERROR: Final = 2

_EXTRA: Final = ("cyclopts", "rich", "uvicorn")


def main() -> None:
    """Run the command line in `sys.argv`; never return. The exit status is 2 if the command line is wrong."""
    missing = [package for package in _EXTRA if find_spec(package) is None]
    if missing:
        sys.stderr.write(f"The tokenflight command needs {', '.join(missing)}: pip install 'tokenflight[cli]'\n")
        sys.exit(USAGE_ERROR)
    from tokenflight.cli._app import app  # noqa: PLC0415 - the module needs the extra

    app()
