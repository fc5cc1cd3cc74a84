"""K1: a failure is shared by the processes on one store, as it is by the callers of one (S4, T6)."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack

import pytest
import time_machine

from kit.support import login
from tokenflight import (
    ClientSecretBasic,
    OIDCProvider,
    ProviderMisconfigured,
    ProviderUnavailable,
    RefreshPolicy,
    TokenKey,
    TokenRefresher,
    TokenSet,
)
from tokenflight.testing import FakeProvider, FaultyStore, RateLimited, ServerError
from tokenflight.testing.faults import Fault

PROCESSES = 4


@pytest.fixture
async def processes(provider: OIDCProvider, store: FaultyStore) -> AsyncIterator[list[TokenRefresher]]:
    """Refreshers that share nothing but the store, as those of several processes do."""
    async with AsyncExitStack() as stack:
        policy = RefreshPolicy(cache_ttl=0)
        yield [
            await stack.enter_async_context(TokenRefresher(provider, store, policy=policy)) for _ in range(PROCESSES)
        ]


@pytest.mark.parametrize(
    ("fault", "code"),
    [(ServerError(503), "server_error"), (RateLimited(20), "rate_limited")],
    ids=repr,
)
async def test_k1_s4_a_failure_in_one_process_is_not_repeated_by_the_others(
    fake: FakeProvider,
    processes: list[TokenRefresher],
    clock: time_machine.Traveller,
    fault: Fault,
    code: str,
) -> None:
    await processes[0].save_tokens("alice", login(fake, "alice", life_left=-1))
    fake.fail(fault, times=1)
    callers = (refresher.get_valid_token("alice") for refresher in processes for _ in range(5))
    outcomes = await asyncio.gather(*callers, return_exceptions=True)
    assert {type(outcome) for outcome in outcomes} == {ProviderUnavailable}
    assert {getattr(outcome, "code", None) for outcome in outcomes} == {code}
    assert fake.requests() == 1
    clock.shift(21)
    assert {(await refresher.get_valid_token("alice")).access_token for refresher in processes}
    assert fake.refreshes() == 1


async def test_k1_t6_a_lost_reply_in_one_process_makes_no_other_replay_the_request_at_once(
    fake: FakeProvider, processes: list[TokenRefresher], store: FaultyStore, provider: OIDCProvider
) -> None:
    await processes[0].save_tokens("alice", login(fake, "alice", life_left=-1))

    class Losing:
        name = provider.name

        def __init__(self) -> None:
            self.requests = 0

        async def renew(self, user_id: str, tokens: TokenSet | None) -> TokenSet:
            self.requests += 1
            raise ProviderUnavailable("the reply was lost", code="outcome_unknown", user_id=user_id)

    losing = Losing()
    async with AsyncExitStack() as stack:
        refreshers = [await stack.enter_async_context(TokenRefresher(losing, store)) for _ in range(PROCESSES)]
        for refresher in refreshers:
            with pytest.raises(ProviderUnavailable) as caught:
                await refresher.get_valid_token("alice")
            assert caught.value.code == "outcome_unknown"
            assert caught.value.user_id == "alice"
    assert losing.requests == 1


async def test_k1_the_pause_grows_with_each_failure_whichever_process_meets_it(
    fake: FakeProvider, processes: list[TokenRefresher], clock: time_machine.Traveller
) -> None:
    await processes[0].save_tokens("alice", login(fake, "alice", life_left=-1))
    fake.fail(ServerError())
    for failures in range(1, 8):
        with pytest.raises(ProviderUnavailable):
            await processes[failures % PROCESSES].get_valid_token("alice")
        with pytest.raises(ProviderUnavailable) as caught:
            await processes[(failures + 1) % PROCESSES].get_valid_token("alice")
        assert fake.requests() == failures
        pause = caught.value.retry_after
        assert pause is not None
        assert 2.0 ** (failures - 1) / 2 <= pause + 0.1
        clock.shift(pause + 0.001)


async def test_k1_a_valid_token_is_served_by_all_and_asked_for_once(
    fake: FakeProvider, processes: list[TokenRefresher]
) -> None:
    due = login(fake, "alice", life_left=200)
    await processes[0].save_tokens("alice", due)
    fake.fail(ServerError())
    for refresher in processes * 3:
        assert await refresher.get_valid_token("alice") == due
    assert fake.requests() == 1


async def test_k1_a_login_ends_the_pause_in_all_processes(fake: FakeProvider, processes: list[TokenRefresher]) -> None:
    await processes[0].save_tokens("alice", login(fake, "alice", life_left=-1))
    fake.fail(ServerError(), times=1)
    for refresher in processes:
        with pytest.raises(ProviderUnavailable):
            await refresher.get_valid_token("alice")
    await processes[1].save_tokens("alice", login(fake, "alice", life_left=-1))
    for refresher in processes:
        assert (await refresher.get_valid_token("alice")).refresh_token == fake.current_refresh_token("alice")


async def test_k1_a_wrong_secret_in_one_process_pauses_no_other(
    fake: FakeProvider, processes: list[TokenRefresher], store: FaultyStore
) -> None:
    await processes[0].save_tokens("alice", login(fake, "alice", life_left=-1))
    async with fake.client() as http:
        wrong = OIDCProvider(fake.issuer, ClientSecretBasic("app", "wrong"), http_client=http)
        async with TokenRefresher(wrong, store) as misconfigured:
            with pytest.raises(ProviderMisconfigured):
                await misconfigured.get_valid_token("alice")
        assert (await processes[1].get_valid_token("alice")).access_token


async def test_k1_a_failure_noted_by_a_clock_that_was_ahead_pauses_nobody(
    fake: FakeProvider, processes: list[TokenRefresher], clock: time_machine.Traveller
) -> None:
    await processes[0].save_tokens("alice", login(fake, "alice", life_left=-1))
    fake.fail(ServerError(), times=1)
    clock.shift(365 * 86_400)
    with pytest.raises(ProviderUnavailable):
        await processes[0].get_valid_token("alice")
    clock.shift(-365 * 86_400)
    assert (await processes[1].get_valid_token("alice")).access_token


async def test_k1_a_store_that_does_not_take_the_failure_changes_nothing_for_the_callers(
    fake: FakeProvider, processes: list[TokenRefresher], store: FaultyStore, provider: OIDCProvider
) -> None:
    tokens = login(fake, "alice", life_left=-1)
    await processes[0].save_tokens("alice", tokens)
    fake.fail(ServerError(), times=1)
    store.fail("replace", times=1)
    with pytest.raises(ProviderUnavailable) as caught:
        await processes[0].get_valid_token("alice")
    assert caught.value.code == "server_error"
    record = await store.load(TokenKey(provider.name, "alice"))
    assert record is not None
    assert record.tokens == tokens
