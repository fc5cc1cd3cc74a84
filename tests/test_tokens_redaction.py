"""L1, L4: whatever shows a token set shows no secret, and yet the real tokens are there for whoever sends them."""

import copy
import dataclasses
import io
import json
import logging
import pickle
import pprint
import reprlib
import string
import traceback
from collections.abc import Callable

import httpx
import pytest
import rich.console
import rich.pretty
import rich.traceback

from tokenflight.tokens import TokenResult, TokenSet

# Longer than what the usual tools shorten a string to, as a JWT is.
ACCESS_TOKEN, REFRESH_TOKEN, ID_TOKEN, EXTRA = (
    f"{name}-canary-" + "0123456789" * 20 for name in ("at", "rt", "id", "ex")
)
TOKENS = TokenSet(
    access_token=ACCESS_TOKEN,
    expires_at=1_800_000_060,
    refresh_token=REFRESH_TOKEN,
    scope="a b",
    id_token=ID_TOKEN,
    issued_at=1_800_000_000,
    extra={"device_secret": EXTRA, "nested": [{"deeper": EXTRA}]},
)


def logged(tokens: TokenSet) -> str:
    record = logging.LogRecord("app", logging.INFO, __file__, 1, "%s %r %s", (tokens, tokens, [tokens]), None)
    return logging.Formatter().format(record)


def rich_printed(tokens: TokenSet) -> str:
    console = rich.console.Console(file=io.StringIO(), width=500)
    console.print(tokens, dataclasses.asdict(tokens))
    return f"{console.file.getvalue()} {rich.pretty.pretty_repr(dataclasses.astuple(tokens), max_string=80)}"  # type: ignore[attr-defined] # a StringIO


SHOWN: dict[str, Callable[[TokenSet], str]] = {
    "repr": repr,
    "str": str,
    "format": format,
    "f-string": lambda tokens: f"{tokens} {tokens!r} {tokens!s} {tokens!a}",
    "percent": lambda tokens: "%s %r" % (tokens, tokens),  # noqa: UP031 - older code formats so
    "str.format": lambda tokens: "{} {!r} {t.access_token!r}".format(tokens, tokens, t=tokens),  # noqa: UP032 - as above
    "template": lambda tokens: string.Template("$t").substitute(t=tokens),
    "in a list": lambda tokens: str([tokens, {"tokens": tokens}]),
    "fields": lambda tokens: f"{tokens.access_token!r} {tokens.refresh_token!r} {tokens.id_token!r} {tokens.extra}",
    "asdict": lambda tokens: str(dataclasses.asdict(tokens)),
    "astuple": lambda tokens: str(dataclasses.astuple(tokens)),
    "replace": lambda tokens: str(dataclasses.asdict(dataclasses.replace(tokens, scope="c"))),
    "carrying over": lambda tokens: str(dataclasses.asdict(TokenSet("at2").carrying_over(tokens))),
    "pprint": lambda tokens: pprint.pformat(tokens) + pprint.pformat(dataclasses.asdict(tokens), width=40),
    "reprlib": lambda tokens: reprlib.repr(tokens) + reprlib.repr(list(dataclasses.astuple(tokens))),
    "copy": lambda tokens: str(dataclasses.asdict(copy.copy(tokens))),
    "deepcopy": lambda tokens: str(dataclasses.asdict(copy.deepcopy(tokens))),
    "from_dict": lambda tokens: str(dataclasses.asdict(TokenSet.from_dict(tokens.to_dict()))),
    "result": lambda tokens: f"{TokenResult(tokens, should_update=True)} {TokenResult(tokens, True).access_token!r}",
    "log": logged,
    "rich": rich_printed,
}


def secrets_in(text: str) -> list[str]:
    return [secret[:2] for secret in (ACCESS_TOKEN, REFRESH_TOKEN, ID_TOKEN, EXTRA) if secret[:12] in text]


@pytest.mark.parametrize("way", SHOWN)
def test_l1_l4_no_way_of_showing_a_token_set_shows_a_secret(way: str) -> None:
    text = SHOWN[way](TOKENS)

    assert text
    assert secrets_in(text) == []


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_l4_an_unpickled_token_set_is_the_same_and_still_shows_no_secret(protocol: int) -> None:
    again = pickle.loads(pickle.dumps(TOKENS, protocol))

    assert again == TOKENS
    assert secrets_in(f"{again} {dataclasses.asdict(again)} {again.access_token!r}") == []


@pytest.mark.parametrize("duplicate", [copy.copy, copy.deepcopy])
def test_l4_a_copied_token_set_is_equal(duplicate: Callable[[TokenSet], TokenSet]) -> None:
    assert duplicate(TOKENS) == TOKENS


def fail_with_tokens_at_hand(tokens: TokenSet) -> None:
    access_token, refresh_token, everything = tokens.access_token, tokens.refresh_token, dataclasses.asdict(tokens)
    raise ValueError(f"{len(access_token)} {len(refresh_token or '')} {len(everything)}")


def test_l1_the_locals_in_a_traceback_show_no_secret() -> None:
    with pytest.raises(ValueError, match="210") as caught:
        fail_with_tokens_at_hand(TOKENS)

    text = "".join(traceback.TracebackException.from_exception(caught.value, capture_locals=True).format())
    assert "everything = " in text
    assert secrets_in(text) == []


def test_l1_the_locals_in_a_rich_traceback_show_no_secret() -> None:
    with pytest.raises(ValueError, match="210") as caught:
        fail_with_tokens_at_hand(TOKENS)

    console = rich.console.Console(file=(output := io.StringIO()), width=500)
    console.print(rich.traceback.Traceback.from_exception(caught.type, caught.value, caught.tb, show_locals=True))
    assert "everything = " in output.getvalue()
    assert secrets_in(output.getvalue()) == []


def test_the_repr_tells_what_is_held_without_showing_it() -> None:
    assert repr(TOKENS) == "<TokenSet Bearer expires_at=1800000060 scope='a b' +refresh_token +id_token>"
    assert repr(TokenSet("at")) == "<TokenSet Bearer expires_at=None scope=None>"


def test_a_header_made_from_the_access_token_holds_the_real_one() -> None:
    headers = httpx.Headers({"Authorization": f"Bearer {TOKENS.access_token}"})

    assert headers["Authorization"] == f"Bearer {ACCESS_TOKEN}"


@pytest.mark.parametrize(
    "use",
    [
        str,
        "{}".format,
        lambda token: f"{token}",
        lambda token: "%s" % token,  # noqa: UP031 - older code formats so
        "".__add__,
        "".join,
        lambda token: token.encode().decode(),
        lambda token: json.loads(json.dumps(token)),
    ],
)
def test_whoever_uses_a_token_as_a_string_gets_the_real_one(use: Callable[[str], str]) -> None:
    assert use(TOKENS.access_token) == ACCESS_TOKEN
    assert type(use(TOKENS.access_token)) is str


def test_what_is_stored_holds_the_real_secrets() -> None:
    assert sorted(secrets_in(json.dumps(TOKENS.to_dict()))) == ["at", "ex", "id", "rt"]
