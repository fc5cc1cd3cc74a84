"""Logins, logouts, rejections and offers that arrive at the worst moment have the last word."""

import asyncio

import pytest
import time_machine

from kit.minting import Minting
from kit.support import NOW, login
from tokenflight import (
    ConfigurationError,
    LeaseTimeout,
    MemoryTokenStore,
    OIDCProvider,
    ProviderUnavailable,
    ReauthenticationRequired,
    RefreshPolicy,
    StoredTokens,
    StoreUnavailable,
    TokenKey,
    TokenRefresher,
    TokenSet,
    TokenStore,
)
from tokenflight._core.backoff import Backoff
from tokenflight._core.limits import Limits
from tokenflight.policy import user_jitter
from tokenflight.testing import FakeProvider, FaultyStore, RateLimited, ServerError


@pytest.fixture
def store() -> FaultyStore:
    return FaultyStore(MemoryTokenStore())


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
    fake: FakeProvider, refresher: TokenRefresher, store: FaultyStore
) -> None:
    await refresher.save_tokens("alice", login(fake, "alice", life_left=-1))
    store.fail("replace")
    await refresher.get_valid_token("alice")
    latest = login(fake, "alice")
    await refresher.save_tokens("alice", latest)
    assert await refresher.get_valid_token("alice", min_validity=1) == latest
    store.recover()
    renewed = await refresher.refresh_token("alice")
    assert renewed.refresh_token == fake.current_refresh_token("alice")


async def test_x9_a_logout_wins_over_a_renewal_that_waits_to_be_stored(
    fake: FakeProvider, refresher: TokenRefresher, store: FaultyStore
) -> None:
    await refresher.save_tokens("alice", login(fake, "alice", life_left=-1))
    store.fail("replace")
    await refresher.get_valid_token("alice")
    await refresher.delete_tokens("alice")
    with pytest.raises(ReauthenticationRequired):
        await refresher.get_valid_token("alice")


async def test_t5_a_pause_of_the_provider_keeps_nobody_from_a_fresh_token_in_the_store(
    fake: FakeProvider, provider: OIDCProvider, refresher: TokenRefresher, store: FaultyStore
) -> None:
    fresh = login(fake, "bob")
    await store.save(TokenKey(provider.name, "bob"), StoredTokens(fresh))
    await refresher.save_tokens("alice", login(fake, "alice", life_left=-1))
    fake.fail(RateLimited(60), times=1)
    with pytest.raises(ProviderUnavailable):
        await refresher.get_valid_token("alice")
    assert await refresher.get_valid_token("bob") == fresh


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


async def test_x10_a_login_wins_over_a_grant_that_needs_no_record(store: FaultyStore) -> None:
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


async def test_s6_a_provider_that_answers_after_its_deadline_loses_no_rotated_token(store: FaultyStore) -> None:

    class Stubborn:
        name = "stubborn"

        async def renew(self, user_id: str, tokens: TokenSet | None) -> TokenSet:
            try:
                await asyncio.sleep(60)
            except asyncio.CancelledError:
                return TokenSet("new", refresh_token="rotated")
            raise AssertionError("the deadline did not come")

    async with TokenRefresher(Stubborn(), store, _limits=Limits(provider_timeout=0.02)) as refresher:
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


async def test_x9_a_login_whose_reply_comes_after_a_logout_does_not_bring_the_user_back(
    fake: FakeProvider, refresher: TokenRefresher, store: FaultyStore
) -> None:
    with store.hold("save", after=True) as gate:
        saving = asyncio.create_task(refresher.save_tokens("alice", login(fake, "alice")))
        await gate.reached()
        leaving = asyncio.create_task(refresher.delete_tokens("alice"))
        await asyncio.sleep(0.01)
    await asyncio.gather(saving, leaving)
    assert await refresher.load_tokens("alice") is None
    with pytest.raises(ReauthenticationRequired):
        await refresher.get_valid_token("alice")


async def test_x10_a_cancelled_login_that_was_stored_is_the_one_that_counts(
    fake: FakeProvider, refresher: TokenRefresher, store: FaultyStore
) -> None:
    await refresher.save_tokens("alice", login(fake, "alice"))
    latest = login(fake, "alice")
    with store.hold("save", after=True) as gate:
        saving = asyncio.create_task(refresher.save_tokens("alice", latest))
        await gate.reached()
        saving.cancel()
        await asyncio.gather(saving, return_exceptions=True)
    assert await refresher.get_valid_token("alice") == latest


async def test_x9_a_store_that_fails_right_after_a_logout_elsewhere_does_not_bring_the_user_back(
    fake: FakeProvider, provider: OIDCProvider, refresher: TokenRefresher, store: FaultyStore
) -> None:
    await refresher.save_tokens("alice", login(fake, "alice", life_left=100))
    with fake.hold() as gate:
        caller = asyncio.create_task(refresher.get_valid_token("alice"))
        await gate.reached()
        await store.delete(TokenKey(provider.name, "alice"))
        store.fail("load")
    with pytest.raises(StoreUnavailable):
        await caller


async def test_x10_a_login_during_a_cold_read_is_what_the_waiters_get(
    fake: FakeProvider, provider: OIDCProvider, refresher: TokenRefresher, store: FaultyStore
) -> None:
    await store.save(TokenKey(provider.name, "alice"), StoredTokens(login(fake, "alice")))
    with store.hold("load", after=True) as gate:
        caller = asyncio.create_task(refresher.get_valid_token("alice"))
        await gate.reached()
        latest = login(fake, "alice")
        await refresher.save_tokens("alice", latest)
    assert await caller == latest


async def test_p1_nobody_else_gets_the_lease_while_the_store_holds_a_spent_refresh_token(
    fake: FakeProvider, provider: OIDCProvider, store: FaultyStore
) -> None:
    async with (
        TokenRefresher(provider, store, _limits=Limits(lease_timeout=0.05, first_save_pause=60.0)) as here,
        TokenRefresher(provider, store, _limits=Limits(lease_timeout=0.05, first_save_pause=60.0)) as there,
    ):
        await here.save_tokens("alice", login(fake, "alice", life_left=-1))
        store.fail("replace")
        await here.get_valid_token("alice")
        with pytest.raises(LeaseTimeout):
            await there.get_valid_token("alice")
        store.recover()
    assert fake.requests() == 1
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
            await asyncio.sleep(0.01)
        assert await ours == await theirs
    assert fake.requests() == 1


@pytest.mark.parametrize("what", ["x9 logout", "x10 login"])
async def test_x9_x10_a_row_that_is_being_stored_wins_over_no_login_and_no_logout(
    fake: FakeProvider, refresher: TokenRefresher, store: FaultyStore, what: str
) -> None:
    with store.hold("replace", times=1) as gate:
        caller = asyncio.create_task(refresher.ensure_valid_token("alice", login(fake, "alice", life_left=-1)))
        await gate.reached()
        latest = login(fake, "alice")
        leaving = asyncio.create_task(
            refresher.save_tokens("alice", latest) if what == "x10 login" else refresher.delete_tokens("alice")
        )
        await asyncio.sleep(0.01)
    await asyncio.wait([caller, leaving])
    assert await refresher.load_tokens("alice") == (latest if what == "x10 login" else None)
    assert fake.reuses() == 0


async def test_a_provider_that_raises_a_lease_timeout_of_its_own_fails_the_flight_at_once(
    store: FaultyStore,
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
    fake: FakeProvider, refresher: TokenRefresher, store: FaultyStore, provider: OIDCProvider
) -> None:
    tokens = login(fake, "alice")
    await refresher.save_tokens("alice", tokens)
    await store.save(TokenKey(provider.name, "alice"), StoredTokens(tokens))  # as under another key of encryption
    assert await refresher.refresh_token("alice") != tokens
    assert fake.requests() == 1


KEY = TokenKey(Minting.name, "alice")


async def test_x9_after_a_logout_that_failed_the_token_is_not_served_though_the_store_is_down(
    fake: FakeProvider, refresher: TokenRefresher, store: FaultyStore
) -> None:
    await refresher.save_tokens("alice", login(fake, "alice"))
    store.fail("load")
    store.fail("delete")
    with pytest.raises(StoreUnavailable):
        await refresher.delete_tokens("alice")
    with pytest.raises(StoreUnavailable):
        await refresher.get_valid_token("alice")


async def test_x9_after_a_logout_elsewhere_was_seen_a_store_that_fails_does_not_bring_the_user_back(
    fake: FakeProvider,
    provider: OIDCProvider,
    refresher: TokenRefresher,
    store: FaultyStore,
    clock: time_machine.Traveller,
) -> None:
    await refresher.save_tokens("alice", login(fake, "alice"))
    await store.delete(TokenKey(provider.name, "alice"))
    clock.shift(61)
    with pytest.raises(ReauthenticationRequired):
        await refresher.get_valid_token("alice")
    store.fail("load")
    with pytest.raises(StoreUnavailable):
        await refresher.get_valid_token("alice")


async def test_x10_a_forced_renewal_that_a_login_overtakes_gets_the_login_and_renews_it_not(
    fake: FakeProvider, refresher: TokenRefresher
) -> None:
    await refresher.save_tokens("alice", login(fake, "alice"))
    with fake.hold() as gate:
        caller = asyncio.create_task(refresher.refresh_token("alice"))
        await gate.reached()
        fresh = login(fake, "alice")
        await refresher.save_tokens("alice", fresh)
        assert await caller == fresh
    assert fake.requests() == 1


async def test_a_forced_renewal_that_a_failed_login_overtakes_is_made_once(
    fake: FakeProvider, refresher: TokenRefresher, store: FaultyStore
) -> None:
    await refresher.save_tokens("alice", login(fake, "alice"))
    with fake.hold() as gate:
        caller = asyncio.create_task(refresher.refresh_token("alice"))
        await gate.reached()
        store.fail("save")
        with pytest.raises(StoreUnavailable):
            await refresher.save_tokens("alice", TokenSet("login"))
    assert (await caller).refresh_token == fake.current_refresh_token("alice")
    assert fake.requests() == 1


async def test_x9_a_row_that_joined_a_flight_which_met_a_logout_elsewhere_does_not_bring_the_user_back(
    fake: FakeProvider, provider: OIDCProvider, refresher: TokenRefresher, store: TokenStore
) -> None:
    await refresher.save_tokens("alice", login(fake, "alice", life_left=-1))
    row = login(fake, "alice", life_left=10)
    with fake.hold() as gate:
        first = asyncio.create_task(refresher.get_valid_token("alice"))
        await gate.reached()
        second = asyncio.create_task(refresher.ensure_valid_token("alice", row))
        await asyncio.sleep(0.01)
        await store.delete(TokenKey(provider.name, "alice"))
    for caller in (first, second):
        with pytest.raises(ReauthenticationRequired):
            await caller
    assert await store.load(TokenKey(provider.name, "alice")) is None


async def test_a_row_that_joins_the_cold_read_of_a_user_without_tokens_is_renewed(
    fake: FakeProvider, refresher: TokenRefresher, store: FaultyStore
) -> None:
    store.delay("load", 0.01)
    reading = asyncio.create_task(refresher.get_valid_token("alice"))
    await asyncio.sleep(0)
    result = await refresher.ensure_valid_token("alice", login(fake, "alice", life_left=-1))
    assert result.tokens.refresh_token == fake.current_refresh_token("alice")
    with pytest.raises(ReauthenticationRequired):
        await reading


async def test_a_forced_renewal_keeps_nobody_waiting_whose_token_will_do(
    fake: FakeProvider, refresher: TokenRefresher
) -> None:
    tokens = login(fake, "alice", life_left=1000)
    await refresher.save_tokens("alice", tokens)
    with fake.hold() as gate:
        forced = asyncio.create_task(refresher.refresh_token("alice"))
        await gate.reached()
        async with asyncio.timeout(2):
            assert await refresher.get_valid_token("alice", min_validity=700) == tokens
    await forced


async def test_s11_while_a_rejected_token_is_renewed_nobody_else_is_given_it(
    fake: FakeProvider, refresher: TokenRefresher
) -> None:
    rejected = login(fake, "alice")
    await refresher.save_tokens("alice", rejected)
    with fake.hold() as gate:
        first = asyncio.create_task(refresher.get_valid_token("alice", rejected=rejected.access_token))
        await gate.reached()
        second = asyncio.create_task(refresher.get_valid_token("alice"))
        await asyncio.sleep(0.01)
        assert not second.done()
    assert await first == await second != rejected


async def test_a_login_elsewhere_ends_what_can_not_be_renewed_though_the_copy_is_trusted(
    fake: FakeProvider, provider: OIDCProvider, refresher: TokenRefresher, store: TokenStore
) -> None:
    await refresher.save_tokens("alice", TokenSet("access", expires_at=1.0))
    elsewhere = login(fake, "alice")
    await store.save(TokenKey(provider.name, "alice"), StoredTokens(elsewhere))
    assert await refresher.get_valid_token("alice") == elsewhere


async def test_s13_two_refreshers_that_wait_for_each_other_are_told_so() -> None:
    class Through:
        """Asks the other refresher for what it renews."""

        def __init__(self, name: str) -> None:
            self.name = name

        async def renew(self, user_id: str, tokens: TokenSet | None) -> TokenSet:
            return await refreshers["inner" if self.name == "outer" else "outer"].get_valid_token(user_id)

    refreshers: dict[str, TokenRefresher] = {}
    async with TokenRefresher(Through("outer")) as outer, TokenRefresher(Through("inner")) as inner:
        refreshers.update(outer=outer, inner=inner)
        async with asyncio.timeout(2):
            with pytest.raises(ConfigurationError) as caught:
                await outer.get_valid_token("alice")
    assert caught.value.code == "reentered"


async def test_s13_what_a_renewal_leaves_running_may_ask_once_it_is_over() -> None:
    class LeavingATask(Minting):
        async def renew(self, user_id: str, tokens: TokenSet | None) -> TokenSet:
            if not self.requests:
                tasks.append(asyncio.create_task(later(user_id)))
            return await super().renew(user_id, tokens)

    async def later(user_id: str) -> TokenSet:
        await over.wait()
        return await refresher.refresh_token(user_id)

    over, tasks = asyncio.Event(), list[asyncio.Task[TokenSet]]()
    async with TokenRefresher(LeavingATask()) as refresher:
        await refresher.get_valid_token("alice")
        over.set()
        assert (await tasks[0]).access_token


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


async def test_t3_a_refused_user_costs_a_read_a_call_and_no_lease(
    fake: FakeProvider, refresher: TokenRefresher, store: FaultyStore
) -> None:
    await refresher.save_tokens("alice", login(fake, "alice", life_left=-1))
    fake.revoke("alice")
    for _ in range(3):
        with pytest.raises(ReauthenticationRequired):
            await refresher.get_valid_token("alice")
    assert store.calls("lease") == 1


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


async def test_t5_a_success_makes_the_next_pause_a_short_one_again(
    fake: FakeProvider, refresher: TokenRefresher, clock: time_machine.Traveller
) -> None:
    await refresher.save_tokens("alice", login(fake, "alice", life_left=-1))
    for _ in range(5):
        fake.fail(ServerError(), times=1)
        with pytest.raises(ProviderUnavailable):
            await refresher.get_valid_token("alice")
        clock.shift(60)
    await refresher.get_valid_token("alice")
    fake.fail(ServerError(), times=1)
    with pytest.raises(ProviderUnavailable):
        await refresher.refresh_token("alice")
    clock.shift(1)
    await refresher.refresh_token("alice")


async def test_t5_during_a_pause_a_caller_with_a_need_gets_what_a_sibling_has_renewed(
    fake: FakeProvider,
    provider: OIDCProvider,
    refresher: TokenRefresher,
    store: TokenStore,
    clock: time_machine.Traveller,
) -> None:
    await refresher.save_tokens("alice", login(fake, "alice", life_left=1000))
    fake.fail(RateLimited(600), times=1)
    with pytest.raises(ProviderUnavailable):
        await refresher.refresh_token("alice")
    renewed = login(fake, "alice")
    await store.save(TokenKey(provider.name, "alice"), StoredTokens(renewed))
    clock.shift(61)
    assert await refresher.get_valid_token("alice", min_validity=2000) == renewed


def test_t5_a_shorter_retry_after_does_not_end_a_longer_one() -> None:
    pauses = Backoff(Limits())
    pauses.hold_provider(NOW, 60.0)
    pauses.hold_provider(NOW, 1.0)
    assert pauses.remaining("alice", NOW + 30) == 30


async def test_x10_a_cold_read_that_a_login_made_void_does_not_put_its_older_tokens_back(
    fake: FakeProvider, provider: OIDCProvider, refresher: TokenRefresher, store: FaultyStore
) -> None:
    await store.save(TokenKey(provider.name, "alice"), StoredTokens(login(fake, "alice")))
    with store.hold("load", after=True) as gate:
        caller = asyncio.create_task(refresher.get_valid_token("alice"))
        await gate.reached()
        latest = login(fake, "alice")
        await refresher.save_tokens("alice", latest)
    await asyncio.sleep(0.01)
    assert await caller == await refresher.get_valid_token("alice") == latest
    assert store.calls("load") == 1


async def test_x10_a_login_that_seemed_to_fail_during_a_cold_read_is_found_by_who_comes_next(
    fake: FakeProvider, provider: OIDCProvider, refresher: TokenRefresher, store: FaultyStore
) -> None:
    await store.save(TokenKey(provider.name, "alice"), StoredTokens(login(fake, "alice")))
    with store.hold("load", after=True) as gate:
        caller = asyncio.create_task(refresher.get_valid_token("alice"))
        await gate.reached()
        latest = login(fake, "alice")
        store.fail("save", after=True)
        with pytest.raises(StoreUnavailable):
            await refresher.save_tokens("alice", latest)
    assert await caller == await refresher.get_valid_token("alice") == latest


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


async def test_a_sweep_adopts_what_a_sibling_renewed_right_after_it_had_read(
    fake: FakeProvider, provider: OIDCProvider
) -> None:
    store = RenewedElsewhere()
    await store.save(TokenKey(provider.name, "alice"), StoredTokens(login(fake, "alice", life_left=-1)))
    store.renewed = login(fake, "alice")
    async with TokenRefresher(provider, store) as refresher:
        assert [outcome.error async for outcome in refresher.sweep()] == [None]
    assert fake.requests() == 0


async def test_a_renewal_in_the_background_adopts_what_a_sibling_renewed_right_after_the_reading(
    fake: FakeProvider, provider: OIDCProvider
) -> None:
    store = RenewedElsewhere()
    aging, renewed = login(fake, "alice", life_left=301), login(fake, "alice")
    await store.save(TokenKey(provider.name, "alice"), StoredTokens(aging))
    store.renewed = renewed
    async with TokenRefresher(provider, store, policy=RefreshPolicy(cache_ttl=0)) as refresher:
        assert await refresher.get_valid_token("alice") == aging
        await asyncio.sleep(0.05)
        assert await refresher.get_valid_token("alice") == renewed
    assert fake.requests() == 0


async def test_a_row_that_joins_the_flight_of_a_refused_one_is_renewed_and_not_only_served(
    fake: FakeProvider, refresher: TokenRefresher, clock: time_machine.Traveller
) -> None:
    dead = login(fake, "alice", life_left=-7200)
    fake.revoke("alice")
    with fake.hold() as gate:
        first = asyncio.create_task(refresher.ensure_valid_token("alice", dead))
        await gate.reached()
        row = login(fake, "alice", life_left=-1)
        second = asyncio.create_task(refresher.ensure_valid_token("alice", row))
        await asyncio.sleep(0)
    with pytest.raises(ReauthenticationRequired):
        await first
    result = await second
    assert result.should_update
    assert result.tokens.refresh_token == fake.current_refresh_token("alice")


async def test_t8_a_token_that_is_not_aging_for_its_user_is_not_renewed_for_who_needs_some_life(
    fake: FakeProvider, refresher: TokenRefresher
) -> None:
    window = 300 * user_jitter("alice")
    tokens = login(fake, "alice", life_left=300 + (window + 300) / 2)
    await refresher.save_tokens("alice", tokens)
    assert await refresher.get_valid_token("alice", min_validity=1) == tokens
    await asyncio.sleep(0.05)
    assert fake.requests() == 0


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
