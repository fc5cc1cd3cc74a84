"""The common interface of the libraries: the ways in which callers get a token."""

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any, Final

import httpx

API_URL: Final = "https://api.example/me"
SCOPE: Final = "https://api.example/.default"


@dataclass(frozen=True, slots=True, kw_only=True)
class Session:
    """A library that holds the tokens of one login. An attribute is None if the library has no such feature.

    `ask`, or `ask_in_thread`, returns a valid access token to one caller. `repeat` requests a valid token a given
    number of times in a row, and does nothing else. `auth` is authentication for the HTTP library `http`. `client`
    makes a client of that library that authenticates, and sends https requests through the given transport.
    """

    ask: Callable[[], Awaitable[str]] | None = None
    ask_in_thread: Callable[[], str] | None = None
    repeat: Callable[[int], Awaitable[None]] | None = None
    auth: Any = None
    http: Any = httpx
    client: Callable[[Any], Any] | None = None


def session_of_auth(auth: Any, http: Any = httpx, **others: Any) -> Session:
    """A session of a library that offers an `auth` for the HTTP library `http`."""

    def client(transport: Any) -> Any:
        return http.AsyncClient(auth=auth, mounts={"https://": transport}, timeout=60, trust_env=False)

    async def repeat(count: int) -> None:
        request, response = http.Request("GET", API_URL), http.Response(200)
        for _ in range(count):
            await one_pass(auth, request, response)

    return Session(**{"auth": auth, "http": http, "client": client, "repeat": repeat, **others})


async def one_pass(auth: Any, request: Any, response: Any) -> None:
    """Drive the flow of `auth` once, as an HTTP client does when its server answers with `response`."""
    flow = auth.async_auth_flow(request)
    await flow.__anext__()
    try:
        await flow.asend(response)
    except StopAsyncIteration:
        pass
    finally:
        await flow.aclose()
