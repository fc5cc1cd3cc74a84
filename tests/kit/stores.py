"""What the tests of all stores share."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Final

from tokenflight import LeaseTimeout, TokenKey, TokenStore

KEY: Final = TokenKey("idp", "alice")


async def keys_of(store: TokenStore, provider: str | None = None) -> list[TokenKey]:
    """The keys in `store`, in its order."""
    return [key async for key in store.keys(provider)]


async def take(store: TokenStore, *, key: TokenKey = KEY, timeout: float = 20) -> None:
    """Acquire the lease on `key` and release it at once."""
    async with store.lease(key, timeout=timeout):
        pass


async def is_free(store: TokenStore, *, key: TokenKey = KEY) -> bool:
    """Whether the lease on `key` can be acquired at once."""
    try:
        await take(store, key=key, timeout=0)
    except LeaseTimeout:
        return False
    return True


async def until(condition: Callable[[], object]) -> None:
    """Wait until `condition` holds, of which no event tells."""
    async with asyncio.timeout(10):
        while not condition():  # noqa: ASYNC110
            await asyncio.sleep(0.005)


async def until_true(condition: Callable[[], Awaitable[bool]]) -> None:
    """Wait until `condition`, which has to be awaited, says yes."""
    async with asyncio.timeout(10):
        while not await condition():  # noqa: ASYNC110
            await asyncio.sleep(0.02)
