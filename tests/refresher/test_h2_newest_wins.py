"""H2, K12: a store that goes back in time is healed from memory, and no refresh token known to be spent is sent."""

import asyncio
from collections.abc import Awaitable, Callable

import pytest
import time_machine

from kit.support import login, until_told
from tokenflight import (
    MemoryTokenStore,
    OIDCProvider,
    RefreshPolicy,
    SaveRecovered,
    StoredTokens,
    TokenEvent,
    TokenKey,
    TokenRefresher,
    TokenSet,
    TokenStore,
)
from tokenflight.testing import FakeProvider, FaultyStore

CACHE_TTL = 10.0
POLICY = RefreshPolicy(cache_ttl=CACHE_TTL)


async def record_in(store: TokenStore, provider: OIDCProvider) -> StoredTokens:
    record = await store.load(TokenKey(provider.name, "alice"))
    assert record is not None
    return record


async def get(refresher: TokenRefresher, row: TokenSet) -> TokenSet:
    return await refresher.get_valid_token("alice")


async def get_for_longer(refresher: TokenRefresher, row: TokenSet) -> TokenSet:
    return await refresher.get_valid_token("alice", min_validity=3000)


async def renew(refresher: TokenRefresher, row: TokenSet) -> TokenSet:
    return await refresher.refresh_token("alice")


async def reject(refresher: TokenRefresher, row: TokenSet) -> TokenSet:
    return await refresher.get_valid_token("alice", rejected=row.access_token)


async def offer_the_row_of_the_login(refresher: TokenRefresher, row: TokenSet) -> TokenSet:
    return (await refresher.ensure_valid_token("alice", row)).tokens


async def sweep(refresher: TokenRefresher, row: TokenSet) -> TokenSet:
    assert [outcome.error async for outcome in refresher.sweep()] == [None]
    return await refresher.get_valid_token("alice")


@pytest.mark.parametrize("renewals", [1, 3, 8])
@pytest.mark.parametrize("call", [get, get_for_longer, renew, reject, offer_the_row_of_the_login, sweep])
@pytest.mark.parametrize("is_due", [False, True], ids=["valid", "due"])
async def test_h2_after_the_store_went_back_in_time_memory_wins_and_no_spent_token_is_sent(
    fake: FakeProvider,
    provider: OIDCProvider,
    store: FaultyStore,
    clock: time_machine.Traveller,
    renewals: int,
    call: Callable[[TokenRefresher, TokenSet], Awaitable[TokenSet]],
    *,
    is_due: bool,
) -> None:
    async with TokenRefresher(provider, store, policy=POLICY) as refresher:
        row = login(fake, "alice", life_left=-1)
        await refresher.save_tokens("alice", row)
        past = await record_in(store, provider)
        for _ in range(renewals):
            await refresher.refresh_token("alice")
        await store.save(TokenKey(provider.name, "alice"), past)
        clock.shift(3600 if is_due else CACHE_TTL + 1)
        tokens = await call(refresher, row)
        assert tokens.refresh_token == fake.current_refresh_token("alice")
        assert (await record_in(store, provider)).tokens == tokens
    assert fake.reuses() == 0


async def test_h2_a_process_that_adopted_a_renewal_does_not_send_the_token_before_it(
    fake: FakeProvider, provider: OIDCProvider, store: FaultyStore, clock: time_machine.Traveller
) -> None:
    async with TokenRefresher(provider, store, policy=POLICY) as here, TokenRefresher(provider, store) as there:
        await here.save_tokens("alice", login(fake, "alice", life_left=200))
        past = await record_in(store, provider)
        await there.refresh_token("alice")
        clock.shift(CACHE_TTL + 1)
        adopted = await here.get_valid_token("alice")
        await store.save(TokenKey(provider.name, "alice"), past)
        clock.shift(CACHE_TTL + 1)
        assert await here.get_valid_token("alice") == adopted
        assert (await record_in(store, provider)).tokens == adopted
    assert fake.requests() == 1


async def test_h2_a_renewal_that_waits_to_be_stored_goes_over_a_record_from_before_the_one_it_replaces(
    fake: FakeProvider, provider: OIDCProvider, store: FaultyStore, events: list[TokenEvent]
) -> None:
    async with TokenRefresher(provider, store, on_event=events.append) as refresher:
        await refresher.save_tokens("alice", login(fake, "alice", life_left=-1))
        past = await record_in(store, provider)
        await refresher.get_valid_token("alice")
        store.fail("replace")
        renewed = await refresher.refresh_token("alice")
        await store.save(TokenKey(provider.name, "alice"), past)
        store.recover()
        await until_told(events, SaveRecovered)
        assert (await record_in(store, provider)).tokens == renewed
    assert fake.reuses() == 0


async def test_h2_a_store_that_goes_back_while_the_provider_is_asked_gets_the_successor(
    fake: FakeProvider, provider: OIDCProvider, store: FaultyStore
) -> None:
    async with TokenRefresher(provider, store) as refresher:
        await refresher.save_tokens("alice", login(fake, "alice", life_left=-1))
        past = await record_in(store, provider)
        await refresher.get_valid_token("alice")
        with fake.hold() as gate:
            caller = asyncio.create_task(refresher.refresh_token("alice"))
            await gate.reached()
            await store.save(TokenKey(provider.name, "alice"), past)
        renewed = await caller
        assert (await record_in(store, provider)).tokens == renewed
    assert fake.reuses() == 0


async def test_h2_a_login_elsewhere_is_no_step_back(
    fake: FakeProvider, provider: OIDCProvider, store: FaultyStore, clock: time_machine.Traveller
) -> None:
    async with TokenRefresher(provider, store, policy=POLICY) as here, TokenRefresher(provider, store) as there:
        await here.save_tokens("alice", login(fake, "alice", life_left=-1))
        await here.get_valid_token("alice")
        latest = login(fake, "alice")
        await there.save_tokens("alice", latest)
        clock.shift(CACHE_TTL + 1)
        assert await here.get_valid_token("alice") == latest


async def test_h2_a_login_that_is_confirmed_late_is_not_taken_for_newer_than_a_login_elsewhere(
    fake: FakeProvider, provider: OIDCProvider, store: FaultyStore
) -> None:
    policy = RefreshPolicy(cache_ttl=0)
    async with TokenRefresher(provider, store, policy=policy) as here, TokenRefresher(provider, store) as there:
        with store.hold("save", times=1, after=True) as gate:
            confirmed_late = asyncio.create_task(here.save_tokens("alice", login(fake, "alice", life_left=-2)))
            await gate.reached()
            await there.save_tokens("alice", latest := login(fake, "alice"))
            assert await here.get_valid_token("alice", min_validity=1) == latest
        await confirmed_late
        assert await here.get_valid_token("alice") == latest
        assert (await record_in(store, provider)).tokens == latest


async def test_h2_a_healed_store_is_written_once_and_told_of_once(
    fake: FakeProvider,
    provider: OIDCProvider,
    clock: time_machine.Traveller,
    caplog: pytest.LogCaptureFixture,
) -> None:
    store = FaultyStore(MemoryTokenStore())
    async with TokenRefresher(provider, store, policy=POLICY) as refresher:
        await refresher.save_tokens("alice", login(fake, "alice", life_left=-1))
        past = await record_in(store, provider)
        await refresher.get_valid_token("alice")
        await store.save(TokenKey(provider.name, "alice"), past)
        written = store.calls("replace")
        for _ in range(5):
            clock.shift(CACHE_TTL + 1)
            await asyncio.gather(*(refresher.get_valid_token("alice") for _ in range(10)))
    assert store.calls("replace") == written + 1
    assert sum("older token set of user 'alice'" in record.getMessage() for record in caplog.records) == 1
