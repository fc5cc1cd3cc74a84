"""azure-identity: a credential of its asyncio part (learn.microsoft.com, `AuthorizationCodeCredential`)."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any
from urllib.parse import urlsplit

from azure.core.pipeline.transport import AioHttpTransport
from azure.identity.aio import AuthorizationCodeCredential

from benchmarks.peers.base import SCOPE, Session
from benchmarks.provider import CLIENT_ID, CLIENT_SECRET, MICROSOFT, Login


@asynccontextmanager
async def open_session(login: Login) -> AsyncIterator[Session]:
    """Open a credential that has exchanged its code."""
    async with open_credential(login) as credential:
        await credential.get_token(SCOPE)

        async def ask() -> str:
            token: str = (await credential.get_token(SCOPE)).token
            return token

        async def repeat(count: int) -> None:
            for _ in range(count):
                await credential.get_token(SCOPE)

        yield Session(ask=ask, repeat=repeat)


@asynccontextmanager
async def open_credential(login: Login) -> AsyncIterator[Any]:
    """Open a credential whose requests reach the provider of `login`."""
    authority, tenant = MICROSOFT.rsplit("/", 1)
    async with AuthorizationCodeCredential(
        tenant,
        CLIENT_ID,
        login.code,
        "http://localhost/callback",
        client_secret=CLIENT_SECRET,
        authority=authority,
        disable_instance_discovery=True,
        transport=_ToLoopback(login.base_url),
    ) as credential:
        yield credential


class _ToLoopback:
    """The library's usual transport, with requests to Microsoft sent to another base URL."""

    def __init__(self, base_url: str) -> None:
        self._base_url = base_url
        self._transport = AioHttpTransport(use_env_settings=False)
        self.sleep = self._transport.sleep

    async def __aenter__(self) -> None:
        await self._transport.__aenter__()

    async def __aexit__(self, *exc_info: object) -> None:
        await self._transport.__aexit__(None, None, None)

    async def send(self, request: Any, **options: Any) -> Any:
        request.url = self._base_url + urlsplit(request.url).path
        return await self._transport.send(request, **options)
