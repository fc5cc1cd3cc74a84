"""A process of its own that holds a lease in a Redis store until it is killed.

Its arguments are the URL and, unless the lease has its usual duration, that in seconds.
"""

import asyncio
import sys

from tokenflight import TokenKey
from tokenflight.stores.redis import RedisTokenStore


async def hold(url: str, duration: str = "7") -> None:
    async with RedisTokenStore(url, lease_duration=float(duration)).lease(TokenKey("idp", "alice"), timeout=0):
        print("held", flush=True)  # noqa: T201
        await asyncio.sleep(60)


if __name__ == "__main__":
    asyncio.run(hold(*sys.argv[1:]))
