"""Time limits whose end is an error of the tree."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from tokenflight.errors import TokenflightError


@asynccontextmanager
async def deadline(seconds: float, error: TokenflightError) -> AsyncIterator[None]:
    """End the body after `seconds` with `error`. A `TimeoutError` of the body's own passes through."""
    timeout = asyncio.timeout(seconds)
    try:
        async with timeout:
            yield
    except TimeoutError:
        if not timeout.expired():
            raise
        raise error from None
