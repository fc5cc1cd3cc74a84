"""P: a rotated token that can't be stored yet is served, kept, and stored as soon as possible."""

import asyncio
import logging
import shutil
from collections.abc import AsyncIterator
from itertools import pairwise
from pathlib import Path

import pytest
import time_machine

from kit.minting import KEY, Minting, stored
from kit.support import let_others_run, login, until_told
from kit.virtual_time import run_in_virtual_time, seconds
from tokenflight import (
    ClientSecretBasic,
    FileTokenStore,
    LeaseTimeout,
    MemoryTokenStore,
    OIDCProvider,
    ReauthenticationRequired,
    SaveFailed,
    SaveRecovered,
    StoredTokens,
    StoreUnavailable,
    TokenEvent,
    TokenflightError,
    TokenKey,
    TokenRefresher,
    Version,
)
from tokenflight._core.limits import Limits
from tokenflight.testing import FakeProvider, FaultyStore

LIMITS = Limits()


class TestUnsaved:
    @pytest.fixture
    def store(self) -> FaultyStore:
        """A store that takes no renewal."""
        store = FaultyStore(MemoryTokenStore())
        store.fail("replace")
        return store

    @pytest.fixture
    async def refresher(
        self, provider: OIDCProvider, store: FaultyStore, events: list[TokenEvent]
    ) -> AsyncIterator[TokenRefresher]:
        refresher = TokenRefresher(provider, store, on_event=events.append)
        yield refresher
        store.recover()
        await refresher.aclose()

    async def test_p1_a_renewed_token_that_can_not_be_stored_is_served_and_stored_as_soon_as_possible(
        self,
        fake: FakeProvider,
        provider: OIDCProvider,
        refresher: TokenRefresher,
        store: FaultyStore,
        events: list[TokenEvent],
    ) -> None:
        await refresher.save_tokens("alice", login(fake, "alice", life_left=-1))
        renewed = await refresher.get_valid_token("alice")
        assert renewed.refresh_token == fake.current_refresh_token("alice")
        assert await refresher.get_valid_token("alice") == renewed
        (failure,) = events
        assert isinstance(failure, SaveFailed)
        assert (failure.user_id, failure.code, failure.attempts) == ("alice", "store_unavailable", 1)

        store.recover()
        await until_told(events, SaveRecovered)
        record = await store.load(TokenKey(provider.name, "alice"))
        assert record is not None
        assert record.tokens == renewed
        assert fake.requests() == 1

    async def test_p1_the_spent_token_is_never_sent_while_its_successor_is_unsaved(
        self, fake: FakeProvider, provider: OIDCProvider, refresher: TokenRefresher, store: FaultyStore
    ) -> None:
        fake.lifetime = 1000
        await refresher.save_tokens("alice", login(fake, "alice", life_left=-1))
        await refresher.get_valid_token("alice")
        with time_machine.travel(1_900_000_000, tick=False), pytest.raises(StoreUnavailable) as caught:
            await refresher.get_valid_token("alice")
        assert caught.value.code == "unsaved"
        with pytest.raises(StoreUnavailable):
            await refresher.refresh_token("alice")
        assert fake.requests() == 1
        assert fake.reuses() == 0

    async def test_p1_closing_raises_and_names_the_users_whose_tokens_are_lost(
        self, fake: FakeProvider, provider: OIDCProvider, store: FaultyStore
    ) -> None:
        refresher = TokenRefresher(provider, store)
        await refresher.save_tokens("alice", login(fake, "alice", life_left=-1))
        await refresher.get_valid_token("alice")
        with pytest.raises(StoreUnavailable, match="'alice'") as caught:
            await refresher.aclose()
        assert caught.value.code == "unsaved"

    async def test_p1_closing_stores_it_if_it_can(
        self, fake: FakeProvider, provider: OIDCProvider, store: FaultyStore
    ) -> None:
        refresher = TokenRefresher(provider, store)
        await refresher.save_tokens("alice", login(fake, "alice", life_left=-1))
        renewed = await refresher.get_valid_token("alice")
        store.recover()
        await refresher.aclose()
        record = await store.load(TokenKey(provider.name, "alice"))
        assert record is not None
        assert record.tokens == renewed

    async def test_p1_a_write_that_arrived_although_it_seemed_to_fail_is_recognised(
        self, fake: FakeProvider, refresher: TokenRefresher, store: FaultyStore, events: list[TokenEvent]
    ) -> None:
        store.recover()
        store.fail("replace", times=1, after=True)
        await refresher.save_tokens("alice", login(fake, "alice", life_left=-1))
        renewed = await refresher.get_valid_token("alice")
        await until_told(events, SaveRecovered)
        assert await refresher.load_tokens("alice") == renewed

    async def test_p1_a_logout_wins_over_a_token_that_waits_to_be_stored(
        self, fake: FakeProvider, provider: OIDCProvider, refresher: TokenRefresher, store: FaultyStore
    ) -> None:
        await refresher.save_tokens("alice", login(fake, "alice", life_left=-1))
        await refresher.get_valid_token("alice")
        await refresher.delete_tokens("alice")
        store.recover()
        async with asyncio.timeout(5):
            while True:
                try:
                    await refresher.get_valid_token("alice")
                except ReauthenticationRequired:
                    break
                await let_others_run()
        assert await store.load(TokenKey(provider.name, "alice")) is None


async def test_p1_closing_names_also_the_users_whose_flights_end_while_it_waits(
    fake: FakeProvider, provider: OIDCProvider
) -> None:
    store = FaultyStore(MemoryTokenStore())
    store.fail("replace")
    refresher = TokenRefresher(provider, store)
    await refresher.save_tokens("alice", login(fake, "alice", life_left=-1))
    with fake.hold(after=True) as gate:
        caller = asyncio.create_task(refresher.get_valid_token("alice"))
        await gate.reached()
        closing = asyncio.create_task(refresher.aclose())
        await let_others_run()
    with pytest.raises(StoreUnavailable, match="'alice'"):
        await closing
    await caller


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
        await let_others_run()
    await closing
    assert store.calls("replace") == 3
    record = await store.load(KEY)
    assert record is not None
    assert record.tokens == renewed


def test_p1_each_failed_attempt_to_store_is_counted(events: list[TokenEvent], clock: time_machine.Traveller) -> None:
    async def main() -> None:
        store = FaultyStore(MemoryTokenStore())
        store.fail("replace")
        await stored(store, "alice")
        async with TokenRefresher(Minting(), store, on_event=events.append) as refresher:
            await refresher.get_valid_token("alice")
            await asyncio.sleep(0.35)
            store.recover()
            await until_told(events, SaveRecovered)

    run_in_virtual_time(clock, main)
    failed = [event.attempts for event in events if isinstance(event, SaveFailed)]
    assert len(failed) > 1
    assert failed == list(range(1, len(failed) + 1))
    assert isinstance(events[-1], SaveRecovered)
    assert events[-1].attempts == len(failed) + 1


def test_p1_saving_is_tried_again_after_pauses_that_grow_up_to_two_seconds(clock: time_machine.Traveller) -> None:
    tried: list[float] = []

    class Full(MemoryTokenStore):
        async def replace(self, key: TokenKey, record: StoredTokens, *, expected: Version | None) -> None:
            tried.append(seconds())
            if len(tried) < 15:
                raise StoreUnavailable("no space left on device")
            await super().replace(key, record, expected=expected)

    async def main() -> None:
        saved = asyncio.Event()
        store = Full()
        await stored(store, "alice")

        def listen(event: TokenEvent) -> None:
            if isinstance(event, SaveRecovered):
                saved.set()

        async with TokenRefresher(Minting(), store, on_event=listen) as refresher:
            await refresher.get_valid_token("alice")
            await saved.wait()

    run_in_virtual_time(clock, main)
    pauses = [later - earlier for earlier, later in pairwise(tried)]
    longest = [min(0.1 * 2**n, LIMITS.longest_save_pause) for n in range(14)]
    assert all(most / 2 <= pause <= most + 0.01 for pause, most in zip(pauses, longest, strict=True))


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


async def test_p1_no_other_process_gets_the_lease_while_the_store_holds_a_spent_refresh_token(
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


@pytest.mark.parametrize("asks", ["here", "there", "a new process"])
async def test_p7_a_directory_that_is_gone_for_a_while_is_no_logout_though_other_users_are_renewed(
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


async def test_p7_a_sweep_over_a_directory_that_is_gone_says_so(
    fake: FakeProvider, provider: OIDCProvider, tmp_path: Path
) -> None:
    directory = tmp_path / "tokens"
    async with TokenRefresher(provider, FileTokenStore(directory)) as refresher:
        await refresher.save_tokens("alice", login(fake, "alice"))
        directory.rename(tmp_path / "away")
        with pytest.raises(StoreUnavailable, match="is gone"):
            await anext(refresher.sweep())
