"""L1: a provider's words are shown without the secrets that they repeat, and no word is cut to pieces for it."""

import base64
import html
from urllib.parse import quote, quote_plus

import pytest
from hypothesis import assume, example, given
from hypothesis import strategies as st

from tokenflight.providers._replies.redaction import MAX_SHOWN_LENGTH, Redactor

LONG = "1//0rt-canary+/secret="
ENCODINGS = {
    "as it is": LONG,
    "percent-encoded": quote(LONG, safe=""),
    "percent-encoded in small letters": quote(LONG, safe="").lower(),
    "percent-encoded twice": quote(quote(LONG, safe="")),
    "form-encoded": quote_plus(LONG),
    "for HTML": html.escape(LONG),
    "with backslashes": LONG.replace("/", "\\/"),
    "in capitals": LONG.upper(),
    "in hexadecimal": LONG.encode().hex(),
    "in base64": base64.b64encode(LONG.encode()).decode(),
    "in base64 for URLs": base64.urlsafe_b64encode(LONG.encode()).decode().rstrip("="),
    "in a Basic header": base64.b64encode(f"app:{LONG}".encode()).decode(),
    "in another Basic header": base64.b64encode(f"application:{LONG}".encode()).decode(),
    "its beginning": LONG[:12],
    "its end": LONG[-12:],
    "its middle": LONG[5:15],
    "cut short": LONG[:10] + "...",
}


@pytest.mark.parametrize("echo", ENCODINGS.values(), ids=ENCODINGS)
@pytest.mark.parametrize("around", ["{}", "token {} is invalid", "token={}&x", "x{}x", '{{"token":"{}"}}'])
def test_l1_a_text_that_repeats_ten_characters_of_a_long_secret_is_not_shown(around: str, echo: str) -> None:
    assert Redactor([LONG]).shown(around.format(echo)) is None


@pytest.mark.parametrize("text", ["Refresh token expired", "1//0rt-ca is all", "nothing", "canary+/s"])
def test_what_shares_less_is_shown(text: str) -> None:
    assert Redactor([LONG]).shown(text) == text


def test_l1_of_a_very_long_secret_the_beginning_and_the_end_are_known() -> None:
    secret = "".join(f"{number:05d}" for number in range(10_000))
    assert Redactor([secret]).shown(f"see {secret[:40]}") is None
    assert Redactor([secret]).shown(f"see {secret[-40:]}") is None


SHORT = "s3 cr&t+"


@pytest.mark.parametrize(
    "echo",
    [
        SHORT,
        quote(SHORT),
        quote_plus(SHORT),
        quote_plus(SHORT).lower(),
        html.escape(SHORT),
        base64.b64encode(SHORT.encode()).decode(),
        SHORT.encode().hex(),
        SHORT.upper(),
    ],
)
def test_l1_a_short_secret_is_replaced_where_it_stands_alone(echo: str) -> None:
    assert Redactor([SHORT]).shown(f"wrong secret {echo}!") == "wrong secret ***!"


@pytest.mark.parametrize(
    ("secret", "text"),
    [
        ("app", "This application is not allowed"),
        ("a", "an apparent mistake"),
        ("grant", "invalid_grant"),
        ("token", "access_token tokens tokenized"),
        ("client", "clients and invalid_client"),
        ("12", "AADSTS50126: error 1234"),
    ],
)
def test_a_short_secret_mangles_no_word(secret: str, text: str) -> None:
    assert Redactor([secret]).shown(text) == text


@pytest.mark.parametrize(
    ("secret", "text", "shown"),
    [
        ("rt-0", "Refresh token invalid: rt-0", "Refresh token invalid: ***"),
        ("rt-0", "(rt-0)", "(***)"),
        ("rt-0", "rt-0", "***"),
        ("rt-0", "rt-01", "rt-01"),
        ("1234", "code 1234, 12345", "code ***, 12345"),
        ("+", "1 + 1", "1 *** 1"),
    ],
)
def test_l1_a_short_secret_alone_is_hidden(secret: str, text: str, shown: str) -> None:
    assert Redactor([secret]).shown(text) == shown


@pytest.mark.parametrize("secret", ["abcabcab", "passw0rds"])
def test_l1_a_text_with_a_secret_of_eight_characters_inside_a_word_is_not_shown(secret: str) -> None:
    assert Redactor([secret]).shown(f"x{secret}x") is None
    assert Redactor([secret]).shown(f"a {secret} b") == "a *** b"


@pytest.mark.parametrize(
    "code", ["invalid_grant", "invalid_client", "server_error", "bad_refresh_token", "odd", "E0000047"]
)
@pytest.mark.parametrize("secret", ["grant", "client", "error", "token", "invalid", "bad", "o", "E"])
def test_a_short_secret_mangles_no_code(code: str, secret: str) -> None:
    assert Redactor([secret]).shown_code(code) == code


def test_l1_a_code_that_is_a_secret_is_hidden() -> None:
    assert Redactor(["odd"]).shown_code("odd") == "***"
    assert Redactor(["abcdefghijkl"]).shown_code("abcdefghijkl") is None
    assert Redactor(["abcdefghijkl"]).shown_code("x_abcdefghijk") is None


def test_a_code_of_the_standards_is_shown_whatever_the_secret() -> None:
    assert Redactor(["the-invalid_grant-secret"]).shown_code("invalid_grant") == "invalid_grant"
    assert Redactor(["the-invalid_grant-secret"]).shown_code("invalid_grants") is None


def test_a_code_with_spaces_is_a_sentence() -> None:
    assert Redactor(["rt-0"]).shown_code("bad rt-0") == "bad ***"


def test_l1_a_text_is_shortened_and_its_control_characters_go() -> None:
    assert Redactor().shown("one\r\ntwo\x00\u202ethree") == "one two three"
    assert Redactor().shown("x" * 10_000) == "x" * MAX_SHOWN_LENGTH
    assert Redactor().shown("\x1b[31m") == "[31m"


@pytest.mark.parametrize("value", [None, 7, [], {}, "", " \n", "\x00"])
def test_what_is_no_text_or_empty_is_not_shown(value: object) -> None:
    assert Redactor([LONG, "x"]).shown(value) is None
    assert Redactor([LONG, "x"]).shown_code(value) is None


def test_empty_secrets_are_none() -> None:
    assert Redactor(["", ""]).shown("a text") == "a text"


@given(
    st.text("abc123_-", min_size=8, max_size=40),
    st.text(max_size=300),
    st.text(max_size=300),
    st.sampled_from(["", " "]),
)
@example("abcabcab", "x" * 195, "", "")
def test_l1_no_surroundings_make_a_text_show_a_secret(secret: str, before: str, after: str, space: str) -> None:
    shown = Redactor([secret]).shown(f"{before}{space}{secret}{space}{after}")
    assert secret not in (shown or "")


@given(st.lists(st.text(min_size=1, max_size=30), max_size=3), st.text(max_size=300))
def test_whatever_the_secrets_a_text_is_shown_or_not(secrets: list[str], text: str) -> None:
    shown = Redactor(secrets).shown(text)
    assert shown is None or (len(shown) <= MAX_SHOWN_LENGTH * 3 and shown.isascii() and shown.isprintable())
    Redactor(secrets).shown_code(text)


@given(st.text("0123456789abcdef", min_size=10, max_size=60), st.integers(0, 50), st.integers(10, 60))
def test_l1_any_ten_characters_in_a_row_are_an_echo(secret: str, start: int, length: int) -> None:
    part = secret[start : start + length]
    assume(len(part) >= 10)
    assert Redactor([secret]).shown(f"token {part} is bad") is None
