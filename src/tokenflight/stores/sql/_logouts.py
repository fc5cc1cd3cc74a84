"""What a logout leaves in the row of a user: its marker, in place of the version of the record."""

import time
from typing import Final

from tokenflight.stores.base import LOGOUT_MARKER_SECONDS, LogoutMarker

PREFIX: Final = "ended "
_MILLISECONDS_DIGITS: Final = 15
"""Of one length for all, so that the oldest marker comes first in the order of text."""

_NO_RECORD: Final = "-"


def marker_text(marker: LogoutMarker) -> str:
    """`marker` as text of 54 characters at most."""
    return f"{_beginning(marker.ended_at)} {marker.digest or ''}"


def no_record_text() -> str:
    """What a logout leaves that found no record: no marker, but it keeps the row with its ticket for as long."""
    return f"{_beginning(time.time())} {_NO_RECORD}"


def marker_in(version: str) -> LogoutMarker | None:
    """The marker in the version column of a row without a record; None if there is none, or its time is over."""
    if not version.startswith(PREFIX) or version < oldest_marker():
        return None
    milliseconds, _, digest = version.removeprefix(PREFIX).partition(" ")
    if digest == _NO_RECORD or not milliseconds.isdecimal():
        return None
    return LogoutMarker(int(milliseconds) / 1000, digest or None)


def oldest_marker() -> str:
    """Markers that come before this text are over."""
    return _beginning(time.time() - LOGOUT_MARKER_SECONDS)


def _beginning(moment: float) -> str:
    return f"{PREFIX}{round(moment * 1000):0{_MILLISECONDS_DIGITS}d}"
