"""What a token request says, as plain data."""

from urllib.parse import parse_qsl

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tokenflight.providers.grants import Grant, refresh_token_grant
from tokenflight.providers.requests import Request, build_metadata_request, build_token_request, metadata_urls

ENDPOINT = "https://idp.example/token"
REFRESH_TOKEN = "1//0rt-canary+/=="


def refresh_request(refresh_token: str = "rt", *, scope: str | None = None) -> Request:
    return build_token_request(ENDPOINT, refresh_token_grant(refresh_token, scope=scope))


def test_a_refresh_request_is_a_form_with_the_grant() -> None:
    request = refresh_request("rt", scope="a")

    assert request.url == ENDPOINT
    assert request.headers == {"Accept": "application/json", "Content-Type": "application/x-www-form-urlencoded"}
    assert parse_qsl(request.content.decode(), strict_parsing=True) == [
        ("grant_type", "refresh_token"),
        ("refresh_token", "rt"),
        ("scope", "a"),
    ]


def test_a_refresh_request_asks_for_no_scope_unless_told_to() -> None:
    assert refresh_request("rt").parameters == {"grant_type": "refresh_token", "refresh_token": "rt"}


def test_any_grant_is_its_type_and_its_parameters() -> None:
    request = build_token_request(ENDPOINT, Grant("client_credentials", {"scope": "orders:read"}))

    assert request.parameters == {"grant_type": "client_credentials", "scope": "orders:read"}
    assert request.secrets == frozenset()


@pytest.mark.parametrize(
    ("token", "encoded"),
    [
        ("a+b/c==", b"a%2Bb%2Fc%3D%3D"),
        ("a&b=c", b"a%26b%3Dc"),
        ("a b", b"a+b"),
        ("a%20b", b"a%2520b"),
        ("é", b"%C3%A9"),
    ],
)
def test_odd_characters_of_a_refresh_token_are_form_encoded(token: str, encoded: bytes) -> None:
    assert refresh_request(token).content == b"grant_type=refresh_token&refresh_token=" + encoded


@given(st.text(st.characters(codec="utf-8"), min_size=1))
def test_a_server_reads_back_any_refresh_token(token: str) -> None:
    content = refresh_request(token).content

    assert content.isascii()
    assert dict(parse_qsl(content.decode(), keep_blank_values=True))["refresh_token"] == token


def test_a_request_without_parameters_has_no_content() -> None:
    assert Request("https://idp.example/", {}).content == b""


def test_adding_to_a_request_makes_another_and_keeps_what_it_has() -> None:
    request = Request(ENDPOINT, {"Accept": "a"}, {"scope": "b"}, frozenset({"c"}))
    more = request.adding(headers={"X-Proof": "d"}, parameters={"assertion": "e"}, secrets=["e"])

    assert more == Request(
        ENDPOINT, {"Accept": "a", "X-Proof": "d"}, {"scope": "b", "assertion": "e"}, frozenset({"c", "e"})
    )
    assert request == Request(ENDPOINT, {"Accept": "a"}, {"scope": "b"}, frozenset({"c"}))


def test_a_header_added_to_a_get_leaves_it_a_get() -> None:
    assert Request(ENDPOINT, {}).adding(headers={"X-Proof": "d"}).parameters is None


def test_l1_a_request_names_its_refresh_token_as_a_secret_and_shows_nothing_that_it_carries() -> None:
    request = refresh_request(REFRESH_TOKEN)

    assert request.secrets == {REFRESH_TOKEN}
    assert repr(request) == f"Request(url={ENDPOINT!r})"
    assert repr(refresh_token_grant(REFRESH_TOKEN)) == "Grant(grant_type='refresh_token')"


@pytest.mark.parametrize("slash", ["", "/"])
def test_r10_metadata_is_looked_for_below_the_issuer_and_between_its_host_and_path(slash: str) -> None:
    assert metadata_urls(f"https://idp.example:8443/a/b{slash}") == (
        "https://idp.example:8443/a/b/.well-known/openid-configuration",
        "https://idp.example:8443/.well-known/oauth-authorization-server/a/b",
        "https://idp.example:8443/.well-known/openid-configuration/a/b",
    )
    assert metadata_urls(f"https://idp.example{slash}") == (
        "https://idp.example/.well-known/openid-configuration",
        "https://idp.example/.well-known/oauth-authorization-server",
    )


def test_a_metadata_request_is_a_get_of_json_and_carries_no_secret() -> None:
    request = build_metadata_request("https://idp.example/metadata?policy=a")

    assert request == Request("https://idp.example/metadata?policy=a", {"Accept": "application/json"})
    assert (request.parameters, request.secrets) == (None, frozenset())
