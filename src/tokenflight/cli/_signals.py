"""How a command ends when the system asks it to: it closes what it has opened."""

import asyncio
import signal
import sys
from collections.abc import Callable, Coroutine
from typing import Any, Final, TypeVar

import anyio

T = TypeVar("T")

TERMINATED: Final = 128 + signal.SIGTERM
"""The exit status of a program that SIGTERM has ended, as shells have it."""


def run(main: Callable[[], Coroutine[Any, Any, T]]) -> T:
    """Run `main` on asyncio and return its result.

    SIGTERM cancels `main`. Its context managers then close: a renewal under way is stored, and temporary files go.
    Without this, the process would end on the spot, and a refresh token that the provider has just rotated with it.
    """
    return asyncio.run(_run(main))


async def _run(main: Callable[[], Coroutine[Any, Any, T]]) -> T:
    work = asyncio.ensure_future(main())
    if sys.platform == "win32":  # it has no SIGTERM to wait for
        return await work
    listener = asyncio.ensure_future(_cancel_on_sigterm(work))
    try:
        return await work
    except asyncio.CancelledError:
        if not listener.done():
            raise  # Ctrl-C
        sys.exit(TERMINATED)
    finally:
        listener.cancel()


async def _cancel_on_sigterm(work: asyncio.Future[T]) -> None:
    with anyio.open_signal_receiver(signal.SIGTERM) as signals:
        async for _ in signals:
            # Once, and not by a cancel scope, which would cancel the clean-up too: closing has to wait for flights.
            work.cancel()
            return
