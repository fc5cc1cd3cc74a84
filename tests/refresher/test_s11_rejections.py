"""S7, S11: a token that an API rejected is renewed once, and never handed out again."""

import asyncio

import pytest
import time_machine

from kit.minting import Minting
from kit.support import let_others_run, login
from tokenflight import (
    OIDCProvider,
    ProviderUnavailable,
    StoredTokens,
    StoreUnavailable,
    TokenKey,
    TokenRefresher,
    TokenStore,
)
from tokenflight.testing import FakeProvider, FaultyStore, ServerError


async def test_s7_late_401s_get_the_new_token_and_cause_no_further_renewal(
    fake: FakeProvider, refresher: TokenRefresher
) -> None:
    tokens = login(fake, "alice")
    await refresher.save_tokens("alice", tokens)
    first = await refresher.get_valid_token("alice", rejected=tokens.access_token)
    stragglers = await asyncio.gather(
        *(refresher.get_valid_token("alice", rejected=tokens.access_token) for _ in range(20))
    )
    assert {late.access_token for late in stragglers} == {first.access_token}
    assert fake.requests() == 1


async def test_s11_a_rejection_during_a_flight_is_not_lost(fake: FakeProvider, refresher: TokenRefresher) -> None:
    old = login(fake, "alice", life_left=-1)
    await refresher.save_tokens("alice", old)
    with fake.hold(after=True) as gate:
        caller = asyncio.create_task(refresher.get_valid_token("alice"))
        await gate.reached()
        rejecting = asyncio.create_task(refresher.get_valid_token("alice", rejected=old.access_token))
        await asyncio.sleep(0)
    results = await asyncio.gather(caller, rejecting)
    assert old.access_token not in {tokens.access_token for tokens in results}
    assert fake.requests() == 1


async def test_s11_a_rejected_token_that_a_cold_read_finds_is_not_handed_out(
    fake: FakeProvider, provider: OIDCProvider, store: TokenStore
) -> None:
    old = login(fake, "alice")
    async with TokenRefresher(provider, store) as before:
        await before.save_tokens("alice", old)
    async with TokenRefresher(provider, store) as refresher:
        cold = asyncio.create_task(refresher.get_valid_token("alice"))
        rejecting = asyncio.create_task(refresher.get_valid_token("alice", rejected=old.access_token))
        await cold
        assert (await rejecting).access_token != old.access_token
        assert (await refresher.get_valid_token("alice")).access_token != old.access_token
    assert fake.requests() == 1


async def test_s11_a_rejected_token_is_not_served_when_its_renewal_fails(
    fake: FakeProvider, refresher: TokenRefresher
) -> None:
    tokens = login(fake, "alice")
    await refresher.save_tokens("alice", tokens)
    fake.fail(ServerError())
    with pytest.raises(ProviderUnavailable):
        await refresher.get_valid_token("alice", rejected=tokens.access_token)
    with pytest.raises(ProviderUnavailable):
        await refresher.get_valid_token("alice")


async def test_s11_while_a_rejected_token_is_renewed_no_other_caller_is_given_it(
    fake: FakeProvider, refresher: TokenRefresher
) -> None:
    rejected = login(fake, "alice")
    await refresher.save_tokens("alice", rejected)
    with fake.hold() as gate:
        first = asyncio.create_task(refresher.get_valid_token("alice", rejected=rejected.access_token))
        await gate.reached()
        second = asyncio.create_task(refresher.get_valid_token("alice"))
        await let_others_run()
        assert not second.done()
    assert await first == await second != rejected


async def test_s11_what_was_rejected_while_it_was_being_adopted_is_not_handed_out(
    fake: FakeProvider, provider: OIDCProvider, refresher: TokenRefresher, store: FaultyStore
) -> None:
    await refresher.save_tokens("alice", login(fake, "alice", life_left=-1))
    elsewhere = login(fake, "alice")
    await store.save(TokenKey(provider.name, "alice"), StoredTokens(elsewhere))
    with store.hold("release", after=True) as gate:
        first = asyncio.create_task(refresher.get_valid_token("alice"))
        await gate.reached()
        second = asyncio.create_task(refresher.get_valid_token("alice", rejected=elsewhere.access_token))
        await asyncio.sleep(0)
    await first
    assert await second != elsewhere


async def test_s11_several_rejections_are_remembered_at_once(
    fake: FakeProvider, provider: OIDCProvider, refresher: TokenRefresher, store: FaultyStore
) -> None:
    older, current = login(fake, "alice"), login(fake, "alice")
    await store.save(TokenKey(provider.name, "alice"), StoredTokens(current))
    results = await asyncio.gather(
        refresher.get_valid_token("alice", rejected=current.access_token),
        refresher.get_valid_token("alice", rejected=older.access_token),
    )
    assert {tokens.access_token for tokens in results}.isdisjoint({older.access_token, current.access_token})


async def test_s11_the_current_token_stays_rejected_however_many_older_ones_are_rejected_after_it(
    fake: FakeProvider, refresher: TokenRefresher
) -> None:
    await refresher.save_tokens("alice", login(fake, "alice"))
    older = []
    for _ in range(5):
        older.append((await refresher.get_valid_token("alice")).access_token)
        await refresher.refresh_token("alice")
    current = (await refresher.get_valid_token("alice")).access_token
    fake.fail(ServerError())
    for rejected in (current, *older):
        with pytest.raises(ProviderUnavailable):
            await refresher.get_valid_token("alice", rejected=rejected)


async def test_s11_a_login_that_fails_does_not_bring_a_rejected_token_back(
    fake: FakeProvider, refresher: TokenRefresher, store: FaultyStore, clock: time_machine.Traveller
) -> None:
    rejected = login(fake, "alice")
    await refresher.save_tokens("alice", rejected)
    fake.fail(ServerError())
    with pytest.raises(ProviderUnavailable):
        await refresher.get_valid_token("alice", rejected=rejected.access_token)
    store.fail("save")
    with pytest.raises(StoreUnavailable):
        await refresher.save_tokens("alice", login(fake, "alice"))
    clock.shift(2)
    with pytest.raises(ProviderUnavailable):
        await refresher.get_valid_token("alice")


async def test_s11_a_sweep_renews_what_an_api_has_rejected(
    fake: FakeProvider, provider: OIDCProvider, refresher: TokenRefresher, clock: time_machine.Traveller
) -> None:
    tokens = login(fake, "alice")
    await refresher.save_tokens("alice", tokens)
    fake.fail(ServerError(), times=1)
    with pytest.raises(ProviderUnavailable):
        await refresher.get_valid_token("alice", rejected=tokens.access_token)
    clock.shift(2)
    assert [each.renewed async for each in refresher.sweep()] == [True]


async def test_a_provider_that_issues_the_rejected_token_once_more_is_not_asked_on_every_call(
    clock: time_machine.Traveller,
) -> None:
    provider = Minting()
    async with TokenRefresher(provider) as refresher:
        tokens = await refresher.get_valid_token("alice")
        assert await refresher.get_valid_token("alice", rejected=tokens.access_token) == tokens
        for _ in range(3):
            assert await refresher.get_valid_token("alice") == tokens
    assert provider.requests == 2
