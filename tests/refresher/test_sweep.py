"""A sweep renews what is due, tells each user's outcome, and holds nothing but what is under way."""

import asyncio
import time
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import aclosing
from dataclasses import replace

import pytest
import time_machine

from kit.support import let_others_run, login
from tokenflight import (
    ConfigurationError,
    MemoryTokenStore,
    OIDCProvider,
    RefreshPolicy,
    StoredTokens,
    StoreUnavailable,
    SweepOutcome,
    TokenKey,
    TokenRefresher,
    TokenSet,
    TokenStore,
)
from tokenflight._core.sweep import sweep
from tokenflight.testing import FakeProvider, FaultyStore, ServerError


async def outcomes_of(sweep: AsyncIterator[SweepOutcome]) -> dict[str, SweepOutcome]:
    return {outcome.user_id: outcome async for outcome in sweep}


async def test_system_b_a_sweep_renews_what_is_due_and_one_failure_does_not_stop_the_others(
    fake: FakeProvider, provider: OIDCProvider, store: FaultyStore
) -> None:
    async with TokenRefresher(provider, store) as app:
        for user_id, life_left in {"due": -1, "fresh": 3000, "refused": -1, "poor": -1}.items():
            tokens = login(fake, user_id, life_left=life_left)
            await app.save_tokens(user_id, tokens)
        await app.save_tokens("bare", TokenSet("access", expires_at=1.0))
        fake.revoke("refused")
        fake.fail(ServerError(), user_id="poor")
    async with TokenRefresher(provider, store) as cron:
        outcomes = await outcomes_of(cron.sweep())
    errors = {user_id: outcome.error and outcome.error.code for user_id, outcome in outcomes.items()}
    assert errors == {
        "due": None,
        "fresh": None,
        "refused": "refused",
        "poor": "server_error",
        "bare": "no_refresh_token",
    }
    assert [user_id for user_id, outcome in outcomes.items() if outcome.renewed] == ["due"]
    assert fake.requests("fresh") == 0


async def test_a_sweep_renews_ahead_what_will_be_due_within_the_given_time(
    fake: FakeProvider, provider: OIDCProvider, store: FaultyStore
) -> None:
    async with TokenRefresher(provider, store) as refresher:
        for user_id, life_left in {"soon": 1000, "later": 3500}.items():
            await refresher.save_tokens(user_id, login(fake, user_id, life_left=life_left))
        outcomes = await outcomes_of(refresher.sweep(within=900))
        assert {user_id for user_id, outcome in outcomes.items() if outcome.renewed} == {"soon"}
        outcomes = await outcomes_of(refresher.sweep(within=7 * 24 * 3600))
        assert {user_id for user_id, outcome in outcomes.items() if outcome.renewed} == {"soon", "later"}
    assert (fake.requests("soon"), fake.requests("later")) == (2, 1)


async def test_two_sweeps_at_the_same_moment_renew_each_user_once(
    fake: FakeProvider, provider: OIDCProvider, store: FaultyStore
) -> None:
    users = [f"user-{number}" for number in range(20)]
    async with TokenRefresher(provider, store) as here, TokenRefresher(provider, store) as there:
        for user_id in users:
            await here.save_tokens(user_id, login(fake, user_id, life_left=-1))
        both = await asyncio.gather(*(outcomes_of(refresher.sweep()) for refresher in (here, there)))
    assert all(outcome.error is None for outcomes in both for outcome in outcomes.values())
    assert [fake.requests(user_id) for user_id in users] == [1] * 20
    assert fake.reuses() == 0


async def test_a_sweep_looks_at_so_many_users_at_once_and_reads_each_record_once(
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

    store = FaultyStore(reads := CountingReads())
    for number in range(100):
        await store.save(TokenKey(provider.name, f"user-{number}"), StoredTokens(login(fake, f"user-{number}")))
    async with TokenRefresher(provider, store) as refresher:
        outcomes = await outcomes_of(refresher.sweep(concurrency=5))
    assert len(outcomes) == 100
    assert store.calls("load") == 100
    assert reads.most_under_way == 5


async def test_a_sweep_leaves_other_providers_users_alone_and_caches_nothing(
    fake: FakeProvider, provider: OIDCProvider, store: FaultyStore
) -> None:
    await store.save(TokenKey("another", "alice"), StoredTokens(TokenSet("access", expires_at=1.0)))
    await store.save(TokenKey(provider.name, "bob"), StoredTokens(login(fake, "bob")))
    async with TokenRefresher(provider, store) as refresher:
        assert list(await outcomes_of(refresher.sweep())) == ["bob"]
        assert store.calls("load") == 1
        await refresher.get_valid_token("bob")
    assert store.calls("load") == 2


async def test_a_caller_that_stops_listening_ends_the_sweep_but_no_renewal_under_way(
    fake: FakeProvider, provider: OIDCProvider, store: FaultyStore
) -> None:
    async with TokenRefresher(provider, store) as refresher:
        await store.save(TokenKey(provider.name, "alice"), StoredTokens(login(fake, "alice", life_left=-1)))
        await store.save(TokenKey(provider.name, "bob"), StoredTokens(login(fake, "bob")))
        with fake.hold(user_id="alice") as gate:
            async with aclosing(refresher.sweep()) as sweep:
                async for outcome in sweep:
                    assert outcome.user_id == "bob"
                    await gate.reached()
                    break
        assert (await refresher.get_valid_token("alice")).access_token
    assert fake.requests("alice") == 1


async def test_a_token_set_of_unknown_age_is_renewed_by_a_sweep_once(
    fake: FakeProvider, provider: OIDCProvider, store: FaultyStore
) -> None:
    fake.lifetime = None
    await store.save(
        TokenKey(provider.name, "alice"), StoredTokens(replace(login(fake, "alice"), expires_at=None, issued_at=None))
    )
    async with TokenRefresher(provider, store) as refresher:
        for renewed in (True, False):
            assert (await outcomes_of(refresher.sweep()))["alice"].renewed is renewed
    assert fake.requests() == 1


async def test_a_user_logged_out_between_listing_and_reading_is_no_failure(
    fake: FakeProvider, provider: OIDCProvider, store: FaultyStore
) -> None:
    await store.save(TokenKey(provider.name, "alice"), StoredTokens(login(fake, "alice", life_left=-1)))
    async with TokenRefresher(provider, store) as refresher:
        users = refresher.sweep()
        with store.hold("load") as gate:
            listed = asyncio.ensure_future(anext(users))
            await gate.reached()
            await refresher.delete_tokens("alice")
        assert await listed == SweepOutcome("alice")
    assert fake.requests() == 0


async def test_a_store_that_can_not_list_its_users_ends_the_sweep_with_its_error(
    fake: FakeProvider, refresher: TokenRefresher, store: FaultyStore
) -> None:
    await refresher.save_tokens("alice", login(fake, "alice"))
    store.fail("keys", after=True)
    with pytest.raises(StoreUnavailable):
        await outcomes_of(refresher.sweep())


@pytest.mark.parametrize("wrong", [{"within": -1}, {"within": float("inf")}, {"concurrency": 0}, {"concurrency": 1.5}])
async def test_a_sweep_with_wrong_arguments_names_the_argument(
    refresher: TokenRefresher, wrong: dict[str, int]
) -> None:
    with pytest.raises(ConfigurationError, match=next(iter(wrong))):
        await outcomes_of(refresher.sweep(**wrong))


async def test_a_sweep_of_a_closed_refresher_is_an_error_and_not_one_a_user(
    provider: OIDCProvider, store: TokenStore
) -> None:
    await store.save(TokenKey(provider.name, "alice"), StoredTokens(TokenSet("access")))
    refresher = TokenRefresher(provider, store)
    await refresher.aclose()
    with pytest.raises(ConfigurationError, match="closed"):
        await outcomes_of(refresher.sweep())


async def test_a_cached_entry_that_is_current_is_not_read_again(
    fake: FakeProvider, provider: OIDCProvider, store: FaultyStore, clock: time_machine.Traveller
) -> None:
    async with TokenRefresher(provider, store, policy=RefreshPolicy(cache_ttl=60)) as refresher:
        await refresher.save_tokens("alice", login(fake, "alice"))
        await outcomes_of(refresher.sweep())
        assert store.calls("load") == 0
        clock.shift(61)
        await outcomes_of(refresher.sweep())
        assert store.calls("load") == 1


@pytest.mark.parametrize("life_left", [-1, 3000])
async def test_a_sweep_ends_and_reads_no_more_when_its_refresher_is_closed(
    fake: FakeProvider, provider: OIDCProvider, store: FaultyStore, life_left: float
) -> None:
    for number in range(50):
        user_id = f"user-{number}"
        await store.save(TokenKey(provider.name, user_id), StoredTokens(login(fake, user_id, life_left=life_left)))
    refresher = TokenRefresher(provider, store)
    async with aclosing(refresher.sweep(concurrency=2)) as sweep:
        await anext(sweep)
        await refresher.aclose()
        read = store.calls("load")
        with pytest.raises(ConfigurationError, match="closed"):
            async for _ in sweep:
                pass
    assert store.calls("load") == read


async def test_ending_a_sweep_waits_for_those_it_was_looking_at() -> None:
    ended = asyncio.Event()

    async def keys() -> AsyncGenerator[TokenKey, None]:
        yield TokenKey("idp", "alice")
        yield TokenKey("idp", "bob")

    async def tend(key: TokenKey) -> bool:
        if key.user_id == "alice":
            return False
        try:
            await asyncio.Event().wait()
        finally:
            await let_others_run()  # it takes its time to end
            ended.set()
        return False

    outcomes = sweep(keys(), tend, concurrency=2)
    assert (await anext(outcomes)).user_id == "alice"
    await outcomes.aclose()
    assert ended.is_set()


async def test_a_sweep_leaves_alone_what_never_expires_and_can_not_be_renewed(
    provider: OIDCProvider, store: TokenStore
) -> None:
    await store.save(TokenKey(provider.name, "alice"), StoredTokens(TokenSet("access")))
    async with TokenRefresher(provider, store) as refresher:
        assert [(each.renewed, each.error) async for each in refresher.sweep()] == [(False, None)]


async def test_ending_a_sweep_leaves_no_task_and_no_listing_behind(fake: FakeProvider, provider: OIDCProvider) -> None:
    class Listing(MemoryTokenStore):
        closed = False

        async def keys(self, provider: str | None = None) -> AsyncIterator[TokenKey]:
            try:
                async for key in super().keys(provider):
                    yield key
            finally:
                self.closed = True

    store = Listing()
    for number in range(50):
        await store.save(TokenKey(provider.name, f"user-{number}"), StoredTokens(login(fake, f"user-{number}")))
    async with TokenRefresher(provider, store) as refresher:
        async with aclosing(refresher.sweep(concurrency=4)) as outcomes:
            await anext(outcomes)
        assert store.closed
        assert asyncio.all_tasks() == {asyncio.current_task()}


async def test_v11_a_sweep_renews_a_refresh_token_before_it_ends_though_its_access_token_is_fresh(
    fake: FakeProvider, refresher: TokenRefresher
) -> None:
    day = 86_400
    for user_id, days_left in (("ending", 5), ("later", 30)):
        tokens = replace(login(fake, user_id), expires_at=time.time() + 365 * day)
        await refresher.save_tokens(user_id, replace(tokens, refresh_token_expires_at=time.time() + days_left * day))

    outcomes = await outcomes_of(refresher.sweep(within=7 * day))
    assert {user_id: outcome.renewed for user_id, outcome in outcomes.items()} == {"ending": True, "later": False}
