"""What a token that is kept valid costs each API request."""

import time
from collections.abc import Generator

import httpx

from benchmarks.comparison import Comparison, Effort, Rival, compare
from benchmarks.subjects import USER, PromptProvider, token_set
from tokenflight import TokenRefresher
from tokenflight.httpx import BearerAuth

URL = "https://api.example/me"


class StaticBearer(httpx.Auth):
    """A fixed bearer token, as httpx's documentation shows custom authentication."""

    def __init__(self, access_token: str) -> None:
        self._access_token = access_token

    def auth_flow(self, request: httpx.Request) -> Generator[httpx.Request, httpx.Response, None]:
        """Put the token on `request`."""
        request.headers["Authorization"] = f"Bearer {self._access_token}"
        yield request


async def auth_flow(effort: Effort) -> list[Comparison]:
    """Compare `BearerAuth` with a fixed bearer token, alone and within a whole request."""
    tokens = token_set(issued_at=time.time())
    async with (
        TokenRefresher(PromptProvider()) as refresher,
        httpx.AsyncClient(transport=httpx.MockTransport(_answer)) as client,
    ):
        await refresher.save_tokens(USER, tokens)
        static, bearer = StaticBearer(str(tokens.access_token)), BearerAuth(refresher, USER)
        return [
            await compare(
                "One pass of the auth flow",
                [_pass("fixed bearer token", static), _pass("BearerAuth", bearer, target=1.3)],
                count=effort.share_of(5_000),
                effort=effort,
            ),
            await compare(
                "A whole httpx.AsyncClient request, answered in memory",
                [
                    _request("without auth", client, None),
                    _request("fixed bearer token", client, static),
                    _request("BearerAuth", client, bearer, target=1.06),
                ],
                count=effort.share_of(300),
                effort=effort,
            ),
        ]


def _pass(name: str, auth: httpx.Auth, *, target: float | None = None) -> Rival:
    request, response = httpx.Request("GET", URL), httpx.Response(200)

    async def run(count: int) -> None:
        for _ in range(count):
            flow = auth.async_auth_flow(request)  # driven as httpx drives it
            await flow.__anext__()
            try:
                await flow.asend(response)
            except StopAsyncIteration:
                pass
            finally:
                await flow.aclose()

    return Rival(name, run, target=target)


def _request(name: str, client: httpx.AsyncClient, auth: httpx.Auth | None, *, target: float | None = None) -> Rival:
    async def run(count: int) -> None:
        for _ in range(count):
            await client.get(URL, auth=auth)

    return Rival(name, run, target=target)


def _answer(_request: httpx.Request) -> httpx.Response:
    return httpx.Response(200)
