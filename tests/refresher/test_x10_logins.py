"""X10: a login has the last word over whatever is under way when it comes."""

import asyncio
import time
from collections.abc import AsyncIterator, Iterator

import pytest

from kit.support import let_others_run, login, until_told
from tokenflight import (
    OIDCProvider,
    ProviderUnavailable,
    ReauthenticationRequired,
    SaveRecovered,
    StoredTokens,
    StoreUnavailable,
    TokenEvent,
    TokenKey,
    TokenRefresher,
    TokenSet,
    TokenStore,
)
from tokenflight.testing import DropReply, FakeProvider, FaultyStore, Gate


@pytest.mark.parametrize("where", ["here", "there"])
async def test_x10_a_login_during_a_renewal_wins(
    fake: FakeProvider, provider: OIDCProvider, store: TokenStore, where: str
) -> None:
    async with TokenRefresher(provider, store) as here, TokenRefresher(provider, store) as there:
        await here.save_tokens("alice", login(fake, "alice", life_left=-1))
        with fake.hold() as gate:
            caller = asyncio.create_task(here.get_valid_token("alice"))
            await gate.reached()
            latest = login(fake, "alice")
            await {"here": here, "there": there}[where].save_tokens("alice", latest)
        assert await caller == latest
        assert await here.get_valid_token("alice") == latest
        assert await here.load_tokens("alice") == latest


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


async def test_x10_a_cold_read_superseded_by_a_login_does_not_put_its_older_tokens_back(
    fake: FakeProvider, provider: OIDCProvider, refresher: TokenRefresher, store: FaultyStore
) -> None:
    await store.save(TokenKey(provider.name, "alice"), StoredTokens(login(fake, "alice")))
    with store.hold("load", after=True) as gate:
        caller = asyncio.create_task(refresher.get_valid_token("alice"))
        await gate.reached()
        latest = login(fake, "alice")
        await refresher.save_tokens("alice", latest)
    await let_others_run()
    assert await caller == await refresher.get_valid_token("alice") == latest
    assert store.calls("load") == 1


async def test_x10_a_login_that_seemed_to_fail_during_a_cold_read_is_found_by_the_next_caller(
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


async def test_x10_a_forced_renewal_superseded_by_a_login_gets_the_login_and_does_not_renew_it(
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


async def test_a_forced_renewal_outdated_by_a_failed_login_is_made_once(
    fake: FakeProvider, refresher: TokenRefresher, store: FaultyStore
) -> None:
    await refresher.save_tokens("alice", login(fake, "alice"))
    with fake.hold() as gate:
        caller = asyncio.create_task(refresher.refresh_token("alice"))
        await gate.reached()
        store.fail("save")
        with pytest.raises(StoreUnavailable):
            await refresher.save_tokens("alice", TokenSet("login", refresh_token="of the login"))
    assert (await caller).refresh_token == fake.current_refresh_token("alice")
    assert fake.requests() == 1


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


class TestALoginBeforeTheFlightReads:
    """A login supersedes the flight before it reads, and the token set of that login is due too."""

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
        events: list[TokenEvent],
    ) -> None:
        store.fail("replace")
        lease.open()
        await caller
        store.recover()
        await until_told(events, SaveRecovered)
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
