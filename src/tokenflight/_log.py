"""The logger ``tokenflight``. No renewal fails because an app's own handler, filter or record factory raises."""

import logging
from collections.abc import Mapping
from contextlib import suppress
from typing import Final

_LOGGER: Final = logging.getLogger("tokenflight")


def log(
    level: int, message: str, *arguments: object, extra: Mapping[str, object] | None = None, exc_info: bool = False
) -> None:
    """Log `message`, formatted with `arguments`. If the app's logging set-up raises, the message is lost."""
    with suppress(Exception):
        _LOGGER.log(level, message, *arguments, extra=extra, exc_info=exc_info)
