"""Measure each store beside bare calls with the same durability and the same round trips."""

import asyncio
import random
import time
from collections.abc import Callable, Mapping
from contextlib import AbstractAsyncContextManager, AsyncExitStack
from dataclasses import replace
from importlib import import_module
from typing import Final, cast

from benchmarks.comparison import FULL, Comparison, Effort, Rival, Spread, compare
from benchmarks.rates import as_rates, least_share
from benchmarks.report import Cell, Table
from benchmarks.store_subjects import KEY, Subject, Work
from benchmarks.subjects import token_set
from tokenflight import StoredTokens, TokenStore

MAX_ROUNDS: Final = 15
HAND_OVERS: Final = 20
HOLDING_SECONDS: Final = (0.5, 0.8)
"""The lease is held for this long: until a waiter that polls has reached its longest pause."""

QUICK_HOLDING_SECONDS: Final = (0.05, 0.1)

SUBJECTS: Final = (
    ("benchmarks.store_subjects", "memory"),
    ("benchmarks.store_subjects", "files"),
    ("benchmarks.redis_subject", "redis"),
    ("benchmarks.sql_subjects", "postgres"),
    ("benchmarks.sql_subjects", "sqlite"),
)
"""The module and the function that open each store. A module without its libraries raises `ImportError`."""


async def stores(effort: Effort) -> list[Table]:
    """Compare each store with the bare calls, one store after the other; then time the hand-over of leases."""
    holding_seconds = HOLDING_SECONDS if effort is FULL else QUICK_HOLDING_SECONDS
    effort = replace(effort, rounds=min(effort.rounds, MAX_ROUNDS))
    tables: list[Table] = []
    hand_overs: list[list[Cell]] = []
    absent: list[str] = []
    for module, name in SUBJECTS:
        try:
            async with _opened(module, name) as subject:
                tables.append(await _table(subject, effort))
                hand_overs.append(
                    await _hand_over_row(subject, holding_seconds, rounds=max(2, effort.share_of(HAND_OVERS)))
                )
        except ImportError as exc:
            absent.append(f"Not measured, for want of {exc.name}: {name}.")
    hand_over = Table(
        "A lease passed on: from its release to its taking, through another store object, ms",
        ("store", "median", "quartiles", "longest"),
        hand_overs,
        notes=absent,
    )
    return [*tables, hand_over]


async def _table(subject: Subject, effort: Effort) -> Table:
    store, tokens = subject.store, token_set(issued_at=time.time())
    await store.save(KEY, StoredTokens(tokens))

    async def save() -> None:
        await store.save(KEY, StoredTokens(tokens))

    async def load() -> None:
        await store.load(KEY)

    async def renew() -> None:
        async with store.lease(KEY, timeout=10):
            record = await store.load(KEY)
            if record is None:
                raise LookupError("the record is gone")
            await store.replace(KEY, StoredTokens(tokens), expected=record.version)

    async def comparison(name: str, bare: Mapping[str, Work], work: Work, share: float | None) -> Comparison:
        rivals = [_repeating(each, bare[each]) for each in bare]
        target = None if share is None else least_share(share)
        rivals.append(replace(_repeating(f"{type(store).__name__}: {name}", work), target=target))
        return await compare(name, rivals, count=effort.share_of(subject.count), effort=effort)

    return as_rates(
        f"{subject.name}: one after the other",
        [
            await comparison("save", subject.saves, save, subject.save_share),
            await comparison("load", subject.loads, load, None),
            await comparison("lease, load, replace, release", subject.renewals, renew, subject.renewal_share),
        ],
    )


def _repeating(name: str, work: Work) -> Rival:
    async def run(count: int) -> None:
        for _ in range(count):
            await work()

    return Rival(name, run)


async def _hand_over_row(subject: Subject, holding_seconds: tuple[float, float], *, rounds: int) -> list[Cell]:
    milliseconds = [
        await _hand_over_seconds(subject.store, subject.other, random.uniform(*holding_seconds)) * 1e3
        for _ in range(rounds)
    ]
    spread = Spread.of(milliseconds)
    return [
        subject.name,
        spread.median,
        f"{spread.lower:.1f}-{spread.upper:.1f}",
        max(milliseconds),
    ]


async def _hand_over_seconds(holder: TokenStore, waiter: TokenStore, holding_seconds: float) -> float:
    """The seconds from the release of a lease by `holder` to its acquisition by `waiter`, which waits for it."""

    async def wait() -> float:
        async with waiter.lease(KEY, timeout=10):
            return time.perf_counter()

    async with AsyncExitStack() as held:
        await held.enter_async_context(holder.lease(KEY, timeout=0))
        waiting = asyncio.create_task(wait())
        await asyncio.sleep(holding_seconds)
        released_at = time.perf_counter()
    return await waiting - released_at


def _opened(module: str, name: str) -> AbstractAsyncContextManager[Subject]:
    opened = cast(Callable[[], AbstractAsyncContextManager[Subject]], getattr(import_module(module), name))
    return opened()
