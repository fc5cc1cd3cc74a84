"""Renewed token sets that could not be stored yet: kept, with their lease, until they are."""

import asyncio
import random
import time
from collections.abc import Callable
from contextlib import AsyncExitStack, suppress
from dataclasses import dataclass, field
from typing import Final

from tokenflight._core.records import Records
from tokenflight.errors import StoreConflict, StoreUnavailable, TokenflightError
from tokenflight.events import RenewalDiscarded, SaveFailed, SaveRecovered, TokenEvent
from tokenflight.stores.base import StoredTokens, Version
from tokenflight.tokens import TokenKey, TokenSet

FIRST_PAUSE_SECONDS: Final = 0.1
LONGEST_PAUSE_SECONDS: Final = 2.0
"""Short, as a lease with a time limit may lapse meanwhile, and one small write is all it costs."""


@dataclass(frozen=True, slots=True)
class Renewal:
    """A renewed token set, and the record it is to take the place of; None where there was none."""

    key: TokenKey
    tokens: TokenSet
    before: StoredTokens | None
    started: float

    @property
    def duration(self) -> float:
        """Seconds since the flight began."""
        return time.monotonic() - self.started


@dataclass(slots=True, eq=False)
class _Kept:
    renewal: Renewal
    lease: AsyncExitStack
    attempts: int = 1
    wake: asyncio.Event = field(default_factory=asyncio.Event)

    @property
    def record(self) -> StoredTokens:
        return StoredTokens(self.renewal.tokens, Version("unsaved"))


class Unsaved:
    """Renewals that could not be stored, each with a task that keeps the lease and tries again with back-off.

    While one is kept, its spent refresh token can't be sent: nobody else gets the lease. `on_saved` is called with
    the record once it is stored, `on_dropped` with its key if a login or logout was faster.
    """

    def __init__(
        self,
        records: Records,
        *,
        announce: Callable[[TokenEvent], None],
        on_saved: Callable[[TokenKey, StoredTokens], None],
        on_dropped: Callable[[TokenKey], None],
    ) -> None:
        self._records = records
        self._announce = announce
        self._on_saved = on_saved
        self._on_dropped = on_dropped
        self._kept: dict[str, _Kept] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._closing = False

    def get(self, user_id: str) -> StoredTokens | None:
        """The record of `user_id` as it would be if it could be stored."""
        kept = self._kept.get(user_id)
        return None if kept is None else kept.record

    def keep(self, renewal: Renewal, lease: AsyncExitStack, error: TokenflightError) -> StoredTokens:
        """Take over `renewal` and the `lease` under which it was made; return the record to serve meanwhile."""
        user_id = renewal.key.user_id
        kept = self._kept[user_id] = _Kept(renewal, lease)
        task = asyncio.get_running_loop().create_task(self._save_until_stored(kept), name=f"tokenflight save {user_id}")
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        self._tell(kept, error)
        return kept.record

    def drop(self, user_id: str) -> None:
        """Give up the renewal of `user_id`: a login or logout has taken its place in the store."""
        kept = self._kept.pop(user_id, None)
        if kept is not None:
            kept.wake.set()  # not cancelled: a task cancelled before its first step would never give the lease back

    async def aclose(self) -> None:
        """Try once more to store what is kept.

        Raises `StoreUnavailable` if that fails: the users it names have lost their refresh tokens.
        """
        self._closing = True
        for kept in self._kept.values():
            kept.wake.set()
        if self._tasks:
            await asyncio.wait(self._tasks)
        if self._kept:
            users = ", ".join(repr(user_id) for user_id in sorted(self._kept)[:10])
            raise StoreUnavailable(
                f"renewed token sets of {len(self._kept)} users could not be stored and are lost: {users}; these users "
                "have to log in again",
                code="unsaved",
            )

    async def _save_until_stored(self, kept: _Kept) -> None:
        key, pause = kept.renewal.key, FIRST_PAUSE_SECONDS
        async with kept.lease:  # kept for as long as the store holds a spent refresh token
            while True:
                with suppress(TimeoutError):
                    async with asyncio.timeout(pause * random.uniform(0.5, 1.0)):  # noqa: S311 - not a secret
                        await kept.wake.wait()
                if not self._is_kept(kept):
                    return
                pause, last = min(pause * 2, LONGEST_PAUSE_SECONDS), self._closing
                try:
                    record = await self._save(kept)
                except TokenflightError as exc:
                    kept.attempts += 1
                    self._tell(kept, exc)
                    if last:
                        return
                    continue
                if not self._is_kept(kept):
                    return  # a login or logout came while it was being stored, and was told so already
                del self._kept[key.user_id]
                if record is None:
                    self._announce(RenewalDiscarded(key.user_id, key.provider, kept.renewal.duration))
                    self._on_dropped(key)
                else:
                    self._announce(
                        SaveRecovered(key.user_id, key.provider, kept.renewal.duration, attempts=kept.attempts + 1)
                    )
                    self._on_saved(key, record)
                return

    async def _save(self, kept: _Kept) -> StoredTokens | None:
        """Try once; None if a login or logout was faster."""
        renewal = kept.renewal
        try:
            return await self._records.succeed(
                renewal.key, renewal.tokens, renewal.before, wanted=lambda: self._is_kept(kept)
            )
        except StoreConflict:
            # The write that seemed to fail may have arrived: then the conflict is with ourselves.
            current = await self._records.load(renewal.key)
            return current if current is not None and current.tokens == renewal.tokens else None

    def _is_kept(self, kept: _Kept) -> bool:
        return self._kept.get(kept.renewal.key.user_id) is kept

    def _tell(self, kept: _Kept, error: TokenflightError) -> None:
        renewal = kept.renewal
        self._announce(
            SaveFailed(
                renewal.key.user_id,
                renewal.key.provider,
                renewal.duration,
                code=error.code,
                attempts=kept.attempts,
            )
        )
