"""T3: a refresh token that the provider refused is not sent again, by whatever process."""

import asyncio
from collections.abc import AsyncIterator

import pytest
import time_machine

from kit.minting import KEY, Minting
from kit.support import let_others_run, login
from tokenflight import (
    MemoryTokenStore,
    OIDCProvider,
    ReauthenticationRequired,
    StoredTokens,
    SweepOutcome,
    TokenKey,
    TokenRefresher,
    TokenSet,
    TokenStore,
)
from tokenflight.testing import FakeProvider, FaultyStore


async def test_a_user_without_tokens_has_to_log_in(fake: FakeProvider, refresher: TokenRefresher) -> None:
    with pytest.raises(ReauthenticationRequired) as caught:
        await refresher.get_valid_token("nobody")
    assert (caught.value.reason, caught.value.user_id) == ("no_tokens", "nobody")
    assert fake.requests() == fake.discoveries == 0


async def test_t3_a_refused_refresh_token_is_never_sent_again_not_even_after_a_restart(
    fake: FakeProvider, provider: OIDCProvider, store: TokenStore
) -> None:
    async with TokenRefresher(provider, store) as refresher:
        await refresher.save_tokens("alice", login(fake, "alice", life_left=-1))
        fake.revoke("alice")
        for _ in range(3):
            with pytest.raises(ReauthenticationRequired) as caught:
                await refresher.get_valid_token("alice")
            assert caught.value.reason == "refused"
    async with TokenRefresher(provider, store) as restarted:
        with pytest.raises(ReauthenticationRequired) as caught:
            await restarted.get_valid_token("alice")
        assert fake.requests() == 1
        await restarted.save_tokens("alice", login(fake, "alice", life_left=-1))
        assert (await restarted.get_valid_token("alice")).access_token
    assert fake.requests() == 2


async def test_t3_a_refusal_that_a_sibling_met_while_this_one_waited_is_not_asked_for_again(
    fake: FakeProvider, provider: OIDCProvider, store: TokenStore
) -> None:
    async with TokenRefresher(provider, store) as here, TokenRefresher(provider, store) as there:
        await here.save_tokens("alice", login(fake, "alice", life_left=-1))
        fake.revoke("alice")
        with fake.hold() as gate:
            callers = [asyncio.create_task(here.get_valid_token("alice"))]
            await gate.reached()
            callers.append(asyncio.create_task(there.get_valid_token("alice")))
            await let_others_run()
        errors = await asyncio.gather(*callers, return_exceptions=True)
    assert [type(error) for error in errors] == [ReauthenticationRequired] * 2
    assert fake.requests() == 1


async def test_t3_a_refused_user_costs_a_read_a_call_and_no_lease(
    fake: FakeProvider, refresher: TokenRefresher, store: FaultyStore
) -> None:
    await refresher.save_tokens("alice", login(fake, "alice", life_left=-1))
    fake.revoke("alice")
    for _ in range(3):
        with pytest.raises(ReauthenticationRequired):
            await refresher.get_valid_token("alice")
    assert store.calls("lease") == 1


async def outcomes_of(sweep: AsyncIterator[SweepOutcome]) -> dict[str, SweepOutcome]:
    return {outcome.user_id: outcome async for outcome in sweep}


async def test_t3_a_refused_user_costs_a_sweep_no_request(
    fake: FakeProvider, provider: OIDCProvider, store: FaultyStore
) -> None:
    await store.save(TokenKey(provider.name, "alice"), StoredTokens(login(fake, "alice", life_left=-1)))
    fake.revoke("alice")
    async with TokenRefresher(provider, store) as refresher:
        for _ in range(3):
            error = (await outcomes_of(refresher.sweep()))["alice"].error
            assert isinstance(error, ReauthenticationRequired)
    assert fake.requests() == 1


async def test_t3_only_what_the_provider_refused_is_remembered_as_refused() -> None:
    class Choosy(Minting):
        async def renew(self, user_id: str, tokens: TokenSet | None) -> TokenSet:
            raise ReauthenticationRequired("nothing to renew with", code="no_refresh_token")

    store = MemoryTokenStore()
    async with TokenRefresher(Choosy(), store) as refresher:
        await refresher.save_tokens("alice", TokenSet("access", expires_at=1.0))
        with pytest.raises(ReauthenticationRequired):
            await refresher.get_valid_token("alice")
    record = await store.load(KEY)
    assert record is not None
    assert not record.refused


async def test_t4_a_refused_users_token_is_served_to_its_end(
    fake: FakeProvider, refresher: TokenRefresher, clock: time_machine.Traveller
) -> None:
    tokens = login(fake, "alice", life_left=100)
    await refresher.save_tokens("alice", tokens)
    fake.revoke("alice")
    for _ in range(9):
        assert await refresher.get_valid_token("alice") == tokens
        clock.shift(10)
    clock.shift(6)
    with pytest.raises(ReauthenticationRequired) as caught:
        await refresher.get_valid_token("alice")
    assert caught.value.reason == "refused"
    assert fake.requests() == 1
