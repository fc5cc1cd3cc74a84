"""A client at a token endpoint: any grant, and a proof of its own for each try."""

import asyncio
import traceback
from typing import Any
from urllib.parse import parse_qsl

import httpx
import pytest

from tokenflight.errors import ConfigurationError, ProviderMisconfigured, TokenRefreshError
from tokenflight.providers.client_auth import ClientSecretBasic, PublicClient
from tokenflight.providers.endpoint import TokenEndpoint
from tokenflight.providers.grants import Grant, refresh_token_grant
from tokenflight.providers.metadata import ServerMetadata
from tokenflight.providers.requests import Request
from tokenflight.tokens import TokenSet

URL = "https://idp.example/token"
SERVER = ServerMetadata(issuer="https://idp.example", token_endpoint=URL)
CLIENT_SECRET = "cs-canary-0123"
REFRESH_TOKEN = "rt-canary-0123"
GRANT = refresh_token_grant(REFRESH_TOKEN)


class SigningClient:
    """A client whose proof is good for one request, signed elsewhere, and echoed in no error."""

    client_id = "app"

    def __init__(self) -> None:
        self.proofs: list[str] = []

    async def authenticate(self, request: Request, server: ServerMetadata) -> Request:
        await asyncio.sleep(0)
        self.proofs.append(f"proof-canary-{len(self.proofs)} for {server.issuer}")
        return request.adding(parameters={"client_assertion": self.proofs[-1]}, secrets=[self.proofs[-1]])


class FailingTransport(httpx.AsyncBaseTransport):
    """Fails as often as there are `failures`, then answers; keeps what it was asked to send."""

    def __init__(self, *failures: Exception, reply: httpx.Response | None = None) -> None:
        self._failures = list(failures)
        self._reply = reply or httpx.Response(200, json={"access_token": "at2"})
        self.forms: list[dict[str, str]] = []

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        self.forms.append(dict(parse_qsl(request.content.decode())))
        if self._failures:
            raise self._failures.pop(0)
        return self._reply


def endpoint_of(client: Any, transport: httpx.AsyncBaseTransport | None = None, timeout: float = 5.0) -> TokenEndpoint:
    http_client = httpx.AsyncClient(transport=transport or FailingTransport())
    return TokenEndpoint(client, name="idp", http_client=http_client, timeout=timeout)


async def ask(endpoint: TokenEndpoint, grant: Grant = GRANT, server: ServerMetadata = SERVER) -> TokenSet:
    return await endpoint.request_tokens(grant, server, user_id="alice", previous=None)


async def error_of(endpoint: TokenEndpoint, server: ServerMetadata = SERVER) -> TokenRefreshError:
    with pytest.raises(TokenRefreshError) as caught:
        await ask(endpoint, server=server)
    assert caught.value.provider == "idp"
    return caught.value


async def test_any_grant_can_be_presented() -> None:
    transport = FailingTransport()
    tokens = await ask(
        endpoint_of(PublicClient("app"), transport), Grant("client_credentials", {"resource": "https://api.example"})
    )

    assert tokens.access_token == "at2"
    assert transport.forms == [
        {"grant_type": "client_credentials", "resource": "https://api.example", "client_id": "app"}
    ]


async def test_t7_each_try_carries_a_proof_of_its_own_for_this_server() -> None:
    refused = httpx.ConnectError("refused")
    transport, client = FailingTransport(refused, refused), SigningClient()
    await ask(endpoint_of(client, transport))

    assert client.proofs == [f"proof-canary-{number} for https://idp.example" for number in range(3)]
    assert [form["client_assertion"] for form in transport.forms] == client.proofs
    assert {form["refresh_token"] for form in transport.forms} == {REFRESH_TOKEN}


async def test_l1_an_error_shows_no_secret_of_the_proof_that_reached_the_provider() -> None:
    said = f"the assertion proof-canary-1 for https://idp.example is spent, as is {REFRESH_TOKEN}"
    reply = httpx.Response(400, json={"error": "invalid_client", "error_description": said})
    error = await error_of(endpoint_of(SigningClient(), FailingTransport(httpx.ConnectError("refused"), reply=reply)))

    assert error.error_description == "the assertion *** is spent, as is ***"
    assert error.user_id == "alice"


async def test_l1_the_locals_in_the_traceback_of_a_refusal_show_no_secret() -> None:
    reply = httpx.Response(401, json={"error": "invalid_client"})
    error = await error_of(endpoint_of(ClientSecretBasic("app", CLIENT_SECRET), FailingTransport(reply=reply)))

    text = "".join(traceback.TracebackException.from_exception(error, capture_locals=True).format())
    assert "parse_token_reply" in text
    assert [secret for secret in (CLIENT_SECRET, REFRESH_TOKEN) if secret in text] == []


@pytest.mark.parametrize("failure", [httpx.ConnectError("refused"), TimeoutError(), ValueError("no key")])
async def test_a_client_authentication_that_fails_is_not_mistaken_for_the_provider(failure: Exception) -> None:
    class Failing(SigningClient):
        async def authenticate(self, _request: Request, _server: ServerMetadata) -> Request:
            raise failure

    transport = FailingTransport()
    error = await error_of(endpoint_of(Failing(), transport))

    assert (error.code, error.user_id, error.__cause__) == ("unexpected", "alice", failure)
    assert "Failing failed" in str(error)
    assert transport.forms == []


async def test_a_client_authentication_that_raises_an_error_of_the_tree_is_heard() -> None:
    class Unkeyed(SigningClient):
        async def authenticate(self, _request: Request, _server: ServerMetadata) -> Request:
            raise ConfigurationError("the key is gone")

    with pytest.raises(ConfigurationError, match="the key is gone"):
        await ask(endpoint_of(Unkeyed()))


async def test_s6_a_client_authentication_that_hangs_ends_and_nothing_was_sent() -> None:
    class Hanging(SigningClient):
        async def authenticate(self, _request: Request, _server: ServerMetadata) -> Request:
            await asyncio.Event().wait()
            raise AssertionError("it hangs")

    transport = FailingTransport()
    error = await error_of(endpoint_of(Hanging(), transport, timeout=0.05))

    assert error.code == "unexpected"
    assert isinstance(error.__cause__, TimeoutError)
    assert transport.forms == []


@pytest.mark.parametrize("url", [None, "http://idp.example/token"])
async def test_r10_nothing_is_sent_to_a_server_without_a_token_endpoint_that_is_secure(url: str | None) -> None:
    transport, client = FailingTransport(), SigningClient()
    error = await error_of(endpoint_of(client, transport), ServerMetadata(token_endpoint=url))

    assert type(error) is ProviderMisconfigured
    assert error.code == "insecure_endpoint"
    assert (transport.forms, client.proofs) == ([], [])
