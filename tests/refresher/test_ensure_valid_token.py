"""A caller that keeps token sets itself: the per-user token manager of an open-banking web app (system A)."""

import asyncio
import time
from dataclasses import replace
from typing import Any

import pytest
import time_machine

from kit.minting import Minting, renewed_of
from kit.support import NOW, let_others_run, login
from tokenflight import (
    ClientSecretBasic,
    ConfigurationError,
    OIDCProvider,
    ProviderUnavailable,
    ReauthenticationRequired,
    RefreshPolicy,
    TokenKey,
    TokenRefresher,
    TokenResult,
    TokenSet,
    TokenStore,
)
from tokenflight.testing import FakeProvider, FaultyStore, RateLimited, ServerError


@pytest.fixture(autouse=True)
def standing_clock(clock: time_machine.Traveller) -> time_machine.Traveller:
    return clock


async def test_system_a_with_thirty_minutes_left_the_same_token_comes_back_and_nothing_is_to_be_written(
    fake: FakeProvider, provider: OIDCProvider, refresher: TokenRefresher, store: TokenStore
) -> None:
    row = login(fake, "alice", life_left=1800)
    result = await refresher.ensure_valid_token("alice", row)
    assert result == TokenResult(row, should_update=False)
    assert (result.access_token, result.expires_at) == (row.access_token, row.expires_at)
    assert fake.requests() == 0
    assert await store.load(TokenKey(provider.name, "alice")) is None


@pytest.mark.parametrize("life_left", [180, 0, -1, -86_400], ids="{} s left".format)
async def test_system_a_with_three_minutes_left_or_expired_it_is_renewed_and_to_be_written(
    fake: FakeProvider, refresher: TokenRefresher, life_left: float
) -> None:
    row = login(fake, "alice", life_left=life_left)
    result = await refresher.ensure_valid_token("alice", row)
    assert result.should_update
    assert result.access_token != row.access_token
    assert result.tokens.refresh_token == fake.current_refresh_token("alice")
    again = await refresher.ensure_valid_token("alice", result.tokens)
    assert again == TokenResult(result.tokens, should_update=False)
    assert fake.requests() == 1


async def test_system_a_two_calls_for_one_user_make_one_refresh_and_get_the_same_token(
    fake: FakeProvider, refresher: TokenRefresher
) -> None:
    row = login(fake, "alice", life_left=-1)
    first, second = await asyncio.gather(
        refresher.ensure_valid_token("alice", row), refresher.ensure_valid_token("alice", row)
    )
    assert first == second
    assert first.should_update
    assert fake.requests() == 1


async def test_system_a_two_users_are_refreshed_in_parallel(fake: FakeProvider, refresher: TokenRefresher) -> None:
    rows = {user_id: login(fake, user_id, life_left=-1) for user_id in ("alice", "bob")}
    with fake.hold() as gate:
        calls = [asyncio.create_task(refresher.ensure_valid_token(user_id, row)) for user_id, row in rows.items()]
        await gate.reached(2)
    results = await asyncio.gather(*calls)
    assert [result.tokens.refresh_token for result in results] == [
        fake.current_refresh_token("alice"),
        fake.current_refresh_token("bob"),
    ]


async def test_system_a_the_buffer_is_five_minutes_by_default_and_configurable(
    fake: FakeProvider, provider: OIDCProvider
) -> None:
    async with TokenRefresher(provider) as refresher:
        assert not (await refresher.ensure_valid_token("alice", login(fake, "alice", life_left=301))).should_update
        assert (await refresher.ensure_valid_token("bob", login(fake, "bob", life_left=299))).should_update
    async with TokenRefresher(provider, policy=RefreshPolicy(expiry_buffer=600)) as cautious:
        assert not (await cautious.ensure_valid_token("carol", login(fake, "carol", life_left=601))).should_update
        assert (await cautious.ensure_valid_token("dave", login(fake, "dave", life_left=599))).should_update


async def test_system_a_a_caller_holding_a_stale_row_right_after_a_refresh_does_not_cause_a_second_one(
    fake: FakeProvider, refresher: TokenRefresher, clock: time_machine.Traveller
) -> None:
    stale = login(fake, "alice", life_left=-1)
    first = await refresher.ensure_valid_token("alice", stale)
    late = await refresher.ensure_valid_token("alice", stale)
    assert late == first
    clock.shift(600)
    assert await refresher.ensure_valid_token("alice", stale) == first
    assert fake.requests() == 1
    assert fake.reuses() == 0


async def test_system_a_a_stale_row_without_any_times_gets_the_successor_too(
    fake: FakeProvider, refresher: TokenRefresher
) -> None:
    stale = replace(login(fake, "alice"), issued_at=None, expires_at=None)
    first = await refresher.ensure_valid_token("alice", stale)
    assert first.should_update
    assert await refresher.ensure_valid_token("alice", stale) == first
    assert fake.requests() == 1


async def test_system_a_another_process_on_the_same_store_gets_the_successor_too(
    fake: FakeProvider, provider: OIDCProvider, store: TokenStore
) -> None:
    stale = login(fake, "alice", life_left=-1)
    async with TokenRefresher(provider, store) as here, TokenRefresher(provider, store) as there:
        first = await here.ensure_valid_token("alice", stale)
        assert await there.ensure_valid_token("alice", stale) == first
    assert fake.requests() == 1


async def test_system_a_a_new_login_that_the_caller_holds_is_not_replaced_by_the_old_grants_tokens(
    fake: FakeProvider, refresher: TokenRefresher, clock: time_machine.Traveller
) -> None:
    await refresher.ensure_valid_token("alice", login(fake, "alice", life_left=-1))
    clock.shift(60)
    latest = login(fake, "alice")
    assert await refresher.ensure_valid_token("alice", latest) == TokenResult(latest, should_update=False)
    clock.shift(3601)
    renewed = await refresher.ensure_valid_token("alice", latest)
    assert renewed.should_update
    assert renewed.tokens.refresh_token == fake.current_refresh_token("alice")


async def test_system_a_a_new_login_that_joins_the_old_grants_flight_gets_its_own_renewal(
    fake: FakeProvider, refresher: TokenRefresher, clock: time_machine.Traveller
) -> None:
    old = login(fake, "alice", life_left=-100)
    with fake.hold() as gate:
        first = asyncio.create_task(refresher.ensure_valid_token("alice", old))
        await gate.reached()
        clock.shift(7200)
        latest = login(fake, "alice", life_left=10)
        second = asyncio.create_task(refresher.ensure_valid_token("alice", latest))
        await asyncio.sleep(0)
    await first
    assert (await second).tokens.refresh_token == fake.current_refresh_token("alice")
    assert fake.reuses() == 0


async def test_system_a_one_shared_instance_made_before_any_event_loop_runs_serves_every_route(
    provider: OIDCProvider, fake: FakeProvider
) -> None:
    shared = await asyncio.to_thread(TokenRefresher, provider)  # as at import time: no loop in that thread
    row = login(fake, "alice", life_left=-1)
    results = await asyncio.gather(*(shared.ensure_valid_token("alice", row) for _ in range(8)))
    assert len({result.access_token for result in results}) == 1
    await shared.aclose()


async def test_t4_the_callers_own_token_is_served_while_it_is_valid_and_its_renewal_fails(
    fake: FakeProvider, refresher: TokenRefresher, clock: time_machine.Traveller
) -> None:
    row = login(fake, "alice", life_left=100)
    fake.fail(ServerError())
    for _ in range(5):
        assert await refresher.ensure_valid_token("alice", row) == TokenResult(row, should_update=False)
    clock.shift(100)
    with pytest.raises(ProviderUnavailable):
        await refresher.ensure_valid_token("alice", row)


async def test_a_row_whose_grant_is_refused_needs_a_new_login_and_is_not_sent_twice(
    fake: FakeProvider, refresher: TokenRefresher
) -> None:
    row = login(fake, "alice", life_left=-1)
    fake.revoke("alice")
    for _ in range(3):
        with pytest.raises(ReauthenticationRequired):
            await refresher.ensure_valid_token("alice", row)
    assert fake.requests() == 1
    assert (await refresher.ensure_valid_token("alice", login(fake, "alice", life_left=-1))).should_update


async def test_a_row_without_refresh_token_and_expiry_is_left_alone(refresher: TokenRefresher) -> None:
    row = TokenSet("a-token-for-ever")
    assert await refresher.ensure_valid_token("alice", row) == TokenResult(row, should_update=False)


async def test_what_a_renewal_made_outlives_the_caller_that_asked_for_it(
    fake: FakeProvider, provider: OIDCProvider, store: TokenStore
) -> None:
    row = login(fake, "alice", life_left=-1)
    async with TokenRefresher(provider, store) as refresher:
        with fake.hold(after=True) as gate:
            caller = asyncio.create_task(refresher.ensure_valid_token("alice", row))
            await gate.reached()
            caller.cancel()
    record = await store.load(TokenKey(provider.name, "alice"))
    assert record is not None
    assert record.tokens.refresh_token == fake.current_refresh_token("alice")


async def test_processes_take_turns_at_a_provider_that_does_not_rotate_without_going_back_to_an_older_set(
    clock: time_machine.Traveller,
) -> None:
    fake = FakeProvider(rotation="never")
    async with fake.client() as http:
        provider = OIDCProvider(fake.issuer, ClientSecretBasic("app", "s3cret"), http_client=http)
        async with TokenRefresher(provider) as one, TokenRefresher(provider) as other:
            row = TokenSet.from_response(fake.login("alice"))
            for refresher in (one, other):
                clock.shift(3500)
                row = (await refresher.ensure_valid_token("alice", row)).tokens
            for refresher in (one, other):
                clock.shift(60)
                assert await refresher.ensure_valid_token("alice", row) == TokenResult(row, should_update=False)
    assert fake.refreshes() == 2


async def test_during_the_providers_pause_no_caller_is_given_an_older_set_than_its_own(
    fake: FakeProvider, provider: OIDCProvider, clock: time_machine.Traveller
) -> None:
    async with TokenRefresher(provider) as here, TokenRefresher(provider) as elsewhere:
        fake.lifetime = 7200
        row = TokenSet.from_response(fake.login("alice"))
        clock.shift(6900)
        row = (await here.ensure_valid_token("alice", row)).tokens
        fake.lifetime = 600
        clock.shift(10)
        row = (await elsewhere.ensure_valid_token("alice", row)).tokens
        await elsewhere.save_tokens("alice", row)
        row = await elsewhere.refresh_token("alice")
        clock.shift(500)
        fake.fail(RateLimited(retry_after=120), times=1)
        await here.save_tokens("bob", login(fake, "bob", life_left=-1))
        with pytest.raises(ProviderUnavailable):
            await here.get_valid_token("bob")
        assert await here.ensure_valid_token("alice", row) == TokenResult(row, should_update=False)


@pytest.mark.parametrize("user_id", ["", 7, None])
async def test_a_user_id_that_is_none_is_refused_before_it_does_harm(
    fake: FakeProvider, refresher: TokenRefresher, user_id: Any
) -> None:
    with pytest.raises(ConfigurationError, match="user_id"):
        await refresher.ensure_valid_token(user_id, login(fake, "alice"))
    with pytest.raises(ConfigurationError, match="user_id"):
        await refresher.get_valid_token(user_id, rejected="token")
    assert not len(refresher._state.cache.rejections)


async def test_t1_a_pause_is_no_logout_for_a_caller_with_a_new_login_though_the_stored_one_is_refused(
    fake: FakeProvider, refresher: TokenRefresher, clock: time_machine.Traveller
) -> None:
    await refresher.save_tokens("alice", login(fake, "alice", life_left=-1))
    fake.revoke("alice")
    with pytest.raises(ReauthenticationRequired):
        await refresher.get_valid_token("alice")
    await refresher.save_tokens("bob", login(fake, "bob", life_left=-1))
    fake.fail(RateLimited(60), times=1)
    with pytest.raises(ProviderUnavailable):
        await refresher.get_valid_token("bob")
    clock.shift(10)
    row = login(fake, "alice", life_left=-1)
    with pytest.raises(ProviderUnavailable):
        await refresher.ensure_valid_token("alice", row)


async def test_p1_a_renewal_that_brings_another_refresh_token_alone_is_to_be_written(
    clock: time_machine.Traveller,
) -> None:
    row = replace(renewed_of("alice"), refresh_token="spent", expires_at=NOW - 1, issued_at=NOW - 3601)
    async with TokenRefresher(Minting()) as refresher:
        result = await refresher.ensure_valid_token("alice", row)
    assert result.access_token == row.access_token
    assert result.tokens.refresh_token == "next"
    assert result.should_update


async def test_a_row_that_never_expires_and_can_not_be_renewed_is_not_stored(refresher: TokenRefresher) -> None:
    await refresher.ensure_valid_token("alice", TokenSet("access"))
    assert await refresher.load_tokens("alice") is None


async def test_a_row_that_is_aging_is_not_renewed_behind_its_callers_back(
    fake: FakeProvider, refresher: TokenRefresher
) -> None:
    fake.lifetime = None
    row = login(fake, "alice", life_left=-1)
    renewed = (await refresher.ensure_valid_token("alice", row)).tokens
    await refresher.save_tokens(
        "alice", aging := replace(renewed, issued_at=time.time() - 3299, expires_at=time.time() + 301)
    )
    before = fake.requests()
    assert (await refresher.ensure_valid_token("alice", row)).tokens == aging
    await let_others_run()
    assert fake.requests() == before


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
