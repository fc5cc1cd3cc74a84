"""System C: a provider known by its issuer; its endpoint is discovered once and then used by everybody."""

import asyncio
from typing import Any
from urllib.parse import parse_qsl

import httpx
import pytest
import respx
import time_machine

from kit.routes import forms
from kit.support import NOW
from tokenflight.errors import ConfigurationError, ProviderUnavailable, ReauthenticationRequired, TokenRefreshError
from tokenflight.providers.base import BaseProvider, Provider
from tokenflight.providers.client_auth import ClientSecretBasic, ClientSecretPost, PublicClient
from tokenflight.providers.discovery import MAX_AGE_SECONDS
from tokenflight.providers.oidc import OIDCProvider
from tokenflight.tokens import TokenSet

ISSUER = "https://idp.example/tenant"
ENDPOINT = "https://idp.example/token"
CLIENT = PublicClient("app")


def successor(request: httpx.Request) -> httpx.Response:
    """Each refresh token `rt-<user>-<n>` has the successor `rt-<user>-<n + 1>`."""
    spent = dict(parse_qsl(request.content.decode()))["refresh_token"]
    user, number = spent.removeprefix("rt-").rsplit("-", 1)
    return httpx.Response(
        200, json={"access_token": f"at-{user}", "refresh_token": f"rt-{user}-{int(number) + 1}", "expires_in": 60}
    )


def metadata(**changes: str) -> dict[str, str]:
    return {"issuer": ISSUER, "token_endpoint": ENDPOINT, **changes}


@pytest.fixture
def discovery(router: respx.MockRouter) -> respx.Route:
    return router.get(path__regex=r"/\.well-known/openid-configuration$").respond(json=metadata())


@pytest.fixture
def endpoint(router: respx.MockRouter) -> respx.Route:
    return router.post(ENDPOINT).mock(side_effect=successor)


@pytest.fixture
def provider(http_client: httpx.AsyncClient, discovery: respx.Route, endpoint: respx.Route) -> OIDCProvider:
    return OIDCProvider(ISSUER, CLIENT, http_client=http_client)


def held(user: str) -> TokenSet:
    return TokenSet("at", refresh_token=f"rt-{user}-1", scope="openid")


async def test_a_renewal_goes_to_the_discovered_token_endpoint(
    provider: OIDCProvider, endpoint: respx.Route, clock: time_machine.Traveller
) -> None:
    tokens = await provider.renew("alice", held("alice"))

    assert tokens == TokenSet(
        "at-alice", refresh_token="rt-alice-2", scope="openid", expires_at=NOW + 60, issued_at=NOW
    )
    assert str(endpoint.calls.last.request.url) == ENDPOINT


async def test_system_c_r10_discovery_is_loaded_once_for_a_hundred_users_at_once_and_for_all_after_them(
    provider: OIDCProvider, discovery: respx.Route, endpoint: respx.Route
) -> None:
    users = [f"user{number}" for number in range(100)]
    renewed = await asyncio.gather(*(provider.renew(user, held(user)) for user in users))
    await provider.renew("alice", held("alice"))

    assert [tokens.access_token for tokens in renewed] == [f"at-{user}" for user in users]
    assert (discovery.call_count, endpoint.call_count) == (1, 101)


async def test_r10_a_token_endpoint_that_moved_is_found_after_a_day(
    provider: OIDCProvider,
    router: respx.MockRouter,
    discovery: respx.Route,
    endpoint: respx.Route,
    clock: time_machine.Traveller,
) -> None:
    await provider.renew("alice", held("alice"))
    moved = router.post("https://idp.example/v2/token").mock(side_effect=successor)
    discovery.respond(json=metadata(token_endpoint="https://idp.example/v2/token"))
    clock.shift(MAX_AGE_SECONDS)
    await provider.renew("alice", held("alice"))

    assert (endpoint.call_count, moved.call_count) == (1, 1)


async def test_r2_the_time_that_discovery_takes_is_not_counted_as_life_of_the_token(
    provider: OIDCProvider, discovery: respx.Route, clock: time_machine.Traveller
) -> None:
    def reply_slowly(_: httpx.Request) -> httpx.Response:
        clock.shift(20)
        return httpx.Response(200, json=metadata())

    discovery.mock(side_effect=reply_slowly)
    tokens = await provider.renew("alice", held("alice"))

    assert (tokens.issued_at, tokens.expires_at) == (NOW + 20, NOW + 80)


@pytest.mark.parametrize(("tokens", "reason"), [(None, "no_tokens"), (TokenSet("at"), "no_refresh_token")])
async def test_a_user_with_nothing_to_renew_with_is_sent_to_login_and_nothing_is_sent(
    tokens: TokenSet | None, reason: str, provider: OIDCProvider, router: respx.MockRouter
) -> None:
    with pytest.raises(ReauthenticationRequired) as caught:
        await provider.renew("alice", tokens)

    assert (caught.value.reason, caught.value.user_id, caught.value.provider) == (reason, "alice", ISSUER)
    assert not router.calls


async def test_t1_a_discovery_that_fails_is_transient_and_no_refresh_token_is_sent(
    provider: OIDCProvider, discovery: respx.Route, endpoint: respx.Route
) -> None:
    discovery.respond(503)

    with pytest.raises(ProviderUnavailable):
        await provider.renew("alice", held("alice"))
    assert not endpoint.called


async def test_a_discovery_that_fails_names_each_user_whose_renewal_failed(
    provider: OIDCProvider, discovery: respx.Route
) -> None:
    discovery.respond(503)

    errors = await asyncio.gather(
        *(provider.renew(user, held(user)) for user in ("alice", "bob")), return_exceptions=True
    )
    named = [(error.user_id, error.provider) for error in errors if isinstance(error, TokenRefreshError)]
    assert named == [("alice", ISSUER), ("bob", ISSUER)]


async def test_r11_the_refresh_token_is_not_sent_to_an_endpoint_of_another_issuer(
    provider: OIDCProvider, discovery: respx.Route, endpoint: respx.Route
) -> None:
    discovery.respond(json=metadata(issuer="https://other.example"))

    with pytest.raises(TokenRefreshError) as caught:
        await provider.renew("alice", held("alice"))
    assert caught.value.code == "issuer_mismatch"
    assert not endpoint.called


@pytest.mark.usefixtures("discovery")
async def test_a_scope_and_the_clients_proof_are_sent(http_client: httpx.AsyncClient, endpoint: respx.Route) -> None:
    client = ClientSecretPost("app", "s3cret")
    await OIDCProvider(ISSUER, client, scope="openid", http_client=http_client).renew("alice", held("alice"))

    [form] = forms(endpoint)
    assert (form["scope"], form["client_secret"]) == ("openid", "s3cret")


def test_its_name_is_the_issuer_unless_it_is_given_one() -> None:
    assert OIDCProvider(ISSUER, CLIENT).name == ISSUER
    assert OIDCProvider(ISSUER, CLIENT, name="idp").name == "idp"


def test_r11_its_issuer_is_the_very_string_it_was_given() -> None:
    assert OIDCProvider(f"{ISSUER}/", CLIENT, name="idp").issuer == f"{ISSUER}/"


def test_l1_its_repr_shows_no_secret() -> None:
    assert (
        repr(OIDCProvider(ISSUER, ClientSecretBasic("app", "s3cret"), name="idp"))
        == f"<OIDCProvider 'idp' at {ISSUER}>"
    )


async def test_it_is_a_provider_that_can_be_closed_before_it_has_sent_anything() -> None:
    provider: Provider = OIDCProvider(ISSUER, CLIENT)

    assert isinstance(provider, BaseProvider)
    await provider.aclose()


async def test_closing_leaves_a_given_http_client_open_and_the_provider_usable(
    provider: OIDCProvider, http_client: httpx.AsyncClient, discovery: respx.Route
) -> None:
    await provider.renew("alice", held("alice"))
    await provider.aclose()

    assert not http_client.is_closed
    assert (await provider.renew("alice", held("alice"))).access_token == "at-alice"
    assert discovery.call_count == 1


@pytest.mark.parametrize(
    ("argument", "value"),
    [
        *(("issuer", value) for value in (None, "", "idp.example", "http://idp.example", "https://u:p@idp.example")),
        *(("issuer", value) for value in (f"{ISSUER}/.well-known/openid-configuration", f"{ISSUER}?a=b", f" {ISSUER}")),
        *(
            ("metadata_url", value)
            for value in (5, "", "/metadata", "http://idp.example/", f"{ISSUER}#a", f"{ISSUER} ")
        ),
        *(("client", value) for value in (None, "app", ("app", "s3cret"), PublicClient)),
        *(("name", value) for value in ("", 5, b"idp")),
        *(("scope", value) for value in (5, ["openid"], b"openid", "")),
        *(("http_client", value) for value in (httpx.Client(), "client", httpx.AsyncClient)),
        *(("timeout", value) for value in (None, 0, -1, float("nan"), float("inf"), True, "30", 60.5, 10**400)),
    ],
    ids=lambda value: f"{type(value).__name__} {str(value)[:20]}",
)
def test_a_wrong_argument_is_named(argument: str, value: object) -> None:
    arguments: dict[str, Any] = {"issuer": ISSUER, "client": CLIENT, argument: value}

    with pytest.raises(ConfigurationError, match=rf"\b{argument}\b"):
        OIDCProvider(**arguments)
