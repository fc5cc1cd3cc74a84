"""L3: closing finishes and stores what is under way, and a refresher that nobody closed says so."""

import asyncio
import gc

import pytest
import time_machine

from kit.minting import Minting, flights_of, renewed_of, stored
from kit.support import let_others_run, login
from kit.virtual_time import run_in_virtual_time, seconds
from tokenflight import (
    BaseProvider,
    ClientSecretBasic,
    ConfigurationError,
    FileTokenStore,
    MemoryTokenStore,
    OIDCProvider,
    StoreUnavailable,
    TokenKey,
    TokenRefresher,
    TokenStore,
)
from tokenflight._core.limits import Limits
from tokenflight.testing import FakeProvider, FaultyStore

LIMITS = Limits()


async def test_l3_closing_waits_until_flights_have_ended_and_are_stored(
    fake: FakeProvider, provider: OIDCProvider, store: TokenStore
) -> None:
    refresher = TokenRefresher(provider, store)
    await refresher.save_tokens("alice", login(fake, "alice", life_left=-1))
    with fake.hold() as gate:
        caller = asyncio.create_task(refresher.get_valid_token("alice"))
        await gate.reached()
        closing = asyncio.create_task(refresher.aclose())
        await let_others_run()
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


def test_l3_a_refresher_forgotten_together_with_its_event_loop_is_a_resource_warning(fake: FakeProvider) -> None:
    async def program() -> None:
        store = MemoryTokenStore()
        await stored(store, "alice")
        forgotten = TokenRefresher(Minting(), store)
        await forgotten.get_valid_token("alice")

    def run_and_collect() -> None:
        asyncio.run(program())
        gc.collect()

    with pytest.warns(ResourceWarning, match="never closed"):
        run_and_collect()


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


async def test_l3_the_store_is_closed_though_closing_the_provider_fails() -> None:
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


def test_l3_a_store_that_never_answers_again_does_not_keep_closing_from_its_end(clock: time_machine.Traveller) -> None:
    async def main() -> None:
        store = FaultyStore(MemoryTokenStore())
        await stored(store, "alice")
        refresher = TokenRefresher(Minting(), store)
        store.hang("replace")
        store.hang("release", after=True)
        assert await refresher.get_valid_token("alice") == renewed_of("alice")
        with pytest.raises(StoreUnavailable, match="'alice'"):
            await refresher.aclose()
        assert seconds() <= 4 * LIMITS.store_timeout
        assert asyncio.all_tasks() == {asyncio.current_task()}

    run_in_virtual_time(clock, main)


async def test_l3_closing_stores_the_results_of_two_hundred_flights_without_waiters(
    fake: FakeProvider, provider: OIDCProvider, store: TokenStore
) -> None:
    users = [f"user-{number}" for number in range(200)]
    refresher = TokenRefresher(provider, store)
    for user_id in users:
        await refresher.save_tokens(user_id, login(fake, user_id, life_left=-1))
    with fake.hold(after=True) as gate:
        callers = [asyncio.create_task(refresher.get_valid_token(user_id)) for user_id in users]
        await gate.reached(32)
        for caller in callers:
            caller.cancel()
        await asyncio.wait(callers)
        closing = asyncio.create_task(refresher.aclose())
        await asyncio.sleep(0)
        assert flights_of(refresher) == 200
    await closing
    for user_id in users:
        record = await store.load(TokenKey(provider.name, user_id))
        assert record is not None
        assert record.tokens.refresh_token == fake.current_refresh_token(user_id)
    assert asyncio.all_tasks() == {asyncio.current_task()}
