"""K4, K8, W5: a holder of a lease that was cut off leaves a trace for the next one."""

import asyncio
import time
from typing import Final

from kit import redis_store_worker
from kit.redis_server import RedisServer, running_server
from kit.support import login
from kit.workers import line_of, worker
from tokenflight import OIDCProvider, StoredTokens, TokenKey, TokenRefresher, TokenSet
from tokenflight.stores.redis import RedisTokenStore
from tokenflight.testing import FakeProvider

KEY: Final = TokenKey("idp", "alice")
RECORD: Final = StoredTokens(TokenSet("access", refresh_token="refresh"))
HOLDERS: Final = "tokenflight:{idp:alice}:holders"

left_behind: Final[list[object]] = []
"""Leases that are never given back. Collected as garbage, they would be."""


async def unreleased_for(store: RedisTokenStore) -> float | None:
    async with store.lease(KEY, timeout=10) as lease:
        return lease.unreleased_for()


async def cut_off(server: RedisServer, *, duration: float = 0.2) -> None:
    """Take the lease, lose it, and never give it back."""
    other = RedisTokenStore(server.url, lease_duration=duration)
    lease = other.lease(KEY, timeout=0)
    left_behind.append(lease)
    held = await lease.__aenter__()
    held.released()  # type: ignore[attr-defined] # it is extended no more, as if its process stood still
    await asyncio.sleep(duration)
    await other.aclose()


async def test_k4_a_lease_that_was_given_back_leaves_no_trace(store: RedisTokenStore) -> None:
    assert await unreleased_for(store) is None
    assert await unreleased_for(store) is None


async def test_k4_the_next_holder_hears_of_one_that_was_cut_off_and_so_do_those_after_it(
    server: RedisServer, store: RedisTokenStore
) -> None:
    await store.save(KEY, RECORD)
    await cut_off(server)
    for _ in range(3):
        silent = await unreleased_for(store)
        assert silent is not None
        assert 0.2 <= silent < 10


async def test_k4_the_time_since_then_is_counted_on_while_the_lease_is_held(
    server: RedisServer, store: RedisTokenStore
) -> None:
    await cut_off(server)
    async with store.lease(KEY, timeout=10) as lease:
        first = lease.unreleased_for()
        await asyncio.sleep(0.05)
        second = lease.unreleased_for()
    assert first is not None
    assert second is not None
    assert second - first >= 0.05


async def test_k4_the_trace_goes_with_each_write_of_the_record(server: RedisServer, store: RedisTokenStore) -> None:
    async def save() -> None:
        await store.save(KEY, RECORD)

    async def replace() -> None:
        await store.replace(KEY, StoredTokens(TokenSet("new")), expected=RECORD.version)

    async def delete() -> None:
        await store.delete(KEY)

    async def create() -> None:
        await store.replace(KEY, StoredTokens(TokenSet("first")), expected=None)

    for write in (save, replace, delete, create):
        await cut_off(server, duration=0.05)
        assert await unreleased_for(store) is not None
        await write()
        assert await unreleased_for(store) is None, write.__name__


async def test_k4_the_trace_goes_when_the_holder_gives_its_lease_back_after_all(
    server: RedisServer, store: RedisTokenStore
) -> None:
    late = RedisTokenStore(server.url, lease_duration=0.1)
    async with late.lease(KEY, timeout=0) as held:
        held.released()  # type: ignore[attr-defined] # it is extended no more, as if its process stood still
        await asyncio.sleep(0.15)
        assert await unreleased_for(store) is not None
    assert await unreleased_for(store) is None
    await late.aclose()


async def test_k4_a_holder_that_was_last_heard_of_hours_ago_is_forgotten_though_others_came_since(
    server: RedisServer, store: RedisTokenStore
) -> None:
    with server.client() as client:
        now = client.time()[0] * 1000
        client.hset(HOLDERS, mapping={"long gone": now - 7_200_000, "cut off": now - 60_000})
        silent = await unreleased_for(store)
        assert client.hkeys(HOLDERS) == [b"cut off"]
        assert silent is not None
        assert 60 <= silent < 70
        client.hset(HOLDERS, mapping={"long gone": now - 7_200_000})
        client.hdel(HOLDERS, "cut off")
    assert await unreleased_for(store) is None


async def test_k4_the_trace_goes_by_itself_within_the_hour(server: RedisServer) -> None:
    await cut_off(server)
    with server.client() as client:
        assert 3_590_000 < client.pttl(HOLDERS) <= 3_607_000


async def test_k4_a_renewal_that_waits_for_a_server_away_for_longer_than_its_lease_is_adopted(
    fake: FakeProvider, provider: OIDCProvider
) -> None:
    with running_server("--appendonly", "yes", "--appendfsync", "always") as server:
        stores = [RedisTokenStore(server.url, lease_duration=0.5) for _ in range(2)]
        async with TokenRefresher(provider, stores[0]) as holder, TokenRefresher(provider, stores[1]) as successor:
            await holder.save_tokens("alice", login(fake, "alice", life_left=-1))
            with fake.hold(after=True) as gate:
                caller = asyncio.create_task(holder.get_valid_token("alice"))
                await gate.reached()
                server.stop()
            renewed = await caller  # though it could not be stored
            await asyncio.sleep(0.5)
            server.start()
            assert await successor.get_valid_token("alice") == renewed
    assert (fake.requests(), fake.reuses()) == (1, 0)


async def test_w5_k8_a_killed_holder_costs_seven_seconds_at_most_and_the_next_one_hears_of_it(
    server: RedisServer, store: RedisTokenStore
) -> None:
    await store.save(KEY, RECORD)
    async with worker(redis_store_worker, server.url) as process:
        assert await line_of(process) == "held"
        process.kill()
        await process.wait()
        killed_at = time.monotonic()
        async with store.lease(KEY, timeout=10) as lease:
            assert time.monotonic() - killed_at <= 7.5
            silent = lease.unreleased_for()
    assert silent is not None
    assert 5 <= silent <= 8
