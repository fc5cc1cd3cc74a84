"""requests-oauth2client: authentication for `requests` (guillp.github.io/requests_oauth2client)."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime

import requests
from requests_oauth2client import BearerToken, OAuth2AccessTokenAuth, OAuth2Client

from benchmarks.peers.base import API_URL, Session
from benchmarks.provider import CLIENT_ID, CLIENT_SECRET, Login


@asynccontextmanager
async def open_session(login: Login) -> AsyncIterator[Session]:
    """Open the library with the tokens of `login`."""
    with requests.Session() as http:
        http.trust_env = False
        http.get(login.base_url)  # connect first, as an app that has run for a while has done
        client = OAuth2Client(
            token_endpoint=login.token_endpoint,
            auth=(CLIENT_ID, CLIENT_SECRET),
            session=http,
            testing=True,  # the provider has no TLS
        )
        token = BearerToken(
            access_token=login.access_token,
            refresh_token=login.refresh_token,
            expires_at=datetime.fromtimestamp(login.expires_at, UTC),
        )
        auth = OAuth2AccessTokenAuth(client, token)

        def ask_in_thread() -> str:
            header: str = auth(requests.Request("GET", API_URL).prepare()).headers["Authorization"]
            return header.removeprefix("Bearer ")

        async def repeat(count: int) -> None:
            request = requests.Request("GET", API_URL).prepare()
            for _ in range(count):
                auth(request)

        yield Session(ask_in_thread=ask_in_thread, repeat=repeat)
