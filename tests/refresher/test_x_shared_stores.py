"""X: several refreshers on one store, as processes are: one renews, the others adopt."""

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager

import pytest
import time_machine

from kit.minting import KEY, Minting, stored
from kit.support import let_others_run, login
from tokenflight import (
    Lease,
    MemoryTokenStore,
    OIDCProvider,
    ReauthenticationRequired,
    RefreshPolicy,
    StoredTokens,
    TokenAdopted,
    TokenEvent,
    TokenKey,
    TokenRefresher,
    TokenRenewed,
    TokenSet,
    TokenStore,
)
from tokenflight.testing import FakeProvider, FaultyStore, OAuthError


async def test_two_refreshers_renew_once_and_the_second_adopts(
    fake: FakeProvider, provider: OIDCProvider, store: TokenStore
) -> None:
    told: list[TokenEvent] = []
    async with (
        TokenRefresher(provider, store) as here,
        TokenRefresher(provider, store, on_event=told.append) as there,
    ):
        await here.save_tokens("alice", login(fake, "alice", life_left=-1))
        with fake.hold() as gate:
            ours = asyncio.create_task(here.get_valid_token("alice"))
            await gate.reached()
            theirs = asyncio.create_task(there.get_valid_token("alice"))
            await let_others_run()
        assert await ours == await theirs
    assert fake.requests() == 1
    assert [type(event) for event in told] == [TokenAdopted]


async def test_a_renewal_elsewhere_is_seen_when_the_cached_entry_is_too_old(
    fake: FakeProvider, provider: OIDCProvider, store: TokenStore, clock: time_machine.Traveller
) -> None:
    async with TokenRefresher(provider, store) as here, TokenRefresher(provider, store) as there:
        tokens = login(fake, "alice")
        await here.save_tokens("alice", tokens)
        assert await there.get_valid_token("alice") == tokens
        renewed = await here.refresh_token("alice")
        clock.shift(60)
        assert await there.get_valid_token("alice") == tokens
        clock.shift(1)
        assert await there.get_valid_token("alice") == renewed


async def test_a_logout_elsewhere_is_seen_when_the_cached_entry_is_too_old(
    fake: FakeProvider, provider: OIDCProvider, store: TokenStore, clock: time_machine.Traveller
) -> None:
    async with TokenRefresher(provider, store) as here, TokenRefresher(provider, store) as there:
        await here.save_tokens("alice", login(fake, "alice"))
        await there.get_valid_token("alice")
        await here.delete_tokens("alice")
        clock.shift(61)
        with pytest.raises(ReauthenticationRequired) as caught:
            await there.get_valid_token("alice")
        assert caught.value.reason == "no_tokens"


async def test_with_no_cache_ttl_the_cached_entry_is_current_until_it_is_due(
    fake: FakeProvider, provider: OIDCProvider, store: TokenStore, clock: time_machine.Traveller
) -> None:
    async with (
        TokenRefresher(provider, store) as here,
        TokenRefresher(provider, store, policy=RefreshPolicy(cache_ttl=None)) as there,
    ):
        tokens = login(fake, "alice")
        await here.save_tokens("alice", tokens)
        await there.get_valid_token("alice")
        await here.refresh_token("alice")
        clock.shift(2000)
        assert await there.get_valid_token("alice") == tokens


async def test_a_login_elsewhere_is_found_where_the_cached_token_can_not_be_renewed(
    fake: FakeProvider, provider: OIDCProvider, refresher: TokenRefresher, store: TokenStore
) -> None:
    await refresher.save_tokens("alice", TokenSet("access", expires_at=1.0))
    elsewhere = login(fake, "alice")
    await store.save(TokenKey(provider.name, "alice"), StoredTokens(elsewhere))
    assert await refresher.get_valid_token("alice") == elsewhere


async def test_a_record_rewritten_under_another_encryption_key_causes_no_renewal(
    fake: FakeProvider, refresher: TokenRefresher, provider: OIDCProvider, store: TokenStore
) -> None:
    fake.lifetime = None
    await refresher.save_tokens("alice", TokenSet.from_response(fake.login("alice")))
    tokens = await refresher.get_valid_token("alice")
    await store.save(TokenKey(provider.name, "alice"), StoredTokens(tokens))
    assert await refresher.get_valid_token("alice") == tokens
    assert fake.requests() == 0


async def renewed_by(refresher: TokenRefresher, user_id: str) -> TokenSet:
    """The token set after whatever renewal is under way has ended."""
    for _ in range(50):
        await asyncio.sleep(0)
    return await refresher.get_valid_token(user_id)


async def test_an_aging_token_that_a_sibling_has_renewed_is_not_renewed_once_more(
    fake: FakeProvider, provider: OIDCProvider, store: TokenStore, clock: time_machine.Traveller
) -> None:
    await store.save(TokenKey(provider.name, "alice"), StoredTokens(login(fake, "alice", life_left=301)))
    policy = RefreshPolicy(cache_ttl=0)
    async with (
        TokenRefresher(provider, store) as sibling,
        TokenRefresher(provider, store, policy=policy) as refresher,
    ):
        await refresher.get_valid_token("alice")  # starts a renewal that nobody waits for
        renewed = await sibling.refresh_token("alice")
        clock.shift(0.001)
        assert await renewed_by(refresher, "alice") == renewed
    assert fake.requests() == 1


class RenewedElsewhere(MemoryTokenStore):
    """A sibling renews right after the first reading."""

    def __init__(self) -> None:
        super().__init__()
        self.renewed: TokenSet | None = None

    async def load(self, key: TokenKey) -> StoredTokens | None:
        record = await super().load(key)
        if self.renewed is not None:
            await self.save(key, StoredTokens(self.renewed))
            self.renewed = None
        return record


async def test_a_renewal_in_the_background_adopts_what_a_sibling_renewed_right_after_the_reading(
    fake: FakeProvider, provider: OIDCProvider
) -> None:
    store = RenewedElsewhere()
    aging, renewed = login(fake, "alice", life_left=301), login(fake, "alice")
    await store.save(TokenKey(provider.name, "alice"), StoredTokens(aging))
    store.renewed = renewed
    async with TokenRefresher(provider, store, policy=RefreshPolicy(cache_ttl=0)) as refresher:
        assert await refresher.get_valid_token("alice") == aging
        await let_others_run()
        assert await refresher.get_valid_token("alice") == renewed
    assert fake.requests() == 0


async def test_a_sweep_adopts_what_a_sibling_renewed_right_after_it_had_read(
    fake: FakeProvider, provider: OIDCProvider
) -> None:
    store = RenewedElsewhere()
    await store.save(TokenKey(provider.name, "alice"), StoredTokens(login(fake, "alice", life_left=-1)))
    store.renewed = login(fake, "alice")
    async with TokenRefresher(provider, store) as refresher:
        assert [outcome.error async for outcome in refresher.sweep()] == [None]
    assert fake.requests() == 0


async def test_refresh_token_renews_also_where_a_sibling_renewed_since_the_entry_was_cached(
    fake: FakeProvider, provider: OIDCProvider, store: FaultyStore, clock: time_machine.Traveller
) -> None:
    async with TokenRefresher(provider, store) as here, TokenRefresher(provider, store) as there:
        await here.save_tokens("alice", login(fake, "alice"))
        await there.get_valid_token("alice")
        long_ago = await here.refresh_token("alice")
        clock.shift(1000)
        assert await there.refresh_token("alice") != long_ago
    assert fake.refreshes() == 2
    assert fake.reuses() == 0


async def test_x8_of_two_forced_renewals_at_the_same_moment_one_renews_and_one_adopts(
    fake: FakeProvider, provider: OIDCProvider, store: FaultyStore
) -> None:
    async with TokenRefresher(provider, store) as here, TokenRefresher(provider, store) as there:
        await here.save_tokens("alice", login(fake, "alice"))
        await there.get_valid_token("alice")
        with fake.hold() as gate:
            ours = asyncio.create_task(here.refresh_token("alice"))
            await gate.reached()
            theirs = asyncio.create_task(there.refresh_token("alice"))
            await let_others_run()
        assert await ours == await theirs
    assert fake.requests() == 1


async def test_r3_a_renewal_elsewhere_without_known_expiry_is_adopted(
    fake: FakeProvider, provider: OIDCProvider, store: TokenStore
) -> None:
    fake.lifetime = None
    async with TokenRefresher(provider, store) as here, TokenRefresher(provider, store) as there:
        await here.save_tokens("alice", login(fake, "alice", life_left=-1))
        await there.load_tokens("alice")
        with fake.hold() as gate:
            ours = asyncio.create_task(here.get_valid_token("alice"))
            await gate.reached()
            theirs = asyncio.create_task(there.get_valid_token("alice"))
            await let_others_run()
        assert await ours == await theirs
    assert fake.requests() == 1


async def test_x6_the_loser_of_a_race_adopts_what_the_winner_stored(
    fake: FakeProvider, provider: OIDCProvider, store: TokenStore
) -> None:
    key = TokenKey(provider.name, "alice")
    async with TokenRefresher(provider, store) as refresher:
        await refresher.save_tokens("alice", login(fake, "alice", life_left=-1))
        winner = login(fake, "alice")
        fake.fail(OAuthError("invalid_grant"), times=1)
        with fake.hold() as gate:
            caller = asyncio.create_task(refresher.get_valid_token("alice"))
            await gate.reached()
            await store.save(key, StoredTokens(winner))
        assert (await caller) == winner


async def test_x6_a_refusal_during_a_logout_elsewhere_is_a_logout(
    fake: FakeProvider, provider: OIDCProvider, refresher: TokenRefresher, store: TokenStore
) -> None:
    await refresher.save_tokens("alice", login(fake, "alice", life_left=-1))
    fake.revoke("alice")
    with fake.hold() as gate:
        caller = asyncio.create_task(refresher.get_valid_token("alice"))
        await gate.reached()
        await store.delete(TokenKey(provider.name, "alice"))
    with pytest.raises(ReauthenticationRequired) as caught:
        await caller
    assert caught.value.reason == "no_tokens"


class Unguarded(MemoryTokenStore):
    """Its leases exclude nobody, as those of a holder that stood still."""

    def lease(self, key: TokenKey, *, timeout: float) -> AbstractAsyncContextManager[Lease]:
        return self._unguarded()

    @asynccontextmanager
    async def _unguarded(self) -> AsyncIterator[Lease]:
        yield Lease()


async def test_x6_a_record_that_another_process_marked_as_refused_still_takes_the_successor(
    events: list[TokenEvent], clock: time_machine.Traveller
) -> None:
    class SecondRefused(Minting):
        asked = asyncio.Event()
        go = asyncio.Event()

        async def renew(self, user_id: str, tokens: TokenSet | None) -> TokenSet:
            if self.requests:
                raise ReauthenticationRequired("spent", code="refused", user_id=user_id, provider=self.name)
            self.asked.set()
            self.requests += 1
            await self.go.wait()
            return TokenSet("new", refresh_token="next", issued_at=time.time(), expires_at=time.time() + 3600)

    store, provider = Unguarded(), SecondRefused()
    async with (
        TokenRefresher(provider, store, on_event=events.append) as here,
        TokenRefresher(provider, store) as there,
    ):
        await stored(store, "alice")
        caller = asyncio.create_task(here.get_valid_token("alice"))
        await provider.asked.wait()
        with pytest.raises(ReauthenticationRequired):
            await there.get_valid_token("alice")
        provider.go.set()
        assert (await caller).access_token == "new"
        record = await store.load(KEY)
    assert [type(event) for event in events] == [TokenRenewed]
    assert record is not None
    assert (record.tokens.access_token, record.refused) == ("new", False)
