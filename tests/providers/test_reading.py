"""V1: whatever form a reply has, its tokens are read, or the refresh token in it is found."""

import json
from typing import Any, Final

import pytest

from kit.reply_cases import NOW
from tokenflight import profiles
from tokenflight.profiles import Profile
from tokenflight.providers._replies.classification import Failure
from tokenflight.providers._replies.reading import Reading, Tokens, Unusable, read_token_reply
from tokenflight.tokens import TokenSet

REPLY: Final = {"access_token": "at-1", "token_type": "Bearer", "expires_in": 3600, "refresh_token": "rt-1"}


def read(body: bytes | str | Any, headers: dict[str, str] | None = None, **options: Any) -> Reading:
    if not isinstance(body, bytes | str):
        body = json.dumps(body)
    content = body.encode() if isinstance(body, str) else body
    return read_token_reply(options.pop("status", 200), headers or {}, content, now=NOW, **options)


def tokens_in(reading: Reading) -> TokenSet:
    assert isinstance(reading, Tokens), reading
    return TokenSet.from_response(reading.members, received_at=NOW)


def kept_in(reading: Reading) -> str | None:
    assert isinstance(reading, Unusable), reading
    return reading.refresh_token


# Token types


@pytest.mark.parametrize(
    "token_type",
    [
        "bearer",
        "BEARER",
        "Bearer ",
        "",
        None,
        "bot",
        "user",
        "User Access Token",
        "Application Access Token",
        "N_A",
        "JWT",
        "BearerToken",
        "BearerTokenBearerToken",
        "Zoho-oauthtoken",
        "token",
        "OAuth",
        "access_token",
        "macaroon",
        "popular",
        "urn:ietf:params:oauth:token-type:access_token",
        "urn:ietf:params:oauth:token-type:jwt",
    ],
)
def test_v1_an_unknown_token_type_is_a_bearer_token(token_type: str | None) -> None:
    tokens = tokens_in(read({**REPLY, "token_type": token_type}))
    assert (tokens.token_type, tokens.access_token, tokens.refresh_token) == ("Bearer", "at-1", "rt-1")


@pytest.mark.parametrize("token_type", ["DPoP", "dpop", "DPOP"])
def test_v1_a_dpop_token_stays_one(token_type: str) -> None:
    assert tokens_in(read({**REPLY, "token_type": token_type})).token_type == "DPoP"


@pytest.mark.parametrize(
    "token_type",
    [
        "mac",
        "MAC",
        "pop",
        "PoP",
        "hok",
        "HoK",
        "mac-sha-256",
        "at+pop",
        "urn:example:pop",
        "hmac",
        "ssh-cert",
        ["Bearer"],
        7,
    ],
)
def test_v1_r6_a_token_type_that_demands_a_proof_is_refused_and_the_refresh_token_kept(token_type: object) -> None:
    assert kept_in(read({**REPLY, "token_type": token_type})) == "rt-1"


# Tokens


@pytest.mark.parametrize("space", ["\n", "\r\n", " ", "\t", " \n ", "\n\n"])
@pytest.mark.parametrize("member", ["access_token", "refresh_token", "id_token"])
def test_v1_white_space_around_a_token_is_no_part_of_it(member: str, space: str) -> None:
    tokens = tokens_in(read({**REPLY, "id_token": "idt", member: f"{space}value{space}"}))
    assert getattr(tokens, member) == "value"


@pytest.mark.parametrize(
    "token", ["at\n1", "at\r\nX-Admin: 1", "at\x001", "at-é", "\ud800", "", "  ", 7, True, ["at"], {}, "null"]
)
def test_v1_an_access_token_that_no_header_can_carry_costs_no_refresh_token(token: object) -> None:
    assert kept_in(read({**REPLY, "access_token": token})) == "rt-1"


@pytest.mark.parametrize("nothing", [None, "", " ", False, 0, [], {}, "null", "None", "undefined"])
def test_v1_a_refresh_token_that_is_empty_is_none(nothing: object) -> None:
    assert tokens_in(read({**REPLY, "refresh_token": nothing})).refresh_token is None


@pytest.mark.parametrize("broken", ["rt\x001", "rt\n1", "\ud800", 7, True, ["rt-1"]])
def test_v1_where_the_refresh_token_itself_is_broken_the_outcome_is_unknown(broken: object) -> None:
    assert kept_in(read({**REPLY, "refresh_token": broken})) is None


@pytest.mark.parametrize(
    "names",
    [
        ("accessToken", "refreshToken", "tokenType", "expiresIn"),
        ("AccessToken", "RefreshToken", "TokenType", "ExpiresIn"),
        ("access-token", "refresh-token", "token-type", "expires-in"),
        ("ACCESS_TOKEN", "REFRESH_TOKEN", "TOKEN_TYPE", "EXPIRES_IN"),
    ],
)
def test_v1_members_are_known_in_any_case(names: tuple[str, ...]) -> None:
    tokens = tokens_in(read(dict(zip(names, ("at-1", "rt-1", "Bearer", 3600), strict=True))))
    assert (tokens.access_token, tokens.refresh_token, tokens.lifetime, tokens.extra) == ("at-1", "rt-1", 3600, {})


def test_v1_the_standards_name_wins_over_others() -> None:
    assert tokens_in(read({"accessToken": "at-0", **REPLY, "AccessToken": "at-2"})).access_token == "at-1"


# Names given twice


@pytest.mark.parametrize(
    "twice",
    [
        '"scope":"a","scope":"a"',
        '"refresh_token":"rt-1"',
        '"expires_in":3600',
        '"x":[1,{"y":2}],"x":[1,{"y":2}]',
        '"x":null,"x":null',
        '"access_token":"at-1"',
        '"x":{"y":1,"y":1}',
        '"x":1,"x":1.0',
        '"x":{},"x":{}',
        '"":"","":""',
    ],
)
def test_v1_a_name_given_twice_with_one_value_is_no_fault(twice: str) -> None:
    tokens = tokens_in(read(json.dumps(REPLY)[:-1] + f",{twice}}}"))
    assert (tokens.access_token, tokens.refresh_token) == ("at-1", "rt-1")


@pytest.mark.parametrize(
    ("twice", "kept"),
    [
        ('"access_token":"at-2"', "rt-1"),
        ('"expires_in":60', "rt-1"),
        ('"token_type":"mac"', "rt-1"),
        ('"scope":"a","scope":"b"', "rt-1"),
        ('"x":{"y":1,"y":2}', "rt-1"),
        ('"refresh_token":"rt-2"', "rt-2"),
    ],
)
def test_v1_r6_a_name_given_twice_with_two_values_makes_a_reply_unusable(twice: str, kept: str) -> None:
    assert kept_in(read(json.dumps(REPLY)[:-1] + f",{twice}}}")) == kept  # the last, as most readers of JSON have it


# One level down


def test_v1_tokens_one_level_down_are_found_and_used_only_where_a_profile_says_so() -> None:
    reply = {"status": 0, "body": REPLY}
    assert kept_in(read(reply)) == "rt-1"
    assert tokens_in(read(reply, profile=Profile(name="nested", tokens_at=("body",)))).refresh_token == "rt-1"


@pytest.mark.parametrize(
    "reply",
    [
        {"data": REPLY},
        {"result": {"tokens": REPLY}},
        {"response": [REPLY]},
        [REPLY],
        {"tokens": {"accessToken": "at-1", "refreshToken": "rt-1"}},
        {"AuthenticationResult": {"AccessToken": "at-1", "RefreshToken": "rt-1"}},
        {"code": 0, "message": "ok", "data": {"access_token": "at-1", "refresh_token": "rt-1"}},
        {"access": "at-1", "refresh": "rt-1"},
        {"access_token": {"token": "at-1"}, "refresh_token": {"token": "rt-1", "expires_in": 60}},
        {"a": {"refresh_token": "rt-1"}, "b": {"refresh_token": "rt-1"}},
        {"refresh_token": "rt-1", "old": {"refresh_token": "rt-2"}},
        {"statusCode": 200, "body": json.dumps(REPLY)},
        {"data": [json.dumps({"result": REPLY})]},
        {"refresh_token": "rt-1"},
    ],
)
def test_v1_a_refresh_token_is_found_wherever_it_is_the_only_one_at_its_depth(reply: object) -> None:
    assert kept_in(read(reply)) == "rt-1"


@pytest.mark.parametrize(
    "reply",
    [
        {"bot": {"refresh_token": "rt-1"}, "user": {"refresh_token": "rt-2"}},
        [{"refresh_token": "rt-1"}, {"refresh_token": "rt-2"}],
        {"data": {"refresh_token": "this is no token"}},
        {"refresh_token": "this is no token"},
        {"refresh": "rt-1"},
        {"refresh_token": "null"},
        {"body": json.dumps(REPLY)[:-1]},
        {"body": "{" * 5000},
        {},
        [],
        "rt-1",
        None,
    ],
)
def test_v1_a_refresh_token_that_is_in_doubt_is_not_taken(reply: object) -> None:
    assert kept_in(read(reply)) is None


def test_v1_another_grants_tokens_beside_are_not_mixed_in() -> None:
    login = {"access_token": "at-bot", "refresh_token": "rt-bot", "team": "T", "authed_user": {**REPLY, "id": "U"}}
    tokens = tokens_in(read(login, profile=profiles.SLACK_USER, is_refresh=False))
    assert (tokens.access_token, tokens.refresh_token) == ("at-1", "rt-1")
    assert tokens.extra == {"team": "T", "id": "U"}
    assert "rt-bot" not in json.dumps(tokens.to_dict())


def test_v1_the_bots_refresh_token_is_never_kept_for_the_user() -> None:
    bot = {"access_token": "at-bot", "token_type": "bot", "refresh_token": "rt-bot", "authed_user": {"id": "U"}}
    assert kept_in(read(bot, profile=profiles.SLACK_USER)) is None


# An error beside tokens


@pytest.mark.parametrize("nothing", [None, "", False, 0, "0", "none", "false", "ok", {}, []])
def test_v1_an_error_member_that_says_none_is_none(nothing: object) -> None:
    assert tokens_in(read({**REPLY, "error": nothing, "ok": True, "success": True})).refresh_token == "rt-1"


@pytest.mark.parametrize(
    "contradiction", [{"error": "invalid_grant"}, {"ok": False}, {"success": False}, {"error": {"code": 1}}]
)
def test_v1_a_reply_that_holds_tokens_and_an_error_is_unusable_and_keeps_the_refresh_token(
    contradiction: dict[str, object],
) -> None:
    assert kept_in(read({**REPLY, **contradiction})) == "rt-1"


@pytest.mark.parametrize(
    "reply",
    [
        {"error": "invalid_request", "refresh_token": "rt-0"},
        {"ok": False, "refresh_token": "invalid"},
        {"success": False, "errors": {"refresh_token": "invalid"}},
        {"error": {"refresh_token": "unknown"}},
    ],
)
def test_v1_no_refresh_token_is_taken_from_an_error(reply: object) -> None:
    assert isinstance(read(reply), Failure)


@pytest.mark.parametrize("status", [302, 400, 401, 403, 429, 500, 503])
def test_v1_tokens_in_a_reply_that_is_no_success_are_no_tokens(status: int) -> None:
    assert isinstance(read(REPLY, status=status), Failure)


@pytest.mark.parametrize("status", [200, 201, 203, 299])
def test_v1_any_success_will_do(status: int) -> None:
    assert tokens_in(read(REPLY, status=status)).refresh_token == "rt-1"


# Profiles


def test_v4_a_profile_knows_the_lifetime_that_a_reply_does_not_tell() -> None:
    known = Profile(name="known", assumed_lifetime=1800)
    assert tokens_in(read({"access_token": "at-1"}, profile=known)).lifetime == 1800
    assert tokens_in(read({"access_token": "at-1", "expires_in": 60}, profile=known)).lifetime == 60
    assert tokens_in(read({"access_token": "at-1"})).lifetime is None


def test_v1_a_refresh_token_that_must_not_be_replaced_is_left_out_of_a_renewal() -> None:
    assert tokens_in(read(REPLY, profile=profiles.WORKDAY)).refresh_token is None
    assert tokens_in(read(REPLY, profile=profiles.WORKDAY, is_refresh=False)).refresh_token == "rt-1"


def test_v8_members_that_no_standard_knows_live_on() -> None:
    reply = {**REPLY, "realmId": "123", "instance_url": "https://x.example", "team": {"id": "T1"}}
    assert tokens_in(read(reply)).extra == {"realmId": "123", "instance_url": "https://x.example", "team": {"id": "T1"}}


def test_v1_a_function_that_fails_costs_no_refresh_token_of_a_usable_place(caplog: pytest.LogCaptureFixture) -> None:
    def broken(members: Any) -> Any:
        raise KeyError("rt-canary")

    assert kept_in(read(REPLY, profile=Profile(name="broken", read_reply=broken))) is None
    assert "broken failed: KeyError" in caplog.text
    assert "canary" not in caplog.text


def test_l1_no_reading_shows_a_token() -> None:
    for reading in (read(REPLY), read({**REPLY, "access_token": 7})):
        assert "rt-1" not in repr(reading)
        assert "at-1" not in repr(reading)
