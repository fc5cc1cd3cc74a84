"""Checks of arguments before a wrong one does harm, and the form in which an error shows text from outside."""

import math
import re
from types import UnionType
from typing import Final

from tokenflight.errors import ConfigurationError

MAX_SHOWN_LENGTH: Final = 200
"""An error shows at most this many characters of one text from outside."""

_UNPRINTABLE: Final = re.compile("[^ -~]+")


def require_kind(name: str, value: object, kind: type | UnionType) -> None:
    """Raise `ConfigurationError`, which names the argument, unless `value` is a `kind`."""
    if not isinstance(value, kind):
        expected = getattr(kind, "__name__", str(kind))
        raise ConfigurationError(f"{name} must be a {expected}, not a {type(value).__name__}")


def checked_seconds(name: str, value: float) -> float:
    """Return `value`; raise `ConfigurationError` unless it is a finite number of seconds and not negative."""
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value < math.inf:
        raise ConfigurationError(f"{name} must be a number of seconds, not {value!r:.40}")
    return value


def require_count(name: str, value: object) -> None:
    """Raise `ConfigurationError`, which names the argument, unless `value` is a whole number of at least 1."""
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        raise ConfigurationError(f"{name} must be a whole number of at least 1, not {value!r:.40}")


def require_text(name: str, value: object) -> None:
    """Raise `ConfigurationError`, which names the argument, unless `value` is a non-empty string."""
    if not isinstance(value, str) or not value:
        given = "an empty one" if value == "" else f"a {type(value).__name__}"
        raise ConfigurationError(f"{name} must be a non-empty string, not {given}")


def printable(text: object) -> str:
    """Return `text` on one line of printable ASCII, at most `MAX_SHOWN_LENGTH` characters; "" if it is not a string."""
    return _UNPRINTABLE.sub(" ", text[:MAX_SHOWN_LENGTH]).strip() if isinstance(text, str) else ""
