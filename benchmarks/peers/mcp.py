"""mcp: the authentication of the Model Context Protocol's client (its README, "OAuth Authentication")."""

import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import httpx2
from mcp.client.auth import OAuthClientProvider
from mcp.shared.auth import OAuthClientInformationFull, OAuthClientMetadata, OAuthToken

from benchmarks.peers.base import API_URL, Session, one_pass, session_of_auth
from benchmarks.provider import CLIENT_ID, CLIENT_SECRET, Login


@asynccontextmanager
async def open_session(login: Login) -> AsyncIterator[Session]:
    """Open the library with the tokens of `login`."""
    auth = OAuthClientProvider(
        server_url=f"{login.base_url}/mcp",
        client_metadata=OAuthClientMetadata(client_name="benchmark", redirect_uris=["http://localhost/callback"]),
        storage=_Storage(login),
        redirect_handler=_nobody_is_there,
        callback_handler=None,
    )
    await one_pass(auth, httpx2.Request("GET", API_URL), httpx2.Response(200))  # the first pass loads the tokens
    # The library takes loaded tokens for valid: let them expire as if the program had run for a while.
    auth.context.token_expiry_time = login.expires_at
    yield session_of_auth(auth, httpx2)


class _Storage:
    def __init__(self, login: Login) -> None:
        self._tokens = OAuthToken(
            access_token=login.access_token,
            refresh_token=login.refresh_token,
            expires_in=int(login.expires_at - time.time()),
        )
        self._client = OAuthClientInformationFull(
            client_id=CLIENT_ID,
            client_secret=CLIENT_SECRET,
            token_endpoint_auth_method="client_secret_post",
            redirect_uris=["http://localhost/callback"],
        )

    async def get_tokens(self) -> OAuthToken | None:
        return self._tokens

    async def set_tokens(self, tokens: OAuthToken) -> None:
        self._tokens = tokens

    async def get_client_info(self) -> OAuthClientInformationFull | None:
        return self._client

    async def set_client_info(self, client_info: OAuthClientInformationFull) -> None:
        self._client = client_info


async def _nobody_is_there(_url: str) -> None:
    raise RuntimeError("the user would have to log in again")
