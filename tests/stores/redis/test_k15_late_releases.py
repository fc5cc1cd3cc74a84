"""K15: a lease that could not be given back is given back as soon as the server lets it be."""

import asyncio
import time
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from kit.late_releases import late_releases
from kit.redis_server import RedisServer
from kit.stores import KEY, is_free, take, until
from tokenflight import StoreUnavailable
from tokenflight.stores.redis import RedisTokenStore


@contextmanager
def refusing_scripts(server: RedisServer) -> Iterator[None]:
    """The server refuses all that a lease needs."""
    with server.client() as client:
        client.execute_command("ACL SETUSER default -evalsha")
        try:
            yield
        finally:
            client.execute_command("ACL SETUSER default +evalsha")


async def fail_to_release(server: RedisServer, store: RedisTokenStore) -> None:
    """Take the lease, and fail to give it back."""
    context = store.lease(KEY, timeout=0)
    await context.__aenter__()
    with refusing_scripts(server), pytest.raises(StoreUnavailable):
        await context.__aexit__(None, None, None)


async def test_k15_a_lease_that_could_not_be_given_back_is_free_long_before_it_would_lapse(
    server: RedisServer, store: RedisTokenStore
) -> None:
    holding = RedisTokenStore(server.url, lease_duration=8)
    await fail_to_release(server, holding)
    failed_at = time.monotonic()
    async with store.lease(KEY, timeout=20) as lease:
        assert time.monotonic() - failed_at < 4
        assert lease.unreleased_for() is None
    await until(lambda: late_releases() == [])
    await holding.aclose()


async def test_k15_an_attempt_that_failed_is_given_back_later_too(server: RedisServer, store: RedisTokenStore) -> None:
    attempting = RedisTokenStore(server.url, lease_duration=1.6)
    await attempting.load(KEY)
    with refusing_scripts(server):
        with pytest.raises(StoreUnavailable):
            await take(attempting)
        await until(late_releases)
    await until(lambda: late_releases() == [])
    assert await is_free(store)
    await attempting.aclose()


async def test_k15_nothing_is_given_back_once_it_has_lapsed(server: RedisServer) -> None:
    store = RedisTokenStore(server.url, lease_duration=0.3)
    context = store.lease(KEY, timeout=0)
    await context.__aenter__()
    with refusing_scripts(server):
        with pytest.raises(StoreUnavailable):
            await context.__aexit__(None, None, None)
        assert len(late_releases()) == 1
        await until(lambda: late_releases() == [])
    await store.aclose()


async def test_k15_a_store_that_is_closed_gives_nothing_back_any_more(
    server: RedisServer, store: RedisTokenStore
) -> None:
    closing = RedisTokenStore(server.url, lease_duration=1)
    await fail_to_release(server, closing)
    await closing.aclose()
    assert late_releases() == []
    await asyncio.sleep(0.2)
    assert not await is_free(store)
    with server.client() as client:
        assert len(client.client_list()) == 2  # this one and the other store's
