"""Clients that ask Sentinel where the primary is."""

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from typing import Any, Final

import pytest
from redis.asyncio import Redis
from redis.asyncio import sentinel as sentinels

from kit.redis_server import RedisServer, running_pair, running_sentinel
from kit.stores import KEY, take, until_true
from tokenflight import StoredTokens, StoreUnavailable, TokenKey, TokenSet
from tokenflight.stores.redis import RedisTokenStore

Sentinel: Any = sentinels.Sentinel  # its methods have no types
OLD: Final = StoredTokens(TokenSet("old"))
NEW: Final = StoredTokens(TokenSet("new"))


@pytest.fixture
def pair() -> Iterator[tuple[RedisServer, RedisServer]]:
    """A primary and its replica."""
    with running_pair() as pair:
        yield pair


@pytest.fixture
async def sentinel(pair: tuple[RedisServer, RedisServer]) -> AsyncIterator[Any]:
    """A real Sentinel that watches them, as redis-py sees it."""
    with running_sentinel(pair[0]) as port:
        watcher = Sentinel([("127.0.0.1", port)])
        yield watcher
        for each in watcher.sentinels:
            await each.aclose()


@asynccontextmanager
async def opened(client: Redis) -> AsyncIterator[RedisTokenStore]:
    """A store on the app's client."""
    async with client:
        store = RedisTokenStore(client)
        await asyncio.gather(*(store.load(TokenKey("idp", str(number))) for number in range(5)))
        yield store
        await store.aclose()


async def test_h1_a_client_of_sentinel_finds_the_new_primary_while_the_former_one_lives_on_as_its_replica(
    pair: tuple[RedisServer, RedisServer], sentinel: Any
) -> None:
    primary, replica = pair
    async with opened(sentinel.master_for("tokens")) as store:
        await store.save(KEY, OLD)
        await sentinel.execute_command("SENTINEL", "FAILOVER", "tokens")
        successor = ("127.0.0.1", replica.port)

        async def has_moved() -> bool:
            return bool(await sentinel.discover_master("tokens") == successor)

        await until_true(has_moved)
        # Sentinel does the same when it next looks, after ten seconds, and closes the connections there.
        with primary.client() as client:
            client.replicaof(*successor)
        await store.replace(KEY, NEW, expected=OLD.version)
        assert await store.load(KEY) == NEW
        await take(store, timeout=0)


async def test_h1_a_client_of_sentinel_goes_on_when_the_primary_has_died(
    pair: tuple[RedisServer, RedisServer], sentinel: Any
) -> None:
    primary, _ = pair
    async with opened(sentinel.master_for("tokens")) as store:
        await store.save(KEY, OLD)
        await asyncio.sleep(0.5)  # the replica is in step again
        primary.stop()

        async def is_saved() -> bool:
            try:
                await store.replace(KEY, NEW, expected=OLD.version)
            except StoreUnavailable:
                return False
            return True

        await until_true(is_saved)
        assert await store.load(KEY) == NEW
        await take(store, timeout=0)


async def test_h1_a_client_of_replicas_is_told_that_it_is_one(
    pair: tuple[RedisServer, RedisServer], sentinel: Any
) -> None:
    async with opened(sentinel.slave_for("tokens")) as store:
        with pytest.raises(StoreUnavailable, match="is a replica"):
            await store.save(KEY, OLD)
