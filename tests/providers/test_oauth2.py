"""A provider known by its token endpoint: its arguments, its requests, and what it never sends."""

from typing import Any

import httpx
import pytest
import respx
import time_machine

from kit.routes import forms
from kit.support import NOW
from tokenflight.errors import (
    ConfigurationError,
    ProviderMisconfigured,
    ReauthenticationRequired,
    TokenflightError,
    TokenRefreshError,
)
from tokenflight.providers.base import BaseProvider, Provider
from tokenflight.providers.client_auth import ClientSecretBasic, ClientSecretPost, PublicClient
from tokenflight.providers.metadata import ServerMetadata
from tokenflight.providers.oauth2 import OAuth2Provider
from tokenflight.providers.requests import Request
from tokenflight.tokens import TokenSet

ENDPOINT = "https://idp.example:8443/tenant/token"
HELD = TokenSet("at", refresh_token="rt", scope="a b", expires_at=NOW, issued_at=NOW - 3600)
CLIENT = PublicClient("app")


REPLY = {"access_token": "at2", "expires_in": 60, "refresh_token": "rt2"}


@pytest.fixture
def endpoint(router: respx.MockRouter) -> respx.Route:
    return router.post(ENDPOINT).respond(json=REPLY)


@pytest.fixture
def provider(http_client: httpx.AsyncClient, endpoint: respx.Route) -> OAuth2Provider:
    return OAuth2Provider(ENDPOINT, CLIENT, name="idp", http_client=http_client)


# Renewing


async def test_a_renewal_is_one_request_with_the_refresh_token(
    provider: OAuth2Provider, endpoint: respx.Route, clock: time_machine.Traveller
) -> None:
    tokens = await provider.renew("alice", HELD)

    assert tokens == TokenSet("at2", refresh_token="rt2", scope="a b", expires_at=NOW + 60, issued_at=NOW)
    assert forms(endpoint) == [{"grant_type": "refresh_token", "refresh_token": "rt", "client_id": "app"}]


async def test_r2_a_slow_reply_never_looks_fresher_than_it_is(
    provider: OAuth2Provider, endpoint: respx.Route, clock: time_machine.Traveller
) -> None:
    def reply_slowly(_: httpx.Request) -> httpx.Response:
        clock.shift(20)
        return httpx.Response(200, json=REPLY)

    endpoint.mock(side_effect=reply_slowly)
    tokens = await provider.renew("alice", HELD)

    assert (tokens.issued_at, tokens.expires_at) == (NOW, NOW + 60)


async def test_r1_a_provider_that_does_not_rotate_keeps_the_refresh_token(
    provider: OAuth2Provider, endpoint: respx.Route
) -> None:
    endpoint.respond(json={"access_token": "at2"})

    assert (await provider.renew("alice", HELD)).refresh_token == "rt"


async def test_a_narrower_scope_is_asked_for_if_wanted(http_client: httpx.AsyncClient, endpoint: respx.Route) -> None:
    await OAuth2Provider(ENDPOINT, CLIENT, name="idp", scope="a", http_client=http_client).renew("alice", HELD)

    assert forms(endpoint)[0]["scope"] == "a"


async def test_no_scope_is_asked_for_otherwise(provider: OAuth2Provider, endpoint: respx.Route) -> None:
    await provider.renew("alice", HELD)

    assert "scope" not in forms(endpoint)[0]


async def test_a_user_without_a_token_set_is_sent_to_login_and_nothing_is_sent(
    provider: OAuth2Provider, endpoint: respx.Route
) -> None:
    with pytest.raises(ReauthenticationRequired, match="no token set is stored for user 'alice'") as caught:
        await provider.renew("alice", None)

    assert (caught.value.reason, caught.value.user_id, caught.value.provider) == ("no_tokens", "alice", "idp")
    assert not endpoint.called


async def test_a_user_without_a_refresh_token_is_sent_to_login_and_nothing_is_sent(
    provider: OAuth2Provider, endpoint: respx.Route
) -> None:
    with pytest.raises(ReauthenticationRequired, match="no refresh token") as caught:
        await provider.renew("alice", TokenSet("at"))

    assert (caught.value.reason, caught.value.user_id, caught.value.provider) == ("no_refresh_token", "alice", "idp")
    assert not endpoint.called


async def test_an_error_names_the_user_and_the_provider(provider: OAuth2Provider, endpoint: respx.Route) -> None:
    endpoint.respond(401, json={"error": "invalid_client"})

    with pytest.raises(ProviderMisconfigured) as caught:
        await provider.renew("alice", HELD)
    assert (caught.value.user_id, caught.value.provider, caught.value.code) == ("alice", "idp", "invalid_client")


async def test_l1_a_client_secret_that_the_provider_echoes_is_not_in_the_error(
    http_client: httpx.AsyncClient, endpoint: respx.Route
) -> None:
    said = "no client app with the secret cs-canary-0123"
    endpoint.respond(401, json={"error": "invalid_client", "error_description": said})
    client = ClientSecretPost("app", "cs-canary-0123")

    with pytest.raises(TokenRefreshError) as caught:
        await OAuth2Provider(ENDPOINT, client, name="idp", http_client=http_client).renew("alice", HELD)
    assert "canary" not in f"{caught.value} {vars(caught.value)}"


async def test_l1_a_refresh_token_that_no_form_can_carry_is_an_error_of_the_tree_without_it(
    provider: OAuth2Provider, endpoint: respx.Route
) -> None:
    with pytest.raises(TokenflightError) as caught:
        await provider.renew("alice", TokenSet("at", refresh_token="rt-canary-\ud800"))

    assert "canary" not in f"{caught.value} {caught.value.__cause__!r}"
    assert not endpoint.called


# What it is


def test_it_has_the_name_it_was_given() -> None:
    assert OAuth2Provider(ENDPOINT, CLIENT, name="idp").name == "idp"


def test_r11_its_issuer_is_the_origin_of_the_token_endpoint() -> None:
    assert OAuth2Provider(ENDPOINT, CLIENT, name="idp").issuer == "https://idp.example:8443"


def test_l1_its_repr_shows_no_secret() -> None:
    provider = OAuth2Provider(ENDPOINT, ClientSecretBasic("app", "s3cret"), name="idp")

    assert repr(provider) == f"<OAuth2Provider 'idp' at {ENDPOINT}>"


async def test_it_is_a_provider_that_can_be_closed_before_it_has_sent_anything() -> None:
    provider: Provider = OAuth2Provider(ENDPOINT, CLIENT, name="idp")

    assert isinstance(provider, BaseProvider)
    await provider.aclose()


async def test_closing_leaves_a_given_http_client_open_and_the_provider_usable(
    provider: OAuth2Provider, http_client: httpx.AsyncClient
) -> None:
    await provider.aclose()

    assert not http_client.is_closed
    assert (await provider.renew("alice", HELD)).access_token == "at2"


# Wrong arguments


@pytest.mark.parametrize(
    ("argument", "value"),
    [
        *(
            ("token_endpoint", value)
            for value in (None, "", "/token", "http://idp.example/token", b"https://idp.example")
        ),
        *(
            ("client", value)
            for value in (None, "app", ("app", "s3cret"), httpx.BasicAuth("app", "s3cret"), PublicClient)
        ),
        *(("name", value) for value in (None, "", 5, b"idp")),
        *(("scope", value) for value in (5, ["a", "b"], b"a", "")),
        *(("http_client", value) for value in (httpx.Client(), "client", httpx.AsyncClient)),
        *(("timeout", value) for value in (None, 0, -1, float("nan"), float("inf"), True, "30", 60.5, 10**400)),
    ],
    ids=lambda value: f"{type(value).__name__} {str(value)[:20]}",
)
def test_a_wrong_argument_is_named(argument: str, value: object) -> None:
    arguments: dict[str, Any] = {"token_endpoint": ENDPOINT, "client": CLIENT, "name": "idp", argument: value}

    with pytest.raises(ConfigurationError, match=rf"\b{argument}\b"):
        OAuth2Provider(**arguments)


def test_l1_a_client_given_as_a_pair_is_refused_without_showing_the_secret() -> None:
    pair: Any = ("app", "s3cret")

    with pytest.raises(ConfigurationError) as caught:
        OAuth2Provider(ENDPOINT, pair, name="idp")
    assert "s3cret" not in str(caught.value)


class AssertionClient:
    """An app's own client authentication."""

    client_id = "app"

    async def authenticate(self, request: Request, server: ServerMetadata) -> Request:
        assertion = f"signed for {server.token_endpoint}"
        return request.adding(headers={"X-Client": "app"}, parameters={"client_assertion": assertion})


async def test_anything_that_authenticates_a_request_is_a_client_authentication(
    http_client: httpx.AsyncClient, endpoint: respx.Route
) -> None:
    await OAuth2Provider(ENDPOINT, AssertionClient(), name="idp", http_client=http_client).renew("alice", HELD)

    assert forms(endpoint)[0]["client_assertion"] == f"signed for {ENDPOINT}"
    assert endpoint.calls.last.request.headers["X-Client"] == "app"


@pytest.mark.parametrize(
    ("endpoint", "issuer"),
    [
        ("https://idp.example/token", "https://idp.example"),
        ("https://IDP.example:443/other/token", "https://idp.example"),
        ("https://idp.example:8443/token", "https://idp.example:8443"),
        ("http://[::1]:80/token", "http://[::1]"),
        ("http://127.0.0.1:8000/token", "http://127.0.0.1:8000"),
    ],
)
def test_r11_the_issuer_is_the_origin_of_the_endpoint_however_it_is_written(endpoint: str, issuer: str) -> None:
    assert OAuth2Provider(endpoint, PublicClient("app"), name="idp").issuer == issuer


async def test_an_endpoint_that_no_request_can_be_made_for_is_a_misconfiguration() -> None:
    provider = OAuth2Provider("https://idp.example/" + "a" * 70_000, PublicClient("app"), name="idp")
    with pytest.raises(ProviderMisconfigured) as caught:
        await provider.renew("alice", TokenSet("access", refresh_token="refresh"))
    assert caught.value.code == "unusable_request"
