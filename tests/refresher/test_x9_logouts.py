"""X9: a logout stays a logout, whatever is under way when it comes."""

import asyncio
from collections.abc import AsyncIterator

import pytest
import time_machine

from kit.support import let_others_run, login
from tokenflight import (
    OIDCProvider,
    ReauthenticationRequired,
    RenewalDiscarded,
    RenewalFailed,
    StoreUnavailable,
    SweepOutcome,
    TokenEvent,
    TokenKey,
    TokenRefresher,
    TokenSet,
    TokenStore,
)
from tokenflight.testing import FakeProvider, FaultyStore


async def test_x9_a_logout_during_a_renewal_stays_a_logout(
    fake: FakeProvider, provider: OIDCProvider, store: TokenStore, events: list[TokenEvent]
) -> None:
    async with (
        TokenRefresher(provider, store, on_event=events.append) as here,
        TokenRefresher(provider, store) as there,
    ):
        await here.save_tokens("alice", login(fake, "alice", life_left=-1))
        with fake.hold() as gate:
            caller = asyncio.create_task(here.get_valid_token("alice"))
            await gate.reached()
            await there.delete_tokens("alice")
        with pytest.raises(ReauthenticationRequired) as caught:
            await caller
        assert caught.value.reason == "no_tokens"
        assert await there.load_tokens("alice") is None
    # The caller looks again after the logout, and finds nothing.
    assert [type(event) for event in events] == [RenewalDiscarded, RenewalFailed]


async def test_a_logout_here_during_a_renewal_is_what_the_waiters_hear_of(
    fake: FakeProvider, refresher: TokenRefresher
) -> None:
    await refresher.save_tokens("alice", login(fake, "alice", life_left=-1))
    with fake.hold() as gate:
        caller = asyncio.create_task(refresher.get_valid_token("alice"))
        await gate.reached()
        assert await refresher.delete_tokens("alice")
    with pytest.raises(ReauthenticationRequired):
        await caller
    assert await refresher.load_tokens("alice") is None


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


async def test_x9_a_row_that_joined_a_flight_which_met_a_logout_elsewhere_does_not_bring_the_user_back(
    fake: FakeProvider, provider: OIDCProvider, refresher: TokenRefresher, store: TokenStore
) -> None:
    await refresher.save_tokens("alice", login(fake, "alice", life_left=-1))
    row = login(fake, "alice", life_left=10)
    with fake.hold() as gate:
        first = asyncio.create_task(refresher.get_valid_token("alice"))
        await gate.reached()
        second = asyncio.create_task(refresher.ensure_valid_token("alice", row))
        await let_others_run()
        await store.delete(TokenKey(provider.name, "alice"))
    for caller in (first, second):
        with pytest.raises(ReauthenticationRequired):
            await caller
    assert await store.load(TokenKey(provider.name, "alice")) is None


async def test_x9_a_login_whose_reply_comes_after_a_logout_does_not_bring_the_user_back(
    fake: FakeProvider, refresher: TokenRefresher, store: FaultyStore
) -> None:
    with store.hold("save", after=True) as gate:
        saving = asyncio.create_task(refresher.save_tokens("alice", login(fake, "alice")))
        await gate.reached()
        leaving = asyncio.create_task(refresher.delete_tokens("alice"))
        await let_others_run()
    await asyncio.gather(saving, leaving)
    assert await refresher.load_tokens("alice") is None
    with pytest.raises(ReauthenticationRequired):
        await refresher.get_valid_token("alice")


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


async def test_x9_a_logout_that_failed_late_is_not_undone_by_a_callers_row(
    fake: FakeProvider, refresher: TokenRefresher, store: FaultyStore
) -> None:
    store.fail("delete", after=True)
    row = login(fake, "alice", life_left=-1)
    with fake.hold(endpoint="discovery") as gate:
        asking = asyncio.create_task(refresher.ensure_valid_token("alice", row))
        await gate.reached()
        with pytest.raises(StoreUnavailable):
            await refresher.delete_tokens("alice")
    with pytest.raises(ReauthenticationRequired):
        await asking
    assert await refresher.load_tokens("alice") is None


@pytest.mark.parametrize("fails", ["while it is renewed", "afterwards"])
async def test_x9_a_row_known_to_be_spent_is_not_sent_again_because_a_login_failed(
    fake: FakeProvider, refresher: TokenRefresher, store: FaultyStore, fails: str
) -> None:
    issued = login(fake, "alice")
    row = TokenSet(issued.access_token, refresh_token=issued.refresh_token)  # nothing in it tells its age

    async def fail_to_log_in() -> None:
        store.fail("save")
        with pytest.raises(StoreUnavailable):
            await refresher.save_tokens("alice", TokenSet("login", refresh_token="of the login"))
        store.recover()

    with fake.hold() as gate:
        asking = asyncio.create_task(refresher.ensure_valid_token("alice", row))
        await gate.reached()
        if fails == "while it is renewed":
            await fail_to_log_in()
    renewed = (await asking).tokens
    if fails == "afterwards":
        await fail_to_log_in()
    assert (await refresher.ensure_valid_token("alice", row)).tokens == renewed
    assert renewed.refresh_token == fake.current_refresh_token("alice")
    assert fake.requests() == 1


async def outcomes_of(sweep: AsyncIterator[SweepOutcome]) -> dict[str, SweepOutcome]:
    return {outcome.user_id: outcome async for outcome in sweep}


async def test_x9_a_user_logged_out_while_a_sweep_renews_is_no_failure(
    fake: FakeProvider, provider: OIDCProvider, store: FaultyStore
) -> None:
    async with TokenRefresher(provider, store) as refresher:
        await refresher.save_tokens("alice", login(fake, "alice", life_left=-1))
        with fake.hold() as gate:
            swept = asyncio.ensure_future(outcomes_of(refresher.sweep()))
            await gate.reached()
            await refresher.delete_tokens("alice")
        assert await swept == {"alice": SweepOutcome("alice")}
