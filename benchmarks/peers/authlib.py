"""Authlib: an HTTP client that keeps one user's tokens (docs.authlib.org, "OAuth for HTTPX")."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import httpx2
from authlib.integrations.httpx_client import AsyncOAuth2Client

from benchmarks.peers.base import Session
from benchmarks.provider import CLIENT_ID, CLIENT_SECRET, Login


@asynccontextmanager
async def open_session(login: Login) -> AsyncIterator[Session]:
    """Open a client with the tokens of `login`."""
    async with _client(login) as client:
        await client.request(
            "GET", login.base_url, withhold_token=True
        )  # connect first, as an app that has run for a while has done

        async def ask() -> str:
            await client.ensure_active_token(client.token)
            token: str = client.token["access_token"]
            return token

        async def repeat(count: int) -> None:
            for _ in range(count):
                await client.ensure_active_token(client.token)

        def new_client(transport: Any) -> Any:
            return _client(login, mounts={"https://": transport})

        yield Session(ask=ask, repeat=repeat, http=httpx2, client=new_client)


def _client(login: Login, **options: Any) -> Any:
    token = {
        "access_token": login.access_token,
        "refresh_token": login.refresh_token,
        "token_type": "Bearer",
        "expires_at": int(login.expires_at),
    }
    return AsyncOAuth2Client(
        CLIENT_ID,
        CLIENT_SECRET,
        token=token,
        token_endpoint=login.token_endpoint,
        timeout=60,
        trust_env=False,
        **options,
    )
