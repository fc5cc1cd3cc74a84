"""Moments and lifetimes in the notations of providers and other programs.

Each reader takes any value and gives POSIX seconds, or seconds, or None where the value tells nothing that can be
relied on. None is the safe answer: a token without a known expiry is renewed after an assumed lifetime, while a moment
that is misread keeps a dead token in use. No reader raises, and none takes more than linear time: a text longer than
any date is not looked at.
"""

import math
import re
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta, timezone
from decimal import Decimal
from typing import Final

MAX_LIFETIME_SECONDS: Final = 10 * 365 * 86_400
"""A longer lifetime than this is a provider's way of saying "unknown"."""

MAX_CLOCK_SKEW_SECONDS: Final = 60.0
"""How far the clocks of two hosts may differ before what one of them wrote is doubted.

Synchronized clocks agree to well within a second, and a virtual machine that has just resumed is seconds off. A skew
within the limit makes a token look younger by as much. Renewals come five minutes before the expiry, or a quarter of a
shorter lifetime, so this matters for tokens of less than four minutes alone, and there an API's 401 mends it.
"""

_SAME_LIFETIME_SHARE: Final = 0.1
"""How far apart, as a share, two members may be that tell the same lifetime, one of them by another clock."""

EARLIEST_MOMENT: Final = 1e9
"""A larger number of seconds is a moment (after September 2001) and no duration."""

_MAX_TEXT_CHARACTERS: Final = 128
"""The longest date that JavaScript writes, with the name of its time zone, has about 70."""

_UNITS: Final = ((1e17, 1_000_000_000), (1e14, 1_000_000), (1e11, 1_000))
"""Above each number, a moment can only be in this fraction of a second: 1e11 seconds are the year 5138."""

_UNSET_BEFORE: Final = -62_000_000_000
"""The year 5. Go, .NET and Java write a moment of the year 1 where none is set."""

_WRAPPERS: Final = ("$date", "$numberLong", "_seconds", "seconds", "epochSecond")

_PART: Final = re.compile(r"(\d++(?:\.\d++)?)\s*+([a-z]*+)\s*+", re.ASCII)
_SECONDS_IN: Final = {
    **dict.fromkeys(("ms", "millisecond", "milliseconds"), 0.001),
    **dict.fromkeys(("s", "sec", "secs", "second", "seconds"), 1.0),
    **dict.fromkeys(("m", "min", "mins", "minute", "minutes"), 60.0),
    **dict.fromkeys(("h", "hr", "hrs", "hour", "hours"), 3600.0),
}

_SECONDS_PER_YEAR: Final = 365 * 86_400
_MAX_WHOLE_YEARS: Final = 100


def number(value: object) -> float | None:
    """A finite number from a number or a numeric text."""
    if isinstance(value, bool) or not isinstance(value, int | float | str | Decimal):
        return None
    if isinstance(value, str) and len(value) > _MAX_TEXT_CHARACTERS:
        return None
    try:
        result = float(value)
    except (ValueError, OverflowError):
        return None
    if not math.isfinite(result):
        return None
    return value if isinstance(value, int) else result


def moment(value: object) -> float | None:
    """POSIX seconds from a `datetime`, a number of seconds or of a fraction of them, or a text with either or a date.

    Each may be wrapped in an object, as MongoDB, Firestore and Java export them.

    A date without a zone is in UTC. The zero time of Go and .NET says that no moment is set, and reads as None.
    """
    if isinstance(value, datetime):
        return _if_set(_posix(value))
    if isinstance(value, Mapping):
        return moment(next((value[name] for name in _WRAPPERS if name in value), None))
    amount = number(value)
    if amount is not None:
        unit = next((unit for limit, unit in _UNITS if abs(amount) > limit), None)
        return _if_set(amount if unit is None else amount / unit)
    if isinstance(value, str) and len(value) <= _MAX_TEXT_CHARACTERS:
        return _if_set(_date(value.strip(_AROUND_DATES).replace("\u202f", " ")))
    return None


def duration(value: object) -> float | None:
    """Seconds from a number, or from a text with digits or with parts that name their units: ``90``, ``1m30s``.

    Something less than zero, an exponent or an unknown unit is no duration.
    """
    if not isinstance(value, str):
        bare = number(value)
        return bare if bare is not None and bare >= 0 else None
    text = value.strip().lower() if len(value) <= _MAX_TEXT_CHARACTERS else ""
    parts = _PART.findall(text)
    if not parts or _PART.sub("", text):
        return None
    if len(parts) == 1 and not parts[0][1]:
        return number(text)
    seconds = 0.0
    for amount, unit in parts:
        if unit not in _SECONDS_IN:
            return None
        seconds += float(amount) * _SECONDS_IN[unit]
    return seconds


def lifetime(value: object, *, issued_at: float) -> float | None:
    """A number of seconds from `issued_at` on, which is in POSIX seconds. Zero and a few years less are passed on.

    More than ten years are milliseconds where that makes sense, and otherwise unknown. It makes none for a whole number
    of years up to a hundred, which means "very long", or for a number near `issued_at`, which is itself a moment.
    """
    seconds = number(value)
    if seconds is None or seconds < -MAX_LIFETIME_SECONDS:
        return None
    if seconds <= MAX_LIFETIME_SECONDS:
        return seconds
    years, rest = divmod(seconds, _SECONDS_PER_YEAR)
    means_very_long = rest == 0 and years <= _MAX_WHOLE_YEARS
    means_moment = abs(seconds - issued_at) <= MAX_LIFETIME_SECONDS
    if means_very_long or means_moment or seconds % 1000 or seconds / 1000 > MAX_LIFETIME_SECONDS:
        return None
    return seconds / 1000


def is_in_milliseconds(amount: float, seconds: float) -> bool:
    """Whether `amount` is milliseconds, because a second member tells the same lifetime in `seconds`."""
    tolerance = max(MAX_CLOCK_SKEW_SECONDS, seconds * _SAME_LIFETIME_SHARE)
    return amount > 1000 * MAX_CLOCK_SKEW_SECONDS and abs(amount / 1000 - seconds) <= tolerance


def plausible(expires_at: float | None, issued_at: float) -> float | None:
    """`expires_at`, unless it is later after `issued_at` than any token expires."""
    return None if expires_at is None or expires_at - issued_at > MAX_LIFETIME_SECONDS else expires_at


def _if_set(posix: float | None) -> float | None:
    return None if posix is None or posix < _UNSET_BEFORE else posix


def _posix(value: datetime) -> float | None:
    try:
        return number((value if value.tzinfo else value.replace(tzinfo=UTC)).timestamp())
    except (ValueError, OverflowError):  # a subclass, such as that of pandas' NaT, may be no moment
        return None


_WEEKDAY: Final = r"(?:[A-Za-z]++,?\s++)?"
_CLOCK: Final = r"(?P<hour>\d\d?):?(?P<minute>\d\d)(?::?(?P<second>\d\d)(?:[.,](?P<fraction>\d++))?)?"
_HALF: Final = r"(?:\s*+(?P<half>[AaPp])\.?[Mm]\b\.?)?"
_ZONE: Final = (
    r"(?:\s*+(?P<zone>[A-Za-z]++))?"
    r"(?:\s*+(?P<offset>[+-]\d\d?(?::?\d\d)?)(?:\s++(?:\(.*\)|[A-Za-z]++))?(?:\s++m=\S++)?)?"
)
"""JavaScript and Go repeat the zone in words after its offset; Go adds its monotonic clock."""

# ISO 8601 and RFC 3339, with what takes the place of its T; SQL and str(datetime) write it with a space. Java names the
# zone once more, in brackets (RFC 9557).
_YEAR_FIRST: Final = (
    r"(?P<year>\d{4})(?P<dash>[-/.]?)(?P<month>\d\d)(?P=dash)(?P<day>\d\d)"
    rf"(?:(?:[Tt_]|\s++){_CLOCK}{_ZONE}(?:\[[^\]]*+\])?)?"
)
# RFC 1123 and 5322, JavaScript's toUTCString; with hyphens and the last two digits of the year, RFC 850; with slashes
# and a colon, the logs of web servers.
_DAY_FIRST: Final = (
    rf"{_WEEKDAY}(?P<day>\d\d?)[-/\s](?P<month>[A-Za-z]{{3,9}})[-/\s](?P<year>\d{{4}}|\d\d)(?::|,?\s++)"
    rf"{_CLOCK}{_HALF}{_ZONE}"
)
# JavaScript's Date as text, and dates for American readers; and ctime, Java and `date`, which write the year last.
_MONTH_FIRST: Final = (
    rf"{_WEEKDAY}(?P<month>[A-Za-z]{{3,9}})\s++(?P<day>\d\d?),?(?:\s++(?P<year>\d{{4}}),?)?(?:\s++at)?\s++"
    rf"{_CLOCK}{_HALF}{_ZONE}(?:\s++(?P<last_year>\d{{4}}))?"
)
_DATES: Final = tuple(re.compile(pattern, re.ASCII) for pattern in (_YEAR_FIRST, _DAY_FIRST, _MONTH_FIRST))

_AROUND_DATES: Final = "\"' \t\r\n\f"
"""A text that was encoded twice has quotes. Before AM and PM, newer programs write a narrow space, U+202F."""
_HOURS_OF_HALF: Final = 12

_SERIALIZED_DATE: Final = re.compile(r"(?:/|new )?Date\((?P<milliseconds>-?\d++)(?:[+-]\d{4})?\)/?", re.ASCII)
"""What .NET writes into JSON, and what that is in JavaScript. The offset is for display: the number counts in UTC."""

_MONTHS: Final = ("jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec")
_UTC: Final = {"": 0, "z": 0, "ut": 0, "utc": 0, "gmt": 0}
_ZONE_HOURS: Final = _UTC | {"est": -5, "edt": -4, "cst": -6, "cdt": -5, "mst": -7, "mdt": -6, "pst": -8, "pdt": -7}
"""The zones that RFC 5322 §4.3 names. Other names are ambiguous, and a date in such a zone is not read."""


def _date(text: str) -> float | None:
    """POSIX seconds from a date, in one of the notations that the patterns name."""
    if found := _SERIALIZED_DATE.fullmatch(text):
        return int(found["milliseconds"]) / 1000
    for pattern in _DATES:
        if found := pattern.fullmatch(text):
            try:
                return _posix_of(found.groupdict(default=""))
            except (ValueError, KeyError, OverflowError):  # no such day, month or zone
                return None
    return None


def _posix_of(parts: Mapping[str, str]) -> float:
    """POSIX seconds from the groups of one of the patterns for dates."""
    year = parts["year"] or parts["last_year"]
    if len(year) == len("70"):  # RFC 850 writes two digits; RFC 9110 §5.6.7 says which century
        year = ("20" if year < "70" else "19") + year
    month = parts["month"]
    return datetime(
        int(year),
        int(month) if month.isdigit() else _MONTHS.index(month[:3].lower()) + 1,
        int(parts["day"]),
        _hour(int(parts["hour"] or 0), parts.get("half", "")),
        int(parts["minute"] or 0),
        min(int(parts["second"] or 0), 59),  # a leap second
        int(parts["fraction"][:6].ljust(6, "0")),
        tzinfo=timezone(_offset(parts["offset"], parts["zone"])),
    ).timestamp()


def _hour(hour: int, half: str) -> int:
    """The hour of the day, of which `half` is "a" or "p" where the clock goes to twelve, and else empty."""
    if not half:
        return hour
    if not 1 <= hour <= _HOURS_OF_HALF:
        raise ValueError("no such hour")
    return hour % _HOURS_OF_HALF + (_HOURS_OF_HALF if half in "Pp" else 0)


def _offset(text: str, zone: str) -> timedelta:
    """The distance from UTC in ``+01``, ``+0100`` or ``+01:00``; that of the named zone where there is no such text."""
    if not text:
        return timedelta(hours=_ZONE_HOURS[zone.lower()])
    hours, _, minutes = text[1:].partition(":")
    if len(hours) > len("01"):
        hours, minutes = hours[:-2], hours[-2:]
    distance = timedelta(hours=int(hours), minutes=int(minutes or 0))
    return -distance if text.startswith("-") else distance
