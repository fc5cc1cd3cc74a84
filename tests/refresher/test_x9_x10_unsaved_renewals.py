"""X9, X10: logins and logouts win over a renewal that is being stored or can't be stored yet."""

import asyncio
from collections.abc import Awaitable

import pytest
import time_machine

from kit.minting import KEY, Minting, stored
from kit.support import NOW, let_others_run, login, until_told
from kit.virtual_time import run_in_virtual_time
from tokenflight import (
    MemoryTokenStore,
    OIDCProvider,
    ReauthenticationRequired,
    RefreshPolicy,
    RenewalDiscarded,
    StoreUnavailable,
    TokenEvent,
    TokenKey,
    TokenRefresher,
    TokenSet,
)
from tokenflight.testing import FakeProvider, FaultyStore, StoreOperation


@pytest.mark.parametrize("logs_in", [False, True])
async def test_x9_x10_a_renewal_that_can_not_be_stored_undoes_neither_logout_nor_login(
    fake: FakeProvider, refresher: TokenRefresher, store: FaultyStore, *, logs_in: bool
) -> None:
    await refresher.save_tokens("alice", login(fake, "alice", life_left=-1))
    latest = login(fake, "alice") if logs_in else None
    with fake.hold() as gate:
        caller = asyncio.create_task(refresher.get_valid_token("alice"))
        await gate.reached()
        if latest is None:
            await refresher.delete_tokens("alice")
        else:
            await refresher.save_tokens("alice", latest)
        store.fail("replace")
    if latest is None:
        for call in (caller, refresher.get_valid_token("alice")):
            with pytest.raises(ReauthenticationRequired):
                await call
    else:
        assert await caller == await refresher.get_valid_token("alice") == latest
    assert await refresher.load_tokens("alice") == latest


@pytest.mark.parametrize("logs_in", [False, True])
async def test_x9_x10_the_retry_of_a_first_record_undoes_neither_logout_nor_login(*, logs_in: bool) -> None:
    store = FaultyStore(MemoryTokenStore())
    store.fail("replace", times=1)
    async with TokenRefresher(Minting(), store) as refresher:
        await refresher.get_valid_token("alice")
        with store.hold("replace", times=1) as gate:
            await gate.reached()
            latest = TokenSet("login", refresh_token="of the login")
            last_word = asyncio.create_task(
                refresher.save_tokens("alice", latest) if logs_in else refresher.delete_tokens("alice")
            )
            await let_others_run()
        await last_word
        assert await refresher.load_tokens("alice") == (latest if logs_in else None)


@pytest.mark.parametrize("what", ["x9 logout", "x10 login"])
async def test_x9_x10_a_row_that_is_being_stored_loses_to_a_login_and_to_a_logout(
    fake: FakeProvider, refresher: TokenRefresher, store: FaultyStore, what: str
) -> None:
    with store.hold("replace", times=1) as gate:
        caller = asyncio.create_task(refresher.ensure_valid_token("alice", login(fake, "alice", life_left=-1)))
        await gate.reached()
        latest = login(fake, "alice")
        leaving = asyncio.create_task(
            refresher.save_tokens("alice", latest) if what == "x10 login" else refresher.delete_tokens("alice")
        )
        await let_others_run()
    await asyncio.wait([caller, leaving])
    assert await refresher.load_tokens("alice") == (latest if what == "x10 login" else None)
    assert fake.reuses() == 0


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


async def test_x10_a_login_during_the_retry_that_stores_a_renewal_is_no_error(
    clock: time_machine.Traveller, caplog: pytest.LogCaptureFixture
) -> None:
    store = FaultyStore(MemoryTokenStore())
    await stored(store, "alice")
    store.fail("replace", times=1)
    async with TokenRefresher(Minting(), store) as refresher:
        await refresher.get_valid_token("alice")
        with store.hold("replace", after=True) as gate:
            await gate.reached()
            await refresher.save_tokens(
                "alice", latest := TokenSet("login", refresh_token="of the login", issued_at=NOW, expires_at=NOW + 3600)
            )
            saving = list(refresher._state.pending._tasks)
        await asyncio.gather(*saving)
        assert await refresher.get_valid_token("alice") == latest


def test_x9_a_first_record_whose_retry_comes_during_a_logout_does_not_bring_the_user_back(
    clock: time_machine.Traveller,
) -> None:
    async def main() -> None:
        store = FaultyStore(MemoryTokenStore())
        store.fail("replace")
        async with TokenRefresher(Minting(), store) as refresher:
            await refresher.get_valid_token("alice")
            with store.hold("delete", after=True) as gate:
                logout = asyncio.create_task(refresher.delete_tokens("alice"))
                await gate.reached()
                store.recover()
                await asyncio.sleep(0.2)  # the retry waits for the logout by now
            await logout
            await asyncio.sleep(10)
            assert await store.load(KEY) is None

    run_in_virtual_time(clock, main)


class FirstOnly(Minting):
    """Renews nothing that is not there."""

    async def renew(self, user_id: str, tokens: TokenSet | None) -> TokenSet:
        if tokens is None:
            raise ReauthenticationRequired("no tokens", code="no_tokens")
        return await super().renew(user_id, tokens)


async def test_x9_a_logout_elsewhere_while_a_renewal_waits_to_be_stored_is_seen_with_any_cache_ttl(
    events: list[TokenEvent], clock: time_machine.Traveller
) -> None:
    store = FaultyStore(MemoryTokenStore())
    store.fail("replace")
    await stored(store, "alice")
    policy = RefreshPolicy(cache_ttl=None)
    async with TokenRefresher(FirstOnly(), store, policy=policy, on_event=events.append) as refresher:
        await refresher.get_valid_token("alice")
        await store.delete(KEY)
        store.recover()
        await until_told(events, RenewalDiscarded)
        with pytest.raises(ReauthenticationRequired):
            await refresher.get_valid_token("alice")


def full_store() -> FaultyStore:
    """A store that takes no renewals, and takes its time when a lease is given back."""
    store = FaultyStore(MemoryTokenStore())
    store.fail("replace")
    store.delay("release", 0.05, after=True)
    return store


async def test_l3_closing_waits_for_the_lease_of_a_renewal_superseded_by_a_logout(
    clock: time_machine.Traveller,
) -> None:
    store = full_store()
    await stored(store, "alice")
    refresher = TokenRefresher(Minting(), store)
    await refresher.get_valid_token("alice")
    await refresher.delete_tokens("alice")
    await refresher.aclose()
    assert asyncio.all_tasks() == {asyncio.current_task()}


async def test_p1_a_login_that_fails_too_gives_up_nothing_of_what_waits_to_be_stored(
    clock: time_machine.Traveller, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = full_store()
    await stored(store, "alice")
    store.fail("save")
    refresher = TokenRefresher(Minting(), store)
    renewed = await refresher.get_valid_token("alice")
    with pytest.raises(StoreUnavailable):
        await refresher.save_tokens("alice", TokenSet("login", refresh_token="of the login"))
    assert await refresher.get_valid_token("alice") == renewed
    with pytest.raises(StoreUnavailable, match="alice"):
        await refresher.aclose()


@pytest.mark.parametrize("failing", [["replace"], ["replace", "load"]], ids=["writing", "all"])
@pytest.mark.parametrize("again", [False, True], ids=["another login", "the same login again"])
async def test_p1_the_successor_of_a_login_confirmed_while_it_was_renewed_is_kept_until_it_is_stored(
    fake: FakeProvider, provider: OIDCProvider, store: FaultyStore, failing: list[StoreOperation], *, again: bool
) -> None:
    async with TokenRefresher(provider, store) as refresher:
        tokens = login(fake, "alice", life_left=-1)
        await refresher.save_tokens("alice", tokens)
        confirmation = store.hold("save", after=True)
        if again:
            confirming: Awaitable[None] = refresher.save_tokens("alice", tokens)  # starts when it is awaited
        else:
            confirming = asyncio.create_task(refresher.save_tokens("alice", login(fake, "alice", life_left=-1)))
            await confirmation.reached()
        with fake.hold() as gate:
            caller = asyncio.create_task(refresher.get_valid_token("alice"))
            await gate.reached()
            confirmation.open()
            await confirming
            for operation in failing:
                store.fail(operation)
        async with asyncio.timeout(2):
            renewed = await caller
        store.recover()
    assert renewed.refresh_token == fake.current_refresh_token("alice")
    record = await store.load(TokenKey(provider.name, "alice"))
    assert record is not None
    assert record.tokens == renewed
    assert fake.reuses() == 0
