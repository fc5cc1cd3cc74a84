"""T8: ten thousand users due together are read and renewed a few at a time."""

import asyncio
import logging

import pytest
import time_machine

from kit.minting import Minting, flights_of, renewed_of, stored
from kit.support import let_others_run, login
from kit.virtual_time import run_in_virtual_time, seconds
from tokenflight import (
    MemoryTokenStore,
    OIDCProvider,
    ProviderUnavailable,
    ReauthenticationRequired,
    RefreshPolicy,
    StoredTokens,
    TokenKey,
    TokenRefresher,
    TokenSet,
    TokenStore,
)
from tokenflight.policy import user_jitter
from tokenflight.testing import FakeProvider


class MoodyProvider(Minting):
    """It answers every third user with a failure, and refuses every third."""

    def answer(self, user_id: str) -> TokenSet:
        match int(user_id) % 3:
            case 0:
                raise ProviderUnavailable("down")
            case 1:
                raise ReauthenticationRequired("refused")
        return renewed_of(user_id)


@pytest.mark.parametrize("slots", [1, 7, 32])
@pytest.mark.parametrize("kind", [Minting, MoodyProvider])
def test_t8_two_thousand_due_users_are_renewed_a_few_at_a_time(
    clock: time_machine.Traveller, slots: int, kind: type[Minting], caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.CRITICAL)
    provider, users = kind(seconds=0.05), [str(number) for number in range(2_000)]

    async def main() -> None:
        store = MemoryTokenStore()
        await stored(store, *users)
        policy = RefreshPolicy(max_concurrent_renewals=slots)
        async with TokenRefresher(provider, store, policy=policy) as refresher:
            outcomes = await asyncio.gather(*map(refresher.get_valid_token, users), return_exceptions=True)
            assert flights_of(refresher) == 0
        for user_id, outcome in zip(users, outcomes, strict=True):
            expected: object = renewed_of(user_id)
            if kind is MoodyProvider:
                expected = [ProviderUnavailable, ReauthenticationRequired, expected][int(user_id) % 3]
            assert expected in (outcome, type(outcome))
        assert seconds() == pytest.approx(0.05 * -(-len(users) // slots))

    run_in_virtual_time(clock, main)
    assert (provider.requests, provider.most_at_once) == (2_000, slots)


async def test_t8_waiting_for_a_lease_held_elsewhere_keeps_no_place_from_other_users(
    fake: FakeProvider, provider: OIDCProvider, store: TokenStore
) -> None:
    policy = RefreshPolicy(max_concurrent_renewals=1)
    async with TokenRefresher(provider, store, policy=policy) as refresher:
        for user_id in ("alice", "bob"):
            await refresher.save_tokens(user_id, login(fake, user_id, life_left=-1))
        async with store.lease(TokenKey(provider.name, "alice"), timeout=0):
            waiting = asyncio.create_task(refresher.get_valid_token("alice"))
            await let_others_run()
            async with asyncio.timeout(5):
                assert (await refresher.get_valid_token("bob")).access_token
            assert not waiting.done()
        assert (await waiting).access_token
    assert fake.requests() == 2


async def test_t8_those_who_waited_for_leases_held_elsewhere_are_renewed_a_few_at_a_time(
    clock: time_machine.Traveller,
) -> None:
    store, provider = MemoryTokenStore(), Minting(seconds=0.01)
    users = [f"user-{number}" for number in range(5)]
    await stored(store, *users)
    async with TokenRefresher(provider, store, policy=RefreshPolicy(max_concurrent_renewals=1)) as refresher:
        held = [store.lease(TokenKey(provider.name, user_id), timeout=0) for user_id in users]
        for lease in held:
            await lease.__aenter__()
        callers = [asyncio.create_task(refresher.get_valid_token(user_id)) for user_id in users]
        await let_others_run()
        for lease in held:
            await lease.__aexit__(None, None, None)
        await asyncio.gather(*callers)
    assert provider.most_at_once == 1


async def test_t8_cold_users_wait_for_their_reads_here_and_not_in_the_stores_queue(
    fake: FakeProvider, provider: OIDCProvider
) -> None:
    class CountingReads(MemoryTokenStore):
        under_way = most_under_way = 0

        async def load(self, key: TokenKey) -> StoredTokens | None:
            self.under_way += 1
            self.most_under_way = max(self.most_under_way, self.under_way)
            await asyncio.sleep(0)
            self.under_way -= 1
            return await super().load(key)

    store = CountingReads()
    users = [f"user-{number}" for number in range(500)]
    for user_id in users:
        await store.save(TokenKey(provider.name, user_id), StoredTokens(login(fake, user_id)))
    async with TokenRefresher(provider, store) as refresher:
        await asyncio.gather(*(refresher.get_valid_token(user_id) for user_id in users))
    assert store.most_under_way == 64


async def test_t8_a_token_that_is_not_aging_for_its_user_is_not_renewed_for_a_caller_that_needs_some_life(
    fake: FakeProvider, refresher: TokenRefresher
) -> None:
    window = 300 * user_jitter("alice")
    tokens = login(fake, "alice", life_left=300 + (window + 300) / 2)
    await refresher.save_tokens("alice", tokens)
    assert await refresher.get_valid_token("alice", min_validity=1) == tokens
    await let_others_run()
    assert fake.requests() == 0
