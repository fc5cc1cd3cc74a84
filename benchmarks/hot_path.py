"""What a valid token costs that is in memory already."""

import time

from benchmarks.comparison import Comparison, Effort, Rival, compare
from benchmarks.subjects import USER, PromptProvider, token_set
from tokenflight import TokenRefresher, TokenSet


async def hot_path(effort: Effort) -> list[Comparison]:
    """Compare `get_valid_token` of a cached token with a coroutine function that returns a constant."""
    tokens = token_set(issued_at=time.time())

    async def constant(_user_id: str) -> TokenSet:
        return tokens

    async def await_constant(count: int) -> None:
        for _ in range(count):
            await constant(USER)

    async def await_cached(count: int) -> None:
        for _ in range(count):
            await refresher.get_valid_token(USER)

    async with TokenRefresher(PromptProvider()) as refresher:
        await refresher.save_tokens(USER, tokens)
        rivals = [
            Rival("a coroutine that returns a constant", await_constant),
            Rival("get_valid_token, cached", await_cached, target=6),
        ]
        return [await compare("A cached token", rivals, count=effort.share_of(50_000), effort=effort)]
