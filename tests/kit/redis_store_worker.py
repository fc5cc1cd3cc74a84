"""A process of its own that holds a lease in a Redis store, whose URL is its argument, until it is killed."""

import asyncio
import sys

from tokenflight import TokenKey
from tokenflight.stores.redis import RedisTokenStore


async def hold(url: str) -> None:
    async with RedisTokenStore(url, lease_duration=1).lease(TokenKey("idp", "alice"), timeout=0):
        print("held", flush=True)  # noqa: T201
        await asyncio.sleep(60)


if __name__ == "__main__":
    asyncio.run(hold(sys.argv[1]))
