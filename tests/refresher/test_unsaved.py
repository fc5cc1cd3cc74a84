"""A renewal that can't be stored yet: what logins, logouts, closing and an absent disk do to it."""

import asyncio
import logging
import shutil
from pathlib import Path

import pytest
import time_machine

from kit.minting import EXPIRED, Minting, renewed_of, stored
from kit.support import NOW, login, until_told
from tokenflight import (
    ClientSecretBasic,
    FileTokenStore,
    MemoryTokenStore,
    OIDCProvider,
    ReauthenticationRequired,
    RefreshPolicy,
    RenewalDiscarded,
    SaveFailed,
    SaveRecovered,
    StoreUnavailable,
    TokenEvent,
    TokenflightError,
    TokenKey,
    TokenRefresher,
    TokenSet,
)
from tokenflight._core.limits import Limits
from tokenflight.testing import FakeProvider, FaultyStore


@pytest.mark.parametrize("asks", ["here", "there", "a new process"])
async def test_p7_a_directory_that_is_gone_for_a_while_is_no_logout_though_others_are_renewed_meanwhile(
    fake: FakeProvider, provider: OIDCProvider, events: list[TokenEvent], tmp_path: Path, asks: str
) -> None:
    directory, aside = tmp_path / "tokens", tmp_path / "moved"
    async with (
        TokenRefresher(provider, FileTokenStore(directory), on_event=events.append) as here,
        TokenRefresher(provider, FileTokenStore(directory)) as there,
        TokenRefresher(provider, FileTokenStore(directory)) as new,
    ):
        for user_id in ("alice", "bob"):
            await here.save_tokens(user_id, login(fake, user_id, life_left=-1))
        await there.load_tokens("bob")
        with fake.hold(after=True) as gate:
            caller = asyncio.create_task(here.get_valid_token("alice"))
            await gate.reached()
            directory.rename(aside)  # as a disk that is unmounted
        renewed = await caller
        with pytest.raises(TokenflightError):
            await {"here": here, "there": there, "a new process": new}[asks].get_valid_token("bob")
        await asyncio.sleep(0.3)
        shutil.rmtree(directory, ignore_errors=True)  # hidden again by the mount
        aside.rename(directory)
        await until_told(events, SaveRecovered)
        assert await there.load_tokens("alice") == renewed
        await there.get_valid_token("bob")
    assert fake.reuses() == 0


async def test_s6_a_logout_at_the_moment_a_save_fails_leaves_no_lease_behind(clock: time_machine.Traveller) -> None:
    store = FaultyStore(MemoryTokenStore())
    await stored(store, "alice")
    async with TokenRefresher(Minting(), store, _limits=Limits(lease_timeout=0.1)) as refresher:
        # The connection is lost, and both replies come at once: the write failed, the logout was carried out.
        store.fail("replace")
        with store.hold("replace") as save, store.hold("delete", after=True) as delete:
            caller = asyncio.create_task(refresher.get_valid_token("alice"))
            await save.reached()
            logout = asyncio.create_task(refresher.delete_tokens("alice"))
            await delete.reached()
            save.open()
        await asyncio.gather(caller, logout, return_exceptions=True)
        store.recover()
        await refresher.save_tokens("alice", EXPIRED)
        assert await refresher.get_valid_token("alice") == renewed_of("alice")


def full_store() -> FaultyStore:
    """A store that takes no renewals, and takes its time when a lease is given back."""
    store = FaultyStore(MemoryTokenStore())
    store.fail("replace")
    store.delay("release", 0.05, after=True)
    return store


async def test_l3_closing_waits_for_the_lease_of_a_renewal_that_a_logout_made_void(
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


async def test_p1_a_logging_set_up_that_raises_costs_no_rotated_token(
    clock: time_machine.Traveller, monkeypatch: pytest.MonkeyPatch
) -> None:
    def raise_error(_: logging.LogRecord) -> bool:
        raise KeyError("from the app")

    store, fake = FaultyStore(MemoryTokenStore()), FakeProvider()
    store.fail("replace", times=1)
    monkeypatch.setattr(logging.getLogger("tokenflight"), "filters", [raise_error])
    async with fake.client() as http:
        provider = OIDCProvider(fake.issuer, ClientSecretBasic("app", "s3cret"), http_client=http)
        async with TokenRefresher(provider, store) as refresher:
            await refresher.save_tokens("alice", login(fake, "alice", life_left=-1))
            renewed = await refresher.get_valid_token("alice")
    assert renewed.refresh_token == fake.current_refresh_token("alice")
    record = await store.load(TokenKey(fake.issuer, "alice"))
    assert record is not None
    assert record.tokens == renewed


KEY = TokenKey(Minting.name, "alice")


async def test_s6_a_logout_ends_the_retries_of_a_renewal_though_the_store_is_still_full(
    clock: time_machine.Traveller,
) -> None:
    store = FaultyStore(MemoryTokenStore())
    store.fail("replace")
    await stored(store, "alice")
    async with TokenRefresher(
        Minting(),
        store,
        _limits=Limits(lease_timeout=0.3, first_save_pause=60.0),
    ) as refresher:
        await refresher.get_valid_token("alice")
        await refresher.delete_tokens("alice")
        await refresher.save_tokens("alice", EXPIRED)
        async with asyncio.timeout(5):  # one that tries again and again without a pause blocks the event loop
            assert await refresher.get_valid_token("alice") == renewed_of("alice")
        store.recover()


async def test_p1_closing_tries_once_more_also_where_a_try_is_under_way_and_fails(
    clock: time_machine.Traveller,
) -> None:
    store = FaultyStore(MemoryTokenStore())
    await stored(store, "alice")
    store.fail("replace", times=2)
    refresher = TokenRefresher(Minting(), store)
    renewed = await refresher.get_valid_token("alice")
    with store.hold("replace") as gate:
        await gate.reached()
        closing = asyncio.create_task(refresher.aclose())
        await asyncio.sleep(0.01)
    await closing
    assert store.calls("replace") == 3
    record = await store.load(KEY)
    assert record is not None
    assert record.tokens == renewed


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


class FirstOnly(Minting):
    """Renews nothing that is not there."""

    async def renew(self, user_id: str, tokens: TokenSet | None) -> TokenSet:
        if tokens is None:
            raise ReauthenticationRequired("no tokens", code="no_tokens")
        return await super().renew(user_id, tokens)


async def test_x9_a_first_record_whose_retry_comes_during_a_logout_does_not_bring_the_user_back(
    clock: time_machine.Traveller,
) -> None:
    store = FaultyStore(MemoryTokenStore())
    store.fail("save")
    async with TokenRefresher(Minting(), store) as refresher:
        await refresher.get_valid_token("alice")
        with store.hold("delete", after=True) as gate:
            logout = asyncio.create_task(refresher.delete_tokens("alice"))
            await gate.reached()
            store.recover()
            await asyncio.sleep(0.2)  # the retry waits for the logout by now
        await logout
        await asyncio.sleep(0.05)
        assert await store.load(KEY) is None


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


async def test_p1_each_failed_attempt_to_store_is_counted(
    events: list[TokenEvent], clock: time_machine.Traveller
) -> None:
    store = FaultyStore(MemoryTokenStore())
    store.fail("replace")
    await stored(store, "alice")
    async with TokenRefresher(Minting(), store, on_event=events.append) as refresher:
        await refresher.get_valid_token("alice")
        await asyncio.sleep(0.35)
        store.recover()
        await until_told(events, SaveRecovered)
    failed = [event.attempts for event in events if isinstance(event, SaveFailed)]
    assert len(failed) > 1
    assert failed == list(range(1, len(failed) + 1))
    assert isinstance(events[-1], SaveRecovered)
    assert events[-1].attempts == len(failed) + 1
