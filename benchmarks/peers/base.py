"""What each library shows of itself: how it is opened with the tokens of a login, and how callers ask it."""

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any, Final

import httpx

API_URL: Final = "https://api.example/me"
SCOPE: Final = "https://api.example/.default"


@dataclass(frozen=True, slots=True, kw_only=True)
class Session:
    """A library that holds the tokens of one login. What it has no such thing for is None.

    `ask`, or `ask_in_thread`, is one caller's way to a valid access token. `repeat` asks so many times in a row for a
    token that is valid, and does nothing else. `auth` is authentication for the HTTP library `http`, and `client`
    makes a client of that library which authenticates; its https requests go through the given transport.
    """

    ask: Callable[[], Awaitable[str]] | None = None
    ask_in_thread: Callable[[], str] | None = None
    repeat: Callable[[int], Awaitable[None]] | None = None
    auth: Any = None
    http: Any = httpx
    client: Callable[[Any], Any] | None = None


def session_of_auth(auth: Any, http: Any = httpx, **others: Any) -> Session:
    """A session of a library whose front door is an `auth` for the HTTP library `http`."""

    def client(transport: Any) -> Any:
        return http.AsyncClient(auth=auth, mounts={"https://": transport}, timeout=60, trust_env=False)

    async def repeat(count: int) -> None:
        request, response = http.Request("GET", API_URL), http.Response(200)
        for _ in range(count):
            await one_pass(auth, request, response)

    return Session(**{"auth": auth, "http": http, "client": client, "repeat": repeat, **others})


async def one_pass(auth: Any, request: Any, response: Any) -> None:
    """Drive the flow of `auth` once, as an HTTP client does whose server answers with `response`."""
    flow = auth.async_auth_flow(request)
    await flow.__anext__()
    try:
        await flow.asend(response)
    except StopAsyncIteration:
        pass
    finally:
        await flow.aclose()
