"""How long a provider asks a client to wait: in ``Retry-After``, in a rate-limit header, or in the body."""

import re
from collections.abc import Iterator, Mapping
from typing import Final

from tokenflight._token_shapes import folded
from tokenflight._token_times import EARLIEST_MOMENT, duration, moment, number
from tokenflight.providers._replies.decoding import walk

MAX_RETRY_AFTER_SECONDS: Final = 3600.0
"""A client honours what a provider asks for up to this."""

_MAX_TEXT_LENGTH: Final = 100
_RATE_LIMIT: Final = re.compile(r"(?:^|[;,\s])(?:t|reset)\s*=\s*(\d{1,30})", re.ASCII)
"""The reset in a ``RateLimit`` header, in the forms of both of its drafts."""
_RETRY_AFTER: Final = "retryafter"
_MILLISECONDS: Final = ("ms", "milliseconds")
_BODY_NAMES: Final = {
    "retryafter": 1.0,
    "retryafterseconds": 1.0,
    "retryafterinseconds": 1.0,
    "retryat": 1.0,
    "retryafterms": 0.001,
    "retryaftermilliseconds": 0.001,
    "retrydelay": 1.0,
    "retryin": 1.0,
    "resetat": 1.0,
    "resetin": 1.0,
    "resetafter": 1.0,
    "waitseconds": 1.0,
}


def retry_after_seconds(
    headers: Mapping[str, str], members: Mapping[str, object], *, is_rate_limited: bool, now: float
) -> float | None:
    """How many seconds from `now` (POSIX) the provider asks to wait, capped; None where it says nothing.

    ``Retry-After`` comes first (RFC 9110 §10.2.3). The end of a window (``X-RateLimit-Reset`` and similar) counts only
    if the reply `is_rate_limited`, because some vendors send it with every reply.
    """
    for seconds in _wishes(headers, members, is_rate_limited=is_rate_limited, now=now):
        if seconds is not None:
            return min(max(seconds, 0.0), MAX_RETRY_AFTER_SECONDS)
    return None


def is_used_up(headers: Mapping[str, str]) -> bool:
    """Whether a rate-limit header says that no request is left in this window."""
    return any(
        "ratelimit" in (name := folded(header)) and "remaining" in name and value.strip() == "0"
        for header, value in headers.items()
    )


def _wishes(
    headers: Mapping[str, str], members: Mapping[str, object], *, is_rate_limited: bool, now: float
) -> Iterator[float | None]:
    yield _seconds(headers.get("retry-after"), now)
    for header, value in headers.items():
        if _RETRY_AFTER in (name := folded(header)) and (seconds := _seconds(value, now)) is not None:
            yield seconds / 1000 if name.endswith(_MILLISECONDS) else seconds
    if is_rate_limited:
        yield min(_resets(headers, now), default=None)
    for _, _, member, wish in walk(members):
        if (unit := _BODY_NAMES.get(member)) is not None and (seconds := _seconds(wish, now)) is not None:
            yield seconds * unit


def _resets(headers: Mapping[str, str], now: float) -> Iterator[float]:
    """The seconds until each window ends. The first end counts: the other windows may have room left."""
    for header, value in headers.items():
        name = folded(header)
        reset: str | None = None
        if name == "ratelimit" and (found := _RATE_LIMIT.search(value[:_MAX_TEXT_LENGTH])):
            reset = found[1]
        elif "ratelimit" in name and "reset" in name:
            reset = value
        if (seconds := _seconds(reset, now)) is not None:
            yield seconds / 1000 if name.endswith(_MILLISECONDS) and seconds > MAX_RETRY_AFTER_SECONDS else seconds


def _seconds(value: object, now: float) -> float | None:
    """Seconds from `now`: of a duration, or until a moment in POSIX seconds, in a fraction of them, or in a date."""
    seconds = duration(value)
    if seconds is None and number(value) is not None:
        return None  # less than zero, or an exponent
    if seconds is None and isinstance(value, str) and value.isdecimal():
        return MAX_RETRY_AFTER_SECONDS  # more digits than a number has
    if seconds is not None and seconds <= EARLIEST_MOMENT:
        return seconds
    posix = moment(value if seconds is None else seconds)
    return None if posix is None else posix - now
