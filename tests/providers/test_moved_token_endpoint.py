"""V10: a token endpoint that is gone is looked for once more in the metadata, and asked once more where that says."""

import asyncio
from typing import Any, Final

import httpx
import pytest
import respx
import time_machine

from kit.routes import forms
from tokenflight.errors import ProviderMisconfigured, ProviderUnavailable, ReauthenticationRequired, TokenRefreshError
from tokenflight.providers.client_auth import ClientSecretPost, PublicClient
from tokenflight.providers.discovery import COOL_DOWN_SECONDS
from tokenflight.providers.metadata import ServerMetadata
from tokenflight.providers.oauth2 import OAuth2Provider
from tokenflight.providers.oidc import OIDCProvider
from tokenflight.providers.requests import Request
from tokenflight.tokens import TokenSet

ISSUER: Final = "https://idp.example"
OLD: Final = "https://idp.example/token"
NEW: Final = "https://login.idp.example/v2/token"
CLIENT: Final = PublicClient("app")
HELD: Final = TokenSet("at", refresh_token="rt")
GONE: Final = pytest.mark.parametrize("status", [404, 405, 410])


def document(**changes: Any) -> dict[str, Any]:
    return {"issuer": ISSUER, "token_endpoint": OLD, **changes}


@pytest.fixture
def metadata(router: respx.MockRouter) -> respx.Route:
    return router.get(f"{ISSUER}/.well-known/openid-configuration").respond(json=document())


@pytest.fixture
def old(router: respx.MockRouter) -> respx.Route:
    return router.post(OLD).respond(json={"access_token": "from the old one"})


@pytest.fixture
def new(router: respx.MockRouter) -> respx.Route:
    return router.post(NEW).respond(json={"access_token": "from the new one"})


@pytest.fixture
async def provider(
    http_client: httpx.AsyncClient, metadata: respx.Route, old: respx.Route, clock: time_machine.Traveller
) -> OIDCProvider:
    """A provider that has the metadata already."""
    provider = OIDCProvider(ISSUER, CLIENT, http_client=http_client)
    await provider.renew("alice", HELD)
    metadata.calls.clear()
    old.calls.clear()
    return provider


async def failure_of(provider: OIDCProvider | OAuth2Provider, user: str = "alice") -> TokenRefreshError:
    with pytest.raises(TokenRefreshError) as caught:
        await provider.renew(user, HELD)
    assert (caught.value.user_id, caught.value.provider) == (user, provider.name)
    return caught.value


# Found again


@GONE
@pytest.mark.parametrize("body", [b"", b"<h1>Not Found</h1>", b'{"error": "Not Found", "status": 404}'])
async def test_v10_a_token_endpoint_that_moved_is_found_at_once(
    status: int, body: bytes, provider: OIDCProvider, metadata: respx.Route, old: respx.Route, new: respx.Route
) -> None:
    old.respond(status, content=body)
    metadata.respond(json=document(token_endpoint=NEW))

    assert (await provider.renew("alice", HELD)).access_token == "from the new one"
    assert (await provider.renew("bob", HELD)).access_token == "from the new one"
    assert (old.call_count, metadata.call_count, new.call_count) == (1, 1, 2)
    assert forms(new)[0] == {"grant_type": "refresh_token", "refresh_token": "rt", "client_id": "app"}


async def test_v10_a_client_proves_itself_to_the_endpoint_that_is_asked(
    http_client: httpx.AsyncClient, metadata: respx.Route, old: respx.Route, new: respx.Route
) -> None:
    class SigningClient(PublicClient):
        async def authenticate(self, request: Request, server: ServerMetadata) -> Request:
            return request.adding(parameters={"client_assertion": f"for {server.token_endpoint}"})

    old.respond(404)
    metadata.mock(side_effect=[httpx.Response(200, json=document(token_endpoint=endpoint)) for endpoint in (OLD, NEW)])
    await OIDCProvider(ISSUER, SigningClient("app"), http_client=http_client).renew("alice", HELD)

    assert [form["client_assertion"] for form in forms(old) + forms(new)] == [f"for {OLD}", f"for {NEW}"]


async def test_v10_an_endpoint_that_is_back_by_then_is_asked_again(
    provider: OIDCProvider, metadata: respx.Route, old: respx.Route
) -> None:
    old.mock(side_effect=[httpx.Response(404), httpx.Response(200, json={"access_token": "at2"})])

    assert (await provider.renew("alice", HELD)).access_token == "at2"
    assert (old.call_count, metadata.call_count) == (2, 1)


async def test_v10_a_hundred_users_at_once_share_one_reload(
    provider: OIDCProvider, metadata: respx.Route, old: respx.Route, new: respx.Route
) -> None:
    old.respond(404)
    metadata.respond(json=document(token_endpoint=NEW))
    renewed = await asyncio.gather(*(provider.renew(f"user{number}", HELD) for number in range(100)))

    assert {tokens.access_token for tokens in renewed} == {"from the new one"}
    assert (old.call_count, metadata.call_count, new.call_count) == (100, 1, 100)


# Not found again


@GONE
async def test_v10_an_endpoint_that_stays_gone_is_asked_twice_and_the_error_is_the_usual_one(
    status: int, provider: OIDCProvider, metadata: respx.Route, old: respx.Route
) -> None:
    old.respond(status)
    error = await failure_of(provider)

    assert (type(error), error.code) == (ProviderMisconfigured, f"http_{status}")
    assert error.__context__ is None
    assert (old.call_count, metadata.call_count) == (2, 1)


async def test_v10_an_endpoint_that_stays_gone_causes_one_reload_in_a_while(
    provider: OIDCProvider, metadata: respx.Route, old: respx.Route, clock: time_machine.Traveller
) -> None:
    old.respond(404)
    for number in range(10):
        assert (await failure_of(provider, f"user{number}")).code == "http_404"
    assert (old.call_count, metadata.call_count) == (11, 1)

    clock.shift(COOL_DOWN_SECONDS)
    await failure_of(provider)
    assert (old.call_count, metadata.call_count) == (13, 2)


@pytest.mark.parametrize(
    "changes",
    [
        {"issuer": "https://evil.example", "token_endpoint": "https://evil.example/token"},
        {"issuer": f"{ISSUER}/", "token_endpoint": "https://evil.example/token"},
        {"token_endpoint": "http://idp.example/token"},
        {"token_endpoint": "http://localhost/token"},
        {"token_endpoint": None},
    ],
    ids=str,
)
async def test_r11_a_bad_document_sends_the_refresh_token_nowhere_and_the_error_is_that_of_the_endpoint(
    changes: dict[str, Any], provider: OIDCProvider, metadata: respx.Route, old: respx.Route, router: respx.MockRouter
) -> None:
    elsewhere = [router.post(url) for url in ("https://evil.example/token", "http://localhost/token")]
    old.respond(404)
    metadata.respond(json=document(**changes))

    assert (await failure_of(provider)).code == "http_404"
    assert (old.call_count, metadata.call_count) == (1, 1)
    assert not any(route.called for route in elsewhere)


@pytest.mark.parametrize("status", [302, 404, 503])
async def test_v10_where_the_document_can_not_be_had_the_error_is_that_of_the_endpoint(
    status: int, provider: OIDCProvider, metadata: respx.Route, old: respx.Route
) -> None:
    old.respond(404)
    metadata.respond(status)

    assert [(await failure_of(provider)).code for _ in range(3)] == ["http_404"] * 3
    assert (old.call_count, metadata.call_count) == (3, 1)
    old.respond(json={"access_token": "at2"})
    assert (await provider.renew("alice", HELD)).access_token == "at2"


async def test_s6_a_document_that_takes_too_long_leaves_no_time_for_a_second_request(
    http_client: httpx.AsyncClient, metadata: respx.Route, old: respx.Route
) -> None:
    async def hang(_: httpx.Request) -> httpx.Response:
        await asyncio.Event().wait()
        return httpx.Response(503)

    provider = OIDCProvider(ISSUER, CLIENT, http_client=http_client, timeout=0.1)
    await provider.renew("alice", HELD)
    old.respond(404)
    metadata.mock(side_effect=hang)
    async with asyncio.timeout(5):
        error = await failure_of(provider)

    assert error.code == "http_404"
    assert old.call_count == 2


# Not looked for


@pytest.mark.parametrize(
    ("status", "error", "kind"),
    [
        (404, "invalid_grant", ReauthenticationRequired),
        (404, "temporarily_unavailable", ProviderUnavailable),
        (400, "invalid_request", ProviderMisconfigured),
        (401, "invalid_client", ProviderMisconfigured),
        (403, "access_denied", ProviderMisconfigured),
        (301, "moved", ProviderMisconfigured),
        (500, "server_error", ProviderUnavailable),
        (503, "temporarily_unavailable", ProviderUnavailable),
    ],
)
async def test_v10_what_a_token_endpoint_says_is_said_once(
    status: int,
    error: str,
    kind: type[TokenRefreshError],
    provider: OIDCProvider,
    metadata: respx.Route,
    old: respx.Route,
) -> None:
    old.respond(status, json={"error": error})
    metadata.respond(json=document(token_endpoint=NEW))

    assert type(await failure_of(provider)) is kind
    assert (old.call_count, metadata.call_count) == (1, 0)


async def test_v10_a_request_whose_outcome_is_unknown_is_not_sent_again(
    provider: OIDCProvider, metadata: respx.Route, old: respx.Route
) -> None:
    old.mock(side_effect=httpx.ReadError)

    assert (await failure_of(provider)).code == "outcome_unknown"
    assert (old.call_count, metadata.call_count) == (1, 0)


@GONE
async def test_v10_a_fixed_endpoint_that_is_gone_is_an_error_at_once(
    status: int, http_client: httpx.AsyncClient, old: respx.Route, router: respx.MockRouter
) -> None:
    old.respond(status)
    provider = OAuth2Provider(OLD, CLIENT, name="idp", http_client=http_client)

    assert (await failure_of(provider)).code == f"http_{status}"
    assert len(router.calls) == 1


async def test_l1_neither_error_shows_a_secret_that_one_of_the_endpoints_repeats(
    http_client: httpx.AsyncClient, metadata: respx.Route, old: respx.Route, new: respx.Route
) -> None:
    said = {"error": "no_such_page", "error_description": "nothing for rt and s3cret-canary"}
    metadata.mock(side_effect=[httpx.Response(200, json=document(token_endpoint=endpoint)) for endpoint in (OLD, NEW)])
    old.respond(404, json=said)
    new.respond(404, json=said)
    provider = OIDCProvider(ISSUER, ClientSecretPost("app", "s3cret-canary"), http_client=http_client)

    error = await failure_of(provider)
    assert (error.error, error.error_description) == ("no_such_page", None)
    assert "canary" not in f"{error} {vars(error)}"
    assert (old.call_count, new.call_count) == (1, 1)
