"""httpx-auth: an `httpx.Auth` for each grant, over one token cache (colin-b.github.io/httpx_auth)."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
from httpx_auth import JsonTokenFileCache, OAuth2, OAuth2ResourceOwnerPasswordCredentials

from benchmarks.peers.base import API_URL, Session, one_pass, session_of_auth
from benchmarks.provider import CLIENT_ID, CLIENT_SECRET, Login


@asynccontextmanager
async def open_session(login: Login) -> AsyncIterator[Session]:
    """Open the library logged in, with its tokens in memory."""
    with httpx.Client(trust_env=False) as client:
        auth = _auth(login, client)
        await one_pass(auth, httpx.Request("GET", API_URL), httpx.Response(200))  # the login
        yield session_of_auth(auth)


@asynccontextmanager
async def open_shared(login: Login, location: str) -> AsyncIterator[Session]:
    """Open the library on the token file in `location`."""
    OAuth2.token_cache = JsonTokenFileCache(Path(location, "tokens.json"))
    with httpx.Client(trust_env=False) as client:
        auth = _auth(login, client)

        async def ask() -> str:
            await one_pass(auth, request := httpx.Request("GET", API_URL), httpx.Response(200))
            return request.headers["Authorization"].removeprefix("Bearer ")

        yield session_of_auth(auth, ask=ask)


async def seed(login: Login, location: str) -> None:
    """Log in, with the token file in `location`."""
    async with open_shared(login, location) as session:
        assert session.ask is not None
        await session.ask()


def _auth(login: Login, client: httpx.Client) -> Any:
    # The only grant of the library that has refresh tokens and opens no browser.
    return OAuth2ResourceOwnerPasswordCredentials(
        login.token_endpoint, login.user_id, login.code, client_auth=(CLIENT_ID, CLIENT_SECRET), client=client
    )
