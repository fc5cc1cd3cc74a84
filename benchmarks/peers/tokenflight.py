"""tokenflight: a refresher, and its `BearerAuth`."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import httpx

from benchmarks.peers.base import Session, session_of_auth
from benchmarks.provider import CLIENT_ID, CLIENT_SECRET, Login
from tokenflight import ClientSecretBasic, FileTokenStore, OAuth2Provider, TokenRefresher, TokenSet, TokenStore
from tokenflight.httpx import BearerAuth


@asynccontextmanager
async def open_session(login: Login) -> AsyncIterator[Session]:
    """Open a refresher with its tokens in memory."""
    async with _refresher(login, None) as refresher:
        await _save(refresher, login)
        yield _session(refresher, login)


@asynccontextmanager
async def open_shared(login: Login, location: str) -> AsyncIterator[Session]:
    """Open a refresher on the store at `location`."""
    async with _refresher(login, await _store(location)) as refresher:
        yield _session(refresher, login)


async def seed(login: Login, location: str) -> None:
    """Save the login in the store at `location`."""
    async with _refresher(login, await _store(location)) as refresher:
        await _save(refresher, login)


@asynccontextmanager
async def _refresher(login: Login, store: TokenStore | None) -> AsyncIterator[TokenRefresher]:
    async with httpx.AsyncClient(trust_env=False) as client:
        await client.get(login.base_url)  # connect first, as an app that has run for a while has done
        provider = OAuth2Provider(
            login.token_endpoint, ClientSecretBasic(CLIENT_ID, CLIENT_SECRET), name="idp", http_client=client
        )
        async with TokenRefresher(provider, store) as refresher:
            yield refresher


async def _store(location: str) -> TokenStore:
    """The store at a directory or URL."""
    # Imported here, because the drivers are extras.
    if location.startswith(("redis:", "unix:")):
        from tokenflight.stores.redis import RedisTokenStore  # noqa: PLC0415

        return RedisTokenStore(location)
    if location.startswith("postgresql"):
        from tokenflight.stores.sql import SQLTokenStore  # noqa: PLC0415

        store = SQLTokenStore(location)
        await store.create_table()
        return store
    return FileTokenStore(location)


async def _save(refresher: TokenRefresher, login: Login) -> None:
    tokens = TokenSet(access_token=login.access_token, refresh_token=login.refresh_token, expires_at=login.expires_at)
    await refresher.save_tokens(login.user_id, tokens)


def _session(refresher: TokenRefresher, login: Login) -> Session:
    user_id = login.user_id

    async def ask() -> str:
        return (await refresher.get_valid_token(user_id)).access_token

    async def repeat(count: int) -> None:
        for _ in range(count):
            await refresher.get_valid_token(user_id)

    return session_of_auth(BearerAuth(refresher, user_id), ask=ask, repeat=repeat)
