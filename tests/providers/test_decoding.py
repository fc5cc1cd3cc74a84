"""V1: compressed, mislabelled, damaged and cut-off bodies are read as far as they go, within a bound."""

import gzip
import json
import zlib
from typing import Final

import pytest

from kit.reply_cases import NOW
from tokenflight.providers._replies.classification import Failure
from tokenflight.providers._replies.decoding import MAX_NESTING, decode_body, decompress, is_nested_too_deeply
from tokenflight.providers._replies.reading import Reading, Tokens, Unusable, read_token_reply

REPLY: Final = {"access_token": "at-1", "token_type": "Bearer", "expires_in": 3600, "refresh_token": "rt-1"}
TEXT: Final = json.dumps(REPLY)
PLAIN: Final = TEXT.encode()


def raw_deflate(data: bytes) -> bytes:
    compressor = zlib.compressobj(wbits=-15)
    return compressor.compress(data) + compressor.flush()


def read(body: bytes, headers: dict[str, str] | None = None, status: int = 200, max_bytes: int = 1 << 20) -> Reading:
    return read_token_reply(status, headers or {}, body, now=NOW, max_bytes=max_bytes)


def refresh_token_in(reading: Reading) -> object:
    assert not isinstance(reading, Failure), reading
    return reading.refresh_token if isinstance(reading, Unusable) else reading.members["refresh_token"]


# Compression

CODED: Final = {
    "gzip": ("gzip", gzip.compress(PLAIN)),
    "GZIP": ("GZIP", gzip.compress(PLAIN)),
    "x-gzip": ("x-gzip", gzip.compress(PLAIN)),
    "gzip beside identity": ("identity, gzip", gzip.compress(PLAIN)),
    "gzip in two members": ("gzip", gzip.compress(PLAIN[:20]) + gzip.compress(PLAIN[20:])),
    "gzip twice": ("gzip, gzip", gzip.compress(gzip.compress(PLAIN))),
    "gzip that the header does not name": ("", gzip.compress(PLAIN)),
    "deflate that the header does not name": ("", zlib.compress(PLAIN)),
    "gzip said to be deflate": ("deflate", gzip.compress(PLAIN)),
    "gzip said to be brotli": ("br", gzip.compress(PLAIN)),
    "gzip said to be there twice": ("gzip, gzip", gzip.compress(PLAIN)),
    "gzip in quotes": ('"gzip"', gzip.compress(PLAIN)),
    "deflate said to be gzip": ("gzip", zlib.compress(PLAIN, 1)),
    "gzip with zeros after it": ("gzip", gzip.compress(PLAIN) + b"\0" * 8),
    "deflate": ("deflate", zlib.compress(PLAIN)),
    "deflate without zlib's header": ("Deflate", raw_deflate(PLAIN)),
    "deflate, then gzip": ("deflate, gzip", gzip.compress(zlib.compress(PLAIN))),
    "identity": ("Identity", PLAIN),
    "gzip that is none": ("gzip", PLAIN),
    "gzip that is none, with a byte order mark": ("gzip", b"\xef\xbb\xbf" + PLAIN + b"\n"),
    "deflate that is none": ("deflate", PLAIN),
    "brotli that is none": ("br", PLAIN),
    "a form said to be gzip": ("gzip", b"access_token=at-1&refresh_token=rt-1"),
    "an empty header": (" , ", PLAIN),
}


@pytest.mark.parametrize(("coding", "body"), CODED.values(), ids=CODED)
def test_v1_a_reply_is_read_however_it_was_compressed(coding: str, body: bytes) -> None:
    reading = read(body, {"Content-Encoding": coding})
    assert isinstance(reading, Tokens)
    assert refresh_token_in(reading) == "rt-1"


@pytest.mark.parametrize(
    ("coding", "body"),
    [
        ("br", b"\x0b\x02\x80"),
        ("zstd", b"\x28\xb5\x2f\xfd"),
        ("gzip", b"\x1f\x8b\x08\x00"),
        ("gzip, " * 9 + "gzip", PLAIN[1:]),
    ],
)
def test_v1_what_no_one_can_decompress_leaves_the_outcome_unknown(coding: str, body: bytes) -> None:
    reading = read(body, {"Content-Encoding": coding})
    assert isinstance(reading, Unusable)
    assert reading.refresh_token is None


@pytest.mark.parametrize(
    "compressed",
    [gzip.compress(PLAIN)[:-8], gzip.compress(PLAIN)[:-1] + b"x", zlib.compress(PLAIN)[:-2]],
    ids=["gzip without its checksum", "gzip with a wrong length", "deflate without its checksum"],
)
def test_v1_a_compressed_reply_whose_end_is_missing_or_wrong_keeps_its_refresh_token(compressed: bytes) -> None:
    coding = "gzip" if compressed.startswith(b"\x1f\x8b") else "deflate"
    reading = read(compressed, {"Content-Encoding": coding})
    assert isinstance(reading, Unusable)
    assert reading.refresh_token == "rt-1"


def test_v1_a_bomb_is_stopped_at_the_bound() -> None:
    bomb = gzip.compress(b" " * 50_000_000)
    data, flaw = decompress(bomb, "gzip", max_bytes=1000)
    assert (len(data), flaw) == (1000, "has more than 1000 bytes")
    assert isinstance(read(bomb, {"Content-Encoding": "gzip"}), Unusable)


def test_v1_the_refresh_token_before_the_bound_is_kept() -> None:
    long = gzip.compress(json.dumps({**REPLY, "padding": "x" * 10_000}).encode())
    reading = read(long, {"Content-Encoding": "gzip"}, max_bytes=500)
    assert isinstance(reading, Unusable)
    assert reading.refresh_token == "rt-1"


def test_v1_many_empty_members_of_gzip_take_no_time() -> None:
    assert decompress(gzip.compress(b"") * 40_000, "gzip", max_bytes=1000) == (b"", "is compressed in too many pieces")


# Charsets

ACCENTED: Final = json.dumps({**REPLY, "name": "José Müller"}, ensure_ascii=False)
CHARSETS: Final = {
    "UTF-8": ("", ACCENTED.encode()),
    "UTF-8 with a byte order mark": ("", ACCENTED.encode("utf-8-sig")),
    "UTF-8 said to be Latin-1": ("application/json; charset=iso-8859-1", ACCENTED.encode()),
    "Latin-1 said to be UTF-8": ("application/json; charset=utf-8", ACCENTED.encode("latin-1")),
    "Latin-1 without a word": ("application/json", ACCENTED.encode("latin-1")),
    "windows-1252": ('application/json;charset="windows-1252"', ACCENTED.encode("cp1252")),
    "ISO 8859-15": ("application/json; charset=ISO-8859-15", ACCENTED.encode("iso8859-15")),
    "UTF-16 with a byte order mark": ("", ACCENTED.encode("utf-16")),
    "UTF-16 without one": ("application/json; charset=utf-16", ACCENTED.encode("utf-16-le")),
    "UTF-32": ("", ACCENTED.encode("utf-32")),
    "an unknown charset": ("application/json; charset=klingon", ACCENTED.encode()),
    "a codec that is no charset": ("application/json; charset=rot13", ACCENTED.encode()),
    "a charset of nothing": ("application/json; charset=", ACCENTED.encode()),
}


@pytest.mark.parametrize(("content_type", "body"), CHARSETS.values(), ids=CHARSETS)
def test_v1_a_reply_is_read_in_whatever_charset(content_type: str, body: bytes) -> None:
    reading = read(body, {"Content-Type": content_type})
    assert isinstance(reading, Tokens)
    assert (refresh_token_in(reading), reading.members["name"]) == ("rt-1", "José Müller")


def test_v1_shift_jis_that_the_header_names_is_read() -> None:
    body = json.dumps({**REPLY, "name": "山田"}, ensure_ascii=False).encode("shift_jis")
    reading = read(body, {"Content-Type": "application/json; charset=Shift_JIS"})
    assert isinstance(reading, Tokens)
    assert reading.members["name"] == "山田"


# JSON and what is nearly JSON

NEARLY_JSON: Final = {
    "white space around": f"\r\n  {TEXT}\n\n",
    "a NUL at the end": TEXT + "\0",
    "a guard against scripts": ")]}'\n" + TEXT,
    "a guard that loops": "for (;;);" + TEXT,
    "JSON in a JSON string": json.dumps(TEXT),
    "a line feed in a string": TEXT[:-1] + ',"message":"two\nlines"}',
    "an unusual number": TEXT[:-1] + ',"x":NaN,"y":-Infinity}',
    "a name of nothing": TEXT[:-1] + ',"":null}',
    "a lone surrogate elsewhere": TEXT[:-1] + ',"x":"\\ud800"}',
}


@pytest.mark.parametrize("text", NEARLY_JSON.values(), ids=NEARLY_JSON)
def test_v1_what_is_nearly_json_is_read(text: str) -> None:
    assert isinstance(read(text.encode()), Tokens)


BROKEN: Final = {
    "cut off in a number": '{"refresh_token":"rt-1","access_token":"at-1","expires_in":36',
    "cut off in the access token": '{"refresh_token":"rt-1","access_token":"at-',
    "cut off in a name": '{"access_token":"at-1","refresh_token":"rt-1","expi',
    "cut off after a comma": '{"access_token":"at-1","refresh_token":"rt-1",',
    "cut off before the last brace": TEXT[:-1],
    "cut off one level down": '{"data":{"refresh_token":"rt-1","access_token":"at-1"',
    "cut off in a backslash": '{"refresh_token":"rt-1","x":"a\\',
    "a comma too much": '{"access_token":"at-1","refresh_token":"rt-1",}',
    "something after the end": TEXT + "\n<!-- cached -->",
    "the same twice": TEXT + TEXT,
    "a warning before": "<br />\n<b>Warning</b>: undefined index in /srv/token.php\n" + TEXT,
    "a comment": TEXT[:-1] + "/* new */}",
    "too long a number": TEXT[:-1] + ',"x":' + "9" * 5_000 + "}",
    "nested too deeply": TEXT[:-1] + ',"x":' + "[" * 900 + "]" * 900 + "}",
    "nested far too deeply": TEXT[:-1] + ',"x":' + "[" * 100_000,
    "an array": f"[{TEXT}]",
    "a callback": f"callback({TEXT})",
    "Python's notation": "{'access_token': 'at-1', 'refresh_token': 'rt-1', 'note': \"it's\"}",
    "XML": "<?xml version='1.0'?><OAuth><access_token>at-1</access_token><refresh_token>rt-1</refresh_token></OAuth>",
}


@pytest.mark.parametrize("text", BROKEN.values(), ids=BROKEN)
def test_v1_r6_a_reply_that_is_no_json_object_keeps_its_refresh_token(text: str) -> None:
    reading = read(text.encode())
    assert isinstance(reading, Unusable), reading
    assert reading.refresh_token == "rt-1"


LOST: Final = {
    "nothing": "",
    "white space": " \n",
    "a web page": "<!doctype html><title>Sign in</title>",
    "a web page with a token in a script": '<html><script>x = {"refresh_token": "rt-1"}</script>',
    "cut off in the refresh token": '{"access_token":"at-1","refresh_token":"rt-',
    "cut off in an escape": '{"access_token":"at-1","refresh_token":"rt-1\\"',
    "two refresh tokens in XML": "<a><refresh_token>rt-1</refresh_token><refresh_token>rt-2</refresh_token></a>",
    "two refresh tokens": '{"bot":{"refresh_token":"rt-1"},"user":{"refresh_token":"rt-2"},',
    "the refresh token in a string": '{"x":"\\"refresh_token\\":\\"rt-1\\"",',
    "a number": "7",
    "null": "null",
    "words": "OK",
    "an error that is cut off": '{"error_code":1,"error":"odd","refresh_token":"rt-0","x',
}


@pytest.mark.parametrize("text", LOST.values(), ids=LOST)
def test_v1_where_no_refresh_token_can_be_found_for_sure_the_outcome_is_unknown(text: str) -> None:
    reading = read(text.encode())
    assert isinstance(reading, Unusable), reading
    assert reading.refresh_token is None


def test_v2_an_error_that_is_cut_off_is_an_error() -> None:
    reading = read(b'{"error":"invalid_grant","error_description":"Token has been exp', status=400)
    assert isinstance(reading, Failure)
    assert (reading.verdict.value, reading.error) == ("refused", "invalid_grant")


# Forms

FORMS: Final = {
    "as the header says": ("application/x-www-form-urlencoded; charset=utf-8", "access_token=at-1&refresh_token=rt-1"),
    "as text": ("text/plain", "access_token=at-1&expires=3600&refresh_token=rt-1"),
    "as a page": ("text/html; charset=UTF-8", "refresh_token=rt-1&access_token=at-1&scope=a%2Cb&token_type=bearer"),
    "without a word": ("", "scope=a+b&access_token=at-1&refresh_token=rt-1"),
    "as JSON": ("application/json", "access_token=at-1&refresh_token=rt-1"),
    "with a line feed": ("", "access_token=at-1&refresh_token=rt-1\n"),
    "with an empty field": ("", "access_token=at-1&refresh_token=rt-1&error="),
    "with ampersands as in a page": ("", "access_token=at-1&amp;refresh_token=rt-1&amp;expires_in=3600"),
    "as a query": ("", "?access_token=at-1&refresh_token=rt-1"),
    "as a fragment": ("", "#refresh_token=rt-1&access_token=at-1"),
    "with a list": ("application/x-www-form-urlencoded", "scope[]=a&access_token=at-1&refresh_token=rt-1"),
    "twice the same": ("", "access_token=at-1&refresh_token=rt-1&refresh_token=rt-1"),
}


@pytest.mark.parametrize(("content_type", "text"), FORMS.values(), ids=FORMS)
def test_v1_a_form_is_read(content_type: str, text: str) -> None:
    reading = read(text.encode(), {"Content-Type": content_type})
    assert isinstance(reading, Tokens), reading
    assert refresh_token_in(reading) == "rt-1"


def test_v1_a_plus_sign_in_a_forms_token_may_have_been_left_as_it_is() -> None:
    reading = read(
        b"access_token=a+b%2Fc%3D%3D&refresh_token=r+t", {"Content-Type": "application/x-www-form-urlencoded"}
    )
    assert isinstance(reading, Tokens)
    assert (reading.members["access_token"], reading.members["refresh_token"]) == ("a+b/c==", "r+t")


def test_v1_json_that_is_said_to_be_a_form_is_json() -> None:
    assert isinstance(read(PLAIN, {"Content-Type": "application/x-www-form-urlencoded"}), Tokens)


def test_v1_a_form_that_gives_two_values_is_unusable() -> None:
    reading = read(b"access_token=at-1&access_token=at-2&refresh_token=rt-1")
    assert isinstance(reading, Unusable)
    assert reading.refresh_token == "rt-1"


def test_v2_an_error_in_a_form_with_status_200_is_an_error() -> None:
    reading = read(b"error=bad_refresh_token&error_description=The+refresh+token+passed+is+incorrect+or+expired.")
    assert isinstance(reading, Failure)
    assert (reading.verdict.value, reading.error) == ("refused", "bad_refresh_token")


# The parts


@pytest.mark.parametrize("depth", [1, MAX_NESTING, MAX_NESTING + 1, MAX_NESTING + 2, 500])
def test_nesting_is_counted_in_levels(depth: int) -> None:
    value: object = "leaf"
    for _ in range(depth):
        value = [value]
    assert is_nested_too_deeply(value) == (depth > MAX_NESTING)


def test_l1_a_body_shows_nothing_of_itself() -> None:
    shown = repr(decode_body({}, b'{"access_token":"canary"')) + repr(decode_body({}, b'{"access_token":"canary"}'))
    assert "canary" not in shown
