"""singleflight-auth: an `httpx.Auth` that calls the app's own refresh function after a 401 (its README)."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import httpx
from singleflight_auth import AsyncSingleFlightAuth

from benchmarks.peers.base import Session, session_of_auth
from benchmarks.provider import CLIENT_ID, CLIENT_SECRET, Login


@asynccontextmanager
async def open_session(login: Login) -> AsyncIterator[Session]:
    """Open the library with the refresh function from its README."""
    tokens = {"access": login.access_token, "refresh": login.refresh_token}

    async def refresh() -> str:
        form = {"grant_type": "refresh_token", "refresh_token": tokens["refresh"]}
        async with httpx.AsyncClient(trust_env=False) as client:
            response = await client.post(login.token_endpoint, data=form, auth=(CLIENT_ID, CLIENT_SECRET))
            response.raise_for_status()
            reply = response.json()
            tokens.update(access=reply["access_token"], refresh=reply["refresh_token"])
            return tokens["access"]

    yield session_of_auth(AsyncSingleFlightAuth(get_token=lambda: tokens["access"], refresh=refresh))
