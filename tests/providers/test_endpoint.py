"""A client at a token endpoint: any grant, and a proof of its own for each try."""

import asyncio
import traceback

import httpx
import pytest
import respx

from kit.routes import forms
from tokenflight.errors import ConfigurationError, ProviderMisconfigured, TokenRefreshError
from tokenflight.providers.client_auth import ClientAuthentication, ClientSecretBasic, PublicClient
from tokenflight.providers.endpoint import TokenEndpoint
from tokenflight.providers.grants import Grant, refresh_token_grant
from tokenflight.providers.metadata import ServerMetadata
from tokenflight.providers.requests import Request
from tokenflight.tokens import TokenSet

URL = "https://idp.example/token"
SERVER = ServerMetadata(issuer="https://idp.example", token_endpoint=URL)
CLIENT_SECRET = "cs-canary-0123"
REFRESH_TOKEN = "rt-canary-0123"


class SigningClient:
    """A client whose proof is good for one request and is signed elsewhere."""

    client_id = "app"

    def __init__(self) -> None:
        self.proofs: list[str] = []

    async def authenticate(self, request: Request, server: ServerMetadata) -> Request:
        await asyncio.sleep(0)
        self.proofs.append(f"proof-{len(self.proofs)} for {server.issuer}")
        return request.adding(parameters={"client_assertion": self.proofs[-1]}, secrets=[self.proofs[-1]])


class TroubledClient:
    """A client that can't prove anything: `failure` is raised, or it hangs."""

    client_id = "app"

    def __init__(self, failure: Exception | None) -> None:
        self._failure = failure

    async def authenticate(self, request: Request, _server: ServerMetadata) -> Request:
        if self._failure is not None:
            raise self._failure
        await asyncio.Event().wait()
        return request


@pytest.fixture
def route(router: respx.MockRouter) -> respx.Route:
    return router.post(URL).respond(json={"access_token": "at2"})


async def ask(
    http_client: httpx.AsyncClient,
    client: ClientAuthentication,
    *,
    grant: Grant | None = None,
    server: ServerMetadata = SERVER,
    timeout: float = 5.0,
) -> TokenSet:
    endpoint = TokenEndpoint(client, name="idp", http_client=http_client, timeout=timeout)
    return await endpoint.request_tokens(
        grant or refresh_token_grant(REFRESH_TOKEN), server, user_id="alice", previous=None
    )


async def test_any_grant_can_be_presented(http_client: httpx.AsyncClient, route: respx.Route) -> None:
    grant = Grant("client_credentials", {"resource": "https://api.example"})
    tokens = await ask(http_client, PublicClient("app"), grant=grant)

    assert tokens.access_token == "at2"
    assert forms(route) == [{"grant_type": "client_credentials", "resource": "https://api.example", "client_id": "app"}]


async def test_t7_each_try_carries_a_proof_of_its_own_for_this_server(
    http_client: httpx.AsyncClient, route: respx.Route
) -> None:
    client = SigningClient()
    route.mock(side_effect=[httpx.ConnectError, httpx.ConnectError, httpx.Response(200, json={"access_token": "at2"})])
    await ask(http_client, client)

    assert client.proofs == [f"proof-{number} for https://idp.example" for number in range(3)]
    assert [form["client_assertion"] for form in forms(route)] == client.proofs
    assert [form["refresh_token"] for form in forms(route)] == [REFRESH_TOKEN] * 3


async def test_l1_an_error_shows_no_secret_of_the_proof_that_reached_the_provider(
    http_client: httpx.AsyncClient, route: respx.Route
) -> None:
    said = f"the assertion proof-1 for https://idp.example is spent, as is {REFRESH_TOKEN}"
    refusal = httpx.Response(400, json={"error": "invalid_client", "error_description": said})
    route.mock(side_effect=[httpx.ConnectError, refusal])

    with pytest.raises(ProviderMisconfigured) as caught:
        await ask(http_client, SigningClient())
    assert caught.value.error == "invalid_client"
    assert caught.value.error_description is None
    assert (caught.value.user_id, caught.value.provider) == ("alice", "idp")


async def test_l1_the_locals_in_the_traceback_of_a_refusal_show_no_secret(
    http_client: httpx.AsyncClient, route: respx.Route
) -> None:
    route.respond(401, json={"error": "invalid_client"})
    with pytest.raises(ProviderMisconfigured) as caught:
        await ask(http_client, ClientSecretBasic("app", CLIENT_SECRET))

    text = "".join(traceback.TracebackException.from_exception(caught.value, capture_locals=True).format())
    assert "parse_token_reply" in text
    assert [secret for secret in (CLIENT_SECRET, REFRESH_TOKEN) if secret in text] == []


@pytest.mark.parametrize("failure", [httpx.ConnectError("refused"), TimeoutError(), ValueError("no key")])
async def test_a_client_authentication_that_fails_is_not_mistaken_for_the_provider(
    failure: Exception, http_client: httpx.AsyncClient, route: respx.Route
) -> None:
    with pytest.raises(TokenRefreshError, match="TroubledClient failed") as caught:
        await ask(http_client, TroubledClient(failure))

    assert (caught.value.code, caught.value.user_id, caught.value.provider) == ("unexpected", "alice", "idp")
    assert caught.value.__cause__ is failure
    assert not route.called


async def test_an_error_of_the_tree_that_a_client_authentication_raises_reaches_the_caller(
    http_client: httpx.AsyncClient,
) -> None:
    with pytest.raises(ConfigurationError, match="the key is gone"):
        await ask(http_client, TroubledClient(ConfigurationError("the key is gone")))


async def test_s6_a_client_authentication_that_hangs_ends_before_anything_is_sent(
    http_client: httpx.AsyncClient, route: respx.Route
) -> None:
    with pytest.raises(TokenRefreshError) as caught:
        await ask(http_client, TroubledClient(None), timeout=0.05)

    assert caught.value.code == "unexpected"
    assert isinstance(caught.value.__cause__, TimeoutError)
    assert not route.called


@pytest.mark.parametrize("url", [None, "http://idp.example/token"])
async def test_r10_nothing_is_sent_to_a_server_without_a_token_endpoint_that_is_secure(
    url: str | None, http_client: httpx.AsyncClient, router: respx.MockRouter
) -> None:
    client = SigningClient()
    with pytest.raises(ProviderMisconfigured) as caught:
        await ask(http_client, client, server=ServerMetadata(token_endpoint=url))

    assert caught.value.code == "insecure_endpoint"
    assert (client.proofs, len(router.calls)) == ([], 0)
