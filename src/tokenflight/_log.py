"""The logger ``tokenflight``. Whatever an app's own logging set-up raises, no renewal fails for it."""

import logging
from collections.abc import Mapping
from contextlib import suppress
from typing import Final

_LOGGER: Final = logging.getLogger("tokenflight")


def log(
    level: int, message: str, *arguments: object, extra: Mapping[str, object] | None = None, exc_info: bool = False
) -> None:
    """Log `message`, formatted with `arguments`; or do nothing where that fails, as in a filter or record factory."""
    with suppress(Exception):
        _LOGGER.log(level, message, *arguments, extra=extra, exc_info=exc_info)
