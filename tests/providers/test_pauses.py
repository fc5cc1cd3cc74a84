"""V6: for how long a provider asks to be left alone, in whichever of its many ways."""

from datetime import UTC, datetime
from email.utils import format_datetime
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kit.reply_cases import NOW
from kit.strategies import json_values
from tokenflight.providers._replies.pauses import MAX_RETRY_AFTER_SECONDS, is_used_up, retry_after_seconds


def pause(
    headers: dict[str, str] | None = None, members: dict[str, Any] | None = None, *, is_rate_limited: bool = True
) -> float | None:
    return retry_after_seconds(headers or {}, members or {}, is_rate_limited=is_rate_limited, now=NOW)


def http_date(seconds: float) -> str:
    return format_datetime(datetime.fromtimestamp(NOW + seconds, UTC), usegmt=True)


def iso_date(seconds: float) -> str:
    return datetime.fromtimestamp(NOW + seconds, UTC).isoformat()


@pytest.mark.parametrize(
    ("value", "seconds"),
    [
        ("0", 0),
        ("120", 120),
        (" 120 ", 120),
        ("30.0", 30),
        ("1.5", 1.5),
        ("0.75", 0.75),
        ("30s", 30),
        ("30 seconds", 30),
        ("500ms", 0.5),
        ("2min", 120),
        ("1m30s", 90),
        ("6m0s", 360),
        ("0h1m0.5s", 60.5),
        ("3601", MAX_RETRY_AFTER_SECONDS),
        ("9" * 30, MAX_RETRY_AFTER_SECONDS),
        (str(int(NOW) + 45), 45),
        (str(int(NOW + 45) * 1000), 45),
        (str(int(NOW) - 45), 0),
        (http_date(90), 90),
        (http_date(90).removesuffix(" GMT"), 90),
        (http_date(-90), 0),
        (http_date(9 * 86_400), MAX_RETRY_AFTER_SECONDS),
        (datetime.fromtimestamp(NOW + 90, UTC).strftime("%A, %d-%b-%y %H:%M:%S GMT"), 90),
        (iso_date(60), 60),
        (iso_date(60).replace("+00:00", "Z"), 60),
        (iso_date(60).removesuffix("+00:00"), 60),
    ],
)
def test_v6_t5_retry_after_is_read_in_each_of_its_forms(value: str, seconds: float) -> None:
    assert pause({"retry-after": value}) == seconds
    assert pause({"retry-after": value}, is_rate_limited=False) == seconds


@pytest.mark.parametrize(
    "value",
    [
        "",
        "soon",
        "-1",
        "1e3",
        "0x10",
        "²",
        "NaN",
        "inf",
        "Fri, 99 Jan 2027 08:00:00 GMT",
        "120, 120",
        "1 2",
        "(",
        ",",
        "s",
        "1m30",
    ],
)
def test_v6_a_retry_after_that_makes_no_sense_says_nothing(value: str) -> None:
    assert pause({"retry-after": value}) is None


@pytest.mark.parametrize(
    ("name", "value", "seconds"),
    [
        ("retry-after-ms", "1500", 1.5),
        ("x-ms-retry-after-ms", "2000", 2),
        ("x-retry-after", "7", 7),
        ("x-ratelimit-retry-after", "7", 7),
        ("x-rate-limit-retry-after-seconds", "7", 7),
        ("x-rate-limit-reset", str(int(NOW) + 30), 30),
        ("x-ratelimit-reset", str(int(NOW) + 30), 30),
        ("x-ratelimit-reset", "30", 30),
        ("x-ratelimit-reset", "29.5", 29.5),
        ("x-ratelimit-reset-requests", "1m30s", 90),
        ("x-ratelimit-reset", iso_date(30), 30),
        ("x-ratelimit-reset-after", "1.25", 1.25),
        ("x-ratelimit-reset-ms", "30000", 30),
        ("x-ratelimit-reset-ms", str(int(NOW + 30) * 1000), 30),
        ("x-ratelimit-requests-reset", str(int(NOW + 30) * 1000), 30),
        ("fitbit-rate-limit-reset", "30", 30),
        ("ratelimit-reset", "30", 30),
        ("ratelimit", "limit=100, remaining=0, reset=30", 30),
        ("ratelimit", '"default";r=0;t=30', 30),
        ("ratelimit", "r=0; t=30", 30),
    ],
)
def test_v6_a_window_that_ends_is_a_pause(name: str, value: str, seconds: float) -> None:
    assert pause({name: value}) == seconds


@pytest.mark.parametrize("name", ["x-ratelimit-reset", "ratelimit-reset", "ratelimit"])
def test_v6_a_window_counts_only_where_the_reply_is_about_it(name: str) -> None:
    assert pause({name: "t=30" if name == "ratelimit" else "30"}, is_rate_limited=False) is None


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("ratelimit-policy", "100;w=60"),
        ("x-ratelimit-limit", "30"),
        ("x-ratelimit-remaining", "30"),
        ("ratelimit", "r=5"),
    ],
)
def test_v6_other_rate_limit_headers_are_no_pause(name: str, value: str) -> None:
    assert pause({name: value}) is None


def test_v6_the_first_window_to_end_is_waited_for() -> None:
    assert pause({"x-ratelimit-reset-hour": "3000", "x-ratelimit-reset-minute": "30"}) == 30


@pytest.mark.parametrize(
    ("members", "seconds"),
    [
        ({"retry_after": 30}, 30),
        ({"retry_after": 64.57}, 64.57),
        ({"retry_after": "30"}, 30),
        ({"retryAfter": 30}, 30),
        ({"retry_after_ms": 1500}, 1.5),
        ({"retryAfterSeconds": 30}, 30),
        ({"wait_seconds": 30}, 30),
        ({"retryAfterInSeconds": 30}, 30),
        ({"retry_at": iso_date(30)}, 30),
        ({"reset_at": NOW + 30}, 30),
        ({"error": {"reset_in": 30}}, 30),
        ({"error": {"reason": {}, "retry_after": 300}}, 300),
        ({"parameters": {"retry_after": 5}}, 5),
        ({"errors": [{"code": "x"}, {"retry_after": 5}]}, 5),
        ({"error": {"details": [{"@type": "RetryInfo", "retryDelay": "30s"}]}}, 30),
    ],
)
def test_v6_a_body_may_say_it(members: dict[str, Any], seconds: float) -> None:
    assert pause({}, members, is_rate_limited=False) == seconds


@pytest.mark.parametrize("value", [None, True, "", "soon", [], {}, -1, float("nan"), float("inf"), 10**400])
def test_v6_a_body_that_makes_no_sense_says_nothing(value: object) -> None:
    assert pause({}, {"retry_after": value}) in {None, MAX_RETRY_AFTER_SECONDS}


def test_v6_the_standards_header_comes_first_and_a_broken_one_hides_nothing() -> None:
    headers = {"retry-after": "10", "x-ratelimit-reset": "20"}
    assert pause(headers, {"retry_after": 30}) == 10
    assert pause({**headers, "retry-after": "soon"}, {"retry_after": 30}) == 20
    assert pause({"retry-after": "soon"}, {"retry_after": 30}) == 30


@pytest.mark.parametrize(
    ("headers", "used_up"),
    [
        ({"x-ratelimit-remaining": "0"}, True),
        ({"x-rate-limit-remaining": " 0 "}, True),
        ({"ratelimit-remaining": "0"}, True),
        ({"x-ratelimit-remaining": "1"}, False),
        ({"x-ratelimit-limit": "0"}, False),
        ({}, False),
    ],
)
def test_v6_a_window_without_room_is_known(headers: dict[str, str], used_up: bool) -> None:
    assert is_used_up(headers) is used_up


header_values = st.text(max_size=200) | st.from_regex(r"\A[0-9a-zA-Z:,; .+-]{0,40}\Z")


@given(
    st.dictionaries(
        st.sampled_from(["retry-after", "ratelimit", "x-ratelimit-reset", "retry-after-ms"]), header_values
    ),
    st.dictionaries(st.sampled_from(["retry_after", "error", "retryAfter"]), json_values),
)
def test_v6_whatever_is_said_a_pause_is_within_bounds_or_none(headers: dict[str, str], members: dict[str, Any]) -> None:
    seconds = pause(headers, members)
    assert seconds is None or 0 <= seconds <= MAX_RETRY_AFTER_SECONDS
