"""Waiting for an operation that goes on although its caller was cancelled.

A write that went on in the background could undo what its caller does next. A store therefore gives an operation that
has begun a moment to end before it lets the cancellation through.
"""

import asyncio
from typing import Any, Final, TypeVar

T = TypeVar("T")

CANCELLATION_SECONDS: Final = 1.0
"""How long a cancelled caller waits for the operation that it has begun, unless a store's limits say otherwise."""


async def wait_briefly(work: asyncio.Future[Any], seconds: float) -> None:
    """Wait for the end of `work`, for `seconds` at most because an engine may hang."""
    work.add_done_callback(_retrieve_exception)
    await asyncio.wait([work], timeout=seconds)


async def shielded_result(work: asyncio.Future[T], seconds: float) -> T:
    """The result of `work`. If this is cancelled, `work` goes on, and has `seconds` to end before this ends."""
    try:
        # Without the shield, the cancellation would reach the statement that a server may be running.
        return await asyncio.shield(work)
    except asyncio.CancelledError:
        await wait_briefly(work, seconds)
        raise


def _retrieve_exception(work: asyncio.Future[Any]) -> None:
    """Keep asyncio from logging the exception of `work` as never retrieved: its caller has left."""
    if not work.cancelled():
        work.exception()
