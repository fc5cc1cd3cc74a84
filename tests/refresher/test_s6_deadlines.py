"""S6, T6: every flight ends in time, whatever hangs, and the next call works."""

import asyncio
import logging
import time

import pytest
import time_machine

from kit.minting import EXPIRED, Minting, flights_of, renewed_of, stored
from kit.support import login
from kit.virtual_time import run_in_virtual_time, seconds
from tokenflight import (
    LeaseTimeout,
    MemoryTokenStore,
    OIDCProvider,
    ProviderUnavailable,
    RefreshPolicy,
    SaveFailed,
    StoredTokens,
    StoreUnavailable,
    TokenEvent,
    TokenKey,
    TokenRefresher,
    TokenSet,
    Version,
)
from tokenflight._core.limits import Limits
from tokenflight.testing import FakeProvider, FaultyStore, StoreOperation

LIMITS = Limits()


async def test_s6_a_flight_that_hangs_ends_at_its_deadline_and_the_user_is_not_stuck(
    fake: FakeProvider, provider: OIDCProvider, clock: time_machine.Traveller
) -> None:
    async with TokenRefresher(provider, _limits=Limits(provider_timeout=0.2)) as refresher:
        await refresher.save_tokens("alice", login(fake, "alice", life_left=-1))
        with fake.hold():
            with pytest.raises(ProviderUnavailable) as caught:
                await refresher.get_valid_token("alice")
            assert caught.value.code == "deadline_exceeded"
        clock.shift(60)
        await refresher.save_tokens("alice", login(fake, "alice", life_left=-1))
        assert (await refresher.get_valid_token("alice")).access_token


@pytest.mark.parametrize("waits", [3, 300])
def test_s6_a_provider_that_never_answers_costs_each_flight_its_deadline_and_then_the_next_call_works(
    clock: time_machine.Traveller, waits: int
) -> None:
    provider, store = Minting(seconds=1e9), MemoryTokenStore()
    users = [f"user-{number}" for number in range(waits)]

    async def main() -> None:
        await stored(store, *users)
        async with TokenRefresher(provider, store) as refresher:
            outcomes = await asyncio.gather(*map(refresher.get_valid_token, users), return_exceptions=True)
            assert {getattr(outcome, "code", None) for outcome in outcomes} <= {"deadline_exceeded", "overloaded"}
            # Each moment, those that hang give their places to the next (W2).
            rounds = -(-waits // RefreshPolicy().max_concurrent_renewals)
            assert seconds() == pytest.approx(LIMITS.provider_timeout + (rounds - 1) * LIMITS.hanging_after)
            assert provider.requests == waits
            assert (flights_of(refresher), provider.under_way) == (0, 0)
            provider.seconds = 1
            await asyncio.sleep(2)
            for user_id in users:
                assert await refresher.get_valid_token(user_id) == renewed_of(user_id)

    run_in_virtual_time(clock, main)


@pytest.mark.parametrize(
    ("operation", "known"), [("load", False), ("load", True), ("lease", True), ("replace", True), ("release", True)]
)
def test_s6_a_store_that_never_answers_ends_a_flight_in_time_and_then_the_next_call_works(
    clock: time_machine.Traveller, operation: StoreOperation, *, known: bool
) -> None:
    events: list[TokenEvent] = []

    async def main() -> None:
        store = FaultyStore(MemoryTokenStore())
        await stored(store, "alice")
        async with TokenRefresher(Minting(), store, on_event=events.append) as refresher:
            if known:
                await refresher.save_tokens("alice", EXPIRED)
            store.hang(operation, after=operation == "release")
            callers = (refresher.get_valid_token("alice") for _ in range(3))
            outcomes = await asyncio.gather(*callers, return_exceptions=True)
            assert 0 < seconds() <= 2 * LIMITS.store_timeout
            if operation in {"replace", "release"}:
                assert outcomes == [renewed_of("alice")] * 3
            else:
                errors = [(type(outcome), getattr(outcome, "code", None)) for outcome in outcomes]
                assert errors == [(StoreUnavailable, "timeout")] * 3
            assert flights_of(refresher) == 0
            store.recover()
            assert await refresher.get_valid_token("alice") == renewed_of("alice")
        record = await store.load(TokenKey(Minting.name, "alice"))
        assert record is not None
        assert record.tokens == renewed_of("alice")

    run_in_virtual_time(clock, main)
    assert [event.code for event in events if isinstance(event, SaveFailed)] == ["timeout"] * (operation == "replace")


def test_t6_no_request_is_cut_short_because_its_flight_had_to_wait_for_its_turn(
    clock: time_machine.Traveller, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.CRITICAL)
    cut = 0

    class Slow(Minting):
        async def renew(self, user_id: str, tokens: TokenSet | None) -> TokenSet:
            nonlocal cut
            try:
                await asyncio.sleep(25)
            except asyncio.CancelledError:
                cut += 1
                raise
            return await super().renew(user_id, tokens)

    async def main() -> set[str]:
        store = MemoryTokenStore()
        users = [str(number) for number in range(300)]
        for user_id in users:
            await stored(store, user_id)
        limits = Limits(turn_timeout=60, max_renewals_under_way=64)
        async with TokenRefresher(Slow(), store, _limits=limits) as refresher:
            calls = (refresher.get_valid_token(user_id) for user_id in users)
            outcomes = await asyncio.gather(*calls, return_exceptions=True)
        return {getattr(outcome, "code", "renewed") for outcome in outcomes}

    assert run_in_virtual_time(clock, main) == {"renewed", "overloaded"}
    assert cut == 0


async def test_s6_a_provider_that_answers_after_its_deadline_loses_no_rotated_token(store: FaultyStore) -> None:

    class Stubborn:
        name = "stubborn"

        async def renew(self, user_id: str, tokens: TokenSet | None) -> TokenSet:
            try:
                await asyncio.sleep(60)
            except asyncio.CancelledError:
                return TokenSet("new", refresh_token="rotated")
            raise AssertionError("the deadline did not come")

    async with TokenRefresher(Stubborn(), store, _limits=Limits(provider_timeout=0.02)) as refresher:
        await refresher.save_tokens("alice", TokenSet("old", refresh_token="spent", expires_at=1.0))
        assert (await refresher.get_valid_token("alice")).refresh_token == "rotated"
        stored = await refresher.load_tokens("alice")
    assert stored is not None
    assert stored.refresh_token == "rotated"


async def test_s6_a_flight_that_never_gets_a_place_ends_too_and_says_that_nothing_was_sent(
    fake: FakeProvider, provider: OIDCProvider, clock: time_machine.Traveller
) -> None:
    policy = RefreshPolicy(max_concurrent_renewals=1)
    async with TokenRefresher(provider, policy=policy, _limits=Limits(turn_timeout=0.05)) as refresher:
        for user_id in ("alice", "bob"):
            await refresher.save_tokens(user_id, login(fake, user_id, life_left=-1))
        with fake.hold(user_id="alice") as gate:
            slow = asyncio.create_task(refresher.get_valid_token("alice"))
            await gate.reached()
            with pytest.raises(ProviderUnavailable, match="nothing was sent") as caught:
                await refresher.get_valid_token("bob")
        assert caught.value.code == "overloaded"
        assert (await slow).access_token
        clock.shift(60)
        assert (await refresher.get_valid_token("bob")).access_token
    assert (fake.requests("alice"), fake.requests("bob")) == (1, 1)


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


async def test_a_store_that_hangs_delays_a_user_with_a_valid_token_once_and_not_on_every_call(
    fake: FakeProvider, provider: OIDCProvider, store: FaultyStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    tokens = login(fake, "alice")
    async with TokenRefresher(provider, store, _limits=Limits(store_timeout=0.05)) as refresher:
        await refresher.save_tokens("alice", tokens)
        refresher._state.cache.keep("alice", StoredTokens(tokens, Version("1")), time.time() - 61)  # no longer current
        store.hang("load")
        for _ in range(20):
            assert await refresher.get_valid_token("alice") == tokens
        assert store.calls("load") == 1


async def test_a_stores_own_timeout_is_not_taken_for_ours(refresher: TokenRefresher, store: FaultyStore) -> None:
    store.fail("load", error=TimeoutError)
    with pytest.raises(StoreUnavailable, match="failed with TimeoutError"):
        await refresher.get_valid_token("alice")


async def test_a_provider_that_raises_a_lease_timeout_of_its_own_fails_the_flight_at_once(
    store: FaultyStore,
) -> None:
    class Chained:
        name = "outer"

        async def renew(self, user_id: str, tokens: TokenSet | None) -> TokenSet:
            raise LeaseTimeout("the inner refresher's store is busy")

    async with TokenRefresher(Chained(), store) as refresher, asyncio.timeout(5):
        await refresher.save_tokens("alice", TokenSet("access", refresh_token="refresh", expires_at=1.0))
        with pytest.raises(LeaseTimeout, match="inner"):
            await refresher.get_valid_token("alice")
