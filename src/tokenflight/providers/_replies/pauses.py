"""How long a provider asks a client to wait: in ``Retry-After``, in a rate-limit header, or in the body."""

import re
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Final

from tokenflight.providers._replies.decoding import folded

MAX_RETRY_AFTER_SECONDS: Final = 3600.0
"""A client honours what a provider asks for up to this."""

_EARLIEST_MOMENT: Final = 1e9
"""A larger number of seconds is a moment (after September 2001) and no duration."""
_EARLIEST_MOMENT_IN_MILLISECONDS: Final = 1e11
_MAX_TEXT_LENGTH: Final = 100
_NUMBER: Final = re.compile(r"(\d{1,100}(?:\.\d{1,30})?)\s*(ms|s|secs?|seconds?|mins?|minutes?)?", re.ASCII)
_SECONDS_IN: Final = {"ms": 0.001, "mi": 60.0}
_RATE_LIMIT: Final = re.compile(r"(?:^|[;,\s])(?:t|reset)\s*=\s*(\d{1,30})", re.ASCII)
"""The reset in a ``RateLimit`` header, in the forms of both of its drafts."""
_RETRY_AFTER: Final = "retryafter"
_BODY_NAMES: Final = {
    "retryafter": 1.0,
    "retryafterseconds": 1.0,
    "retryafterms": 0.001,
    "retryaftermilliseconds": 0.001,
    "retrydelay": 1.0,
    "retryin": 1.0,
}
_MAX_MEMBERS: Final = 200
_MAX_LEVELS: Final = 4


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
            yield seconds / 1000 if name.endswith(("ms", "milliseconds")) else seconds
    if is_rate_limited:
        yield min(_resets(headers, now), default=None)
    yield from _wishes_in(members, now)


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
            yield seconds


def _wishes_in(members: Mapping[str, object], now: float) -> Iterator[float | None]:
    level: list[object] = [members]
    seen = 0
    for _ in range(_MAX_LEVELS):
        inner: list[object] = []
        for item in level:
            pairs = item.items() if isinstance(item, Mapping) else (("", each) for each in _listed(item))
            for name, value in pairs:
                seen += 1
                if seen > _MAX_MEMBERS:
                    return
                unit = _BODY_NAMES.get(folded(str(name)[:_MAX_TEXT_LENGTH]))
                if unit is not None and (seconds := _seconds(value, now)) is not None:
                    yield seconds * unit
                elif isinstance(value, Mapping | list):
                    inner.append(value)
        level = inner


def _listed(value: object) -> list[object]:
    return value if isinstance(value, list) else []


def _seconds(value: object, now: float) -> float | None:
    """Seconds from `now`: of a duration, of a moment in POSIX seconds or milliseconds, or of a date in two forms."""
    if isinstance(value, bool) or not isinstance(value, str | int | float):
        return None
    text = (f"{value:f}" if isinstance(value, float) else str(value)).strip()[:_MAX_TEXT_LENGTH]
    if (found := _NUMBER.fullmatch(text.lower())) is None:
        return _seconds_until_date(text, now)
    number, unit = float(found[1]), found[2] or ""
    if unit:
        return number * _SECONDS_IN.get(unit[:2], 1.0)
    if number > _EARLIEST_MOMENT_IN_MILLISECONDS:
        return number / 1000 - now
    return number - now if number > _EARLIEST_MOMENT else number


def _seconds_until_date(text: str, now: float) -> float | None:
    """Seconds until an HTTP date (RFC 9110 §5.6.7) or an ISO 8601 one, in UTC where it names no zone."""
    for parse in (parsedate_to_datetime, datetime.fromisoformat):
        try:
            moment = parse(text)
            return (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp() - now
        except (ValueError, OverflowError, IndexError, TypeError):
            continue
    return None
