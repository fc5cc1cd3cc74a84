"""Whatever bytes a token endpoint sends, reading them comes to one of three results, in time that fits their size."""

import gzip
import json
import time
import zlib
from collections.abc import Callable
from typing import Any, Final
from urllib.parse import urlencode

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kit.reply_cases import NOW
from kit.strategies import json_values
from tokenflight import profiles
from tokenflight.profiles import Profile
from tokenflight.providers._replies.classification import Failure
from tokenflight.providers._replies.pauses import MAX_RETRY_AFTER_SECONDS
from tokenflight.providers._replies.reading import Reading, Tokens, Unusable, read_token_reply
from tokenflight.providers._replies.redaction import MAX_SHOWN_LENGTH
from tokenflight.tokens import TokenSet

MIB: Final = 1024 * 1024
SECRET: Final = "rt-old-canary-0123"
SHORT_SECRET: Final = "s3cr3t"
VENDORS: Final = [value for value in vars(profiles).values() if isinstance(value, Profile)]


def read(status: int, headers: dict[str, str], body: bytes, profile: Profile = profiles.STANDARD) -> Reading:
    """Read a reply and check what holds for all."""
    reading = read_token_reply(status, headers, body, now=NOW, profile=profile, secrets=[SECRET, SHORT_SECRET])
    match reading:
        case Tokens(members):
            assert 200 <= status < 300
            tokens = TokenSet.from_response(members, received_at=NOW)
            assert tokens.access_token.isascii()
            assert tokens.token_type in {"Bearer", "DPoP"}
        case Unusable(problem, refresh_token):
            assert 200 <= status < 300
            assert problem.isprintable()
            assert refresh_token is None or (refresh_token.isprintable() and " " not in refresh_token)
        case Failure():
            _check_failure(reading)
    return reading


def _check_failure(failure: Failure) -> None:
    for text in (failure.code, failure.error, failure.error_description, failure.detail):
        assert text is None or (text.isprintable() and text.isascii() and len(text) <= 2 * MAX_SHOWN_LENGTH)
    assert SECRET not in f"{failure} {failure.claims}"
    assert failure.retry_after is None or 0 <= failure.retry_after <= MAX_RETRY_AFTER_SECONDS


member_names = st.sampled_from(
    [
        "access_token",
        "refresh_token",
        "token_type",
        "expires_in",
        "expires_at",
        "expires_on",
        "error",
        "errors",
        "body",
        "error_description",
        "message",
        "status",
        "ok",
        "authed_user",
        "accessToken",
        "refreshToken",
        "scope",
        "claims",
        "suberror",
        "retry_after",
        "refresh_in",
        "refresh_token_expires_in",
        "id_token",
        "code",
        "type",
        "data",
    ]
)
telling_values = st.sampled_from(
    [
        "at",
        "Bearer",
        "mac",
        "invalid_grant",
        "server_error",
        "ratelimited",
        3600,
        "3600",
        1e300,
        True,
        SECRET,
        f"x {SECRET}",
        "refresh token expired",
        "client secret wrong",
        SHORT_SECRET,
        "2027-01-15T08:00:00Z",
        -1,
        "�",
        "\u202e",
    ]
)
replies = st.dictionaries(
    member_names | st.text(max_size=5),
    json_values | telling_values | st.dictionaries(member_names, telling_values, max_size=4) | st.lists(telling_values),
    max_size=8,
)
encodings: Final[dict[str, Callable[[bytes], bytes]]] = {"gzip": gzip.compress, "deflate": zlib.compress, "br": bytes}
bodies = (
    st.binary(max_size=300)
    | replies.map(lambda reply: json.dumps(reply).encode())
    | replies.map(lambda reply: json.dumps([reply]).encode("utf-16"))
    | st.dictionaries(member_names, st.text(st.characters(codec="utf-8"), max_size=9)).map(
        lambda x: urlencode(x).encode()
    )
)
statuses = st.sampled_from([200, 400, 401, 403, 429, 503]) | st.integers(100, 599)
header_texts = st.text(max_size=40) | st.sampled_from(["gzip", "deflate", "br", "30", "text/html", "x; charset=utf-7"])
headers = st.dictionaries(
    st.sampled_from(["Content-Type", "content-encoding", "Retry-After", "X-RateLimit-Reset", "RateLimit"]), header_texts
)


@settings(max_examples=400)
@given(statuses, headers, bodies, st.sampled_from(VENDORS))
def test_v1_v2_r6_l1_whatever_arrives_comes_to_tokens_to_an_unusable_reply_or_to_a_failure(
    status: int, headers: dict[str, str], body: bytes, profile: Profile
) -> None:
    read(status, headers, body, profile)


@given(replies, st.sampled_from(sorted(encodings)), st.integers(0, 400), st.binary(max_size=3))
def test_v1_a_compressed_body_that_is_cut_or_damaged_comes_to_a_result(
    reply: dict[str, Any], coding: str, cut: int, noise: bytes
) -> None:
    body = encodings[coding](json.dumps(reply).encode())
    read(200, {"content-encoding": coding}, body[:cut] + noise)
    read(200, {"content-encoding": coding}, body[: cut % (len(body) + 1)] + noise + body[cut % (len(body) + 1) :])


GOOD: Final = {"access_token": "at-1", "token_type": "Bearer", "expires_in": 3600, "scope": 'a\\b "c" é'}


@given(st.permutations([*GOOD, "refresh_token"]), st.integers(0, 200), st.sampled_from([None, "data"]), st.booleans())
def test_v1_wherever_a_reply_is_cut_off_its_refresh_token_is_found_whole_or_not_at_all(
    order: list[str], cut: int, outer: str | None, is_ascii: bool
) -> None:
    reply: Any = {name: {**GOOD, "refresh_token": "rt-1-and-more"}[name] for name in order}
    text = json.dumps({outer: reply} if outer else reply, ensure_ascii=is_ascii)
    body = text.encode()[:cut]
    reading = read(200, {}, body)
    found = (
        reading.members.get("refresh_token") if isinstance(reading, Tokens) else getattr(reading, "refresh_token", 0)
    )
    assert found == ("rt-1-and-more" if b'"rt-1-and-more"' in body else None)


@given(st.text('rt-old-canary-0123 %/+=\\"', max_size=60), st.sampled_from([200, 400, 401, 429, 503]))
def test_l1_no_failure_shows_ten_characters_of_a_secret(text: str, status: int) -> None:
    failure = read(
        status, {}, json.dumps({"error": text, "error_description": text, "claims": text, "suberror": text}).encode()
    )
    shown = f"{failure} {getattr(failure, 'claims', '')}"
    assert not any(SECRET[start : start + 10] in shown for start in range(len(SECRET) - 9))


OK: Final = b'{"access_token":"at-1",'
BAD: Final = b'{"error":"odd",'
HOSTILE: Final[dict[str, tuple[int, dict[str, str], bytes, bytes, bytes]]] = {
    "white space": (200, {}, b"", b" ", b""),
    "open strings": (200, {}, OK, b'"', b""),
    "escaped quotes": (200, {}, OK + b'"', b'\\"', b""),
    "backslashes": (200, {}, OK + b'"', b"\\", b""),
    "refresh tokens": (200, {}, OK, b'"refresh_token":"rt",', b""),
    "refresh tokens that differ in depth": (200, {}, OK, b'"x":{"refresh_token":"rt",', b""),
    "refresh tokens in escaped strings": (200, {}, OK + b'"', b'\\"refresh_token\\":\\"rt\\",', b""),
    "refresh tokens in arrays": (200, {}, b'{"x":[', b'{"refresh_token":"rt"},', b"{}]}"),
    "arrays": (200, {}, OK + b'"x":', b"[", b""),
    "objects": (200, {}, OK + b'"x":', b'{"x":', b""),
    "a name many times": (200, {}, OK, b'"x":1,', b'"y":1}'),
    "a name many times with many values": (200, {}, OK + b'"x":1,', b'"x":[1],"x":[2],', b'"y":1}'),
    "aliases": (200, {}, OK, b'"expires_on":0,"Expires_On":0,', b'"y":1}'),
    "a long name": (200, {}, OK + b'"', b"a_", b'":1}'),
    "many names": (200, {}, OK + b'"x":{', b'"\\u0061":1,', b'"y":1}}'),
    "digits": (200, {}, OK + b'"expires_in":', b"9", b"}"),
    "digits in a string": (200, {}, OK + b'"expires_in":"', b"9", b'"}'),
    "a long token type": (200, {}, OK + b'"token_type":"', b"mac", b'"}'),
    "a form": (200, {}, b"access_token=at", b"&a=b", b""),
    "a form of equal signs": (200, {}, b"access_token", b"=", b""),
    "a form of percent signs": (200, {}, b"access_token=", b"%", b""),
    "a page's comments": (200, {}, b"", b"<!--", b""),
    "a page's dashes": (403, {"content-type": "text/html"}, b"<!--", b"-", b""),
    "elements": (200, {}, b"", b"<a>x</a>", b""),
    "open elements": (200, {}, b"", b"<a>", b""),
    "guards": (200, {}, b"", b")]}'", b""),
    "marks": (200, {}, b"", b"\xef\xbb\xbf", b""),
    "NULs": (200, {}, b"", b"\0", b""),
    "half a UTF-16": (200, {}, b"\xff\xfe", b"{", b""),
    "bytes that are no UTF-8": (200, {"content-type": "x; charset=shift_jis"}, b"", b"\xff", b""),
    "empty members of gzip": (200, {}, b"", gzip.compress(b""), b""),
    "an error's words": (400, {}, BAD + b'"error_description":"', b"refresh token ", b'"}'),
    "an error's word": (400, {}, BAD + b'"message":"', b"refresh", b'"}'),
    "an error's capitals": (400, {}, BAD + b'"message":"', b"A", b'"}'),
    "an error's clauses": (400, {}, BAD + b'"message":"', b"a. ", b'"}'),
    "an error that nearly echoes": (400, {}, b'{"error":"', b"rt-old-canary-012 ", b'"}'),
    "an error that echoes": (400, {}, b'{"error":"', b"rt-old-canary-0123", b'"}'),
    "an error that echoes short secrets": (400, {}, b'{"error":"', b"s3cr3t ", b'"}'),
    "many errors": (400, {}, b'{"errors":[', b'{"code":"x","message":"y"},', b"{}]}"),
    "errors by field": (400, {}, b'{"errors":{"refresh_token":[', b'"is invalid",', b'""]}}'),
    "errors in errors": (400, {}, b"", b'{"error":', b""),
    "long claims": (400, {}, BAD + b'"claims":"', b"c", b'"}'),
    "a pause in the body": (429, {}, BAD + b'"retry_after":"', b"9", b'"}'),
    "many pauses in the body": (429, {}, b'{"x":[', b'{"retry_after":null},', b"{}]}"),
    "a plain text": (400, {}, b"", b"refresh token ", b""),
}
BUDGET_SECONDS: Final = 1.0
"""At 1 MiB. Several times what the slowest takes; a hundredth of what one with a square in it does."""


@pytest.mark.parametrize("name", HOSTILE)
def test_v1_r6_n9_reading_a_mebibyte_takes_linear_time(name: str) -> None:
    status, headers, before, pattern, after = HOSTILE[name]
    taken: dict[int, float] = {}
    for size in (MIB // 16, MIB):  # the small one first, so that what is far too slow is found out early
        body = before + pattern * (size // len(pattern)) + after
        started = time.thread_time()
        read(status, headers, body)
        taken[size] = time.thread_time() - started
        assert taken[size] < BUDGET_SECONDS, taken


@pytest.mark.parametrize("name", ["retry-after", "ratelimit", "x-ratelimit-reset", "content-encoding", "content-type"])
@pytest.mark.parametrize("pattern", ["9", " ", ",", "a-", "(", "Fri, ", "reset=", "gzip,", "charset=", "1:"])
def test_v6_r6_a_long_header_takes_linear_time(name: str, pattern: str) -> None:
    started = time.thread_time()
    read(429, {name: pattern * (64 * 1024 // len(pattern))}, b"{}")
    assert time.thread_time() - started < BUDGET_SECONDS


def test_n9_a_long_stored_token_costs_an_error_little_time() -> None:
    secrets = ["".join(f"{number:06x}" for number in range(start, start + 20_000)) for start in (0, 50_000)]
    body = json.dumps({"error": "invalid_grant", "error_description": secrets[0][50_000:51_000]}).encode()
    started = time.thread_time()
    for _ in range(10):
        read_token_reply(400, {}, body, now=NOW, secrets=secrets)
    assert (time.thread_time() - started) / 10 < 0.2
