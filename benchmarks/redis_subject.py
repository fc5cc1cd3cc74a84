"""The Redis store, beside the bare commands of the same client."""

import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from redis.asyncio import Redis

from benchmarks.store_subjects import TESTS, Subject, closing, records
from tokenflight.stores.redis import RedisTokenStore


@asynccontextmanager
async def redis() -> AsyncIterator[Subject]:
    """Start a server as the tests do, with two clients."""
    sys.path.append(TESTS)
    from kit.redis_server import free_port, running_server  # noqa: PLC0415 - the line above makes it importable

    port = free_port()
    with running_server("--port", str(port), "--bind", "127.0.0.1"):
        client, other_client = Redis(port=port), Redis(port=port)
        store, other = RedisTokenStore(client), RedisTokenStore(other_client)
        async with client, other_client, closing(store, other):
            bare = _BareRedis(client)
            yield Subject(
                "Redis, not persistent, through loopback TCP",
                store,
                other,
                {"SET": bare.save},
                {"GET": bare.load},
                {"SET NX, GET, SET, DEL": bare.renew},
                count=100,
            )


class _BareRedis:
    """One key for the record and one for the lease."""

    def __init__(self, client: Redis) -> None:
        self._client = client
        self._records = records()

    async def save(self) -> None:
        """One round trip."""
        await self._client.set("bare", next(self._records))

    async def load(self) -> None:
        """One round trip."""
        await self._client.get("bare")

    async def renew(self) -> None:
        """Four round trips."""
        await self._client.set("bare-lease", "owner", nx=True, px=60_000)
        await self.load()
        await self.save()
        await self._client.delete("bare-lease")
