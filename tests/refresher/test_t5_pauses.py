"""T5, V6: a provider in trouble is left alone for a while, and asked again afterwards."""

import math
import time
from collections.abc import AsyncIterator

import pytest
import time_machine

from kit.support import NOW, login
from kit.virtual_time import run_in_virtual_time
from tokenflight import (
    ClientSecretBasic,
    OIDCProvider,
    ProviderUnavailable,
    ReauthenticationRequired,
    StoredTokens,
    SweepOutcome,
    TokenKey,
    TokenRefresher,
    TokenSet,
    TokenStore,
)
from tokenflight._core.backoff import Backoff
from tokenflight._core.limits import Limits
from tokenflight.testing import FakeProvider, FaultyStore, RateLimited, ServerError

LIMITS = Limits()


async def test_t5_retry_after_is_honoured_for_the_whole_provider(
    fake: FakeProvider, refresher: TokenRefresher, clock: time_machine.Traveller
) -> None:
    for user_id in ("alice", "bob"):
        await refresher.save_tokens(user_id, login(fake, user_id, life_left=-1))
    fake.fail(RateLimited(30), times=1)
    with pytest.raises(ProviderUnavailable) as caught:
        await refresher.get_valid_token("alice")
    assert caught.value.retry_after == 30
    clock.shift(29)
    with pytest.raises(ProviderUnavailable):
        await refresher.get_valid_token("bob")
    assert fake.requests() == 1
    clock.shift(2)
    assert (await refresher.get_valid_token("bob")).access_token


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
async def test_t5_retry_after_pauses_the_whole_provider_and_no_caller_waits_for_its_end(
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
        assert caught.value.code == "rate_limited"
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


def test_t5_a_shorter_retry_after_does_not_end_a_longer_one() -> None:
    pauses = Backoff(Limits())
    pauses.hold_provider(NOW, 60.0, ProviderUnavailable("down"))
    pauses.hold_provider(NOW, 1.0, ProviderUnavailable("down"))
    assert pauses.remaining("alice", NOW + 30) == 30


async def test_t5_a_user_whose_renewal_goes_on_failing_is_tried_ever_more_rarely(
    fake: FakeProvider, refresher: TokenRefresher, clock: time_machine.Traveller
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


async def test_t5_a_success_makes_the_next_pause_a_short_one_again(
    fake: FakeProvider, refresher: TokenRefresher, clock: time_machine.Traveller
) -> None:
    await refresher.save_tokens("alice", login(fake, "alice", life_left=-1))
    for _ in range(5):
        fake.fail(ServerError(), times=1)
        with pytest.raises(ProviderUnavailable):
            await refresher.get_valid_token("alice")
        clock.shift(60)
    await refresher.get_valid_token("alice")
    fake.fail(ServerError(), times=1)
    with pytest.raises(ProviderUnavailable):
        await refresher.refresh_token("alice")
    clock.shift(1)
    await refresher.refresh_token("alice")


@pytest.mark.parametrize("fault", [ServerError(), RateLimited(3600)], ids=repr)
async def test_t5_a_clock_set_back_during_a_pause_keeps_no_user_out(
    fake: FakeProvider, refresher: TokenRefresher, clock: time_machine.Traveller, fault: ServerError
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
    fake: FakeProvider, refresher: TokenRefresher, clock: time_machine.Traveller
) -> None:
    await refresher.save_tokens("alice", login(fake, "alice", life_left=-1))
    fake.fail(RateLimited(3600), times=1)
    clock.shift(365 * 86_400)
    with pytest.raises(ProviderUnavailable):
        await refresher.get_valid_token("alice")
    clock.shift(-365 * 86_400)
    assert (await refresher.get_valid_token("alice")).access_token


async def test_t5_a_pause_of_the_provider_keeps_no_user_from_a_fresh_token_in_the_store(
    fake: FakeProvider, provider: OIDCProvider, refresher: TokenRefresher, store: FaultyStore
) -> None:
    fresh = login(fake, "bob")
    await store.save(TokenKey(provider.name, "bob"), StoredTokens(fresh))
    await refresher.save_tokens("alice", login(fake, "alice", life_left=-1))
    fake.fail(RateLimited(60), times=1)
    with pytest.raises(ProviderUnavailable):
        await refresher.get_valid_token("alice")
    assert await refresher.get_valid_token("bob") == fresh


@pytest.mark.parametrize("stored", [None, TokenSet("access", expires_at=1.0)], ids=["nobody", "no refresh token"])
async def test_t5_a_pause_of_the_provider_does_not_hide_that_a_user_has_to_log_in(
    fake: FakeProvider, refresher: TokenRefresher, stored: TokenSet | None
) -> None:
    await refresher.save_tokens("bob", login(fake, "bob", life_left=-1))
    fake.fail(RateLimited(retry_after=3600), times=1)
    with pytest.raises(ProviderUnavailable):
        await refresher.get_valid_token("bob")
    if stored is not None:
        await refresher.save_tokens("alice", stored)
        await refresher.delete_tokens("nobody")
        refresher._state.cache.forget("alice")
    with pytest.raises(ReauthenticationRequired):
        await refresher.get_valid_token("alice")
    assert fake.requests() == 1


async def test_t5_during_a_pause_a_caller_with_a_requirement_gets_what_a_sibling_has_renewed(
    fake: FakeProvider,
    provider: OIDCProvider,
    refresher: TokenRefresher,
    store: TokenStore,
    clock: time_machine.Traveller,
) -> None:
    await refresher.save_tokens("alice", login(fake, "alice", life_left=1000))
    fake.fail(RateLimited(600), times=1)
    with pytest.raises(ProviderUnavailable):
        await refresher.refresh_token("alice")
    renewed = login(fake, "alice")
    await store.save(TokenKey(provider.name, "alice"), StoredTokens(renewed))
    clock.shift(61)
    assert await refresher.get_valid_token("alice", min_validity=2000) == renewed


def test_t5_a_sweep_waits_where_the_provider_asks_for_a_pause_and_then_renews_all(
    clock: time_machine.Traveller, fake: FakeProvider, store: FaultyStore
) -> None:
    users = [f"user-{number}" for number in range(20)]

    async def main() -> list[SweepOutcome]:
        async with fake.client() as http:
            provider = OIDCProvider(fake.issuer, ClientSecretBasic("app", "s3cret"), http_client=http)
            async with TokenRefresher(provider, store) as refresher:
                for user_id in users:
                    await refresher.save_tokens(user_id, login(fake, user_id, life_left=-1))
                fake.fail(RateLimited(retry_after=30), times=1)
                return [outcome async for outcome in refresher.sweep(concurrency=4)]

    outcomes = run_in_virtual_time(clock, main)

    assert sorted(outcomes, key=lambda outcome: users.index(outcome.user_id)) == [
        SweepOutcome(user_id, renewed=True) for user_id in users
    ]
    assert fake.refreshes() == len(users)


async def outcomes_of(sweep: AsyncIterator[SweepOutcome]) -> dict[str, SweepOutcome]:
    return {outcome.user_id: outcome async for outcome in sweep}


async def test_t5_a_sweep_does_not_wait_where_the_provider_asks_for_a_long_pause(
    fake: FakeProvider, provider: OIDCProvider, store: FaultyStore
) -> None:
    async with TokenRefresher(provider, store) as refresher:
        for user_id in ("alice", "bob"):
            await refresher.save_tokens(user_id, login(fake, user_id, life_left=-1))
        fake.fail(RateLimited(retry_after=600), times=1)
        outcomes = await outcomes_of(refresher.sweep(concurrency=1))
    assert [outcome.error.code for outcome in outcomes.values() if outcome.error] == ["rate_limited", "rate_limited"]


class Endless:
    """A provider that asks to be left alone for ever."""

    name = "endless"

    def __init__(self) -> None:
        self.requests = 0

    async def renew(self, user_id: str, tokens: TokenSet | None) -> TokenSet:
        self.requests += 1
        raise ProviderUnavailable("closed", retry_after=math.inf)


async def test_t5_a_pause_without_end_ends_after_an_hour(clock: time_machine.Traveller) -> None:
    provider = Endless()
    async with TokenRefresher(provider) as refresher:
        for requests in (1, 2):
            with pytest.raises(ProviderUnavailable):
                await refresher.get_valid_token("alice")
            assert provider.requests == requests
            clock.shift(3600)
