"""The store and the provider of a schedule: both take their time, fail as told, and note what they do."""

import asyncio
import time
from collections import defaultdict
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass, field
from enum import Enum
from functools import partial
from typing import Final, TypeVar

from kit.schedules.explorer import SPEAKER, Schedule
from tokenflight import (
    Lease,
    MemoryTokenStore,
    ProviderUnavailable,
    ReauthenticationRequired,
    StoredTokens,
    StoreUnavailable,
    TokenKey,
    TokenSet,
    Version,
)

T = TypeVar("T")

STALL_SECONDS: Final = 500.0
"""Longer than the library waits for anything."""


class Fault(Enum):
    """What goes wrong with an operation of the store or with a request to the provider."""

    UNREACHABLE = "it fails, and nothing has happened"
    REPLY_LOST = "it seems to fail, but it has happened"
    STALLED = "it has happened, but nobody waits long enough to hear of it"


class PausingStore(MemoryTokenStore):
    """A store in memory whose operations take their time, before they happen and after.

    `faults` has, for each operation by name, what goes wrong with the next ones. `writes` are the token sets written
    so far, None for a delete; `written_by` is the place there of the last write of each who logged in or out.
    """

    def __init__(self, schedule: Schedule) -> None:
        super().__init__()
        self._schedule = schedule
        self.faults: defaultdict[str, list[Fault]] = defaultdict(list)
        self.faulted = 0
        self.holders = 0
        self.writes: list[TokenSet | None] = []
        self.written_by: dict[str, int] = {}

    async def load(self, key: TokenKey) -> StoredTokens | None:
        return await self._take_time("load", partial(super().load, key))

    async def save(self, key: TokenKey, record: StoredTokens) -> None:
        await self._take_time("save", partial(super().save, key, record), (record.tokens,))

    async def replace(self, key: TokenKey, record: StoredTokens, *, expected: Version | None) -> None:
        await self._take_time("replace", partial(super().replace, key, record, expected=expected), (record.tokens,))

    async def delete(self, key: TokenKey) -> bool:
        return await self._take_time("delete", partial(super().delete, key), (None,))

    def lease(self, key: TokenKey, *, timeout: float) -> AbstractAsyncContextManager[Lease]:
        return self._take_time_over(super().lease(key, timeout=timeout))

    @asynccontextmanager
    async def _take_time_over(self, lease: AbstractAsyncContextManager[Lease]) -> AsyncIterator[Lease]:
        await self._schedule.pause()
        async with lease as held:
            self.holders += 1
            try:
                await self._take_time("lease", _nothing)
                yield held
                await self._take_time("release", _nothing)
            finally:
                self.holders -= 1

    async def _take_time(
        self, name: str, operation: Callable[[], Awaitable[T]], written: tuple[TokenSet | None, ...] = ()
    ) -> T:
        await self._schedule.pause()
        fault = self.faults[name].pop(0) if self.faults[name] else None
        self.faulted += fault is not None
        if fault is Fault.UNREACHABLE:
            self._schedule.note(f"{name} fails")
            raise StoreUnavailable("unreachable")
        result = await operation()
        self._schedule.note(f"{name}{''.join(f' {label(tokens)}' for tokens in written)}")
        if written:
            self.written_by[SPEAKER.get()] = len(self.writes)
            self.writes.extend(written)
        await self._schedule.pause()
        if fault is Fault.REPLY_LOST:
            self._schedule.note(f"the reply to {name} is lost")
            raise StoreUnavailable("the reply is lost")
        if fault is Fault.STALLED:
            self._schedule.note(f"{name} stalls")
            await asyncio.sleep(STALL_SECONDS)
        return result


@dataclass(slots=True)
class Grant:
    """What a login gave: a chain of token sets, each renewed with the refresh token of the one before.

    `unanswered` are refresh tokens spent in requests that had no reply: using these again is excused.
    """

    first: TokenSet
    current: TokenSet
    spent: set[str] = field(default_factory=set)
    unanswered: set[str] = field(default_factory=set)
    revoked: bool = False


class StrictProvider:
    """A provider that rotates refresh tokens, and revokes the grant when it sees a spent one again."""

    name = "idp"

    def __init__(self, schedule: Schedule) -> None:
        self._schedule = schedule
        self._issued = 0
        self._asking = 0
        self._failed_at = -STALL_SECONDS
        self._grants: dict[str, Grant] = {}
        self.faults: list[Fault] = []
        self.faulted = 0
        self.least_pause = 0.0
        """Seconds that must lie between a request that failed and the next."""
        self.requests = 0
        self.renewals = 0
        self.reuses = 0
        self.excused_reuses = 0

    def log_in(self) -> TokenSet:
        """A login: the first token set of a new grant."""
        tokens = self._issue()
        self._grants[tokens.access_token] = Grant(tokens, tokens)
        return tokens

    def grant(self, tokens: TokenSet) -> Grant:
        """The grant that `tokens` belong to."""
        return self._grants[tokens.access_token]

    async def renew(self, user_id: str, tokens: TokenSet | None) -> TokenSet:
        """Renew as a strict authorization server does; one user has one renewal under way at most."""
        if tokens is None:
            raise ReauthenticationRequired("there is nothing to renew", code="no_tokens")
        schedule = self._schedule
        schedule.require(not self._asking, "no two renewals of a user are under way at once")
        schedule.require(
            schedule.loop.time() >= self._failed_at + self.least_pause, "nothing is sent before the cool-down is over"
        )
        self.requests += 1
        self._asking += 1
        try:
            return await self._answer(tokens)
        except ProviderUnavailable:
            self._failed_at = schedule.loop.time()
            raise
        finally:
            self._asking -= 1

    async def _answer(self, tokens: TokenSet) -> TokenSet:
        await self._schedule.pause()
        fault = self.faults.pop(0) if self.faults else None
        self.faulted += fault is not None
        if fault is Fault.UNREACHABLE:
            self._schedule.note("the provider is unreachable")
            raise ProviderUnavailable("unreachable")
        grant = self.grant(tokens)
        if grant.revoked or tokens.refresh_token != grant.current.refresh_token:
            self._look_for_reuse(tokens, grant)
            await self._schedule.pause()
            raise ReauthenticationRequired("invalid_grant")
        spent = str(tokens.refresh_token)
        grant.spent.add(spent)
        grant.current = renewed = self._issue()
        self._grants[renewed.access_token] = grant
        self.renewals += 1
        self._schedule.note(f"the provider renews {label(tokens)} as {label(renewed)}")
        if fault is not None:
            grant.unanswered.add(spent)
        await self._schedule.pause()
        if fault is Fault.REPLY_LOST:
            self._schedule.note("the provider's reply is lost")
            raise ProviderUnavailable("no reply", code="outcome_unknown")
        if fault is Fault.STALLED:
            self._schedule.note("the provider stalls")
            await asyncio.sleep(STALL_SECONDS)
        return renewed

    def _look_for_reuse(self, tokens: TokenSet, grant: Grant) -> None:
        self._schedule.note(f"the provider refuses {label(tokens)}")
        if tokens.refresh_token not in grant.spent:
            return
        grant.revoked = True
        if tokens.refresh_token in grant.unanswered:
            self.excused_reuses += 1
        else:
            self.reuses += 1
            self._schedule.require(False, "no spent refresh token is sent")

    def _issue(self) -> TokenSet:
        self._issued += 1
        return TokenSet(
            f"at_{self._issued:016}",
            refresh_token=f"rt_{self._issued:016}",
            issued_at=time.time(),
            expires_at=time.time() + 3600,
        )


def label(tokens: TokenSet | None) -> str:
    """`tokens` for a trace: what no log may show can be told apart by a number."""
    return "nothing" if tokens is None else f"token set {int(tokens.access_token[3:])}"


async def _nothing() -> None:
    pass
