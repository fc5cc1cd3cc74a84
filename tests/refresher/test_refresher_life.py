"""The life of a refresher: closing, forgetting, and token sets that can't be stored."""

import asyncio
import gc
import logging
import sys
from collections.abc import AsyncIterator

import pytest
import time_machine

from kit.minting import Minting
from kit.support import login, until_told
from tokenflight import (
    BaseProvider,
    ClientSecretBasic,
    ConfigurationError,
    FileTokenStore,
    MemoryTokenStore,
    OIDCProvider,
    ReauthenticationRequired,
    RefreshPolicy,
    SaveFailed,
    SaveRecovered,
    StoredTokens,
    StoreUnavailable,
    TokenEvent,
    TokenKey,
    TokenRefresher,
    TokenSet,
    TokenStore,
)
from tokenflight.testing import FakeProvider, FaultyStore


async def test_l3_closing_waits_until_flights_have_ended_and_are_stored(
    fake: FakeProvider, provider: OIDCProvider, store: TokenStore
) -> None:
    refresher = TokenRefresher(provider, store)
    await refresher.save_tokens("alice", login(fake, "alice", life_left=-1))
    with fake.hold() as gate:
        caller = asyncio.create_task(refresher.get_valid_token("alice"))
        await gate.reached()
        closing = asyncio.create_task(refresher.aclose())
        await asyncio.sleep(0.01)
        assert not closing.done()
    await closing
    record = await store.load(TokenKey(provider.name, "alice"))
    assert record is not None
    assert record.tokens == await caller
    assert [task for task in asyncio.all_tasks() if task.get_name().startswith("tokenflight")] == []


async def test_l3_a_closed_refresher_says_so(fake: FakeProvider, provider: OIDCProvider) -> None:
    refresher = TokenRefresher(provider)
    await refresher.save_tokens("alice", login(fake, "alice"))
    await refresher.aclose()
    with pytest.raises(ConfigurationError) as caught:
        await refresher.get_valid_token("alice")
    assert caught.value.code == "closed"
    await refresher.aclose()


async def test_l3_a_refresher_that_was_never_closed_is_a_resource_warning(
    fake: FakeProvider, provider: OIDCProvider
) -> None:
    forgotten = [TokenRefresher(provider)]
    await forgotten[0].save_tokens("alice", login(fake, "alice"))

    def collect() -> None:
        forgotten.clear()
        gc.collect()

    with pytest.warns(ResourceWarning, match="never closed"):
        collect()


async def test_l3_a_refresher_that_was_never_used_needs_no_closing(provider: OIDCProvider) -> None:
    TokenRefresher(provider)
    gc.collect()


def test_l3_ctrl_c_in_the_middle_of_a_flight_loses_no_rotated_token(fake: FakeProvider, tmp_path: object) -> None:
    store = FileTokenStore(str(tmp_path))

    async def program() -> None:
        async with fake.client() as http:
            provider = OIDCProvider(fake.issuer, ClientSecretBasic("app", "s3cret"), http_client=http)
            async with TokenRefresher(provider, store) as refresher:
                await refresher.save_tokens("alice", login(fake, "alice", life_left=-1))
                with fake.hold(after=True) as gate:
                    caller = asyncio.create_task(refresher.get_valid_token("alice"))
                    await gate.reached()
                    caller.cancel()
                    raise KeyboardInterrupt  # as the signal handler does, wherever the program is

    with pytest.raises(KeyboardInterrupt):
        asyncio.run(program())

    async def afterwards() -> str | None:
        record = await store.load(TokenKey(fake.issuer, "alice"))
        await store.aclose()
        return None if record is None else record.tokens.refresh_token

    assert asyncio.run(afterwards()) == fake.current_refresh_token("alice")


@pytest.mark.long
async def test_l2_memory_returns_to_the_base_line_after_a_hundred_thousand_one_time_users(
    clock: time_machine.Traveller, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.CRITICAL)  # pytest keeps every record

    class Endless:
        name = "endless"

        async def renew(self, user_id: str, tokens: TokenSet | None) -> TokenSet:
            return TokenSet(f"access-{user_id}", expires_at=clock_now + 3600, issued_at=clock_now)

    class Forgetful(MemoryTokenStore):
        async def save(self, key: TokenKey, record: StoredTokens) -> None:
            await super().save(key, record)
            await self.delete(key)

    clock_now = 1_800_000_000.0
    policy = RefreshPolicy(max_cached_users=100)
    async with TokenRefresher(Endless(), Forgetful(), policy=policy) as refresher:

        async def serve(users: range) -> int:
            for start in range(users.start, users.stop, 100):
                await asyncio.gather(*(refresher.get_valid_token(f"user-{n}") for n in range(start, start + 100)))
            gc.collect()
            return sys.getallocatedblocks()

        base_line = await serve(range(1_000))
        afterwards = await serve(range(1_000, 101_000))
    assert afterwards < base_line + 1_000


async def test_the_oldest_copy_gives_way_and_costs_one_read(
    fake: FakeProvider, provider: OIDCProvider, store: TokenStore
) -> None:
    async with TokenRefresher(provider, store, policy=RefreshPolicy(max_cached_users=2)) as refresher:
        for user_id in ("alice", "bob", "carol"):
            await refresher.save_tokens(user_id, login(fake, user_id))
        for user_id in ("alice", "bob", "carol"):
            assert (await refresher.get_valid_token(user_id)).access_token
    assert fake.requests() == 0


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
                await asyncio.sleep(0.01)
        assert await store.load(TokenKey(provider.name, "alice")) is None


@pytest.mark.parametrize("user_id", ["", None, 7], ids=repr)
async def test_a_user_id_that_is_no_name_is_a_configuration_error(refresher: TokenRefresher, user_id: str) -> None:
    for operation in (
        refresher.get_valid_token,
        refresher.refresh_token,
        refresher.load_tokens,
        refresher.delete_tokens,
    ):
        with pytest.raises(ConfigurationError, match="user_id"):
            await operation(user_id)


async def test_wrong_arguments_are_configuration_errors_that_name_them(
    provider: OIDCProvider, refresher: TokenRefresher
) -> None:
    with pytest.raises(ConfigurationError, match="provider"):
        TokenRefresher("https://idp.example")  # type: ignore[arg-type] # the point of the test
    with pytest.raises(ConfigurationError, match="store"):
        TokenRefresher(provider, {})  # type: ignore[arg-type] # the point of the test
    with pytest.raises(ConfigurationError, match="policy"):
        TokenRefresher(provider, policy=60)  # type: ignore[arg-type] # the point of the test
    with pytest.raises(ConfigurationError, match="on_event"):
        TokenRefresher(provider, on_event="print")  # type: ignore[arg-type] # the point of the test
    with pytest.raises(ConfigurationError, match="tokens"):
        await refresher.save_tokens("alice", {"access_token": "a"})  # type: ignore[arg-type] # the point of the test
    with pytest.raises(ConfigurationError, match="tokens"):
        await refresher.ensure_valid_token("alice", "a")  # type: ignore[arg-type] # the point of the test
    with pytest.raises(ConfigurationError, match="rejected"):
        await refresher.get_valid_token("alice", rejected=TokenSet("a"))  # type: ignore[arg-type] # the point of the test
    with pytest.raises(ConfigurationError, match="min_validity"):
        await refresher.get_valid_token("alice", min_validity="1 h")  # type: ignore[arg-type] # the point of the test


async def test_a_store_that_lets_foreign_exceptions_through_still_fails_inside_the_error_tree(
    provider: OIDCProvider,
) -> None:
    store = FaultyStore(MemoryTokenStore())
    store.fail("load", error=ConnectionResetError)
    async with TokenRefresher(provider, store) as refresher:
        with pytest.raises(StoreUnavailable) as caught:
            await refresher.get_valid_token("alice")
    assert isinstance(caught.value.__cause__, ConnectionResetError)


async def test_l3_a_provider_that_can_not_be_closed_leaves_the_store_no_less_closed() -> None:
    class Unclosable(Minting, BaseProvider):
        async def aclose(self) -> None:
            raise OSError("from somebody's provider")

    class Closing(MemoryTokenStore):
        closed = False

        async def aclose(self) -> None:
            self.closed = True

    store = Closing()
    with pytest.raises(OSError, match="from somebody's provider"):
        await TokenRefresher(Unclosable(), store).aclose()
    assert store.closed


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
        await asyncio.sleep(0.01)
    with pytest.raises(StoreUnavailable, match="'alice'"):
        await closing
    await caller


async def test_so_many_users_stay_in_memory_and_the_one_read_longest_ago_gives_way(
    fake: FakeProvider, clock: time_machine.Traveller
) -> None:
    store = FaultyStore(MemoryTokenStore())
    async with TokenRefresher(Minting(), store, policy=RefreshPolicy(max_cached_users=2)) as refresher:
        for user_id in ("alice", "bob"):
            await refresher.save_tokens(user_id, login(fake, user_id))
        for user_id in ("alice", "bob"):
            await refresher.get_valid_token(user_id)
        assert store.calls("load") == 0
        clock.shift(61)
        await refresher.get_valid_token("alice")  # read again, and so younger than bob's
        await refresher.save_tokens("carol", login(fake, "carol"))
        assert [store.calls("load", user_id=user_id) for user_id in ("alice", "bob", "carol")] == [1, 0, 0]
        await refresher.get_valid_token("alice")
        await refresher.get_valid_token("bob")
    assert [store.calls("load", user_id=user_id) for user_id in ("alice", "bob", "carol")] == [1, 1, 0]
