"""S: one flight per user, however many callers wait for it and whatever happens to them."""

import asyncio
import traceback

import httpx
import pytest
import time_machine
from hypothesis import given
from hypothesis import strategies as st

from kit.minting import Minting
from kit.support import login
from tokenflight import (
    ClientSecretBasic,
    ConfigurationError,
    FileTokenStore,
    MemoryTokenStore,
    OIDCProvider,
    ProviderUnavailable,
    TokenRefresher,
    TokenSet,
    TokenStore,
)
from tokenflight.httpx import BearerAuth
from tokenflight.testing import DropReply, FakeProvider, FaultyStore, ServerError


async def test_s1_a_hundred_callers_on_an_expired_token_make_one_request(
    fake: FakeProvider, refresher: TokenRefresher
) -> None:
    await refresher.save_tokens("alice", login(fake, "alice", life_left=-1))
    results = await asyncio.gather(*(refresher.get_valid_token("alice") for _ in range(100)))
    assert fake.requests() == 1
    assert len({tokens.access_token for tokens in results}) == 1


async def test_s1_callers_that_find_nothing_in_the_cache_read_the_store_once(
    fake: FakeProvider, provider: OIDCProvider
) -> None:
    store = FaultyStore(MemoryTokenStore())
    async with TokenRefresher(provider, store) as first:
        await first.save_tokens("alice", login(fake, "alice"))
    async with TokenRefresher(provider, store) as second:
        await asyncio.gather(*(second.get_valid_token("alice") for _ in range(100)))
    assert store.calls("load") == 1
    assert fake.requests() == 0


async def test_s2_refreshers_made_per_request_still_make_one_request(
    fake: FakeProvider, provider: OIDCProvider, store: TokenStore
) -> None:
    async with TokenRefresher(provider, store) as refresher:
        await refresher.save_tokens("alice", login(fake, "alice", life_left=-1))

    async def handle_request() -> TokenSet:
        async with TokenRefresher(provider, store) as own:
            return await own.get_valid_token("alice")

    results = await asyncio.gather(*(handle_request() for _ in range(50)))
    assert fake.requests() == 1
    assert len({tokens.access_token for tokens in results}) == 1


async def test_s3_cancelling_the_first_of_a_hundred_waiters_mid_request_affects_no_other(
    fake: FakeProvider, refresher: TokenRefresher
) -> None:
    await refresher.save_tokens("alice", login(fake, "alice", life_left=-1))
    with fake.hold() as gate:
        callers = [asyncio.create_task(refresher.get_valid_token("alice")) for _ in range(100)]
        await gate.reached()
        callers[0].cancel()
        await asyncio.sleep(0)
    first, *others = await asyncio.gather(*callers, return_exceptions=True)
    assert isinstance(first, asyncio.CancelledError)
    assert len([tokens for tokens in others if isinstance(tokens, TokenSet)]) == 99
    assert fake.requests() == 1


async def test_s3_with_every_waiter_cancelled_the_rotated_token_is_on_disk_a_moment_later(
    fake: FakeProvider, provider: OIDCProvider, tmp_path: object
) -> None:
    store = FileTokenStore(str(tmp_path))
    async with TokenRefresher(provider, store) as refresher:
        await refresher.save_tokens("alice", login(fake, "alice", life_left=-1))
        with fake.hold(after=True) as gate:
            callers = [asyncio.create_task(refresher.get_valid_token("alice")) for _ in range(100)]
            await gate.reached()
            for caller in callers:
                caller.cancel()
            outcomes = await asyncio.gather(*callers, return_exceptions=True)
    assert all(isinstance(outcome, asyncio.CancelledError) for outcome in outcomes)
    async with TokenRefresher(provider, FileTokenStore(str(tmp_path))) as later:
        tokens = await later.load_tokens("alice")
    assert tokens is not None
    assert tokens.refresh_token == fake.current_refresh_token("alice")
    assert fake.requests() == 1


async def test_s4_a_failure_is_shared_by_all_waiters_and_followed_by_a_cool_down(
    fake: FakeProvider, refresher: TokenRefresher, clock: time_machine.Traveller
) -> None:
    await refresher.save_tokens("alice", login(fake, "alice", life_left=-1))
    fake.fail(ServerError(503), times=1)
    callers = (refresher.get_valid_token("alice") for _ in range(100))
    outcomes = await asyncio.gather(*callers, return_exceptions=True)
    assert all(isinstance(outcome, ProviderUnavailable) for outcome in outcomes)
    assert fake.requests() == 1

    with pytest.raises(ProviderUnavailable) as caught:
        await refresher.get_valid_token("alice")
    assert caught.value.code == "server_error"
    assert caught.value.retry_after is not None
    assert 0 < caught.value.retry_after <= 1
    assert fake.requests() == 1

    clock.shift(caught.value.retry_after)
    assert (await refresher.get_valid_token("alice")).access_token
    assert fake.requests() == 2


async def test_s4_the_cool_down_of_one_user_is_not_another_users(fake: FakeProvider, refresher: TokenRefresher) -> None:
    for user_id in ("alice", "bob"):
        await refresher.save_tokens(user_id, login(fake, user_id, life_left=-1))
    fake.fail(ServerError(), user_id="alice")
    with pytest.raises(ProviderUnavailable):
        await refresher.get_valid_token("alice")
    assert (await refresher.get_valid_token("bob")).access_token


async def test_s5_nothing_is_held_while_an_api_request_is_outstanding(
    fake: FakeProvider, http: httpx.AsyncClient, refresher: TokenRefresher, store: TokenStore
) -> None:
    await refresher.save_tokens("alice", login(fake, "alice", life_left=-1))
    auth = BearerAuth(refresher, "alice")
    with fake.hold(endpoint="api") as gate:
        slow_call = asyncio.create_task(http.get("/api", auth=auth))
        await gate.reached()
        async with asyncio.timeout(5):
            renewed = await refresher.refresh_token("alice")
            assert await refresher.get_valid_token("alice") is renewed
    assert (await slow_call).status_code in {200, 401}


async def test_s8_a_caller_just_after_the_flight_reuses_its_result(
    fake: FakeProvider, refresher: TokenRefresher
) -> None:
    await refresher.save_tokens("alice", login(fake, "alice", life_left=-1))
    results = []

    async def caller(steps: int) -> None:
        for _ in range(steps):
            await asyncio.sleep(0)
        results.append(await refresher.get_valid_token("alice"))

    await asyncio.gather(*(caller(steps) for steps in range(200)))
    assert fake.requests() == 1
    assert len({tokens.access_token for tokens in results}) == 1


async def test_s8_a_refresher_with_an_old_cached_entry_reads_again_before_it_renews(
    fake: FakeProvider, provider: OIDCProvider, store: TokenStore
) -> None:
    async with TokenRefresher(provider, store) as here, TokenRefresher(provider, store) as there:
        await here.save_tokens("alice", login(fake, "alice", life_left=301))
        await there.get_valid_token("alice")
        renewed = await here.refresh_token("alice")
        with time_machine.travel(renewed.issued_at + 10 if renewed.issued_at else 0, tick=False):
            assert (await there.get_valid_token("alice")).access_token == renewed.access_token
    assert fake.requests() == 1
    assert fake.reuses() == 0


@given(order=st.lists(st.integers(0, 9), min_size=1, max_size=60))
def test_s9_no_user_ever_gets_the_token_of_another(order: list[int]) -> None:
    async def scenario() -> None:
        fake = FakeProvider()
        async with fake.client() as http:
            provider = OIDCProvider(fake.issuer, ClientSecretBasic("app", "s3cret"), http_client=http)
            async with TokenRefresher(provider) as refresher:
                for user in set(order):
                    await refresher.save_tokens(f"user-{user}", login(fake, f"user-{user}", life_left=-1))

                async def call(user: int) -> None:
                    reply = await http.get("/api", auth=BearerAuth(refresher, f"user-{user}"))
                    assert reply.json()["user_id"] == f"user-{user}"

                await asyncio.gather(*(call(user) for user in order))
            assert fake.refreshes() == len(set(order))

    asyncio.run(scenario())


def test_s10_use_on_another_event_loop_is_a_clear_error_and_never_a_hang(fake: FakeProvider) -> None:
    provider = OIDCProvider(fake.issuer, ClientSecretBasic("app", "s3cret"), http_client=fake.client())
    refresher = TokenRefresher(provider)
    asyncio.run(refresher.save_tokens("alice", login(fake, "alice", life_left=-1)))

    async def elsewhere() -> None:
        with pytest.raises(ConfigurationError, match="event loop") as caught:
            await refresher.get_valid_token("alice")
        assert caught.value.code == "wrong_event_loop"
        await refresher.aclose()

    asyncio.run(elsewhere())


async def test_s12_each_waiter_raises_an_error_with_a_traceback_of_its_own(
    fake: FakeProvider, refresher: TokenRefresher
) -> None:
    await refresher.save_tokens("alice", login(fake, "alice", life_left=-1))
    fake.fail(DropReply())
    callers = (refresher.get_valid_token("alice") for _ in range(50))
    outcomes = await asyncio.gather(*callers, return_exceptions=True)
    errors = [outcome for outcome in outcomes if isinstance(outcome, ProviderUnavailable)]
    assert len({id(error) for error in errors}) == 50
    assert len({len(traceback.extract_tb(error.__traceback__)) for error in errors}) == 1
    assert {error.code for error in errors} == {"outcome_unknown"}


async def test_s13_a_provider_client_that_carries_our_auth_does_not_deadlock(fake: FakeProvider) -> None:
    async with fake.client() as http:
        provider = OIDCProvider(fake.issuer, ClientSecretBasic("app", "s3cret"), http_client=http)
        async with TokenRefresher(provider) as refresher:
            http.auth = BearerAuth(refresher, "alice")
            await refresher.save_tokens("alice", login(fake, "alice", life_left=-1))
            async with asyncio.timeout(5):
                assert (await refresher.get_valid_token("alice")).access_token


async def test_s13_a_provider_that_asks_for_the_token_it_renews_gets_a_clear_error() -> None:
    class Circular:
        name = "circular"
        refresher: TokenRefresher

        async def renew(self, user_id: str, tokens: TokenSet | None) -> TokenSet:
            return await self.refresher.get_valid_token(user_id)

    provider = Circular()
    async with TokenRefresher(provider) as refresher:
        provider.refresher = refresher
        async with asyncio.timeout(5):
            with pytest.raises(ConfigurationError) as caught:
                await refresher.get_valid_token("alice")
    assert caught.value.code == "reentered"


@pytest.mark.parametrize("steps", range(12))
async def test_a_waiter_may_be_cancelled_at_any_step_of_the_flight(
    fake: FakeProvider, refresher: TokenRefresher, steps: int
) -> None:
    await refresher.save_tokens("alice", login(fake, "alice", life_left=-1))
    first = asyncio.create_task(refresher.get_valid_token("alice"))
    for _ in range(steps):
        await asyncio.sleep(0)
    first.cancel()
    assert (await refresher.get_valid_token("alice")).refresh_token == fake.current_refresh_token("alice")
    await asyncio.gather(first, return_exceptions=True)
    assert fake.requests() == 1


@pytest.mark.parametrize("comes", ["login", "logout"])
async def test_s8_a_provider_that_asks_for_what_it_renews_is_told_so_though_its_flight_is_detached(comes: str) -> None:
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


async def test_s13_two_refreshers_that_wait_for_each_other_are_told_so() -> None:
    class Through:
        """Asks the other refresher for what it renews."""

        def __init__(self, name: str) -> None:
            self.name = name

        async def renew(self, user_id: str, tokens: TokenSet | None) -> TokenSet:
            return await refreshers["inner" if self.name == "outer" else "outer"].get_valid_token(user_id)

    refreshers: dict[str, TokenRefresher] = {}
    async with TokenRefresher(Through("outer")) as outer, TokenRefresher(Through("inner")) as inner:
        refreshers.update(outer=outer, inner=inner)
        async with asyncio.timeout(2):
            with pytest.raises(ConfigurationError) as caught:
                await outer.get_valid_token("alice")
    assert caught.value.code == "reentered"


async def test_s13_what_a_renewal_leaves_running_may_ask_once_it_is_over() -> None:
    class LeavingATask(Minting):
        async def renew(self, user_id: str, tokens: TokenSet | None) -> TokenSet:
            if not self.requests:
                tasks.append(asyncio.create_task(later(user_id)))
            return await super().renew(user_id, tokens)

    async def later(user_id: str) -> TokenSet:
        await over.wait()
        return await refresher.refresh_token(user_id)

    over, tasks = asyncio.Event(), list[asyncio.Task[TokenSet]]()
    async with TokenRefresher(LeavingATask()) as refresher:
        await refresher.get_valid_token("alice")
        over.set()
        assert (await tasks[0]).access_token
