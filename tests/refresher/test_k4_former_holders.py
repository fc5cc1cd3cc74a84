"""K4, K8: a process that was cut off in the middle of a renewal gets the time to store what came back."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager

import pytest
import time_machine

from kit.minting import Minting, renewed_of
from kit.support import NOW
from kit.virtual_time import run_in_virtual_time, seconds
from tokenflight import (
    MemoryTokenStore,
    ProviderUnavailable,
    RefreshPolicy,
    StoredTokens,
    TokenKey,
    TokenRefresher,
    TokenSet,
)
from tokenflight._core.limits import Limits
from tokenflight.stores import Lease

KEY = TokenKey(Minting.name, "alice")
LIMITS = Limits()
OTHERS = TokenSet("renewed elsewhere", refresh_token="renewed elsewhere", expires_at=NOW + 3600, issued_at=NOW)


def tokens(life_left: float) -> TokenSet:
    return TokenSet("old", refresh_token="old", expires_at=NOW + life_left, issued_at=NOW + life_left - 3600)


class CutOff(Lease):
    def __init__(self, unreleased_for: float | None) -> None:
        self._unreleased_for = unreleased_for

    def unreleased_for(self) -> float | None:
        return self._unreleased_for


class StoreWithLapsedLease(MemoryTokenStore):
    """Its next leases tell of a former holder that was heard of so many seconds ago."""

    silent: float | None = 7.0

    def lease(self, key: TokenKey, *, timeout: float) -> AbstractAsyncContextManager[Lease]:
        return self._after_another(super().lease(key, timeout=timeout))

    @asynccontextmanager
    async def _after_another(self, lease: AbstractAsyncContextManager[Lease]) -> AsyncIterator[Lease]:
        async with lease:
            yield CutOff(self.silent)


def test_k4_an_expired_token_is_renewed_once_the_former_holder_has_had_a_moment(clock: time_machine.Traveller) -> None:
    async def main() -> float:
        store = StoreWithLapsedLease()
        await store.save(KEY, StoredTokens(tokens(-1)))
        async with TokenRefresher(Minting(), store) as refresher:
            assert await refresher.get_valid_token("alice") == renewed_of("alice")
        return seconds()

    assert run_in_virtual_time(clock, main) == pytest.approx(LIMITS.former_holder_grace)


def test_k4_what_the_former_holder_stores_in_that_moment_is_adopted(clock: time_machine.Traveller) -> None:
    provider = Minting()

    async def main() -> None:
        store = StoreWithLapsedLease()
        await store.save(KEY, before := StoredTokens(tokens(-1)))
        async with TokenRefresher(provider, store) as refresher:
            caller = asyncio.create_task(refresher.get_valid_token("alice"))
            await asyncio.sleep(LIMITS.longest_save_pause)
            await store.replace(KEY, StoredTokens(OTHERS), expected=before.version)
            assert await caller == OTHERS

    run_in_virtual_time(clock, main)
    assert provider.requests == 0


def test_k8_nobody_is_in_a_hurry_while_the_token_is_valid(clock: time_machine.Traveller) -> None:
    provider = Minting()
    held = tokens(life_left=200)

    async def main() -> None:
        store = StoreWithLapsedLease()
        await store.save(KEY, before := StoredTokens(held))
        async with TokenRefresher(provider, store, policy=RefreshPolicy(cache_ttl=5)) as refresher:
            for _ in range(10):
                began = seconds()
                assert await refresher.get_valid_token("alice") == held
                assert seconds() == began
                await asyncio.sleep(6)
            with pytest.raises(ProviderUnavailable) as caught:
                await refresher.refresh_token("alice")
            assert caught.value.code == "unfinished_elsewhere"
            await store.replace(KEY, StoredTokens(OTHERS), expected=before.version)
            await asyncio.sleep(6)
            assert await refresher.get_valid_token("alice") == OTHERS

    run_in_virtual_time(clock, main)
    assert provider.requests == 0


def test_k8_the_former_holder_is_given_up_when_its_request_must_have_ended(clock: time_machine.Traveller) -> None:
    provider = Minting()

    async def main() -> float:
        store = StoreWithLapsedLease()
        await store.save(KEY, StoredTokens(tokens(life_left=200)))
        async with TokenRefresher(provider, store) as refresher:
            while provider.requests == 0:
                await refresher.get_valid_token("alice")
                store.silent = 7.0 + seconds()
                await asyncio.sleep(1)
            assert await refresher.get_valid_token("alice") == renewed_of("alice")
        return seconds()

    waited = run_in_virtual_time(clock, main)
    assert waited == pytest.approx(LIMITS.former_holder_seconds - 7, abs=LIMITS.former_holder_grace + 2)


def test_k8_once_the_token_has_expired_callers_wait_for_a_moment_and_not_for_the_rest_of_the_pause(
    clock: time_machine.Traveller,
) -> None:
    held = tokens(life_left=30)

    async def main() -> float:
        store = StoreWithLapsedLease()
        await store.save(KEY, StoredTokens(held))
        async with TokenRefresher(Minting(), store) as refresher:
            assert await refresher.get_valid_token("alice") == held
            await asyncio.sleep(31)
            began = seconds()
            assert await refresher.get_valid_token("alice") == renewed_of("alice")
            return seconds() - began

    assert run_in_virtual_time(clock, main) == pytest.approx(LIMITS.former_holder_grace)


def test_k4_a_former_holder_costs_nothing_where_its_renewal_is_stored(clock: time_machine.Traveller) -> None:
    async def main() -> float:
        store = StoreWithLapsedLease()
        await store.save(KEY, StoredTokens(tokens(-1)))
        async with TokenRefresher(Minting(), store) as refresher:
            stored = OTHERS
            await store.save(KEY, StoredTokens(stored))
            assert await refresher.get_valid_token("alice") == stored
        return seconds()

    assert run_in_virtual_time(clock, main) == 0
