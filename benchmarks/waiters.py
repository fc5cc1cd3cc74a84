"""Measure many callers that wait for one renewal."""

import asyncio
import time

from benchmarks.comparison import Comparison, Effort, Rival, compare
from benchmarks.subjects import HOUR_SECONDS, USER, PromptProvider, token_set
from tokenflight import TokenRefresher, TokenSet


async def waiters(effort: Effort) -> list[Comparison]:
    """Compare callers that join one flight with callers that await one bare future or task for the same work."""
    callers = effort.share_of(1_000)
    provider = PromptProvider()

    async def await_bare_future(_count: int) -> None:
        shared: asyncio.Future[TokenSet] = asyncio.get_running_loop().create_future()

        async def renew() -> None:
            shared.set_result(await provider.renew(USER, None))

        async def wait() -> TokenSet:
            return await shared

        await asyncio.gather(renew(), *[wait() for _ in range(callers)])

    async def await_shielded_task(_count: int) -> None:
        shared = asyncio.ensure_future(provider.renew(USER, None))

        async def wait() -> TokenSet:
            return await asyncio.shield(shared)

        await asyncio.gather(*[wait() for _ in range(callers)])

    async def expire() -> None:
        await refresher.save_tokens(USER, token_set(issued_at=time.time() - 2 * HOUR_SECONDS))

    async def join_flight(_count: int) -> None:
        renewals = provider.renewals
        await asyncio.gather(*[refresher.get_valid_token(USER) for _ in range(callers)])
        if provider.renewals != renewals + 1:
            raise RuntimeError(f"measured {provider.renewals - renewals} renewals instead of one")

    async with TokenRefresher(provider) as refresher:
        rivals = [
            Rival("awaiting one future, not cancel-safe", await_bare_future),
            Rival("shielding one task", await_shielded_task),
            Rival("get_valid_token, one flight", join_flight, prepare=expire, target=1.5),
        ]
        return [await compare(f"{callers:,} callers, one renewal", rivals, count=1, effort=effort)]
