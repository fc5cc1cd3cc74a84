"""Measure what a valid token adds to each API request."""

from collections.abc import AsyncGenerator, Generator, Mapping
from contextlib import AsyncExitStack
from types import ModuleType
from typing import Any, Final

import httpx

from benchmarks.comparison import Comparison, Effort, Rival, compare
from benchmarks.peers import OUR_AUTH, OURS, Peer
from benchmarks.peers.base import API_URL, Session, one_pass

READY_HEADER: Final = "a ready header"
FIXED_TOKEN: Final = "fixed bearer token"

PASS_TARGET: Final = 1.2
REQUEST_TARGET: Final = 1.06


async def compare_auth_flows(sessions: Mapping[Peer, Session], effort: Effort) -> list[Comparison]:
    """Compare the authentication of each session with two that never look for a token, alone and in a whole request.

    The floor of a pass overrides `async_auth_flow` and sets a constant header. The authentication in the HTTP library's
    documentation is slower: it overrides `auth_flow`, a second generator that the first one drives.
    """
    comparisons = []
    for http in _libraries(sessions):
        on_it = {
            OUR_AUTH.name if peer is OURS else peer.name: session
            for peer, session in sessions.items()
            if session.http is http and session.client is not None
        }
        comparisons += [await _compare_passes(http, on_it, effort), await _compare_requests(http, on_it, effort)]
    return comparisons


async def _compare_passes(http: Any, sessions: Mapping[str, Session], effort: Effort) -> Comparison:
    rivals = [
        _passes(READY_HEADER, http, _ready_header(http)),
        _passes(FIXED_TOKEN, http, _fixed_token(http)),
    ]
    rivals += [
        _passes(name, http, session.auth, target=PASS_TARGET if name == OUR_AUTH.name else None)
        for name, session in sessions.items()
        if session.auth is not None
    ]
    title = f"One pass of the auth flow, {http.__name__}"
    return await compare(title, rivals, count=effort.share_of(5_000), effort=effort)


async def _compare_requests(http: Any, sessions: Mapping[str, Session], effort: Effort) -> Comparison:
    async with AsyncExitStack() as stack:
        transport = http.MockTransport(lambda _request: http.Response(200))
        plain = await stack.enter_async_context(http.AsyncClient(transport=transport))
        ready = await stack.enter_async_context(http.AsyncClient(transport=transport, auth=_ready_header(http)))
        fixed = await stack.enter_async_context(http.AsyncClient(transport=transport, auth=_fixed_token(http)))
        rivals = [_requests("without auth", plain), _requests(READY_HEADER, ready), _requests(FIXED_TOKEN, fixed)]
        for name, session in sessions.items():
            assert session.client is not None
            client = await stack.enter_async_context(session.client(transport))
            rivals.append(_requests(name, client, target=REQUEST_TARGET if name == OUR_AUTH.name else None))
        title = f"A whole {http.__name__}.AsyncClient request, answered in memory"
        return await compare(title, rivals, count=effort.share_of(300), effort=effort)


def _libraries(sessions: Mapping[Peer, Session]) -> list[Any]:
    """The HTTP libraries of `sessions`, that of tokenflight first. Each has a floor of its own."""
    found: dict[str, ModuleType] = {"httpx": httpx}
    found |= {session.http.__name__: session.http for session in sessions.values() if session.client is not None}
    return list(found.values())


def _ready_header(http: Any) -> Any:
    """The leanest authentication that the HTTP library `http` can run: one generator, which sets a constant."""

    class ReadyHeader(http.Auth):  # type: ignore[misc]
        async def async_auth_flow(self, request: Any) -> AsyncGenerator[Any, Any]:
            request.headers["Authorization"] = "Bearer fixed"
            yield request

    return ReadyHeader()


def _fixed_token(http: Any) -> Any:
    """A fixed bearer token, as the documentation of the HTTP library `http` shows custom authentication."""

    class FixedToken(http.Auth):  # type: ignore[misc]
        def auth_flow(self, request: Any) -> Generator[Any, Any, None]:
            request.headers["Authorization"] = "Bearer fixed"
            yield request

    return FixedToken()


def _passes(name: str, http: Any, auth: Any, *, target: float | None = None) -> Rival:
    request, response = http.Request("GET", API_URL), http.Response(200)

    async def run(count: int) -> None:
        for _ in range(count):
            await one_pass(auth, request, response)

    return Rival(name, run, target=target)


def _requests(name: str, client: Any, *, target: float | None = None) -> Rival:
    async def run(count: int) -> None:
        for _ in range(count):
            await client.get(API_URL)

    return Rival(name, run, target=target)
