"""google-auth: credentials of a user (googleapis.dev/python/google-auth, "User credentials")."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime

import requests
from google.auth.transport.requests import Request
from google.oauth2.credentials import Credentials

from benchmarks.peers.base import API_URL, Session
from benchmarks.provider import CLIENT_ID, CLIENT_SECRET, Login


@asynccontextmanager
async def open_session(login: Login) -> AsyncIterator[Session]:
    """Open credentials with the tokens of `login`."""
    with requests.Session() as http:
        http.trust_env = False
        http.get(login.base_url)  # connect first, as an app that has run for a while has done
        request = Request(http)
        credentials = Credentials(
            login.access_token,
            refresh_token=login.refresh_token,
            token_uri=login.token_endpoint,
            client_id=CLIENT_ID,
            client_secret=CLIENT_SECRET,
            expiry=datetime.fromtimestamp(login.expires_at, UTC).replace(tzinfo=None),  # the library expects it naive
        )

        def ask_in_thread() -> str:
            headers: dict[str, str] = {}
            credentials.before_request(request, "GET", API_URL, headers)
            return headers["authorization"].removeprefix("Bearer ")

        async def repeat(count: int) -> None:
            headers: dict[str, str] = {}
            for _ in range(count):
                credentials.before_request(request, "GET", API_URL, headers)

        yield Session(ask_in_thread=ask_in_thread, repeat=repeat)
