"""A flight whose result is out of date when it lands, and a store that fails at that moment."""

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Iterator
from contextlib import AbstractAsyncContextManager, aclosing, asynccontextmanager
from pathlib import Path

import pytest
import time_machine

from kit.minting import Minting, stored
from kit.support import login
from tokenflight import (
    ConfigurationError,
    FileTokenStore,
    Lease,
    MemoryTokenStore,
    OIDCProvider,
    ProviderUnavailable,
    ReauthenticationRequired,
    StoredTokens,
    StoreUnavailable,
    TokenEvent,
    TokenKey,
    TokenRefresher,
    TokenRenewed,
    TokenSet,
    TokenStore,
    Version,
)
from tokenflight._core.limits import Limits
from tokenflight.testing import DropReply, FakeProvider, FaultyStore, Gate, ServerError, StoreOperation

KEY = TokenKey(Minting.name, "alice")


@pytest.fixture
def store() -> FaultyStore:
    return FaultyStore(MemoryTokenStore())


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
            await asyncio.sleep(0.01)
        await last_word
        assert await refresher.load_tokens("alice") == (latest if logs_in else None)


class Unguarded(MemoryTokenStore):
    """Its leases exclude nobody, as those of a holder that stood still."""

    def lease(self, key: TokenKey, *, timeout: float) -> AbstractAsyncContextManager[Lease]:
        return self._unguarded()

    @asynccontextmanager
    async def _unguarded(self) -> AsyncIterator[Lease]:
        yield Lease()


async def test_x6_a_record_marked_as_refused_meanwhile_takes_the_successor_all_the_same(
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


async def test_x10_a_login_elsewhere_that_is_due_itself_is_renewed_before_it_is_handed_out(
    fake: FakeProvider, provider: OIDCProvider, refresher: TokenRefresher, store: FaultyStore
) -> None:
    tokens = login(fake, "alice")
    await refresher.save_tokens("alice", tokens)
    with fake.hold() as gate:
        caller = asyncio.create_task(refresher.get_valid_token("alice", rejected=tokens.access_token))
        await gate.reached()
        elsewhere = login(fake, "alice", life_left=-1)
        await store.save(TokenKey(provider.name, "alice"), StoredTokens(elsewhere))
    renewed = await caller
    assert renewed != elsewhere
    assert renewed.expires_at is not None
    assert renewed.expires_at > time.time()
    assert fake.reuses() == 0


async def test_a_store_that_hangs_delays_a_user_with_a_valid_token_once_and_not_on_every_call(
    fake: FakeProvider, provider: OIDCProvider, store: FaultyStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    tokens = login(fake, "alice")
    async with TokenRefresher(provider, store, _limits=Limits(store_timeout=0.05)) as refresher:
        await refresher.save_tokens("alice", tokens)
        refresher._state.cache.keep("alice", StoredTokens(tokens, Version("1")), time.time() - 61)  # no longer trusted
        store.hang("load")
        for _ in range(20):
            assert await refresher.get_valid_token("alice") == tokens
        assert store.calls("load") == 1


async def test_t8_cold_users_wait_for_their_reads_here_and_not_in_the_stores_queue(
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

    store = CountingReads()
    users = [f"user-{number}" for number in range(500)]
    for user_id in users:
        await store.save(TokenKey(provider.name, user_id), StoredTokens(login(fake, user_id)))
    async with TokenRefresher(provider, store) as refresher:
        await asyncio.gather(*(refresher.get_valid_token(user_id) for user_id in users))
    assert store.most_under_way == 64


async def test_a_stores_own_timeout_is_not_taken_for_ours(refresher: TokenRefresher, store: FaultyStore) -> None:
    store.fail("load", error=TimeoutError)
    with pytest.raises(StoreUnavailable, match="failed with TimeoutError"):
        await refresher.get_valid_token("alice")


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


async def test_p7_a_sweep_over_a_directory_that_is_gone_says_so(
    fake: FakeProvider, provider: OIDCProvider, tmp_path: Path
) -> None:
    directory = tmp_path / "tokens"
    async with TokenRefresher(provider, FileTokenStore(directory)) as refresher:
        await refresher.save_tokens("alice", login(fake, "alice"))
        directory.rename(tmp_path / "away")
        with pytest.raises(StoreUnavailable, match="is gone"):
            await anext(refresher.sweep())


async def test_what_was_written_again_under_another_key_is_no_news(
    fake: FakeProvider, refresher: TokenRefresher, provider: OIDCProvider, store: TokenStore
) -> None:
    fake.lifetime = None
    await refresher.save_tokens("alice", TokenSet.from_response(fake.login("alice")))
    tokens = await refresher.get_valid_token("alice")
    await store.save(TokenKey(provider.name, "alice"), StoredTokens(tokens))
    assert await refresher.get_valid_token("alice") == tokens
    assert fake.requests() == 0


class TestALoginBeforeTheFlightReads:
    """The login overtakes the flight before it reads; that login's record is due too."""

    @pytest.fixture
    def lease(self, store: FaultyStore) -> Iterator[Gate]:
        with store.hold("lease") as gate:
            yield gate

    @pytest.fixture
    async def caller(self, fake: FakeProvider, refresher: TokenRefresher, lease: Gate) -> asyncio.Task[TokenSet]:
        await refresher.save_tokens("alice", login(fake, "alice", life_left=-1))
        caller = asyncio.create_task(refresher.get_valid_token("alice"))
        await lease.reached()
        await refresher.save_tokens("alice", login(fake, "alice", life_left=-1))
        return caller

    async def test_p1_its_successor_is_kept_though_the_store_fails(
        self,
        fake: FakeProvider,
        refresher: TokenRefresher,
        store: FaultyStore,
        lease: Gate,
        caller: asyncio.Task[TokenSet],
    ) -> None:
        store.fail("replace")
        lease.open()
        await caller
        store.recover()
        await asyncio.sleep(0.2)
        await refresher.refresh_token("alice")
        assert fake.reuses() == 0

    async def test_t6_its_lost_reply_is_not_replayed_at_once(
        self, fake: FakeProvider, lease: Gate, caller: asyncio.Task[TokenSet]
    ) -> None:
        fake.fail(DropReply(), times=1)
        lease.open()
        with pytest.raises(ProviderUnavailable):
            await caller
        assert fake.requests() == 1


class TestAProviderThatHangs:
    """A renewal hangs at the provider while the user logs in or out."""

    @pytest.fixture
    async def caller(self, fake: FakeProvider, refresher: TokenRefresher) -> AsyncIterator[asyncio.Task[TokenSet]]:
        await refresher.save_tokens("alice", login(fake, "alice", life_left=-1))
        with fake.hold() as gate:
            caller = asyncio.create_task(refresher.get_valid_token("alice"))
            await gate.reached()
            yield caller
        await asyncio.gather(caller, return_exceptions=True)

    async def test_s7_a_login_is_good_at_once_for_all(
        self, fake: FakeProvider, refresher: TokenRefresher, caller: asyncio.Task[TokenSet]
    ) -> None:
        fresh = login(fake, "alice")
        await refresher.save_tokens("alice", fresh)
        async with asyncio.timeout(2):
            assert await refresher.get_valid_token("alice") == fresh
            assert await caller == fresh
        assert fake.requests() == 1

    async def test_s7_a_logout_is_told_at_once_to_all(
        self, refresher: TokenRefresher, caller: asyncio.Task[TokenSet]
    ) -> None:
        await refresher.delete_tokens("alice")
        async with asyncio.timeout(2):
            for waiting in (refresher.get_valid_token("alice"), caller):
                with pytest.raises(ReauthenticationRequired):
                    await waiting


async def test_a_flight_that_is_void_when_it_gets_the_lease_asks_nobody(
    fake: FakeProvider, provider: OIDCProvider, store: FaultyStore
) -> None:
    async with TokenRefresher(provider, store) as refresher:
        await refresher.save_tokens("alice", login(fake, "alice", life_left=-1))
        with store.hold("lease") as gate:
            caller = asyncio.create_task(refresher.get_valid_token("alice"))
            await gate.reached()
            fresh = login(fake, "alice")
            await refresher.save_tokens("alice", fresh)
            assert await caller == fresh
    assert fake.requests() == 0


async def test_t6_a_flight_that_waits_for_one_that_is_void_and_fails_does_not_ask_right_after_it(
    fake: FakeProvider, refresher: TokenRefresher, store: FaultyStore
) -> None:
    store.fail("delete")
    await refresher.save_tokens("alice", login(fake, "alice", life_left=-1))
    fake.fail(ServerError(), times=1)
    with fake.hold() as gate:
        asking = asyncio.create_task(refresher.get_valid_token("alice"))
        await gate.reached()
        with pytest.raises(StoreUnavailable):
            await refresher.delete_tokens("alice")
    with pytest.raises(ProviderUnavailable, match="paused after a failure"):
        await asking
    assert fake.requests() == 1


async def test_a_login_that_could_not_be_stored_leaves_the_caller_its_own_tokens(
    fake: FakeProvider, refresher: TokenRefresher, store: FaultyStore
) -> None:
    row = login(fake, "alice", life_left=-1)
    with fake.hold(endpoint="discovery") as gate:
        asking = asyncio.create_task(refresher.ensure_valid_token("alice", row))
        await gate.reached()
        store.fail("save", times=1)
        with store.hold("save", times=1) as save:
            saving = asyncio.create_task(
                refresher.save_tokens("alice", TokenSet("login", refresh_token="of the login"))
            )
            await save.reached()
        with pytest.raises(StoreUnavailable):
            await saving
    result = await asking
    assert result.tokens.refresh_token == fake.current_refresh_token("alice")
    assert fake.reuses() == 0


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


@pytest.mark.parametrize("comes", ["login", "logout"])
async def test_s8_a_provider_that_asks_for_what_it_renews_is_told_so_though_its_flight_is_void(comes: str) -> None:
    class CallingBack:
        name = "idp"

        def __init__(self) -> None:
            self.asked, self.go_on = asyncio.Event(), asyncio.Event()

        async def renew(self, user_id: str, _tokens: TokenSet | None) -> TokenSet:
            self.asked.set()
            await self.go_on.wait()
            return await refresher.get_valid_token(user_id)

    provider = CallingBack()
    async with TokenRefresher(provider) as refresher:
        await refresher.save_tokens("alice", TokenSet("due", refresh_token="first", expires_at=1.0))
        caller = asyncio.create_task(refresher.get_valid_token("alice"))
        await provider.asked.wait()
        if comes == "login":
            await refresher.save_tokens("alice", TokenSet("due too", refresh_token="second", expires_at=1.0))
        else:
            await refresher.delete_tokens("alice")
        provider.go_on.set()
        async with asyncio.timeout(2):
            with pytest.raises(ConfigurationError) as caught:
                await caller
    assert caught.value.code == "reentered"


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
