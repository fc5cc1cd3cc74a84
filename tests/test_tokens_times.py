"""V5: moments and lifetimes in every notation that providers and other programs use."""

import math
import time
from datetime import UTC, datetime, timedelta, timezone
from decimal import Decimal
from email.utils import format_datetime
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from kit.strategies import json_values
from tokenflight._token_times import MAX_LIFETIME_SECONDS, duration, lifetime, moment
from tokenflight.tokens import TokenSet

NOW = 1_800_000_000
NINE = NOW + 3600
"""Nine o'clock on 15 January 2027, a Friday, in UTC."""

DAY = 86_400

NUMBERS: list[object] = [NINE, float(NINE), str(NINE), f" {NINE}.0 ", "1.8000036e9", Decimal(NINE)]
FRACTIONS: list[object] = [NINE * 1_000, str(NINE * 1_000), NINE * 1e3, NINE * 10**6, NINE * 10**9, str(NINE * 10**9)]
ISO_DATES = [
    "2027-01-15T09:00:00Z",
    "2027-01-15T09:00:00z",
    "2027-01-15t09:00:00Z",
    "2027-01-15 09:00:00Z",
    "2027-01-15 09:00:00",
    "2027-01-15T09:00",
    "2027-01-15T09:00Z",
    "2027-01-15T09:00:00.0Z",
    "2027-01-15T09:00:00.000000000Z",
    "2027-01-15T09:00:00,000Z",
    "2027-01-15T10:00:00+01:00",
    "2027-01-15T10:00:00+0100",
    "2027-01-15T10:00:00+01",
    "2027-01-15 10:00:00 +0100",
    "2027-01-15T04:00:00-05:00",
    "2027-01-15T09:00:00-00:00",
    "20270115T090000Z",
    "20270115T100000+0100",
    "2027/01/15 09:00:00",
    "2027-01-15T09:00:00UTC",
    "2027-01-15 09:00:00 UTC",
    "2027-01-15 09:00:00 GMT",
    "  2027-01-15T09:00:00Z\n",
]
OTHER_DATES = [
    "Fri, 15 Jan 2027 09:00:00 GMT",
    "Fri, 15 Jan 2027 09:00:00 +0000",
    "Fri, 15 Jan 2027 10:00:00 +0100 (CET)",
    "Fri, 15 Jan 2027 04:00:00 EST",
    "15 Jan 2027 09:00 UT",
    "Friday, 15-Jan-27 09:00:00 GMT",
    "Fri Jan 15 2027 09:00:00 GMT+0000 (Coordinated Universal Time)",
    "Fri Jan 15 2027 10:00:00 GMT+0100 (Mitteleuropäische Normalzeit)",
    "Fri Jan 15 09:00:00 2027",
    "Fri Jan 15 09:00:00 UTC 2027",
    "January 15, 2027 09:00:00",
    "Jan 15, 2027 9:00:00 AM",
    "Jan 15, 2027, 9:00:00\u202fAM",
    "Jan 15, 2027 09:00 a.m.",
    "Friday, January 15, 2027 at 9:00:00 AM UTC",
    "January 15, 2027 at 4:00 AM EST",
    "15 Jan 2027 9:00:00 am +0000",
    "15/Jan/2027:09:00:00 +0000",
    "2027-01-15T09:00:00Z[UTC]",
    "2027-01-15T10:00:00+01:00[Europe/Paris]",
    "2027-01-15T10:00:00 UTC+1",
    "Fri Jan 15 2027 10:00:00 GMT+01:00",
    '"2027-01-15T09:00:00Z"',
    "2027-01-15 10:00:00.000000123 +0100 CET",
    "2027-01-15 09:00:00 +0000 UTC m=+3600.012345678",
    "/Date(1800003600000)/",
    "/Date(1800003600000+0100)/",
    "new Date(1800003600000)",
]
WRAPPED: list[object] = [
    {"$date": "2027-01-15T09:00:00Z"},
    {"$date": {"$numberLong": str(NINE * 1000)}},
    {"_seconds": NINE, "_nanoseconds": 0},
    {"seconds": NINE, "nanoseconds": 0},
    {"epochSecond": NINE, "nano": 0},
]
"""As MongoDB, Firestore and Java export it."""
DATETIMES: list[object] = [
    datetime(2027, 1, 15, 9),  # noqa: DTZ001 - as some databases give it
    datetime(2027, 1, 15, 9, tzinfo=UTC),
    datetime(2027, 1, 15, 4, tzinfo=timezone(timedelta(hours=-5))),
]


@pytest.mark.parametrize("value", NUMBERS + FRACTIONS + ISO_DATES + OTHER_DATES + WRAPPED + DATETIMES, ids=repr)
def test_v5_a_moment_is_read_in_every_usual_notation(value: object) -> None:
    assert moment(value) == pytest.approx(NINE, abs=1e-6)


@pytest.mark.parametrize(
    "value", ["2027-01-15T09:00:00.5Z", "2027-01-15T09:00:00.500000001Z", NINE * 1000 + 500, f"/Date({NINE}500)/"]
)
def test_v5_a_fraction_of_a_second_is_kept(value: object) -> None:
    assert moment(value) == NINE + 0.5


def test_v5_a_leap_second_is_the_second_before_it() -> None:
    assert moment("2016-12-31T23:59:60Z") == moment("2016-12-31T23:59:59Z")


ZERO_TIMES: list[object] = [
    *("0001-01-01T00:00:00Z", "0001-01-01T00:00:00", "0001-01-01 00:00:00 +0000 UTC", "0000-00-00 00:00:00"),
    *(-62_135_596_800, "-62135596800", -62_135_596_800_000, "/Date(-62135596800000)/", "0001-01-01T00:00:00+23:59"),
    datetime.min,  # noqa: DTZ901 - as .NET's databases give it
]


@pytest.mark.parametrize("value", ZERO_TIMES, ids=repr)
def test_v5_the_zero_time_of_go_dotnet_and_mysql_is_no_moment(value: object) -> None:
    assert moment(value) is None


NO_MOMENTS: list[object] = [None, True, False, "", " ", "soon", "1h", [], {}, b"1", math.nan, math.inf, "inf", 10**400]
NO_MOMENTS += ["9" * 400, Decimal("NaN"), Decimal("sNaN"), "\ud800", "2027-13-45", "2027-02-30T00:00:00Z", "2027-W53-9"]
NO_MOMENTS += ["2027-01-15T25:00:00Z", "2027-01-15T09:00:00+99:00", "Fri, 15 Foo 2027 09:00:00 GMT", "/Date()/"]
AMBIGUOUS = ["2027-01-15 09:00:00 CET", "01/02/2027 09:00:00", "1/2/2027, 9:00:00 PM", "2027-01-15 09:00:00 PM"]
AMBIGUOUS += ["Jan 15 09:00:00", "15. Januar 2027 09:00:00"]
NO_MOMENTS += ["Jan 15, 2027 13:00:00 PM", "Jan 15, 2027 0:00:00 AM", "2027-01-15T09:00:00Z[UTC", {"$date": {}}]


@pytest.mark.parametrize(("text", "hour"), [("12:00:00 AM", 0), ("1:00:00 PM", 13), ("12:00 PM", 12), ("11:00 pm", 23)])
def test_v5_a_clock_of_twelve_hours_begins_at_twelve(text: str, hour: int) -> None:
    assert moment(f"Jan 15, 2027 {text}") == NINE + (hour - 9) * 3600


@pytest.mark.parametrize("value", NO_MOMENTS + AMBIGUOUS, ids=lambda value: repr(value)[:30])
def test_v5_what_is_no_moment_or_may_be_two_is_unknown(value: object) -> None:
    assert moment(value) is None


moments = st.datetimes(datetime(1990, 1, 1), datetime(2100, 1, 1), timezones=st.timezones())  # noqa: DTZ001 - the bounds


@given(moments)
def test_v5_every_notation_of_a_moment_is_read_as_that_moment(value: datetime) -> None:
    posix = value.timestamp()
    seconds = int(posix // 1)
    whole = datetime.fromtimestamp(seconds, UTC)

    assert moment(value) == posix
    assert moment(value.isoformat()) == moment(str(value)) == pytest.approx(posix, abs=1e-5)
    for text in (format_datetime(whole), format_datetime(whole, usegmt=True), whole.strftime("%a %b %d %H:%M:%S %Y")):
        assert moment(text) == seconds
    assert moment(whole.strftime("%A, %d-%b-%Y %H:%M:%S GMT")) == seconds
    assert moment(whole.strftime("%a %b %d %Y %H:%M:%S GMT+0000 (Coordinated Universal Time)")) == seconds
    assert moment(f"/Date({seconds}000)/") == seconds


@given(st.integers(10**9, 10**10), st.sampled_from([10**3, 10**6, 10**9]))
def test_v5_a_moment_in_fractions_of_a_second_is_read_in_its_unit(seconds: int, unit: int) -> None:
    for value in (seconds * unit, str(seconds * unit), float(seconds * unit)):
        assert moment(value) == pytest.approx(seconds, abs=1e-5)


@given(json_values | st.floats() | st.decimals() | st.datetimes() | st.text(alphabet="0123456789:-+TZ. GMTJanFri,/()"))
@example("9999-12-31T23:59:59.9999999Z")
@example("0001-01-01T00:00:00-23:59")
def test_v5_no_value_breaks_the_reader(value: Any) -> None:
    for seconds in (moment(value), lifetime(value, issued_at=NOW), duration(value)):
        assert seconds is None or math.isfinite(seconds)


@pytest.mark.parametrize(
    "start", ["", "1m", "2027-01-15T09:00:00.", "Fri, ", "Fri Jan 15 2027 10:00:00 GMT+0100 (", "/Date("]
)
@pytest.mark.parametrize("repeated", [" ", "1", "a ", "(", ") (", "+01", "1:", "\ud800"])
def test_v5_a_hostile_text_takes_no_time(start: str, repeated: str) -> None:
    began = time.process_time()
    for length in (20, 40, 60, 1_000_000):
        moment(start + repeated * length)
        lifetime(start + repeated * length, issued_at=NOW)
        duration(start + repeated * length)
    assert time.process_time() - began < 0.5


class NotATime(datetime):
    """What pandas has for a missing moment."""

    def timestamp(self) -> float:
        raise ValueError("no moment")


def test_v5_a_datetime_that_is_no_moment_is_unknown() -> None:
    assert moment(NotATime(2027, 1, 15, tzinfo=UTC)) is None


# Lifetimes


@pytest.mark.parametrize("value", [3600, 3600.0, "3600", Decimal(3600)])
def test_v5_a_lifetime_is_in_seconds(value: object) -> None:
    assert lifetime(value, issued_at=NOW) == 3600


@pytest.mark.parametrize("value", [3_600_000, DAY * 1000, 365 * DAY, MAX_LIFETIME_SECONDS])
def test_v5_a_lifetime_that_may_be_seconds_is_not_taken_for_milliseconds(value: float) -> None:
    assert lifetime(value, issued_at=NOW) == value


@pytest.mark.parametrize("days", [7, 14, 30, 60, 90, 365])
def test_v5_a_lifetime_that_can_only_be_milliseconds_is_read_so(days: int) -> None:
    assert lifetime(days * DAY * 1000, issued_at=NOW) == days * DAY


@pytest.mark.parametrize("value", [20 * 365 * DAY, 100 * 365 * DAY, 2**31 - 1, 2**32 - 1, 9_999_999_999, NINE, 1e15])
def test_v5_r3_a_lifetime_that_means_for_ever_or_a_moment_is_unknown(value: float) -> None:
    assert lifetime(value, issued_at=NOW) is None


@given(st.floats(1, 10 * 365 * DAY), st.floats(0, 20 * 365 * DAY))
def test_v5_no_lifetime_is_read_as_a_longer_one(issued_ago: float, seconds: float) -> None:
    found = lifetime(seconds, issued_at=NOW - issued_ago)
    assert found is None or found <= min(seconds, MAX_LIFETIME_SECONDS)


# In a reply


def read(**members: Any) -> TokenSet:
    return TokenSet.from_response({"access_token": "at", **members}, received_at=NOW)


@pytest.mark.parametrize(
    "members",
    [
        {"expires_in": 3_600_000, "expires_in_sec": 3600},
        {"expires_in": 3_600_000, "expires_at": NINE},
        {"expires_in": 3_600_000, "expires_on": str(NINE - 5)},
        {"expires_in": 3_600_000, "expires_on": str(NINE - 300)},
        {"expires_in": "3600"},
        {"expiresIn": 3600},
        {"expires": 3600},
        {"expires": NINE},
        {"expires": "Fri, 15 Jan 2027 09:00:00 GMT"},
        {"expires_on": str(NINE)},
        {"expires_at": NINE * 1000},
        {"expiry": "2027-01-15T09:00:00Z"},
        {"expires_in": 0, "expires_at": NINE},
    ],
    ids=str,
)
def test_v5_a_lifetime_told_in_other_members_or_units_is_read(members: dict[str, object]) -> None:
    tokens = read(**members)

    assert tokens.lifetime == pytest.approx(3600, abs=5)
    assert tokens.extra == {}


@pytest.mark.parametrize("expires_at", [NOW, NOW - 1, NOW - 3600, 0, 3600, "1970-01-01T00:00:00Z"])
def test_v5_an_expiry_before_the_request_makes_no_sense_and_is_unknown(expires_at: object) -> None:
    assert read(expires_at=expires_at).expires_at is None


def test_v5_the_time_of_issue_by_the_providers_clock_does_not_count_but_stays() -> None:
    tokens = read(issued_at="1763000000000", refresh_token="rt", instance_url="https://x.example")

    assert tokens.issued_at == NOW
    assert tokens.extra == {"issued_at": "1763000000000", "instance_url": "https://x.example"}


# In files


def test_v5_a_hostile_time_of_issue_does_not_make_a_dead_token_live() -> None:
    tokens = TokenSet.from_dict({"access_token": "at", "created_at": "9" * 13, "expires_in": 3600})

    assert (tokens.issued_at, tokens.expires_at) == (None, 0)


@given(st.sampled_from(["expires_at", "expiresAt", "expiry", "expires_on", "expires"]), json_values)
def test_v5_nothing_in_a_file_makes_a_token_live_for_longer_than_any_does(name: str, value: Any) -> None:
    tokens = TokenSet.from_dict({"access_token": "at", "refresh_token": "rt", name: value})

    assert tokens.expires_at is None or tokens.expires_at <= time.time() + MAX_LIFETIME_SECONDS
