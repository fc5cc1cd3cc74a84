"""X3, X5: what a flight does about a lease that lapses, that it can't get or can't give back."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass

import pytest

from kit.support import let_others_run, login
from tokenflight import (
    Lease,
    LeaseTimeout,
    MemoryTokenStore,
    OIDCProvider,
    RefreshPolicy,
    StoredTokens,
    TokenKey,
    TokenRefresher,
    TokenSet,
    TokenStore,
)
from tokenflight._core.limits import Limits
from tokenflight.testing import FakeProvider, FaultyStore


@dataclass
class Lapsing(Lease):
    """A lease that is held for as long as it is told to be."""

    held: bool = True

    def is_held(self) -> bool:
        return self.held


class LapsingStore(MemoryTokenStore):
    """The first lease it gives has lapsed before the renewal is sent; then a sibling may store something."""

    def __init__(self, stored_by_sibling: TokenSet | None = None) -> None:
        super().__init__()
        self.given = 0
        self._stored_by_sibling = stored_by_sibling

    def lease(self, key: TokenKey, *, timeout: float) -> AbstractAsyncContextManager[Lease]:
        return self._lapsing_lease(key, timeout)

    @asynccontextmanager
    async def _lapsing_lease(self, key: TokenKey, timeout: float) -> AsyncIterator[Lease]:
        async with super().lease(key, timeout=timeout):
            self.given += 1
            yield Lapsing(held=self.given > 1)
        if self.given == 1 and self._stored_by_sibling is not None:
            await self.save(key, StoredTokens(self._stored_by_sibling))


async def test_x3_a_lease_that_lapsed_while_the_process_stood_still_is_taken_again_before_anything_is_sent(
    fake: FakeProvider, provider: OIDCProvider
) -> None:
    store = LapsingStore()
    async with TokenRefresher(provider, store) as refresher:
        await refresher.save_tokens("alice", login(fake, "alice", life_left=-1))
        assert (await refresher.get_valid_token("alice")).access_token
    assert store.given == 2
    assert fake.requests() == 1


async def test_x3_what_somebody_else_stored_while_the_lease_had_lapsed_is_adopted(
    fake: FakeProvider, provider: OIDCProvider
) -> None:
    ours, theirs = login(fake, "alice", life_left=-1), login(fake, "alice")
    async with TokenRefresher(provider, LapsingStore(theirs)) as refresher:
        await refresher.save_tokens("alice", ours)
        assert await refresher.get_valid_token("alice") == theirs
    assert fake.requests() == 0


@pytest.mark.parametrize("hangs", [False, True])
async def test_a_lease_that_can_not_be_given_back_takes_nothing_from_what_was_renewed_under_it(
    fake: FakeProvider,
    provider: OIDCProvider,
    caplog: pytest.LogCaptureFixture,
    *,
    hangs: bool,
) -> None:
    store = FaultyStore(MemoryTokenStore())
    if hangs:
        store.hang("release", after=True)
    else:
        store.fail("release", after=True, error=ConnectionResetError)
    async with TokenRefresher(provider, store, _limits=Limits(store_timeout=0.05)) as refresher:
        await refresher.save_tokens("alice", login(fake, "alice", life_left=-1))
        renewed = await refresher.get_valid_token("alice")
        assert await refresher.load_tokens("alice") == renewed
    assert "could not be given back" in caplog.text


class HeldUntil(MemoryTokenStore):
    """The second lease on alice lapses while her flight waits for its turn."""

    def __init__(self) -> None:
        super().__init__()
        self.lapsed = False
        self.given = 0

    def lease(self, key: TokenKey, *, timeout: float) -> AbstractAsyncContextManager[Lease]:
        return self._lapsing(key, timeout)

    @asynccontextmanager
    async def _lapsing(self, key: TokenKey, timeout: float) -> AsyncIterator[Lease]:
        async with super().lease(key, timeout=timeout):
            self.given += key.user_id == "alice"
            yield Held(self if key.user_id == "alice" and self.given == 1 else None)


class Held(Lease):
    def __init__(self, store: HeldUntil | None) -> None:
        self.store = store

    def is_held(self) -> bool:
        return self.store is None or not self.store.lapsed


async def test_x3_a_lease_that_lapses_while_its_flight_waits_for_its_turn_is_taken_again(
    fake: FakeProvider, provider: OIDCProvider
) -> None:
    store = HeldUntil()
    policy = RefreshPolicy(max_concurrent_renewals=1)
    async with TokenRefresher(provider, store, policy=policy) as refresher:
        for user_id in ("alice", "bob"):
            await refresher.save_tokens(user_id, login(fake, user_id, life_left=-1))
        async with MemoryTokenStore.lease(store, TokenKey(provider.name, "alice"), timeout=0):
            alice = asyncio.create_task(refresher.get_valid_token("alice"))
            await let_others_run()
            with fake.hold(user_id="bob") as gate:
                bob = asyncio.create_task(refresher.get_valid_token("bob"))
                await gate.reached()
                await let_go(store, provider)
                await let_others_run()
                assert store.given == 1
                store.lapsed = True
        await asyncio.gather(alice, bob)
    assert store.given == 2
    assert fake.requests("alice") == 1


async def let_go(store: MemoryTokenStore, provider: OIDCProvider) -> None:
    """Give the lease on alice to the next in the queue."""
    queue = store._queues[TokenKey(provider.name, "alice")]
    queue.rotate(-1)
    store._call_next(queue)


async def test_x5_a_wait_for_the_lease_that_is_too_long_ends_with_what_a_sibling_stored(
    fake: FakeProvider, provider: OIDCProvider, store: TokenStore
) -> None:
    key = TokenKey(provider.name, "alice")
    async with TokenRefresher(provider, store, _limits=Limits(lease_timeout=0.05)) as refresher:
        await refresher.save_tokens("alice", login(fake, "alice", life_left=-1))
        async with store.lease(key, timeout=1):
            caller = asyncio.create_task(refresher.get_valid_token("alice"))
            await asyncio.sleep(0)
            stored_by_sibling = login(fake, "alice")
            await store.save(key, StoredTokens(stored_by_sibling))
            assert await caller == stored_by_sibling
    assert fake.requests() == 0


async def test_x5_a_wait_for_the_lease_that_brings_nothing_is_a_transient_error(
    fake: FakeProvider, provider: OIDCProvider, store: TokenStore
) -> None:
    async with TokenRefresher(provider, store, _limits=Limits(lease_timeout=0.05)) as refresher:
        await refresher.save_tokens("alice", login(fake, "alice", life_left=-1))
        async with store.lease(TokenKey(provider.name, "alice"), timeout=1):
            with pytest.raises(LeaseTimeout):
                await refresher.get_valid_token("alice")
        assert (await refresher.get_valid_token("alice")).access_token
    assert fake.requests() == 1


async def test_a_flight_detached_before_it_gets_the_lease_sends_nothing(
    fake: FakeProvider, provider: OIDCProvider, store: FaultyStore
) -> None:
    async with TokenRefresher(provider, store) as refresher:
        await refresher.save_tokens("alice", login(fake, "alice", life_left=-1))
        with store.hold("lease") as gate:
            caller = asyncio.create_task(refresher.get_valid_token("alice"))
            await gate.reached()
            fresh = login(fake, "alice")
            await refresher.save_tokens("alice", fresh)
            assert await caller == fresh
    assert fake.requests() == 0
