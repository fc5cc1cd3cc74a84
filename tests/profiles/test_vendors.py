"""Each vendor's replies come to what the vendor means: one success, and the errors that it is known for."""

import json
from pathlib import Path
from typing import Any, Final

import pytest

from kit.reply_cases import NOW, SENT_REFRESH_TOKEN, outcome_of
from tokenflight import profiles
from tokenflight.providers._replies.reading import Reading, Tokens, read_token_reply
from tokenflight.tokens import TokenSet

VENDORS: Final[dict[str, Any]] = {
    name: replies
    for name, replies in json.loads((Path(__file__).parent / "vendor_replies.json").read_text(encoding="utf-8")).items()
    if name != "about"
}
ERRORS: Final = [(name, *error) for name, replies in VENDORS.items() for error in replies["errors"]]


def read(name: str, status: int, members: Any) -> Reading:
    body = json.dumps(members).encode()
    return read_token_reply(status, {}, body, now=NOW, profile=profiles.get(name), secrets=[SENT_REFRESH_TOKEN])


def test_every_vendor_has_replies_here() -> None:
    named = {value.name for value in vars(profiles).values() if isinstance(value, profiles.Profile)}
    assert VENDORS.keys() == named - {"standard"}


@pytest.mark.parametrize("name", VENDORS)
def test_v1_v4_v8_a_vendors_success_is_a_renewal(name: str) -> None:
    success, want = VENDORS[name]["success"], VENDORS[name]["want"]
    reading = read(name, 200, success)
    assert isinstance(reading, Tokens), reading
    tokens = TokenSet.from_response(reading.members, received_at=NOW)
    assert (tokens.access_token, tokens.refresh_token) == ("at-1", want["refresh_token"])
    assert (tokens.lifetime, tokens.token_type) == (want["lifetime"], "Bearer")
    profile = profiles.get(name)
    header, scheme = want.get("header", ["Authorization", "Bearer"])
    assert (profile.access_token_header, profile.access_token_scheme) == (header, scheme)


@pytest.mark.parametrize(("name", "status", "members", "outcome"), ERRORS, ids=[f"{e[0]}: {e[2]}"[:80] for e in ERRORS])
def test_v2_v3_v9_a_vendors_error_comes_to_what_it_means(name: str, status: int, members: Any, outcome: str) -> None:
    reading = read(name, status, members)
    assert outcome_of(reading) == outcome
    assert SENT_REFRESH_TOKEN not in repr(reading)
