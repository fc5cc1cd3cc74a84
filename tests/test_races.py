"""Logins, logouts, rejections and offers that arrive at the worst moment have the last word."""

import asyncio

import pytest
import time_machine

from support import login
from tokenflight import (
    LeaseTimeout,
    MemoryTokenStore,
    OIDCProvider,
    ProviderUnavailable,
    ReauthenticationRequired,
    StoredTokens,
    StoreUnavailable,
    TokenKey,
    TokenRefresher,
    TokenSet,
    TokenStore,
    Version,
    _failures,
    _records,
    _unsaved,
)
from tokenflight.testing import FakeProvider, RateLimited, ServerError


class ScriptedStore(MemoryTokenStore):
    """A store whose operations named in `failing` fail, and which holds back the replies of loads and of
    saves until `may_answer`, of saves only if they are not `prompt`."""

    def __init__(self) -> None:
        super().__init__()
        self.failing: set[str] = set()
        self.prompt: set[str] = set()
        self.may_answer = asyncio.Event()
        self.may_answer.set()

    async def load(self, key: TokenKey) -> StoredTokens | None:
        if "load" in self.failing:
            raise StoreUnavailable("down")
        record = await super().load(key)
        await self.may_answer.wait()
        return record

    async def save(self, key: TokenKey, tokens: TokenSet, *, issuer: str | None = None) -> Version:
        if "save" in self.failing:
            raise StoreUnavailable("down")
        version = await super().save(key, tokens, issuer=issuer)
        if "save" not in self.prompt:
            await self.may_answer.wait()
        return version

    async def replace(
        self,
        key: TokenKey,
        tokens: TokenSet,
        *,
        expected: Version,
        issuer: str | None = None,
        refused: bool = False,
    ) -> Version:
        if "replace" in self.failing:
            raise StoreUnavailable("down")
        return await super().replace(key, tokens, expected=expected, issuer=issuer, refused=refused)


@pytest.fixture
def store() -> ScriptedStore:
    return ScriptedStore()


async def test_x9_a_logout_during_ensure_valid_token_is_not_undone_by_the_row_it_was_called_with(
    fake: FakeProvider, provider: OIDCProvider, refresher: TokenRefresher, store: TokenStore
) -> None:
    row = login(fake, "alice", life_left=-1)
    with fake.hold() as gate:
        caller = asyncio.create_task(refresher.ensure_valid_token("alice", row))
        await gate.reached()
        await refresher.delete_tokens("alice")
    with pytest.raises(ReauthenticationRequired):
        await caller
    assert await store.load(TokenKey(provider.name, "alice")) is None
    assert fake.reuses() == 0


async def test_x9_a_logout_elsewhere_during_ensure_valid_token_is_not_hidden_by_a_row_that_is_still_valid(
    fake: FakeProvider, provider: OIDCProvider, refresher: TokenRefresher, store: TokenStore
) -> None:
    row = login(fake, "alice", life_left=100)
    with fake.hold() as gate:
        caller = asyncio.create_task(refresher.ensure_valid_token("alice", row))
        await gate.reached()
        await store.delete(TokenKey(provider.name, "alice"))
    with pytest.raises(ReauthenticationRequired) as caught:
        await caller
    assert caught.value.reason == "no_tokens"


async def test_x10_a_login_wins_over_a_renewal_that_waits_to_be_stored(
    fake: FakeProvider, refresher: TokenRefresher, store: ScriptedStore
) -> None:
    await refresher.save_tokens("alice", login(fake, "alice", life_left=-1))
    store.failing.add("replace")
    await refresher.get_valid_token("alice")
    latest = login(fake, "alice")
    await refresher.save_tokens("alice", latest)
    assert await refresher.get_valid_token("alice", min_validity=1) == latest
    store.failing.clear()
    renewed = await refresher.refresh_token("alice")
    assert renewed.refresh_token == fake.current_refresh_token("alice")


async def test_x9_a_logout_wins_over_a_renewal_that_waits_to_be_stored(
    fake: FakeProvider, refresher: TokenRefresher, store: ScriptedStore
) -> None:
    await refresher.save_tokens("alice", login(fake, "alice", life_left=-1))
    store.failing.add("replace")
    await refresher.get_valid_token("alice")
    await refresher.delete_tokens("alice")
    with pytest.raises(ReauthenticationRequired):
        await refresher.get_valid_token("alice")


async def test_t5_a_pause_of_the_provider_keeps_nobody_from_a_fresh_token_in_the_store(
    fake: FakeProvider, provider: OIDCProvider, refresher: TokenRefresher, store: ScriptedStore
) -> None:
    fresh = login(fake, "bob")
    await store.save(TokenKey(provider.name, "bob"), fresh)
    await refresher.save_tokens("alice", login(fake, "alice", life_left=-1))
    fake.fail(RateLimited(60), times=1)
    with pytest.raises(ProviderUnavailable):
        await refresher.get_valid_token("alice")
    assert await refresher.get_valid_token("bob") == fresh


async def test_s11_several_rejections_are_remembered_at_once(
    fake: FakeProvider, provider: OIDCProvider, refresher: TokenRefresher, store: ScriptedStore
) -> None:
    older, current = login(fake, "alice"), login(fake, "alice")
    await store.save(TokenKey(provider.name, "alice"), current)
    results = await asyncio.gather(
        refresher.get_valid_token("alice", rejected=current.access_token),
        refresher.get_valid_token("alice", rejected=older.access_token),
    )
    assert {tokens.access_token for tokens in results}.isdisjoint({older.access_token, current.access_token})


async def test_s11_a_login_that_fails_does_not_bring_a_rejected_token_back(
    fake: FakeProvider, refresher: TokenRefresher, store: ScriptedStore, clock: time_machine.Traveller
) -> None:
    rejected = login(fake, "alice")
    await refresher.save_tokens("alice", rejected)
    fake.fail(ServerError())
    with pytest.raises(ProviderUnavailable):
        await refresher.get_valid_token("alice", rejected=rejected.access_token)
    store.failing.add("save")
    with pytest.raises(StoreUnavailable):
        await refresher.save_tokens("alice", login(fake, "alice"))
    clock.shift(2)
    with pytest.raises(ProviderUnavailable):
        await refresher.get_valid_token("alice")


async def test_x10_a_login_wins_over_a_grant_that_needs_no_record(store: ScriptedStore) -> None:
    asked, may_answer = asyncio.Event(), asyncio.Event()

    class Minting:
        name = "minting"

        async def renew(self, user_id: str, tokens: TokenSet | None) -> TokenSet:
            asked.set()
            await may_answer.wait()
            return TokenSet("minted")

    async with TokenRefresher(Minting(), store) as refresher:
        caller = asyncio.create_task(refresher.get_valid_token("alice"))
        await asked.wait()
        latest = TokenSet("from a login")
        await refresher.save_tokens("alice", latest)
        may_answer.set()
        assert await caller == latest
        assert await refresher.load_tokens("alice") == latest


async def test_s6_a_provider_that_answers_after_its_deadline_loses_no_rotated_token(
    monkeypatch: pytest.MonkeyPatch, store: ScriptedStore
) -> None:
    monkeypatch.setattr(_failures, "FLIGHT_DEADLINE_SECONDS", 0.02)

    class Stubborn:
        name = "stubborn"

        async def renew(self, user_id: str, tokens: TokenSet | None) -> TokenSet:
            try:
                await asyncio.sleep(60)
            except asyncio.CancelledError:
                return TokenSet("new", refresh_token="rotated")
            raise AssertionError("the deadline did not come")

    async with TokenRefresher(Stubborn(), store) as refresher:
        await refresher.save_tokens("alice", TokenSet("old", refresh_token="spent", expires_at=1.0))
        assert (await refresher.get_valid_token("alice")).refresh_token == "rotated"
        stored = await refresher.load_tokens("alice")
    assert stored is not None
    assert stored.refresh_token == "rotated"


async def test_a_row_that_joins_a_flight_with_a_dead_one_gets_a_renewal_of_its_own(
    fake: FakeProvider, refresher: TokenRefresher, clock: time_machine.Traveller
) -> None:
    dead = login(fake, "alice", life_left=-100)
    fake.revoke("alice")
    with fake.hold() as gate:
        first = asyncio.create_task(refresher.ensure_valid_token("alice", dead))
        await gate.reached()
        clock.shift(7200)
        second = asyncio.create_task(refresher.ensure_valid_token("alice", login(fake, "alice", life_left=10)))
        await asyncio.sleep(0)
    with pytest.raises(ReauthenticationRequired):
        await first
    assert (await second).tokens.refresh_token == fake.current_refresh_token("alice")


async def test_refresh_token_renews_also_where_a_sibling_renewed_since_the_copy_was_made(
    fake: FakeProvider, provider: OIDCProvider, store: ScriptedStore, clock: time_machine.Traveller
) -> None:
    async with TokenRefresher(provider, store) as here, TokenRefresher(provider, store) as there:
        await here.save_tokens("alice", login(fake, "alice"))
        await there.get_valid_token("alice")
        long_ago = await here.refresh_token("alice")
        clock.shift(1000)
        assert await there.refresh_token("alice") != long_ago
    assert fake.refreshes() == 2
    assert fake.reuses() == 0


async def test_x9_a_login_whose_reply_comes_after_a_logout_does_not_bring_the_user_back(
    fake: FakeProvider, refresher: TokenRefresher, store: ScriptedStore
) -> None:
    store.may_answer.clear()
    saving = asyncio.create_task(refresher.save_tokens("alice", login(fake, "alice")))
    await asyncio.sleep(0)
    leaving = asyncio.create_task(refresher.delete_tokens("alice"))
    await asyncio.sleep(0.01)
    store.may_answer.set()
    await asyncio.gather(saving, leaving)
    assert await refresher.load_tokens("alice") is None
    with pytest.raises(ReauthenticationRequired):
        await refresher.get_valid_token("alice")


async def test_x10_a_cancelled_login_that_was_stored_is_the_one_that_counts(
    fake: FakeProvider, refresher: TokenRefresher, store: ScriptedStore
) -> None:
    await refresher.save_tokens("alice", login(fake, "alice"))
    store.may_answer.clear()
    latest = login(fake, "alice")
    saving = asyncio.create_task(refresher.save_tokens("alice", latest))
    await asyncio.sleep(0)
    saving.cancel()
    await asyncio.gather(saving, return_exceptions=True)
    store.may_answer.set()
    assert await refresher.get_valid_token("alice") == latest


async def test_x9_a_store_that_fails_right_after_a_logout_elsewhere_does_not_bring_the_user_back(
    fake: FakeProvider, provider: OIDCProvider, refresher: TokenRefresher, store: ScriptedStore
) -> None:
    await refresher.save_tokens("alice", login(fake, "alice", life_left=100))
    with fake.hold() as gate:
        caller = asyncio.create_task(refresher.get_valid_token("alice"))
        await gate.reached()
        await store.delete(TokenKey(provider.name, "alice"))
        store.failing.add("load")
    with pytest.raises(StoreUnavailable):
        await caller


async def test_x10_a_login_during_a_cold_read_is_what_the_waiters_get(
    fake: FakeProvider, provider: OIDCProvider, refresher: TokenRefresher, store: ScriptedStore
) -> None:
    await store.save(TokenKey(provider.name, "alice"), login(fake, "alice"))
    store.prompt.add("save")
    store.may_answer.clear()
    caller = asyncio.create_task(refresher.get_valid_token("alice"))
    await asyncio.sleep(0)
    latest = login(fake, "alice")
    saving = asyncio.create_task(refresher.save_tokens("alice", latest))
    await saving
    store.may_answer.set()
    assert await caller == latest


async def test_p1_nobody_else_gets_the_lease_while_the_store_holds_a_spent_refresh_token(
    fake: FakeProvider, provider: OIDCProvider, store: ScriptedStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_records, "LEASE_TIMEOUT_SECONDS", 0.05)
    monkeypatch.setattr(_unsaved, "FIRST_PAUSE_SECONDS", 60.0)
    async with TokenRefresher(provider, store) as here, TokenRefresher(provider, store) as there:
        await here.save_tokens("alice", login(fake, "alice", life_left=-1))
        store.failing.add("replace")
        await here.get_valid_token("alice")
        with pytest.raises(LeaseTimeout):
            await there.get_valid_token("alice")
        store.failing.clear()
    assert fake.requests() == 1
    assert fake.reuses() == 0


async def test_x8_of_two_forced_renewals_at_the_same_moment_one_renews_and_one_adopts(
    fake: FakeProvider, provider: OIDCProvider, store: ScriptedStore
) -> None:
    async with TokenRefresher(provider, store) as here, TokenRefresher(provider, store) as there:
        await here.save_tokens("alice", login(fake, "alice"))
        await there.get_valid_token("alice")
        with fake.hold() as gate:
            ours = asyncio.create_task(here.refresh_token("alice"))
            await gate.reached()
            theirs = asyncio.create_task(there.refresh_token("alice"))
            await asyncio.sleep(0.01)
        assert await ours == await theirs
    assert fake.requests() == 1


class SlowToCreate(ScriptedStore):
    """Its first save takes its time before it happens."""

    def __init__(self) -> None:
        super().__init__()
        self.reached = asyncio.Event()
        self.go = asyncio.Event()

    async def save(self, key: TokenKey, tokens: TokenSet, *, issuer: str | None = None) -> Version:
        if not self.reached.is_set():
            self.reached.set()
            await self.go.wait()
        return await super().save(key, tokens, issuer=issuer)


@pytest.mark.parametrize("what", ["x9 logout", "x10 login"])
async def test_x9_x10_a_row_that_is_being_stored_wins_over_no_login_and_no_logout(
    fake: FakeProvider, provider: OIDCProvider, what: str
) -> None:
    store = SlowToCreate()
    async with TokenRefresher(provider, store) as refresher:
        caller = asyncio.create_task(refresher.ensure_valid_token("alice", login(fake, "alice", life_left=-1)))
        await store.reached.wait()
        latest = login(fake, "alice")
        leaving = asyncio.create_task(
            refresher.save_tokens("alice", latest) if what == "x10 login" else refresher.delete_tokens("alice")
        )
        await asyncio.sleep(0.01)
        store.go.set()
        await asyncio.wait([caller, leaving])
        assert await refresher.load_tokens("alice") == (latest if what == "x10 login" else None)
    assert fake.reuses() == 0


async def test_a_provider_that_raises_a_lease_timeout_of_its_own_fails_the_flight_at_once(
    store: ScriptedStore,
) -> None:
    class Chained:
        name = "outer"

        async def renew(self, user_id: str, tokens: TokenSet | None) -> TokenSet:
            raise LeaseTimeout("the inner refresher's store is busy")

    async with TokenRefresher(Chained(), store) as refresher, asyncio.timeout(5):
        await refresher.save_tokens("alice", TokenSet("access", refresh_token="refresh", expires_at=1.0))
        with pytest.raises(LeaseTimeout, match="inner"):
            await refresher.get_valid_token("alice")


async def test_refresh_token_renews_though_the_record_was_rewritten_with_the_same_tokens(
    fake: FakeProvider, refresher: TokenRefresher, store: ScriptedStore, provider: OIDCProvider
) -> None:
    tokens = login(fake, "alice")
    await refresher.save_tokens("alice", tokens)
    await store.save(TokenKey(provider.name, "alice"), tokens)  # as under another key of encryption
    assert await refresher.refresh_token("alice") != tokens
    assert fake.requests() == 1
