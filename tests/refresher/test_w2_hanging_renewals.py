"""W2, K13: renewals that hang give their places to others."""

import asyncio
import logging

import pytest
import time_machine

from kit.minting import Minting, flights_of, renewed_of, stored
from kit.virtual_time import run_in_virtual_time, seconds
from tokenflight import MemoryTokenStore, ProviderUnavailable, RefreshPolicy, TokenRefresher, TokenSet
from tokenflight._core.limits import Limits

ANSWER_SECONDS = 0.05
HANGING_SECONDS = 30.0


class PartlyHanging(Minting):
    """It answers the users named ``hanging…`` after half a minute with a failure, and all others soon."""

    async def renew(self, user_id: str, tokens: TokenSet | None) -> TokenSet:
        self.seconds = HANGING_SECONDS if user_id.startswith("hanging") else ANSWER_SECONDS
        return await super().renew(user_id, tokens)

    def answer(self, user_id: str) -> TokenSet:
        if user_id.startswith("hanging"):
            raise ProviderUnavailable("took too long")
        return renewed_of(user_id)


async def served_after(refresher: TokenRefresher, user_id: str) -> float:
    began = seconds()
    assert await refresher.get_valid_token(user_id) == renewed_of(user_id)
    return seconds() - began


def test_w2_healthy_users_do_not_wait_for_sixty_who_hang(
    clock: time_machine.Traveller, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.CRITICAL)
    hanging, healthy = ([f"{kind} {number}" for number in range(60)] for kind in ("hanging", "healthy"))

    async def main() -> list[float]:
        store = MemoryTokenStore()
        await stored(store, *hanging, *healthy)
        async with TokenRefresher(PartlyHanging(), store) as refresher:
            stuck = [asyncio.create_task(refresher.get_valid_token(user_id)) for user_id in hanging]
            await asyncio.sleep(0)
            waits = await asyncio.gather(*(served_after(refresher, user_id) for user_id in healthy))
            assert not any(task.done() for task in stuck)
            await asyncio.gather(*stuck, return_exceptions=True)
        return waits

    # Sixty who hang take the 32 places twice over, for a second each.
    assert max(run_in_virtual_time(clock, main)) <= 2 + 2 * ANSWER_SECONDS


def test_k13_of_two_thousand_due_a_tenth_of_whom_hang_none_of_the_healthy_fails(
    clock: time_machine.Traveller, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.CRITICAL)
    users = [f"{'hanging' if number % 10 == 0 else 'healthy'} {number}" for number in range(2_000)]

    async def main() -> list[float]:
        store = MemoryTokenStore()
        await stored(store, *users)
        async with TokenRefresher(PartlyHanging(), store) as refresher:
            stuck = [asyncio.create_task(refresher.get_valid_token(user)) for user in users if user[1] == "a"]
            waits = await asyncio.gather(*(served_after(refresher, user) for user in users if user[1] == "e"))
            await asyncio.gather(*stuck, return_exceptions=True)
            assert flights_of(refresher) == 0
        return waits

    assert max(run_in_virtual_time(clock, main)) < 10


def test_w2_renewals_that_hang_are_bounded_too(clock: time_machine.Traveller, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.CRITICAL)
    provider, users = PartlyHanging(), [f"hanging {number}" for number in range(50)]

    async def main() -> None:
        store = MemoryTokenStore()
        await stored(store, *users)
        policy = RefreshPolicy(max_concurrent_renewals=2)
        limits = Limits(max_renewals_under_way=10)
        async with TokenRefresher(provider, store, policy=policy, _limits=limits) as refresher:
            await asyncio.gather(*map(refresher.get_valid_token, users), return_exceptions=True)

    run_in_virtual_time(clock, main)
    assert provider.most_at_once == 10


def test_w2_whoever_waits_longest_for_a_place_is_next(clock: time_machine.Traveller) -> None:
    served: list[int] = []

    async def main() -> None:
        store = MemoryTokenStore()
        await stored(store, *map(str, range(100)))
        async with TokenRefresher(Minting(0.05), store, policy=RefreshPolicy(max_concurrent_renewals=1)) as refresher:

            async def serve(number: int) -> None:
                await refresher.get_valid_token(str(number))
                served.append(number)

            await asyncio.gather(*map(serve, range(100)))

    run_in_virtual_time(clock, main)
    assert served == list(range(100))
