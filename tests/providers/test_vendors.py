"""A vendor's profile at work: what is sent, where and in which form, and what is made of the reply."""

import json
from dataclasses import replace
from typing import Any
from urllib.parse import parse_qsl

import httpx
import pytest
import respx
import time_machine

from kit.support import NOW
from tokenflight import profiles
from tokenflight.errors import ConfigurationError, ProviderMisconfigured, ReauthenticationRequired
from tokenflight.profiles import Profile
from tokenflight.providers import (
    AccessTokenHeader,
    ClientAuthentication,
    ClientSecretBasic,
    ClientSecretPost,
    OAuth2Provider,
    OIDCProvider,
    PublicClient,
)
from tokenflight.tokens import TokenSet

CLIENT = ClientSecretPost("app", "s3cret-canary")
HELD = TokenSet("at-canary-0123", refresh_token="rt-canary-0123", scope="a b", expires_at=NOW, issued_at=NOW - 3600)
REPLY = {"access_token": "at2", "token_type": "Bearer", "expires_in": 60}


async def renewed_at(
    profile: Profile,
    router: respx.MockRouter,
    *,
    client: ClientAuthentication = CLIENT,
    reply: Any = None,
    scope: str | None = None,
    **values: Any,
) -> tuple[httpx.Request, TokenSet]:
    """The request of a renewal at a vendor, and what came of the `reply`."""
    router.route().respond(json=REPLY if reply is None else reply)
    async with httpx.AsyncClient(transport=httpx.MockTransport(router.async_handler)) as http_client:
        provider = OAuth2Provider.of(profile, client, scope=scope, http_client=http_client, **values)
        tokens = await provider.renew("alice", HELD)
    return router.calls.last.request, tokens


def form(request: httpx.Request) -> dict[str, str]:
    return dict(parse_qsl(request.content.decode(), strict_parsing=True))


async def test_a_provider_of_a_profile_renews_at_the_vendors_endpoint_under_the_vendors_name(
    router: respx.MockRouter,
) -> None:
    request, _ = await renewed_at(profiles.SLACK, router)

    assert (request.method, str(request.url)) == ("POST", "https://slack.com/api/oauth.v2.access")
    assert OAuth2Provider.of("slack", CLIENT).name == "slack"
    assert OAuth2Provider.of(profiles.SLACK, CLIENT, name="chat").name == "chat"
    assert OAuth2Provider.of(profiles.SLACK, CLIENT).issuer == "https://slack.com"


async def test_what_an_endpoint_leaves_open_is_given_by_name(router: respx.MockRouter) -> None:
    request, _ = await renewed_at(profiles.ENTRA, router, tenant="contoso.onmicrosoft.com")

    assert request.url.path == "/contoso.onmicrosoft.com/oauth2/v2.0/token"


async def test_a_json_object_is_sent_where_the_vendor_wants_one(router: respx.MockRouter) -> None:
    request, _ = await renewed_at(profiles.NOTION, router, client=ClientSecretBasic("app", "s3cret-canary"))

    assert request.headers["Content-Type"] == "application/json"
    assert json.loads(request.content) == {"grant_type": "refresh_token", "refresh_token": HELD.refresh_token}
    assert request.headers["Authorization"].startswith("Basic ")


async def test_the_client_id_goes_by_the_vendors_name(router: respx.MockRouter) -> None:
    request, _ = await renewed_at(profiles.TIKTOK, router)

    sent = form(request)
    assert (sent["client_key"], "client_id" in sent) == ("app", False)


async def test_a_refresh_goes_to_an_endpoint_of_its_own_without_what_the_vendor_leaves_out(
    router: respx.MockRouter,
) -> None:
    request, _ = await renewed_at(profiles.FIGMA, router, client=ClientSecretBasic("app", "s3cret-canary"))

    assert str(request.url) == "https://api.figma.com/v1/oauth/refresh"
    assert form(request) == {"refresh_token": HELD.refresh_token}


async def test_the_access_token_renews_itself_where_the_vendor_has_no_refresh_token(router: respx.MockRouter) -> None:
    request, tokens = await renewed_at(profiles.INSTAGRAM, router)

    assert (request.method, request.content) == ("GET", b"")
    assert str(request.url.copy_with(query=None)) == "https://graph.instagram.com/refresh_access_token"
    assert dict(request.url.params) == {"grant_type": "ig_refresh_token", "access_token": HELD.access_token}
    assert tokens.access_token == "at2"


async def test_the_access_token_is_sent_with_the_client_where_the_vendor_wants_both(router: respx.MockRouter) -> None:
    request, _ = await renewed_at(profiles.FACEBOOK, router)

    assert dict(request.url.params) == {
        "grant_type": "fb_exchange_token",
        "fb_exchange_token": HELD.access_token,
        "client_id": "app",
        "client_secret": "s3cret-canary",
    }


def test_a_set_without_a_refresh_token_will_do_where_the_access_token_renews_itself() -> None:
    tokens = TokenSet("at")
    OAuth2Provider.of(profiles.FACEBOOK, CLIENT).require_refresh_token("alice", tokens)

    with pytest.raises(ReauthenticationRequired):
        OAuth2Provider.of(profiles.SLACK, CLIENT).require_refresh_token("alice", tokens)
    with pytest.raises(ReauthenticationRequired):
        OAuth2Provider.of(profiles.FACEBOOK, CLIENT).require_refresh_token("alice", TokenSet("", refresh_token="rt"))


async def test_further_parameters_and_headers_go_along(router: respx.MockRouter) -> None:
    request, _ = await renewed_at(profiles.ZENDESK, router, subdomain="acme")
    assert form(request)["expires_in"] == "1800"
    request, _ = await renewed_at(profiles.QUICKBOOKS, router)
    assert request.headers["x-include-refresh-token-hard-expires-in"] == "true"


async def test_an_app_names_itself_in_its_own_profile(router: respx.MockRouter) -> None:
    ours = replace(profiles.REDDIT, token_request_headers={"User-Agent": "web:example:1.0"})
    request, _ = await renewed_at(ours, router)

    assert request.headers["User-Agent"] == "web:example:1.0"


async def test_a_scope_is_separated_as_the_vendor_wants_it(router: respx.MockRouter) -> None:
    request, _ = await renewed_at(profiles.STRAVA, router, scope="read activity:read")

    assert form(request)["scope"] == "read,activity:read"


async def test_the_refresh_token_of_the_login_stays_where_the_vendor_says_so(router: respx.MockRouter) -> None:
    reply = {**REPLY, "refresh_token": "rt2"}
    _, tokens = await renewed_at(profiles.WORKDAY, router, reply=reply, host="wd2", tenant="acme")

    assert tokens.refresh_token == HELD.refresh_token


async def test_v4_a_life_that_the_reply_does_not_tell_is_the_vendors(
    router: respx.MockRouter, clock: time_machine.Traveller
) -> None:
    _, tokens = await renewed_at(profiles.STRIPE, router, reply={"access_token": "at2"})

    assert tokens.expires_at == NOW + 3600


async def test_v2_a_vendors_own_words_are_understood(router: respx.MockRouter, http_client: httpx.AsyncClient) -> None:
    router.route().respond(200, json={"error": "invalid_code"})
    provider = OAuth2Provider.of(profiles.ZOHO, CLIENT, http_client=http_client, region="eu")

    with pytest.raises(ReauthenticationRequired) as caught:
        await provider.renew("alice", HELD)
    assert (caught.value.code, caught.value.error) == ("refused", "invalid_code")


async def test_l1_a_vendor_that_repeats_a_query_shows_no_secret_of_it(
    router: respx.MockRouter, http_client: httpx.AsyncClient, caplog: pytest.LogCaptureFixture
) -> None:
    def repeat(request: httpx.Request) -> httpx.Response:
        return httpx.Response(400, json={"error": {"message": f"bad {request.url}", "type": "OAuthException"}})

    router.route().mock(side_effect=repeat)
    provider = OAuth2Provider.of(profiles.FACEBOOK, CLIENT, http_client=http_client)

    with pytest.raises(ProviderMisconfigured) as caught:
        await provider.renew("alice", HELD)
    assert "canary" not in f"{caught.value} {vars(caught.value)} {caplog.text}"


@pytest.mark.parametrize(
    ("profile", "header"),
    [
        (None, AccessTokenHeader()),
        (profiles.ZOHO, AccessTokenHeader(scheme="Zoho-oauthtoken")),
        ("shopify", AccessTokenHeader("X-Shopify-Access-Token", None)),
    ],
)
def test_a_provider_tells_how_the_api_takes_its_tokens(
    profile: Profile | str | None, header: AccessTokenHeader
) -> None:
    provider = OAuth2Provider("https://idp.example/token", CLIENT, name="idp", profile=profile)

    assert provider.access_token_header == header
    assert OIDCProvider("https://idp.example", CLIENT, profile=profile).access_token_header == header


# Discovery, and a profile beside it


@pytest.mark.parametrize("profile", [profiles.OKTA, "okta"])
async def test_a_discovered_provider_takes_the_vendors_quirks_and_its_own_addresses(
    profile: Profile | str, router: respx.MockRouter, http_client: httpx.AsyncClient
) -> None:
    issuer = "https://acme.okta.example"
    router.get(path="/.well-known/openid-configuration").respond(
        json={"issuer": issuer, "token_endpoint": f"{issuer}/v1/token"}
    )
    endpoint = router.post(f"{issuer}/v1/token").respond(json=REPLY)
    provider = OIDCProvider(issuer, CLIENT, http_client=http_client, profile=profile)

    assert (await provider.renew("alice", HELD)).access_token == "at2"
    assert endpoint.call_count == 1


# Wrong arguments


def test_a_profile_that_does_not_exist_is_named_with_the_nearest_one() -> None:
    for make in (
        lambda: OAuth2Provider.of("slakc", CLIENT),
        lambda: OAuth2Provider("https://idp.example/token", CLIENT, name="idp", profile="slakc"),
        lambda: OIDCProvider("https://idp.example", CLIENT, profile="slakc"),
    ):
        with pytest.raises(ConfigurationError, match="did you mean 'slack'"):
            make()


def test_what_is_no_profile_is_named() -> None:
    no_profile: Any = {"name": "slack"}
    with pytest.raises(ConfigurationError, match="profile"):
        OAuth2Provider("https://idp.example/token", CLIENT, name="idp", profile=no_profile)
    with pytest.raises(ConfigurationError, match="profile"):
        OAuth2Provider.of(no_profile, CLIENT)


@pytest.mark.parametrize("values", [{}, {"shop": "acme"}, {"tenant": "acme", "shop": "acme"}, {"tenant": "a/b"}])
def test_what_an_endpoint_leaves_open_has_to_be_given_and_nothing_else(values: dict[str, Any]) -> None:
    with pytest.raises(ConfigurationError, match="tenant"):
        OAuth2Provider.of(profiles.ENTRA, PublicClient("app"), **values)


def test_a_profile_without_a_token_endpoint_makes_no_provider() -> None:
    with pytest.raises(ConfigurationError, match="no token endpoint"):
        OAuth2Provider.of(profiles.STANDARD, CLIENT)


@pytest.mark.parametrize("endpoint", ["http://idp.example/refresh", "https://{shard}.idp.example/refresh"])
def test_r10_a_refresh_endpoint_that_can_not_be_sent_a_secret_is_refused(endpoint: str) -> None:
    ours = replace(profiles.STANDARD, refresh_endpoint=endpoint)
    with pytest.raises(ConfigurationError):
        OAuth2Provider("https://idp.example/token", CLIENT, name="idp", profile=ours)
