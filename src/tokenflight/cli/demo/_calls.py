"""API calls as an app makes them, shared by the demo and its worker processes."""

import asyncio
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from http import HTTPStatus
from typing import Final, Self

import httpx

from tokenflight import OIDCProvider, PublicClient, TokenflightError, TokenRefresher
from tokenflight.httpx import BearerAuth

CLIENT_ID: Final = "demo"
MAX_CONNECTIONS: Final = 5
TIMEOUT_SECONDS: Final = 10.0


@dataclass(frozen=True, slots=True)
class Tally:
    """The callers' side: failed calls, token sets adopted from another process, and the first problem in words."""

    failed: int = 0
    adopted: int = 0
    problem: str | None = None

    @classmethod
    def of_calls(cls, problems: Iterable[str | None], *, adopted: int = 0) -> Self:
        """Count the problems among the results of `call_api`."""
        found = [problem for problem in problems if problem is not None]
        return cls(len(found), adopted, found[0] if found else None)


class _QueueingTransport(httpx.AsyncHTTPTransport):
    """Queues requests in front of the connection pool, whose own queue takes seconds for a thousand requests."""

    def __init__(self) -> None:
        super().__init__(limits=httpx.Limits(max_connections=MAX_CONNECTIONS))
        self._slots = asyncio.Semaphore(MAX_CONNECTIONS)

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        async with self._slots:
            response = await super().handle_async_request(request)
            await response.aread()  # the response keeps its connection until it is read
            return response


def api_client() -> httpx.AsyncClient:
    """A client for any number of API calls at once."""
    return httpx.AsyncClient(transport=_QueueingTransport(), timeout=TIMEOUT_SECONDS, trust_env=False)


@asynccontextmanager
async def app_provider(issuer: str) -> AsyncIterator[OIDCProvider]:
    """The fake provider at `issuer`, as an app knows it."""
    async with httpx.AsyncClient(trust_env=False) as http:  # a proxy can't reach the loopback address
        yield OIDCProvider(issuer, PublicClient(CLIENT_ID), http_client=http)


async def call_api(api: httpx.AsyncClient, url: str, refresher: TokenRefresher, user_id: str) -> str | None:
    """Call the API as `user_id`. Return the problem in words, or None if the call succeeded."""
    try:
        response = await api.get(url, auth=BearerAuth(refresher, user_id))
    except (TokenflightError, httpx.HTTPError) as exc:
        return f"{type(exc).__name__}: {exc}"
    if response.status_code != HTTPStatus.OK:
        return f"the API answered {response.status_code}"
    if response.json()["user_id"] != user_id:
        return "the API saw another user"
    return None
