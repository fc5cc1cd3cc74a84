"""API calls as an app makes them: what the demo and its further processes share."""

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
    """What callers saw: how many calls failed, how many token sets were adopted, and what went wrong first."""

    failed: int = 0
    adopted: int = 0
    problem: str | None = None

    @classmethod
    def of_calls(cls, problems: Iterable[str | None], *, adopted: int = 0) -> Self:
        """Count what `call_api` returned."""
        met = [problem for problem in problems if problem is not None]
        return cls(len(met), adopted, met[0] if met else None)


class _QueueingTransport(httpx.AsyncHTTPTransport):
    """Lets requests queue before the connection pool: a thousand in the pool's own queue would cost seconds."""

    def __init__(self) -> None:
        super().__init__(limits=httpx.Limits(max_connections=MAX_CONNECTIONS))
        self._slots = asyncio.Semaphore(MAX_CONNECTIONS)

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        async with self._slots:
            response = await super().handle_async_request(request)
            await response.aread()  # until then it has its connection
            return response


def api_client() -> httpx.AsyncClient:
    """A client for any number of API calls at once."""
    return httpx.AsyncClient(transport=_QueueingTransport(), timeout=TIMEOUT_SECONDS, trust_env=False)


@asynccontextmanager
async def app_provider(issuer: str) -> AsyncIterator[OIDCProvider]:
    """The fake provider at `issuer`, as an app knows it."""
    async with httpx.AsyncClient(trust_env=False) as http:  # no proxy of the environment's for the loopback address
        yield OIDCProvider(issuer, PublicClient(CLIENT_ID), http_client=http)


async def call_api(api: httpx.AsyncClient, url: str, refresher: TokenRefresher, user_id: str) -> str | None:
    """Call the API as `user_id`. Return what went wrong in words, None if nothing did."""
    try:
        response = await api.get(url, auth=BearerAuth(refresher, user_id))
    except (TokenflightError, httpx.HTTPError) as exc:
        return f"{type(exc).__name__}: {exc}"
    if response.status_code != HTTPStatus.OK:
        return f"the API answered {response.status_code}"
    if response.json()["user_id"] != user_id:
        return "the API took the call for another user's"
    return None
