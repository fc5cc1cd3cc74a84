"""Many callers that ask at the same moment, in tasks or in threads."""

import asyncio
import threading
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from dataclasses import dataclass
from http import HTTPStatus
from typing import Any, Final, TypeAlias

from benchmarks.peers import Callers
from benchmarks.peers.base import API_URL, Session
from benchmarks.provider import Login, Provider, Sight

API_SECONDS: Final = 0.01
"""The API answers after this time. It is in memory, so that no connection pool is measured."""

PATIENCE_SECONDS: Final = 120.0


@dataclass(frozen=True, slots=True)
class Served:
    """The access token of each caller, or None for a failure, and the `seconds` until the last one was served."""

    tokens: Sequence[str | None]
    seconds: float


Ask: TypeAlias = Callable[[], Awaitable[str]]
Meanwhile: TypeAlias = Callable[[asyncio.Future[str]], Awaitable[None]]


async def serve(
    session: Session, callers: Callers, number: int, login: Login, *, meanwhile: Meanwhile | None = None
) -> Served:
    """Let `number` callers ask at once. While they wait, call `meanwhile` with the first caller's task."""
    async with asyncio.timeout(PATIENCE_SECONDS):
        if callers is Callers.THREADS:
            assert session.ask_in_thread is not None
            return await _serve_threads(session.ask_in_thread, number)
        if callers is Callers.API_CALLS:
            async with _api_calls(session, login) as call:
                return await _serve_tasks(call, number, meanwhile)
        assert session.ask is not None
        return await _serve_tasks(session.ask, number, meanwhile)


async def failures_among(served: Served, login: Login, provider: Provider) -> tuple[int, Sight]:
    """Return how many callers have no token that an API would accept now, and what the provider saw."""
    sight = await provider.sight(login, sorted({token for token in served.tokens if token is not None}))
    return sum(token not in sight.live for token in served.tokens), sight


async def _serve_tasks(ask: Ask, number: int, meanwhile: Meanwhile | None) -> Served:
    start = time.perf_counter()
    tasks = [asyncio.ensure_future(ask()) for _ in range(number)]
    if meanwhile is not None:
        await meanwhile(tasks[0])
    outcomes = await asyncio.gather(*tasks, return_exceptions=True)
    seconds = time.perf_counter() - start
    return Served([outcome if isinstance(outcome, str) else None for outcome in outcomes], seconds)


async def _serve_threads(ask: Callable[[], str], number: int) -> Served:
    started: list[float] = []
    barrier = threading.Barrier(number, action=lambda: started.append(time.perf_counter()))

    def call() -> str | None:
        barrier.wait()
        try:
            return ask()
        except Exception:  # noqa: BLE001 - after any exception, the caller has no token
            return None

    loop = asyncio.get_running_loop()
    with ThreadPoolExecutor(number) as pool:
        tokens = await asyncio.gather(*(loop.run_in_executor(pool, call) for _ in range(number)))
        return Served(tokens, time.perf_counter() - started[0])


@asynccontextmanager
async def _api_calls(session: Session, login: Login) -> AsyncIterator[Ask]:
    """Call an in-memory API that rejects the access token of `login`. Requests to the provider use the network."""
    http = session.http

    async def answer(request: Any) -> Any:
        await asyncio.sleep(API_SECONDS)
        token = request.headers.get("Authorization", "").removeprefix("Bearer ")
        if token in {"", login.access_token}:
            return http.Response(HTTPStatus.UNAUTHORIZED, headers={"WWW-Authenticate": 'Bearer error="invalid_token"'})
        return http.Response(HTTPStatus.OK, json={"token": token})

    assert session.client is not None
    async with session.client(http.MockTransport(answer)) as client:
        await client.get(login.base_url, auth=None)  # connect first, as an app that has run for a while has done

        async def call() -> str:
            response = await client.get(API_URL)
            response.raise_for_status()
            token: str = response.json()["token"]
            return token

        yield call
