"""Measure how long callers wait while something else is in trouble: the provider, the lease, or the store."""

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from statistics import median, quantiles
from typing import Final

from benchmarks.comparison import QUICK, Effort
from benchmarks.report import Cell, Table
from benchmarks.subjects import HOUR_SECONDS
from tokenflight import (
    MemoryTokenStore,
    ProviderUnavailable,
    RefreshPolicy,
    TokenflightError,
    TokenKey,
    TokenRefresher,
    TokenSet,
)
from tokenflight._core.limits import Limits
from tokenflight.testing import FaultyStore

USERS_PER_SECOND: Final = 20
RUN_SECONDS: Final = 60
ANSWER_SECONDS: Final = 0.2
HANGING_SECONDS: Final = 30
STORE_DOWN_SECONDS: Final = 5
AFFECTED: Final = 10
"""Trouble that strikes some users strikes every tenth."""


@dataclass(frozen=True, slots=True)
class Pace:
    """How many times faster than in practice all is: the limits, and what happens. The run is `share` of a minute."""

    times_faster: int
    share: float = 1.0

    def seconds(self, practice: float) -> float:
        """How long something takes that takes `practice` seconds in practice."""
        return practice / self.times_faster

    @property
    def users(self) -> list[str]:
        """The users that are called for, one after the other."""
        return [str(number) for number in range(round(RUN_SECONDS * USERS_PER_SECOND * self.share))]

    @property
    def policy(self) -> RefreshPolicy:
        """The default policy at this pace."""
        return RefreshPolicy(patience=self.seconds(1))

    @property
    def limits(self) -> Limits:
        """The default limits at this pace."""
        usual = Limits()
        return Limits(
            hanging_after=self.seconds(usual.hanging_after),
            lease_timeout=self.seconds(usual.lease_timeout),
            turn_timeout=self.seconds(usual.turn_timeout),
            provider_timeout=self.seconds(usual.provider_timeout),
            store_timeout=self.seconds(usual.store_timeout),
        )


LIFE_LEFT: Final = {"valid": HOUR_SECONDS, "due, still valid": 200, "expired": -1}
COLUMNS: Final = ("trouble", "token", "callers", "median ms", "99th percentile ms", "failed")


class TroubledProvider:
    """A provider that answers after a while, or does what `trouble` says for a user."""

    name = "provider"

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds
        self.trouble: Callable[[str], Awaitable[None]] | None = None

    async def renew(self, user_id: str, _tokens: TokenSet | None) -> TokenSet:
        """Return a token set of an hour."""
        if self.trouble is not None:
            await self.trouble(user_id)
        await asyncio.sleep(self._seconds)
        now = time.time()
        return TokenSet(f"new of {user_id}", refresh_token="new", issued_at=now, expires_at=now + HOUR_SECONDS)


@dataclass(frozen=True, slots=True)
class Stage:
    """What is in trouble, and what it is in trouble with."""

    pace: Pace
    provider: TroubledProvider
    store: FaultyStore
    users: Sequence[str]
    around: AsyncExitStack

    def is_affected(self, user_id: str) -> bool:
        """Whether trouble that strikes some users strikes this one."""
        return int(user_id) % AFFECTED == 0


async def _no_trouble(_stage: Stage) -> None:
    pass


async def _a_tenth_hangs(stage: Stage) -> None:
    async def hang(user_id: str) -> None:
        if stage.is_affected(user_id):
            await asyncio.sleep(stage.pace.seconds(HANGING_SECONDS))
            raise ProviderUnavailable("no reply", code="outcome_unknown")

    stage.provider.trouble = hang


async def _refuses_connections(stage: Stage) -> None:
    async def refuse(_user_id: str) -> None:
        raise ProviderUnavailable("connection refused", code="unreachable")

    stage.provider.trouble = refuse


async def _answers_429(stage: Stage) -> None:
    async def refuse(_user_id: str) -> None:
        raise ProviderUnavailable("too many requests", code="rate_limited", retry_after=stage.pace.seconds(30))

    stage.provider.trouble = refuse


async def _leases_are_frozen(stage: Stage) -> None:
    for user_id in filter(stage.is_affected, stage.users):
        await stage.around.enter_async_context(stage.store.lease(TokenKey(stage.provider.name, user_id), timeout=0))


async def _store_fails(stage: Stage) -> None:
    async def fail() -> None:
        await asyncio.sleep(stage.pace.seconds(len(stage.users) / USERS_PER_SECOND / 3))
        for operation in ("load", "lease", "replace", "save"):
            stage.store.fail(operation)
        await asyncio.sleep(stage.pace.seconds(STORE_DOWN_SECONDS))
        stage.store.recover()

    stage.around.push_async_callback(asyncio.wait, [asyncio.ensure_future(fail())])


TROUBLES: Final = {
    "none": (_no_trouble, False),
    "a tenth of the replies hang for 30 s": (_a_tenth_hangs, True),
    "the provider refuses connections": (_refuses_connections, False),
    "the provider answers 429": (_answers_429, False),
    "a tenth of the leases are held by one that stands still": (_leases_are_frozen, True),
    "the store fails for 5 s": (_store_fails, False),
}
"""What happens, and whether it strikes some users alone: then the others are measured where the token has expired."""


async def trouble(effort: Effort) -> list[Table]:
    """Measure callers with valid, due and expired tokens, in each trouble and without any."""
    pace = Pace(times_faster=200, share=0.1) if effort is QUICK else Pace(times_faster=10)
    rows = [
        await _measure(name, begin, token, pace, only_others=strikes_some and token == "expired")
        for name, (begin, strikes_some) in TROUBLES.items()
        for token in LIFE_LEFT
    ]
    conditions = (
        f"all is {pace.times_faster} times faster than in practice; there, {USERS_PER_SECOND} callers come a second, "
        f"each for a user of its own, who is cached and whom the provider renews in {ANSWER_SECONDS * 1000:.0f} ms"
    )
    others = "where trouble strikes a tenth of the users, callers with expired tokens are those of the others"
    notes = [conditions, others]
    return [Table("Callers while something is in trouble", COLUMNS, rows, notes)]


async def _measure(
    name: str, begin: Callable[[Stage], Awaitable[None]], token: str, pace: Pace, *, only_others: bool
) -> Sequence[Cell]:
    async with _staged(pace, LIFE_LEFT[token]) as (stage, refresher):
        await begin(stage)
        waits: list[float] = []
        failed = 0

        async def call(user_id: str) -> None:
            nonlocal failed
            began, is_counted = time.perf_counter(), not (only_others and stage.is_affected(user_id))
            try:
                await refresher.get_valid_token(user_id)
            except TokenflightError:
                failed += is_counted
            if is_counted:
                waits.append((time.perf_counter() - began) * 1000)

        async with asyncio.TaskGroup() as callers:
            for user_id in stage.users:
                callers.create_task(call(user_id))
                await asyncio.sleep(pace.seconds(1 / USERS_PER_SECOND))
    return name, token, len(waits), median(waits), quantiles(waits, n=100, method="inclusive")[98], failed


@asynccontextmanager
async def _staged(pace: Pace, life_left: float) -> AsyncIterator[tuple[Stage, TokenRefresher]]:
    """A refresher whose users have so much life left, all of them in its cache."""
    provider, store = TroubledProvider(pace.seconds(ANSWER_SECONDS)), FaultyStore(MemoryTokenStore())
    async with TokenRefresher(provider, store, policy=pace.policy, _limits=pace.limits) as refresher:
        for user_id in pace.users:
            expires_at = time.time() + life_left
            issued_at = expires_at - HOUR_SECONDS
            tokens = TokenSet("old", refresh_token="old", issued_at=issued_at, expires_at=expires_at)
            await refresher.save_tokens(user_id, tokens)
        async with AsyncExitStack() as around:
            yield Stage(pace, provider, store, pace.users, around), refresher
