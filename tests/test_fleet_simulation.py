"""The simulated fleet does what the library does: its renewals come when the judge says, its pods act as refreshers."""

import asyncio
import random
import time
from collections.abc import Sequence
from dataclasses import replace

import pytest
import time_machine
from benchmarks.fleet_simulation import (
    ANSWER_SECONDS,
    CALL_SECONDS,
    LOGIN_SECONDS,
    Outage,
    Pod,
    Tally,
    issued_at,
    lives,
    renewals_per_minute,
)
from hypothesis import given, settings
from hypothesis import strategies as st

from kit.virtual_time import run_in_virtual_time
from tokenflight import ProviderUnavailable, RefreshPolicy, TokenRefresher, TokenSet
from tokenflight.policy import Freshness, judge, user_jitter

START = 1_800_000_000.0
USERS = [f"user-{number}" for number in range(150)]
OUTAGE = Outage(start=300.0, end=1800.0, failure_seconds=ANSWER_SECONDS)
UNTIL = 2400.0
POLICY = RefreshPolicy(max_concurrent_renewals=2)


@settings(max_examples=15)  # each draws many random numbers
@given(
    user=st.text(min_size=1, alphabet=st.characters(codec="utf-8")),
    buffer=st.integers(0, 1000),
    ahead=st.integers(0, 1000),
    chance=st.floats(0.05, 1),
)
def test_a_simulated_renewal_comes_at_a_call_that_the_judge_does_not_find_fresh(
    user: str, buffer: int, ahead: int, chance: float
) -> None:
    policy = RefreshPolicy(expiry_buffer=buffer, refresh_ahead=ahead)

    [(_, login, renewals)] = lives([user], policy, 86_400.0, chance)

    assert 0 <= login <= LOGIN_SECONDS
    for before, after in zip([login, *renewals], renewals, strict=False):
        freshness = judge(issued_at(before), policy, after + 1e-6, jitter=user_jitter(user))
        assert freshness is not Freshness.FRESH
        a_call_ago = judge(issued_at(before), policy, after - CALL_SECONDS - 1e-6, jitter=user_jitter(user))
        assert a_call_ago is not Freshness.DUE
        if chance == 1:
            assert a_call_ago is Freshness.FRESH


def test_all_renewals_of_a_fleet_are_counted_in_their_minute() -> None:
    users = [f"user-{number}" for number in range(50)]

    minutes = renewals_per_minute(users, RefreshPolicy(), until=36_000.0)

    moments = [moment for _, _, renewals in lives(users, RefreshPolicy(), 36_000.0, 1.0) for moment in renewals]
    assert len(minutes) == 600
    assert list(minutes) == [sum(minute == moment // 60 for moment in moments) for minute in range(600)]


def test_t8_a_simulated_pod_gets_through_an_outage_as_a_refresher_does() -> None:
    """T8: no more requests at once than the policy allows, and as many in all as a real refresher sends."""
    held = [(user, issued_at(20.0 * number - 3000.0)) for number, user in enumerate(USERS)]
    simulated, real = Tally(), Tally()

    Pod(held, POLICY, OUTAGE, simulated, seed=1).run(UNTIL)
    with time_machine.travel(START, tick=False) as clock:
        run_in_virtual_time(clock, lambda: _live_through_it(held, real))

    for start, end in ((0, OUTAGE.start), (OUTAGE.start, OUTAGE.end), (OUTAGE.end, UNTIL)):
        expected = sum(real.per_second(start, end))
        assert sum(simulated.per_second(start, end)) == pytest.approx(expected, rel=0.15, abs=5)
    assert simulated.failed_calls == pytest.approx(real.failed_calls, rel=0.2)
    assert simulated.expired_users == pytest.approx(real.expired_users, abs=5)
    assert simulated.most_at_once <= POLICY.max_concurrent_renewals
    assert real.most_at_once <= POLICY.max_concurrent_renewals


class _TimedProvider:
    """A provider with the outage; it counts as the simulation does."""

    name = "timed"

    def __init__(self, tally: Tally) -> None:
        self._tally = tally
        self._asking = 0

    async def renew(self, _user_id: str, _tokens: TokenSet | None) -> TokenSet:
        now = time.time() - START
        self._tally.requests[int(now)] = self._tally.requests.get(int(now), 0) + 1
        self._asking += 1
        self._tally.most_at_once = max(self._tally.most_at_once, self._asking)
        try:
            await asyncio.sleep(ANSWER_SECONDS)
        finally:
            self._asking -= 1
        if OUTAGE.start <= now < OUTAGE.end:
            raise ProviderUnavailable("the provider is away")
        return _later(issued_at(now))


async def _live_through_it(held: Sequence[tuple[str, TokenSet]], tally: Tally) -> None:
    """Let a real refresher have the same users, whose calls come as often."""
    draw = random.Random(2)

    async def call_again_and_again(user: str) -> None:
        await asyncio.sleep(draw.uniform(0.0, CALL_SECONDS))
        while time.time() < START + UNTIL:
            # The next call does not wait for this one's answer, as it comes from another request.
            calls.add(asyncio.create_task(call(user)))
            await asyncio.sleep(draw.uniform(0.5, 1.5) * CALL_SECONDS)

    async def call(user: str) -> None:
        try:
            await refresher.get_valid_token(user)
        except ProviderUnavailable as error:
            tally.failed_calls += error.retry_after is not None  # in the pause after a failure

    async def look_at_the_damage() -> None:
        await asyncio.sleep(OUTAGE.end)
        for user, _ in held:
            tokens = await refresher.load_tokens(user)
            assert tokens is not None
            tally.expired_users += judge(tokens, RefreshPolicy(), time.time()) is Freshness.EXPIRED

    calls: set[asyncio.Task[None]] = set()
    async with TokenRefresher(_TimedProvider(tally), policy=POLICY) as refresher:
        for user, tokens in held:
            await refresher.save_tokens(user, _later(tokens))
        await asyncio.gather(look_at_the_damage(), *[call_again_and_again(user) for user, _ in held])
        await asyncio.gather(*calls)


def _later(tokens: TokenSet) -> TokenSet:
    """`tokens` as of the real refresher's time, and with what it takes to renew them."""
    assert tokens.issued_at is not None
    assert tokens.expires_at is not None
    return replace(
        tokens, issued_at=START + tokens.issued_at, expires_at=START + tokens.expires_at, refresh_token="refresh"
    )
