"""msal, alone and with msal-extensions (msal-python.readthedocs.io, and the README of msal-extensions)."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, Final, Self
from urllib.parse import urlsplit

import msal
import requests

from benchmarks.peers.base import SCOPE, Session
from benchmarks.provider import CLIENT_ID, CLIENT_SECRET, MICROSOFT, Login

_SCOPES: Final = [SCOPE]


@asynccontextmanager
async def open_session(login: Login) -> AsyncIterator[Session]:
    """Open an app that has exchanged the code of `login`, with its tokens in memory."""
    with _ToLoopback(login.base_url) as http_client:
        app = await asyncio.to_thread(_app, http_client, None)
        await asyncio.to_thread(_exchange_code, app, login)
        yield _session(app)


@asynccontextmanager
async def open_shared(login: Login, location: str) -> AsyncIterator[Session]:
    """Open an app on the token file in `location`."""
    with _ToLoopback(login.base_url) as http_client:
        yield _session(await asyncio.to_thread(_app, http_client, _persisted_cache(location)))


async def seed(login: Login, location: str) -> None:
    """Exchange the code of `login`, with the token file in `location`."""
    with _ToLoopback(login.base_url) as http_client:
        app = await asyncio.to_thread(_app, http_client, _persisted_cache(location))
        await asyncio.to_thread(_exchange_code, app, login)


def _app(http_client: "_ToLoopback", cache: Any) -> Any:
    return msal.ConfidentialClientApplication(
        CLIENT_ID,
        client_credential=CLIENT_SECRET,
        authority=MICROSOFT,
        instance_discovery=False,
        token_cache=cache,
        http_client=http_client,
    )


def _persisted_cache(location: str) -> Any:
    from msal_extensions import FilePersistence, PersistedTokenCache  # noqa: PLC0415 - only a token file needs it

    return PersistedTokenCache(FilePersistence(str(Path(location, "tokens.bin"))))


def _exchange_code(app: Any, login: Login) -> None:
    reply = app.acquire_token_by_authorization_code(login.code, _SCOPES, redirect_uri="http://localhost/callback")
    _token_in(reply)


def _session(app: Any) -> Session:
    def ask_in_thread() -> str:
        [account] = app.get_accounts()
        return _token_in(app.acquire_token_silent(_SCOPES, account))

    async def repeat(count: int) -> None:
        [account] = app.get_accounts()
        for _ in range(count):
            app.acquire_token_silent(_SCOPES, account)

    return Session(ask_in_thread=ask_in_thread, repeat=repeat)


def _token_in(reply: dict[str, Any] | None) -> str:
    if reply is None or "access_token" not in reply:
        raise RuntimeError("no token")
    token: str = reply["access_token"]
    return token


class _ToLoopback:
    """The library's default HTTP client, with requests to Microsoft sent to another base URL."""

    def __init__(self, base_url: str) -> None:
        self._base_url = base_url
        self._session = requests.Session()
        self._session.trust_env = False

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.close()

    def post(self, url: str, **options: Any) -> Any:
        return self._session.post(self._base_url + urlsplit(url).path, **options)

    def get(self, url: str, **options: Any) -> Any:
        return self._session.get(self._base_url + urlsplit(url).path, **options)

    def close(self) -> None:
        self._session.close()
