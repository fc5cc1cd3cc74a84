"""What a refresher waits for, retries and remembers has an end."""

import asyncio
import gc
import logging
import time
from itertools import pairwise

import pytest
import time_machine

from kit.minting import EXPIRED, Minting, flights_of, renewed_of, stored
from kit.support import NOW, login
from kit.virtual_time import run_in_virtual_time, seconds
from tokenflight import (
    MemoryTokenStore,
    OIDCProvider,
    ProviderUnavailable,
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
    Version,
)
from tokenflight._core.limits import Limits
from tokenflight.testing import FakeProvider, FaultyStore, RateLimited, ServerError, StoreOperation

LIMITS = Limits()


class MoodyProvider(Minting):
    """It answers every third user with a failure, and refuses every third."""

    def answer(self, user_id: str) -> TokenSet:
        match int(user_id) % 3:
            case 0:
                raise ProviderUnavailable("down")
            case 1:
                raise ReauthenticationRequired("refused")
        return renewed_of(user_id)


class TestDeadlines:
    @pytest.mark.parametrize("waits", [3, 300])
    def test_s6_a_provider_that_never_answers_costs_each_flight_its_deadline_and_then_the_next_call_works(
        self, clock: time_machine.Traveller, waits: int
    ) -> None:
        provider, store = Minting(seconds=1e9), MemoryTokenStore()
        users = [f"user-{number}" for number in range(waits)]

        async def main() -> None:
            await stored(store, *users)
            async with TokenRefresher(provider, store) as refresher:
                outcomes = await asyncio.gather(*map(refresher.get_valid_token, users), return_exceptions=True)
                assert {getattr(outcome, "code", None) for outcome in outcomes} <= {"deadline_exceeded", "overloaded"}
                assert seconds() == pytest.approx(LIMITS.provider_timeout)
                assert provider.requests == min(waits, 32)
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
        self, clock: time_machine.Traveller, operation: StoreOperation, *, known: bool
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
        assert [event.code for event in events if isinstance(event, SaveFailed)] == ["timeout"] * (
            operation == "replace"
        )

    def test_l3_a_store_that_never_answers_again_does_not_keep_closing_from_its_end(
        self, clock: time_machine.Traveller
    ) -> None:
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

    def test_p1_saving_is_tried_again_after_pauses_that_grow_up_to_two_seconds(
        self, clock: time_machine.Traveller
    ) -> None:
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

    def test_t6_no_request_is_cut_short_because_its_flight_had_to_wait_for_its_turn(
        self, clock: time_machine.Traveller, caplog: pytest.LogCaptureFixture
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
            async with TokenRefresher(Slow(), store) as refresher:
                calls = (refresher.get_valid_token(user_id) for user_id in users)
                outcomes = await asyncio.gather(*calls, return_exceptions=True)
            return {getattr(outcome, "code", "renewed") for outcome in outcomes}

        assert run_in_virtual_time(clock, main) == {"renewed", "overloaded"}
        assert cut == 0


class TestConcurrency:
    @pytest.mark.parametrize("slots", [1, 7, 32])
    @pytest.mark.parametrize("kind", [Minting, MoodyProvider])
    def test_t8_two_thousand_due_users_are_renewed_a_few_at_a_time(
        self, clock: time_machine.Traveller, slots: int, kind: type[Minting], caplog: pytest.LogCaptureFixture
    ) -> None:
        caplog.set_level(logging.CRITICAL)
        provider, users = kind(seconds=0.05), [str(number) for number in range(2_000)]

        async def main() -> None:
            store = MemoryTokenStore()
            await stored(store, *users)
            policy = RefreshPolicy(max_concurrent_renewals=slots)
            async with TokenRefresher(provider, store, policy=policy) as refresher:
                outcomes = await asyncio.gather(*map(refresher.get_valid_token, users), return_exceptions=True)
                assert flights_of(refresher) == 0
            for user_id, outcome in zip(users, outcomes, strict=True):
                expected: object = renewed_of(user_id)
                if kind is MoodyProvider:
                    expected = [ProviderUnavailable, ReauthenticationRequired, expected][int(user_id) % 3]
                assert expected in (outcome, type(outcome))
            assert seconds() == pytest.approx(0.05 * -(-len(users) // slots))

        run_in_virtual_time(clock, main)
        assert (provider.requests, provider.most_at_once) == (2_000, slots)


class TestPauses:
    @pytest.mark.parametrize(
        ("retry_after", "pause"),
        [
            (30, 30),
            ("Fri, 15 Jan 2027 08:00:45 GMT", 45),
            (3601, 3600),
            ("9" * 400, 3600),
            ("Fri, 31 Dec 9999 23:59:59 GMT", 3600),
        ],
    )
    async def test_t5_retry_after_pauses_the_whole_provider_and_nobody_waits_for_its_end(
        self,
        fake: FakeProvider,
        refresher: TokenRefresher,
        clock: time_machine.Traveller,
        retry_after: int | str,
        pause: float,
    ) -> None:
        for user_id in ("alice", "bob"):
            await refresher.save_tokens(user_id, login(fake, user_id, life_left=-1))
        still_valid = login(fake, "carol", life_left=pause + 60)
        await refresher.save_tokens("carol", still_valid)
        fake.fail(RateLimited(retry_after), times=1)
        with pytest.raises(ProviderUnavailable) as caught:
            await refresher.get_valid_token("alice")
        assert caught.value.retry_after == pytest.approx(pause)
        for passed in (0, pause / 2, pause / 2 - 0.5):
            clock.shift(passed)
            with pytest.raises(ProviderUnavailable) as caught:
                await refresher.get_valid_token("bob")
            assert caught.value.code == "cooling_down"
            pause_left = NOW + pause - time.time()
            assert caught.value.retry_after == pytest.approx(pause_left)
            with pytest.raises(ProviderUnavailable):
                await refresher.refresh_token("carol")
            assert await refresher.get_valid_token("carol") == still_valid
        assert fake.requests() == 1
        clock.shift(1)
        for user_id in ("alice", "bob"):
            assert (await refresher.get_valid_token(user_id)).refresh_token == fake.current_refresh_token(user_id)

    @pytest.mark.parametrize("retry_after", [None, 0, "-5", "soon", "Fri, 15 Jan 2027 07:00:00 GMT"])
    async def test_v6_a_429_whose_retry_after_says_nothing_pauses_the_whole_provider_for_half_a_minute(
        self,
        fake: FakeProvider,
        refresher: TokenRefresher,
        clock: time_machine.Traveller,
        retry_after: int | str | None,
    ) -> None:
        for user_id in ("alice", "bob"):
            await refresher.save_tokens(user_id, login(fake, user_id, life_left=-1))
        fake.fail(RateLimited(retry_after), times=1)
        for _ in range(2):
            with pytest.raises(ProviderUnavailable):
                await refresher.get_valid_token("alice")
        with pytest.raises(ProviderUnavailable) as caught:
            await refresher.get_valid_token("bob")
        assert caught.value.retry_after == pytest.approx(LIMITS.provider_pause)
        assert fake.requests() == 1
        clock.shift(LIMITS.provider_pause)
        assert (await refresher.get_valid_token("bob")).access_token
        assert (await refresher.get_valid_token("alice")).access_token

    async def test_t5_a_user_whose_renewal_goes_on_failing_is_tried_ever_more_rarely(
        self, fake: FakeProvider, refresher: TokenRefresher, clock: time_machine.Traveller
    ) -> None:
        await refresher.save_tokens("alice", login(fake, "alice", life_left=-1))
        fake.fail(ServerError())
        for failures in range(1, 10):
            with pytest.raises(ProviderUnavailable) as caught:
                await refresher.get_valid_token("alice")
            assert caught.value.code == "server_error"
            for _ in range(3):
                with pytest.raises(ProviderUnavailable) as caught:
                    await refresher.get_valid_token("alice")
            assert fake.requests() == failures
            longest = min(2.0 ** (failures - 1), 60.0)
            assert caught.value.retry_after is not None
            assert longest / 2 <= caught.value.retry_after <= longest + 1e-6
            clock.shift(caught.value.retry_after)
        fake.recover()
        assert (await refresher.get_valid_token("alice")).access_token

    @pytest.mark.parametrize("fault", [ServerError(), RateLimited(3600)], ids=repr)
    async def test_t5_a_clock_set_back_during_a_pause_keeps_nobody_out(
        self, fake: FakeProvider, refresher: TokenRefresher, clock: time_machine.Traveller, fault: ServerError
    ) -> None:
        for user_id in ("alice", "bob"):
            await refresher.save_tokens(user_id, login(fake, user_id, life_left=-7200))
        fake.fail(fault, times=1)
        with pytest.raises(ProviderUnavailable):
            await refresher.get_valid_token("alice")
        clock.shift(-600)
        for user_id in ("alice", "bob"):
            assert (await refresher.get_valid_token(user_id)).refresh_token == fake.current_refresh_token(user_id)

    async def test_t5_a_pause_made_while_the_clock_was_a_year_ahead_ends_when_it_is_set_right(
        self, fake: FakeProvider, refresher: TokenRefresher, clock: time_machine.Traveller
    ) -> None:
        await refresher.save_tokens("alice", login(fake, "alice", life_left=-1))
        fake.fail(RateLimited(3600), times=1)
        clock.shift(365 * 86_400)
        with pytest.raises(ProviderUnavailable):
            await refresher.get_valid_token("alice")
        clock.shift(-365 * 86_400)
        assert (await refresher.get_valid_token("alice")).access_token


class TestTheEnd:
    async def test_l3_closing_stores_what_two_hundred_flights_that_nobody_waits_for_any_more_will_bring(
        self, fake: FakeProvider, provider: OIDCProvider, store: TokenStore
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

    def test_l3_a_refresher_forgotten_together_with_its_event_loop_is_a_resource_warning(
        self, fake: FakeProvider
    ) -> None:
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
