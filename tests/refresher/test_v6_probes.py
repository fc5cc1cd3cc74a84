"""V6, T5: after a provider's pause, one renewal finds out whether it is back."""

import asyncio
from collections.abc import AsyncIterator
from typing import get_args

import pytest
import time_machine

from kit.support import login
from tokenflight import OIDCProvider, ProviderUnavailable, RefreshPolicy, TokenflightError, TokenRefresher, TokenSet
from tokenflight._core.limits import Limits
from tokenflight.testing import FakeProvider, Fault, OAuthError, PauseForm, RateLimited, ServerError

LIMITS = Limits()
PLACES = 8
USERS = [f"user-{number}" for number in range(500)]
PAUSE = 45
"""Neither what a provider is left alone for by default, nor what a user is after so many failures."""
RATE_LIMITS = [RateLimited(), RateLimited(PAUSE + 0.5), *(RateLimited(PAUSE, form) for form in get_args(PauseForm))]


@pytest.fixture
async def refresher(provider: OIDCProvider) -> AsyncIterator[TokenRefresher]:
    policy = RefreshPolicy(max_concurrent_renewals=PLACES)
    async with TokenRefresher(provider, policy=policy) as refresher:
        yield refresher


async def all_ask(refresher: TokenRefresher) -> list[TokenSet | BaseException]:
    return await asyncio.gather(*map(refresher.get_valid_token, USERS), return_exceptions=True)


@pytest.mark.parametrize("fault", RATE_LIMITS, ids=repr)
async def test_v6_of_five_hundred_due_users_one_probes_a_provider_that_goes_on_answering_429(
    fake: FakeProvider, refresher: TokenRefresher, clock: time_machine.Traveller, fault: RateLimited
) -> None:
    for user_id in USERS:
        await refresher.save_tokens(user_id, login(fake, user_id, life_left=-1))
    fake.fail(fault)
    await all_ask(refresher)
    assert fake.requests() <= PLACES

    for _ in range(5):
        before = fake.requests()
        clock.shift(LIMITS.longest_backoff)
        outcomes = await all_ask(refresher)
        assert fake.requests() == before + 1
        assert all(isinstance(outcome, ProviderUnavailable) for outcome in outcomes)


@pytest.mark.parametrize(
    ("fault", "pause"),
    [
        *((RateLimited(PAUSE, form), PAUSE) for form in get_args(PauseForm)),
        (RateLimited(PAUSE - 0.5, "Retry-After date"), PAUSE),
        (RateLimited(float(PAUSE)), PAUSE),
        (RateLimited(), LIMITS.provider_pause),
    ],
    ids=repr,
)
async def test_v6_the_provider_is_left_alone_for_as_long_as_a_429_asks_and_then_gets_one_probe(
    fake: FakeProvider, refresher: TokenRefresher, clock: time_machine.Traveller, fault: RateLimited, pause: float
) -> None:
    for user_id in USERS:
        await refresher.save_tokens(user_id, login(fake, user_id, life_left=-1))
    fake.fail(fault)
    await all_ask(refresher)
    for _ in range(3):
        before = fake.requests()
        clock.shift(pause - 1)
        await all_ask(refresher)
        assert fake.requests() == before
        clock.shift(1)
        await all_ask(refresher)
        assert fake.requests() == before + 1


async def test_v6_when_the_probe_succeeds_all_are_renewed(
    fake: FakeProvider, refresher: TokenRefresher, clock: time_machine.Traveller
) -> None:
    for user_id in USERS:
        await refresher.save_tokens(user_id, login(fake, user_id, life_left=-1))
    fake.fail(RateLimited(60))
    await all_ask(refresher)
    fake.recover()
    clock.shift(60)

    while any(isinstance(outcome, TokenflightError) for outcome in await all_ask(refresher)):
        clock.shift(1)
    assert fake.refreshes() == len(USERS)
    assert fake.reuses() == 0


@pytest.mark.parametrize(
    ("fault", "holds_others"), [(ServerError(), True), (OAuthError("invalid_grant"), False)], ids=["a 503", "a refusal"]
)
async def test_v6_a_probe_that_fails_starts_another_pause_unless_the_provider_is_well(
    fake: FakeProvider,
    refresher: TokenRefresher,
    clock: time_machine.Traveller,
    fault: Fault,
    *,
    holds_others: bool,
) -> None:
    for user_id in ("alice", "bob"):
        await refresher.save_tokens(user_id, login(fake, user_id, life_left=-1))
    for failing in (RateLimited(60), fault):
        fake.fail(failing, times=1)
        with pytest.raises(TokenflightError):
            await refresher.get_valid_token("alice")
        clock.shift(60 if failing is not fault else 1)

    if holds_others:
        with pytest.raises(ProviderUnavailable):
            await refresher.get_valid_token("bob")
        clock.shift(LIMITS.provider_pause)
    assert (await refresher.get_valid_token("bob")).refresh_token == fake.current_refresh_token("bob")


async def test_v6_while_the_probe_is_under_way_others_are_told_to_ask_again_soon(
    fake: FakeProvider, refresher: TokenRefresher, clock: time_machine.Traveller
) -> None:
    for user_id in ("alice", "bob"):
        await refresher.save_tokens(user_id, login(fake, user_id, life_left=-1))
    fake.fail(RateLimited(60), times=1)
    with pytest.raises(ProviderUnavailable):
        await refresher.get_valid_token("alice")
    clock.shift(60)

    with fake.hold() as gate:
        probe = asyncio.create_task(refresher.get_valid_token("alice"))
        await gate.reached()
        with pytest.raises(ProviderUnavailable) as caught:
            await refresher.get_valid_token("bob")
    assert caught.value.retry_after is not None
    assert caught.value.retry_after <= 1
    await probe
    assert (await refresher.get_valid_token("bob")).access_token
