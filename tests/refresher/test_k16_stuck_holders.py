"""K16: a holder of the lease that stands still costs the callers of its user one wait, and not one for each call."""

import asyncio

import pytest
import time_machine

from kit.minting import KEY, Minting, renewed_of
from kit.support import NOW
from kit.virtual_time import run_in_virtual_time, seconds
from tokenflight import LeaseTimeout, MemoryTokenStore, StoredTokens, TokenRefresher, TokenSet
from tokenflight._core.limits import Limits

LIMITS = Limits()


def tokens(life_left: float) -> TokenSet:
    return TokenSet("old", refresh_token="old", expires_at=NOW + life_left, issued_at=NOW + life_left - 3600)


def test_k16_a_valid_token_is_served_at_once_while_the_holder_stands_still(clock: time_machine.Traveller) -> None:
    async def main() -> None:
        store, held = MemoryTokenStore(), tokens(life_left=200)
        await store.save(KEY, StoredTokens(held))
        async with store.lease(KEY, timeout=0), TokenRefresher(Minting(), store) as refresher:
            assert await refresher.get_valid_token("alice") == held
            assert seconds() <= 1.01

    run_in_virtual_time(clock, main)


def test_k16_after_one_wait_for_an_expired_token_callers_hear_at_once_what_is_wrong(
    clock: time_machine.Traveller,
) -> None:
    async def main() -> None:
        store = MemoryTokenStore()
        await store.save(KEY, StoredTokens(tokens(life_left=-1)))
        async with TokenRefresher(Minting(), store) as refresher:
            async with store.lease(KEY, timeout=0):
                with pytest.raises(LeaseTimeout):
                    await refresher.get_valid_token("alice")
                assert seconds() == pytest.approx(LIMITS.lease_timeout)
                for _ in range(10):
                    with pytest.raises(LeaseTimeout, match="paused"):
                        await refresher.get_valid_token("alice")
                assert seconds() == pytest.approx(LIMITS.lease_timeout)
            assert await refresher.get_valid_token("alice") == renewed_of("alice")

    run_in_virtual_time(clock, main)


def test_k16_what_the_holder_stores_in_the_end_is_served_although_the_pause_is_not_over(
    clock: time_machine.Traveller,
) -> None:
    async def main() -> None:
        store = MemoryTokenStore()
        await store.save(KEY, before := StoredTokens(tokens(life_left=-1)))
        async with TokenRefresher(Minting(), store) as refresher:
            async with store.lease(KEY, timeout=0):
                with pytest.raises(LeaseTimeout):
                    await refresher.get_valid_token("alice")
                renewed = renewed_of("alice")
                await store.replace(KEY, StoredTokens(renewed), expected=before.version)
            assert await refresher.get_valid_token("alice") == renewed
            assert seconds() == pytest.approx(LIMITS.lease_timeout)

    run_in_virtual_time(clock, main)


async def test_k16_a_caller_waits_no_longer_than_it_says_itself() -> None:
    store = MemoryTokenStore()
    await store.save(KEY, StoredTokens(TokenSet("old", refresh_token="old", expires_at=1.0)))
    limits = Limits(lease_timeout=0.2)
    async with TokenRefresher(Minting(), store, _limits=limits) as refresher, store.lease(KEY, timeout=0):
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.05):
                await refresher.get_valid_token("alice")
