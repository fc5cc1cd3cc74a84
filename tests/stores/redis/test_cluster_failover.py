"""A cluster of which one primary gives way to its replica, in order or by dying, while users are renewed."""

import asyncio
import signal
from collections.abc import Iterator
from typing import Final

import pytest
from redis.asyncio import RedisCluster

from kit.redis_server import RedisServer, running_cluster_with_replica
from kit.stores import until
from tokenflight import LeaseTimeout, StoredTokens, StoreUnavailable, TokenKey, TokenSet
from tokenflight.stores.redis import RedisTokenStore

pytestmark = pytest.mark.long

USERS: Final = [TokenKey("idp", f"user-{number}") for number in range(24)]


@pytest.fixture
def nodes() -> Iterator[list[RedisServer]]:
    """Three primaries and a replica of the first."""
    with running_cluster_with_replica() as nodes:
        yield nodes


class Renewals:
    """One user's record, written again and again under the lease, as a refresher does."""

    def __init__(self, store: RedisTokenStore, key: TokenKey) -> None:
        self.key = key
        self.last = StoredTokens(TokenSet("0"))
        self.writes = 0
        self.failures = 0
        self._store = store

    async def run(self, stopped: asyncio.Event) -> None:
        await self._store.save(self.key, self.last)
        while not stopped.is_set():
            try:
                async with self._store.lease(self.key, timeout=5):
                    await self._write(StoredTokens(TokenSet(str(self.writes + 1))))
            except (StoreUnavailable, LeaseTimeout):
                self.failures += 1
            await asyncio.sleep(0.01)

    async def _write(self, successor: StoredTokens) -> None:
        while True:  # until it is told whether it was written, as a refresher does
            try:
                await self._store.replace(self.key, successor, expected=self.last.version)
            except StoreUnavailable:
                self.failures += 1
                await asyncio.sleep(0.05)
            else:
                self.last, self.writes = successor, self.writes + 1
                return


async def test_h1_no_write_is_lost_when_a_primary_gives_way_to_its_replica_under_load(nodes: list[RedisServer]) -> None:
    async with RedisCluster(host="127.0.0.1", port=nodes[1].port) as client:
        store = RedisTokenStore(client, lease_duration=3)
        stopped = asyncio.Event()
        renewals = [Renewals(store, key) for key in USERS]
        async with asyncio.TaskGroup() as running:
            for each in renewals:
                running.create_task(each.run(stopped))
            await until(lambda: all(each.writes > 3 for each in renewals))
            with nodes[3].client() as replica:
                replica.execute_command("CLUSTER FAILOVER")
                await until(lambda: replica.role()[0] == b"master")
            before = [each.writes for each in renewals]
            await until(lambda: all(each.writes > count + 3 for each, count in zip(renewals, before, strict=True)))
            stopped.set()
        for each in renewals:
            assert await store.load(each.key) == each.last
        await store.aclose()


async def test_h1_users_of_a_primary_that_died_are_renewed_again_and_the_others_go_on(nodes: list[RedisServer]) -> None:
    async with RedisCluster(host="127.0.0.1", port=nodes[1].port) as client:
        store = RedisTokenStore(client, lease_duration=3)
        await asyncio.gather(*(store.save(key, StoredTokens(TokenSet("0"))) for key in USERS))
        await asyncio.sleep(0.5)  # the replica has them too
        nodes[0].signal(signal.SIGKILL)

        async def save(key: TokenKey) -> int:
            failures = 0
            while True:
                try:
                    await store.save(key, StoredTokens(TokenSet("1")))
                except StoreUnavailable:
                    failures += 1
                    await asyncio.sleep(0.1)
                else:
                    return failures

        async with asyncio.timeout(20):
            failures = await asyncio.gather(*(save(key) for key in USERS))
        assert 0 in failures
        for key in USERS:
            record = await store.load(key)
            assert record is not None
            assert record.tokens.access_token == "1"
        await store.aclose()
