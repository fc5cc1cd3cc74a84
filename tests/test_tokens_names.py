"""V5, C1: by which names the members of other programs' token sets are known, and which one counts of several."""

from collections.abc import Iterator
from typing import Any, Final

import pytest
import time_machine

from tokenflight.errors import StoreCorrupted
from tokenflight.tokens import TokenSet

NOW: Final = 1_800_000_000
HOUR: Final = 3600


@pytest.fixture(scope="module", autouse=True)
def at_now() -> Iterator[None]:
    """The clock stands still at `NOW`."""
    with time_machine.travel(NOW, tick=False):
        yield


def stored(**members: Any) -> TokenSet:
    return TokenSet.from_dict({"access_token": "at", **members})


@pytest.mark.parametrize(
    "name",
    [
        *("access_token", "accessToken", "AccessToken", "access-token", "ACCESS_TOKEN", "accesstoken", "token"),
        *("oauth_token", "oauthToken", "oauth_access_token"),
    ],
)
@pytest.mark.parametrize("refresh_name", ["refreshToken", "refreshtoken", "oauth_refresh_token"])
def test_a_name_is_known_however_its_words_are_joined(name: str, refresh_name: str) -> None:
    assert TokenSet.from_dict({name: "at", refresh_name: "rt"}) == TokenSet("at", refresh_token="rt")


def test_a_token_is_read_without_the_white_space_around_it() -> None:
    assert TokenSet.from_dict({"access_token": "at\n", "refresh_token": " rt"}) == TokenSet("at", refresh_token="rt")
    assert TokenSet.from_dict({"access_token": " ", "refresh_token": "rt"}) == TokenSet("", refresh_token="rt")


def test_a_token_of_oauth_1_is_none_because_it_is_signed_with_and_never_sent() -> None:
    with pytest.raises(StoreCorrupted, match="no access_token"):
        TokenSet.from_dict({"oauth_token": "at", "oauth_token_secret": "secret"})


@pytest.mark.parametrize(
    "name",
    [
        *("expires_at", "expiresAt", "ExpiresAt", "expires_on", "expiresOn", "expiry", "expiry_date", "expiryDate"),
        *("expires", "expiration", "expirationTime", "expireTime", "access_token_expires_at", "accessTokenExpiresAt"),
        *("token_expires_at", "tokenExpiry", "expires_at_ms", "valid_until"),
        *("expirationTimeMilliseconds", "ExpiresUtc", "expirationTimestamp", "expires_time", "expireAt", "expired_at"),
        *("exp", "expiryTime", "expires_date", "accessTokenExpires", "access_expires_at", "validTo", ".expires"),
        "expiresOnTimestamp",
        "expires_in",  # some programs write the moment there
    ],
)
def test_v5_the_expiry_is_known_by_each_of_its_names(name: str) -> None:
    assert stored(**{name: (NOW + HOUR) * 1000}) == TokenSet("at", expires_at=NOW + HOUR)


BEGINNINGS: Final = [
    *("issued_at", "issuedAt", "createdAt", "obtained_at", "cached_at", "last_refresh", "created", ".issued", "iat"),
    *(
        "auth_time",
        "creation_time",
        "retrieved_at",
        "timestamp",
        "refreshedAt",
        "token_created_at",
        "access_token_stored_at",
    ),
]


@pytest.mark.parametrize(
    "name",
    [
        "expires_in",
        "expiresIn",
        "expires_in_sec",
        "expires",
        "token_expires_in",
        "expiryIn",
        "ttl",
        "accessTokenLifetime",
    ],
)
@pytest.mark.parametrize("began", BEGINNINGS)
def test_v5_a_lifetime_and_its_beginning_are_known_by_each_of_their_names(name: str, began: str) -> None:
    tokens = stored(**{name: "3600", began: "2027-01-15T08:00:00Z"})

    assert tokens == TokenSet("at", expires_at=NOW + HOUR, issued_at=NOW)


@pytest.mark.parametrize("name", ["expires_in_ms", "expiresInMillis", "expires_in_milliseconds"])
def test_v5_a_lifetime_whose_name_says_milliseconds_is_in_milliseconds(name: str) -> None:
    assert stored(**{name: "60000"}, issued_at=NOW) == TokenSet("at", expires_at=NOW + 60, issued_at=NOW)
    assert stored(**{name: "soon"}, issued_at=NOW).expires_at is None
    reply = TokenSet.from_response({"access_token": "at", name: 60_000}, received_at=NOW)
    assert reply == TokenSet("at", expires_at=NOW + 60, issued_at=NOW)


def test_v5_a_time_that_names_the_access_token_counts_before_that_of_a_session() -> None:
    tokens = stored(expires="2027-02-15T08:00:00Z", access_token_expires=(NOW + HOUR) * 1000)

    assert tokens.expires_at == NOW + HOUR


def test_v5_when_a_row_was_last_changed_tells_nothing_about_its_token() -> None:
    tokens = stored(refresh_token="rt", expires_in=HOUR, updated_at=NOW)

    assert (tokens.expires_at, tokens.extra) == (0, {"updated_at": NOW})


def test_where_two_members_say_the_same_thing_the_earlier_name_counts_if_it_can_be_read() -> None:
    assert stored(expires_at=NOW + 1, expiry=NOW + 2).expires_at == NOW + 1
    assert stored(expires_at="soon", expiry=NOW + 2).expires_at == NOW + 2
    assert stored(expires_at="soon", expires_in=60, issued_at=NOW).expires_at == NOW + 60


@pytest.mark.parametrize("scopes", [["a", "b"], ("a", "b"), {"a", "b"}, "a b"])
@pytest.mark.parametrize("name", ["scope", "scopes"])
def test_scopes_are_read_from_a_text_or_a_collection(name: str, scopes: object) -> None:
    assert stored(**{name: scopes}).scope == "a b"


@pytest.mark.parametrize("token_type", ["bot", "User Access Token", 5, None])
def test_v1_a_stored_token_type_that_is_unknown_is_that_of_a_bearer_token(token_type: object) -> None:
    assert stored(token_type=token_type).token_type == "Bearer"


@pytest.mark.parametrize("token_type", ["DPoP", "mac"])
def test_a_stored_token_type_that_demands_a_proof_stays(token_type: str) -> None:
    assert stored(token_type=token_type).token_type == token_type


def test_the_secret_of_a_token_is_the_refresh_token_with_django_allauth_alone() -> None:
    assert TokenSet.from_dict({"token": "at", "token_secret": "rt"}).refresh_token == "rt"
    assert TokenSet.from_dict({"token": "at", "token_secret": ""}).refresh_token is None
    assert TokenSet.from_dict({"token": "at", "token_secret": "x", "refresh_token": "rt"}).refresh_token == "rt"
    assert stored(token_secret="of something else").refresh_token is None
