"""The least possible work: one request, and one future that all callers wait for."""

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import asynccontextmanager

import httpx

from benchmarks.peers.base import Session, session_of_auth
from benchmarks.provider import CLIENT_ID, CLIENT_SECRET, Login


@asynccontextmanager
async def open_session(login: Login) -> AsyncIterator[Session]:
    """Open the floor. The first caller sends the request. It supports no cancellation and no failure."""
    async with httpx.AsyncClient(trust_env=False) as client:
        await client.get(login.base_url)  # connect first, as an app that has run for a while has done
        yield session_of_auth(_SharedBearer(shared := _Shared(client, login)), ask=shared.ask)


class _Shared:
    def __init__(self, client: httpx.AsyncClient, login: Login) -> None:
        self._client = client
        self._login = login
        self._token: asyncio.Future[str] | None = None

    async def ask(self) -> str:
        if self._token is not None:
            return await self._token
        self._token = asyncio.get_running_loop().create_future()
        form = {"grant_type": "refresh_token", "refresh_token": self._login.refresh_token}
        reply = await self._client.post(self._login.token_endpoint, data=form, auth=(CLIENT_ID, CLIENT_SECRET))
        token: str = reply.json()["access_token"]
        self._token.set_result(token)
        return token


class _SharedBearer(httpx.Auth):
    def __init__(self, shared: _Shared) -> None:
        self._shared = shared

    async def async_auth_flow(self, request: httpx.Request) -> AsyncGenerator[httpx.Request, httpx.Response]:
        request.headers["Authorization"] = f"Bearer {await self._shared.ask()}"
        yield request
