"""Every parser keeps the promises of `kit.fuzz.targets`, in time and memory in proportion to its input."""

import gc
import json
import time
import tracemalloc
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from kit.fuzz.targets import KEY, NEW_SECRETS, REQUEST, SENT_AT, TARGETS, run_token_reply
from kit.strategies import json_values
from tokenflight.errors import StoreCorrupted, TokenRefreshError
from tokenflight.providers._http import MAX_REPLY_BYTES
from tokenflight.providers.replies import Reply, parse_token_reply
from tokenflight.stores.codec import decode_record
from tokenflight.tokens import TokenSet

KIB: Final = 1024
MAX_HEADER_BYTES: Final = 64 * KIB
"""More than an HTTP client takes in one field."""


@st.composite
def nearly_good(draw: st.DrawFn, name: str) -> bytes:
    """A good input of the target `name` with pieces taken out, doubled, or put in from its words."""
    target = TARGETS[name]
    data = draw(st.sampled_from(target.seeds))
    pieces = st.sampled_from(target.words) | st.binary(max_size=4)
    for _ in range(draw(st.integers(0, 5))):
        start = draw(st.integers(0, len(data)))
        end = draw(st.integers(start, min(len(data), start + 20)))
        piece = draw(pieces) * draw(st.integers(0, 3))
        data = data[:start] + draw(st.sampled_from([piece, data[start:end] + piece, data[start:end] * 2])) + data[end:]
    return data


@pytest.mark.parametrize("name", TARGETS)
@settings(max_examples=80)
@given(data=st.data())
def test_r6_p4_l1_what_is_nearly_good_is_read_or_refused_inside_the_error_tree_without_a_token(
    name: str, data: st.DataObject
) -> None:
    TARGETS[name].run(data.draw(nearly_good(name)))


TIMES: Final = ("issued_at", "expires_at", "expires_in", "obtained_at", "created_at", "saved_at", "expiry")
numbers = st.integers(-(10**310), 10**310) | st.floats() | st.sampled_from([1e308, -1e308, 10**308, 0, SENT_AT])


@given(st.booleans(), st.dictionaries(st.sampled_from(TIMES), numbers | numbers.map(str)))
@example(todays=True, times={"issued_at": 1e308, "expires_in": 1e308})
@example(todays=True, times={"issued_at": 10**308, "expires_in": 10**308})
@example(todays=False, times={"obtained_at": 10**308, "expires_in": 10**308})
def test_r3_p4_no_times_make_a_stored_token_set_an_error_of_another_kind(todays: bool, times: dict[str, Any]) -> None:
    stored = {"access_token": NEW_SECRETS[0], **times} | ({"format_version": 1} if todays else {})
    readings: list[Callable[[], TokenSet]] = [
        lambda: TokenSet.from_dict(stored),
        lambda: decode_record(KEY, json.dumps(stored).encode()).tokens,
    ]
    for read in readings:
        try:
            tokens = read()
        except StoreCorrupted:
            continue
        assert TokenSet.from_dict(tokens.to_dict()) == tokens


@given(st.text(min_size=1), st.none() | st.text(), st.sampled_from([200, 400, 401, 503]), json_values)
@example(access_token="\ud800", refresh_token="rt", status=400, error="invalid_grant")
@example(access_token="at", refresh_token="\udfff", status=503, error="\ud800")
def test_r6_whatever_token_set_was_held_before_a_reply_is_read_or_an_error_of_the_tree(
    access_token: str, refresh_token: str | None, status: int, error: object
) -> None:
    reply = Reply(status, {}, json.dumps({"error": error, "error_description": error}).encode())
    previous = TokenSet(access_token, refresh_token=refresh_token)
    with pytest.raises(TokenRefreshError):
        parse_token_reply(reply, request=REQUEST, previous=previous, sent_at=SENT_AT, user_id="alice", provider="idp")


@dataclass(frozen=True, slots=True)
class Hostile:
    """Input of any size that makes a careless parser slow: `pattern` again and again between `before` and `after`."""

    target: str
    before: bytes = b""
    pattern: bytes = b""
    after: bytes = b""
    largest: int = 128 * KIB

    def of_size(self, size_bytes: int) -> bytes:
        """About `size_bytes` of it."""
        return self.before + self.pattern * (size_bytes // len(self.pattern)) + self.after


_OK: Final = b'200 \n{"access_token": "at", '
_BAD: Final = b"400 \n"
_DISCOVERED: Final = b'200 \n{"issuer": "https://idp.example", "token_endpoint": "https://'
_STORED: Final = b'{"access_token": "at", '
_DATE: Final = b"2027-01-15T08:00:00."


def _header(target: str, before: bytes, pattern: bytes, after: bytes = b"") -> Hostile:
    return Hostile(target, before, pattern, after, MAX_HEADER_BYTES)


HOSTILE: Final = {
    "a whole number of many digits": Hostile("token-reply", _OK + b'"expires_in": ', b"9", b"}"),
    "a fraction of many digits": Hostile("token-reply", _OK + b'"expires_in": 1.', b"9", b"}"),
    "a huge exponent": Hostile("token-reply", _OK + b'"expires_in": 1e', b"9", b"}"),
    "a string of many digits": Hostile("token-reply", _OK + b'"expires_in": "', b"9", b'"}'),
    "a long date": Hostile("token-reply", _OK + b'"expires_at": "' + _DATE, b"9", b'Z"}'),
    "deep arrays": Hostile("token-reply", _OK + b'"x": ', b"["),
    "deep objects": Hostile("token-reply", _OK + b'"x": ', b'{"x":'),
    "many empty objects": Hostile("token-reply", _OK + b'"x": [', b"{},", b"{}]}"),
    "many small objects": Hostile("token-reply", _OK + b'"x": [', b'{"":1},', b"{}]}"),
    "many strings": Hostile("token-reply", _OK + b'"x": [', b'"",', b'""]}'),
    "a name many times": Hostile("token-reply", _OK, b'"x":1,', b'"y":1}'),
    "a scope of many items": Hostile("token-reply", _OK + b'"scope": [', b'"s",', b'"s"]}'),
    "many open strings": Hostile("token-reply", _OK, b'"'),
    "many backslashes": Hostile("token-reply", _OK + b'"', b"\\\\"),
    "many lone surrogates": Hostile("token-reply", _OK + b'"x": "', b"\\ud800", b'"}'),
    "white space": Hostile("token-reply", b"200 \n", b" "),
    "a token echoed many times": Hostile("token-reply", _BAD + b'{"error": "', b"rt-old-canary-0123", b'"}'),
    "a token nearly echoed many times": Hostile("token-reply", _BAD + b'{"error": "', b"rt-old-canary-012", b'"}'),
    "control characters in an error": Hostile("token-reply", _BAD + b'{"error": "', b"\\u0000", b'"}'),
    "a long issuer": Hostile("discovery-reply", b'200 \n{"issuer": "', b"x", b'"}'),
    "a host of many labels": Hostile("discovery-reply", _DISCOVERED, b"x.", b'"}'),
    "a long address": Hostile("discovery-reply", _DISCOVERED + b"[", b":", b']"}'),
    "a port of many digits": Hostile("discovery-reply", _DISCOVERED + b"idp.example:", b"9", b'"}'),
    "many at signs": Hostile("discovery-reply", _DISCOVERED, b"@", b'"}'),
    "a host that grows when normalised": Hostile("discovery-reply", _DISCOVERED, "\ufdfa".encode(), b'"}'),
    "a stored number of many digits": Hostile("record", _STORED + b'"expires_at": ', b"9", b"}"),
    "a stored string of many digits": Hostile("record", _STORED + b'"expires_at": "1', b"_1", b'"}'),
    "a stored date that is long": Hostile("record", _STORED + b'"expires_at": "' + _DATE, b"9", b'"}'),
    "stored deep arrays": Hostile("record", _STORED + b'"extra": ', b"["),
    "stored small objects": Hostile("record", _STORED + b'"extra": {"x": [', b'{"":1},', b"{}]}}"),
    "a pause of many digits": _header("retry-after", b"", b"9"),
    "a pause and white space": _header("retry-after", b"1", b" ", b"x"),
    "a date of many times": _header("retry-after", b"Fri, 15 Jan 2027 ", b"08:"),
    "a date of many comments": _header("retry-after", b"Fri, 15 Jan 2027 08:00:00 ", b"(a) "),
    "a date of open comments": _header("retry-after", b"Fri, 15 Jan 2027 08:00:00 ", b"("),
    "a date far from Greenwich": _header("retry-after", b"Fri, 15 Jan 2027 08:00:00 +", b"9"),
    "a date in a far year": _header("retry-after", b"Fri, 15 Jan ", b"9", b" 08:00:00 GMT"),
    "a date of many commas": _header("retry-after", b"", b","),
    "a date of many dashes": _header("retry-after", b"", b"a-"),
    "a challenge of white space": _header("challenge", b"", b" ", b'"'),
    "a challenge of a scheme and white space": _header("challenge", b"Bearer", b" ", b'"'),
    "a challenge of commas": _header("challenge", b"Bearer ", b","),
    "a challenge of commas and white space": _header("challenge", b"Bearer", b" , ", b'"'),
    "a challenge of open strings": _header("challenge", b"Bearer ", b'a="'),
    "a challenge of odd strings": _header("challenge", b"Bearer ", b'a="b'),
    "a challenge of backslashes": _header("challenge", b'Bearer a="', b"\\"),
    "a challenge of one long name": _header("challenge", b"", b"a"),
    "a challenge of a realm of many words": _header("challenge", b"Basic realm=", b"a "),
    "a challenge of words and white space": _header("challenge", b"Basic realm=a", b" ", b"b="),
    "a challenge of odd single quotes": _header("challenge", b"Bearer ", b"a='b"),
    "a challenge of strings without a space between": _header("challenge", b"Bearer ", b'a="b"'),
    "a challenge of many schemes": _header("challenge", b"", b"a "),
    "a challenge of equal signs": _header("challenge", b"", b"a ="),
}

SHORTEST_BUDGET_SECONDS: Final = 0.2
BUDGET_SECONDS_PER_BYTE: Final = 8e-6
"""Several times what the slowest of these takes, and far less than a quadratic parser takes at full size."""


@pytest.mark.parametrize("hostile", HOSTILE.values(), ids=HOSTILE)
def test_r6_a5_reading_takes_time_in_proportion_to_the_size_at_most(hostile: Hostile) -> None:
    for size in (KIB, 16 * KIB, hostile.largest):  # growing, so that what is far too slow is found out early
        _check_time(hostile, size)


@pytest.mark.long
@pytest.mark.parametrize("hostile", HOSTILE.values(), ids=HOSTILE)
def test_r6_a5_reading_takes_time_in_proportion_to_the_size_up_to_the_largest_reply(hostile: Hostile) -> None:
    for size in (128 * KIB, 512 * KIB, MAX_REPLY_BYTES):
        _check_time(hostile, size)


MEMORY_SIZE: Final = 16 * KIB
LEAST_MEMORY_BYTES: Final = 128 * KIB
MEMORY_BYTES_PER_BYTE: Final = 160
"""Of ``{"":1},`` each seven bytes are two objects of 184 to 232 bytes, the decoded one and the kept one, in lists.

They are some 75 times as large; the check that a token set survives being stored, a part of the target, holds two more.
"""


@pytest.mark.parametrize("hostile", HOSTILE.values(), ids=HOSTILE)
def test_r6_reading_takes_memory_in_proportion_to_the_size_at_most(hostile: Hostile) -> None:
    data = hostile.of_size(MEMORY_SIZE)
    assert _peak_bytes(TARGETS[hostile.target].run, data) < LEAST_MEMORY_BYTES + MEMORY_BYTES_PER_BYTE * len(data)


@pytest.mark.parametrize("name", TARGETS)
def test_l2_reading_keeps_nothing(name: str) -> None:
    target = TARGETS[name]

    def run_all(times: int) -> None:
        for seed in target.seeds * times:
            target.run(seed)
        gc.collect()

    run_all(20)  # what is cached is cached now
    tracemalloc.start()
    try:
        run_all(1)
        before = tracemalloc.get_traced_memory()[0]
        run_all(200)
        assert tracemalloc.get_traced_memory()[0] - before < 64 * KIB
    finally:
        tracemalloc.stop()


def test_r6_the_largest_token_reply_there_can_be_is_still_a_renewal() -> None:
    members = b'200 \n{"access_token": "at", "x": "'
    run_token_reply(members + b"x" * (MAX_REPLY_BYTES - len(members) - 2) + b'"}')


def _check_time(hostile: Hostile, size: int) -> None:
    data = hostile.of_size(size)
    before = time.thread_time()  # not the wall's: the machine may be busy with other things
    TARGETS[hostile.target].run(data)
    assert time.thread_time() - before < SHORTEST_BUDGET_SECONDS + BUDGET_SECONDS_PER_BYTE * size


def _peak_bytes(run: Callable[[bytes], None], data: bytes) -> int:
    tracemalloc.start()
    try:
        run(data)
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
