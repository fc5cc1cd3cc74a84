"""X9, X10, K9, V7: the last login or logout has the last word, also where the store answers late or not at all."""

import asyncio
from collections.abc import AsyncIterator
from dataclasses import replace

import pytest
import time_machine

from kit.minting import EXPIRED, Minting, renewed_of
from kit.support import NOW, login
from tokenflight import (
    BaseProvider,
    InvalidProviderResponse,
    MemoryTokenStore,
    OIDCProvider,
    ProviderUnavailable,
    ReauthenticationRequired,
    StoredTokens,
    StoreUnavailable,
    TokenKey,
    TokenRefresher,
    TokenSet,
)
from tokenflight._core.limits import Limits
from tokenflight.providers.base import PartialRenewal
from tokenflight.testing import FakeProvider, FaultyStore, RateLimited

LIMITS = Limits()
KEY = TokenKey(Minting.name, "alice")


@pytest.fixture
def store() -> FaultyStore:
    return FaultyStore(MemoryTokenStore())


@pytest.fixture
async def refresher(provider: OIDCProvider, store: FaultyStore) -> AsyncIterator[TokenRefresher]:
    async with TokenRefresher(provider, store) as refresher:
        yield refresher


async def test_x9_a_logout_while_a_login_without_a_refresh_token_gives_its_lease_back_stays_a_logout(
    fake: FakeProvider, refresher: TokenRefresher, store: FaultyStore
) -> None:
    await refresher.save_tokens("alice", login(fake, "alice"))
    with store.hold("release") as gate:
        saving = asyncio.create_task(refresher.save_tokens("alice", TokenSet("second", expires_at=NOW * 2)))
        await gate.reached()
        assert await refresher.delete_tokens("alice")
    await saving
    assert refresher.cached_token("alice") is None
    with pytest.raises(ReauthenticationRequired):
        await refresher.get_valid_token("alice")


async def test_v7_a_login_without_a_refresh_token_erases_none_because_the_store_could_not_be_read(
    fake: FakeProvider, refresher: TokenRefresher, store: FaultyStore
) -> None:
    first = login(fake, "alice")
    await refresher.save_tokens("alice", first)
    store.fail("load", times=1)
    with pytest.raises(StoreUnavailable):
        await refresher.save_tokens("alice", TokenSet("second", expires_at=NOW * 2))
    assert await refresher.load_tokens("alice") == first


async def test_k9_a_login_repeated_after_its_own_renewal_drops_nothing_that_waits_to_be_stored(
    store: FaultyStore, clock: time_machine.Traveller
) -> None:
    refresher = TokenRefresher(Minting(), store, _limits=Limits(first_save_pause=60.0))
    await refresher.save_tokens("alice", EXPIRED)
    store.fail("replace")
    renewed = await refresher.get_valid_token("alice")
    await refresher.save_tokens("alice", EXPIRED)
    assert await refresher.get_valid_token("alice") == renewed
    store.recover()
    await refresher.aclose()
    record = await store.load(KEY)
    assert record is not None
    assert record.tokens == renewed == renewed_of("alice")


async def test_v6_a_probe_whose_reply_a_login_makes_worthless_still_ends_the_pause(
    fake: FakeProvider, refresher: TokenRefresher, clock: time_machine.Traveller
) -> None:
    for user_id in ("alice", "bob"):
        await refresher.save_tokens(user_id, login(fake, user_id, life_left=-1))
    fake.fail(RateLimited(60), times=1)
    with pytest.raises(ProviderUnavailable):
        await refresher.get_valid_token("alice")
    clock.shift(60)
    with fake.hold(user_id="alice") as gate:
        probe = asyncio.create_task(refresher.get_valid_token("alice"))
        await gate.reached()
        latest = login(fake, "alice")
        await refresher.save_tokens("alice", latest)
        assert await probe == latest
    await asyncio.sleep(0.01)
    assert (await refresher.get_valid_token("bob")).refresh_token == fake.current_refresh_token("bob")


async def test_v6_a_flight_that_asked_nobody_ends_no_pause_of_the_provider(
    fake: FakeProvider, refresher: TokenRefresher, clock: time_machine.Traveller
) -> None:
    for user_id in ("alice", "bob"):
        await refresher.save_tokens(user_id, login(fake, user_id, life_left=-1))
    fake.fail(RateLimited(60), times=1)
    with pytest.raises(ProviderUnavailable):
        await refresher.get_valid_token("alice")
    clock.shift(60)
    with fake.hold(user_id="alice") as gate:
        probe = asyncio.create_task(refresher.get_valid_token("alice"))
        await gate.reached()
        await refresher.delete_tokens("alice")
        with pytest.raises(ReauthenticationRequired):
            await probe
        with pytest.raises(ProviderUnavailable):
            await refresher.get_valid_token("bob")
    assert fake.requests("bob") == 0


class Rotating(BaseProvider):
    """Its reply has a new refresh token, and no access token."""

    name = "rotating"

    def __init__(self) -> None:
        self.requests = 0
        self.asked, self.may_answer = asyncio.Event(), asyncio.Event()

    async def renew(self, user_id: str, tokens: TokenSet | None) -> TokenSet:
        assert tokens is not None
        self.requests += 1
        self.asked.set()
        await self.may_answer.wait()
        kept = replace(tokens, refresh_token=f"refresh-{self.requests}")
        raise PartialRenewal(kept, InvalidProviderResponse("no access token", user_id=user_id))


async def test_v1_a_new_refresh_token_alone_is_no_renewal_for_a_caller_who_wants_one(store: FaultyStore) -> None:
    provider = Rotating()
    async with TokenRefresher(provider, store) as here, TokenRefresher(provider, store) as there:
        await here.save_tokens("alice", TokenSet("access", refresh_token="refresh-0", expires_at=NOW * 2))
        callers = [asyncio.create_task(each.refresh_token("alice")) for each in (here, there)]
        await provider.asked.wait()
        await asyncio.sleep(0.01)
        provider.may_answer.set()
        outcomes = await asyncio.gather(*callers, return_exceptions=True)
    assert [type(outcome) for outcome in outcomes] == [InvalidProviderResponse] * 2
    assert provider.requests == 2


async def test_t3_a_refusal_is_told_although_the_store_can_not_be_read_any_more(
    fake: FakeProvider, refresher: TokenRefresher, store: FaultyStore
) -> None:
    await refresher.save_tokens("alice", login(fake, "alice", life_left=-1))
    fake.revoke("alice")
    with fake.hold() as gate:
        caller = asyncio.create_task(refresher.get_valid_token("alice"))
        await gate.reached()
        store.fail("load")
    with pytest.raises(ReauthenticationRequired) as caught:
        await caller
    assert caught.value.reason == "refused"
    store.recover()
    record = await store.load(TokenKey(fake.issuer, "alice"))
    assert isinstance(record, StoredTokens)
