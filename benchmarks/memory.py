"""Measure the memory of each cached user, and whether many users slow down the hot path."""

import asyncio
import gc
import random
import time
import tracemalloc
from collections.abc import Mapping, Sequence
from contextlib import AsyncExitStack
from dataclasses import replace
from sys import getsizeof
from typing import Final

from benchmarks.comparison import Comparison, Effort, Rival, compare
from benchmarks.report import Cell, Table
from benchmarks.subjects import HOUR_SECONDS, PromptProvider
from tokenflight import (
    MemoryTokenStore,
    RefreshPolicy,
    StoredTokens,
    TokenKey,
    TokenRefresher,
    TokenSet,
    TokenStore,
)

SIZES: Final = (1_000, 100_000, 1_000_000)
TARGET_BYTES: Final = 400
LOOK_UPS: Final = 20_000
MAX_ROUNDS: Final = 15


class ElsewhereStore(MemoryTokenStore):
    """Stands for a store on another machine: it keeps no record in memory. It adds up the sizes of the versions."""

    def __init__(self) -> None:
        super().__init__()
        self.version_bytes = 0

    async def save(self, key: TokenKey, record: StoredTokens) -> None:  # noqa: ARG002 - the interface names it
        """Count the version, and keep nothing."""
        self.version_bytes += getsizeof(record.version)


async def memory(effort: Effort) -> list[Comparison | Table]:
    """Measure the memory per cached user at several sizes, then the time of the hot path at each."""
    sizes = [effort.share_of(size) for size in SIZES]
    async with AsyncExitStack() as stack:
        refreshers, rows = {1: await stack.enter_async_context(_refresher(ElsewhereStore(), 1))}, []
        await refreshers[1].save_tokens(_user(0), _tokens(0))
        for size in sizes:
            store = ElsewhereStore()
            refreshers[size] = await stack.enter_async_context(_refresher(store, size))
            rows.append(await _memory_row(refreshers[size], store, size))
        gc.freeze()  # a collection before each round would take longer than the round
        try:
            hot_path = await _hot_path(refreshers, effort)
            floor = await _dict_look_up([1, *sizes], effort)
        finally:
            gc.unfreeze()
    return [
        Table(
            "Memory per cached user, records elsewhere: bytes",
            ("users", "in all", "of it strings", "beyond the strings", "target", "beyond plain strings"),
            rows,
            notes=(
                "Strings: the user id, the version, the access token and the refresh token, by sys.getsizeof.",
                "Beyond plain strings: the tokens counted as if they were plain, not strings that repr hides.",
            ),
        ),
        hot_path,
        floor,
    ]


async def _memory_row(refresher: TokenRefresher, store: ElsewhereStore, size: int) -> Sequence[Cell]:
    """Cache `size` users; return the memory of each."""
    gc.collect()
    gc.disable()  # a collection would visit all users again and again
    tracemalloc.start()
    try:
        before, _ = tracemalloc.get_traced_memory()
        string_bytes, plain_bytes = await _cache(refresher, size)
        gc.collect()
        after, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
        gc.enable()
    in_all = after - before
    string_bytes, plain_bytes = (each + store.version_bytes for each in (string_bytes, plain_bytes))
    shares = [round(each / size) for each in (in_all, string_bytes, in_all - string_bytes, in_all - plain_bytes)]
    return [f"{size:,}", *shares[:3], f"≤ {TARGET_BYTES}", shares[3]]


async def _cache(refresher: TokenRefresher, size: int) -> tuple[int, int]:
    """Cache `size` users; return the bytes of their ids and tokens as they are, and as plain strings."""
    string_bytes = plain_bytes = 0
    for number in range(size):
        user_id, tokens = _user(number), _tokens(number)
        await refresher.save_tokens(user_id, tokens)
        if number % 100 == 0:
            await asyncio.sleep(0)  # let the event loop drop the timers of the timeouts
        secrets = [token for token in (tokens.access_token, tokens.refresh_token) if token is not None]
        string_bytes += getsizeof(user_id) + sum(map(getsizeof, secrets))
        plain_bytes += getsizeof(user_id) + sum(getsizeof(str(secret)) for secret in secrets)
    return string_bytes, plain_bytes


async def _hot_path(refreshers: Mapping[int, TokenRefresher], effort: Effort) -> Comparison:
    def rival(size: int, refresher: TokenRefresher) -> Rival:
        users = _in_random_order(size, effort)

        async def look_up(_count: int) -> None:
            for user_id in users:
                await refresher.get_valid_token(user_id)

        return Rival(f"among {size:,}", look_up, target=1.3 if size == max(refreshers) else None)

    return await _compare(
        "get_valid_token, cached, of users in random order", [rival(*each) for each in refreshers.items()], effort
    )


async def _dict_look_up(sizes: Sequence[int], effort: Effort) -> Comparison:
    """The effect of the processor's caches alone: look-ups in a bare dict with as many values."""

    def rival(size: int) -> Rival:
        users = _in_random_order(size, effort)
        values = {_user(number): object() for number in range(size)}

        async def look_up(_count: int) -> None:
            for user_id in users:
                values.get(user_id)

        return Rival(f"among {size:,}", look_up)

    return await _compare("The same users in a bare dict", [rival(size) for size in sizes], effort)


async def _compare(title: str, rivals: Sequence[Rival], effort: Effort) -> Comparison:
    count = effort.share_of(LOOK_UPS)
    return await compare(title, rivals, count=count, effort=replace(effort, rounds=min(effort.rounds, MAX_ROUNDS)))


def _in_random_order(size: int, effort: Effort) -> Sequence[str]:
    # Equal strings, but new objects: an app reads the user id from a request.
    return [_user(number) for number in random.choices(range(size), k=effort.share_of(LOOK_UPS))]


def _refresher(store: TokenStore, size: int) -> TokenRefresher:
    # The entries never become stale: filling the cache takes longer than the default of a minute.
    return TokenRefresher(PromptProvider(), store, policy=RefreshPolicy(cache_ttl=None, max_cached_users=size))


def _user(number: int) -> str:
    return f"user-{number:08}"


def _tokens(number: int) -> TokenSet:
    """A token set of an hour. Its tokens are short, because their lengths do not matter here."""
    issued_at = time.time()
    return TokenSet(
        access_token=f"access-{number:032}",
        refresh_token=f"refresh-{number:032}",
        issued_at=issued_at,
        expires_at=issued_at + HOUR_SECONDS,
    )
