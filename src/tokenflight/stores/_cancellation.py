"""What a store has begun ends before its caller goes on, also when that is cancelled."""

import asyncio
from typing import Any, Final, TypeVar

T = TypeVar("T")

CANCELLATION_SECONDS: Final = 1.0
"""How long the end of a cancelled operation is waited for."""


async def wait_briefly(work: asyncio.Future[Any]) -> None:
    """Wait for the end of `work`, but not for long: an engine may hang.

    Left to itself at once, it could undo what the caller does next.
    """
    work.add_done_callback(_retrieve)
    await asyncio.wait([work], timeout=CANCELLATION_SECONDS)


async def shielded_result(work: asyncio.Future[T]) -> T:
    """The result of `work`, which goes on when this is cancelled, and has then a moment to end."""
    try:
        return await asyncio.shield(work)
    except asyncio.CancelledError:
        await wait_briefly(work)
        raise


def _retrieve(work: asyncio.Future[Any]) -> None:
    if not work.cancelled():
        work.exception()  # nobody waits for it any more; it is not asyncio's to log
