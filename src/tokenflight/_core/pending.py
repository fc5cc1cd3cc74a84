"""Renewed token sets that could not be stored yet: kept, with their lease, until they are stored."""

import asyncio
import random
import time
from collections.abc import Callable
from contextlib import AsyncExitStack, suppress
from dataclasses import dataclass, field

from tokenflight._core.cache import TokenCache
from tokenflight._core.limits import Limits
from tokenflight._core.records import Records
from tokenflight._tasks import drained, lasting_task
from tokenflight.errors import StoreConflict, StoreUnavailable, TokenflightError, TokenRefreshError
from tokenflight.events import RenewalDiscarded, SaveFailed, SaveRecovered, TokenEvent
from tokenflight.stores.base import StoredTokens
from tokenflight.tokens import TokenKey, TokenSet


@dataclass(frozen=True, slots=True)
class Successor:
    """A renewed record, and the record `before` that it replaces; None where there was none.

    `started` is when its flight began, in monotonic seconds. `error` is what the callers get although the record is
    stored: the provider's reply held a new refresh token, and nothing else that would do.
    """

    key: TokenKey
    record: StoredTokens
    before: StoredTokens | None
    started: float
    error: TokenRefreshError | None = None

    @property
    def duration(self) -> float:
        """Seconds since the flight began."""
        return time.monotonic() - self.started

    @property
    def is_rotated(self) -> bool:
        """Whether the provider returned another refresh token than the one it was sent."""
        return self.record.tokens.refresh_token != self._sent

    @property
    def spent(self) -> str | None:
        """The refresh token that the renewal used up; None if the provider did not rotate it."""
        return self._sent if self.is_rotated else None

    @property
    def _sent(self) -> str | None:
        return None if self.before is None else self.before.tokens.refresh_token


@dataclass(slots=True, eq=False)
class _PendingSave:
    successor: Successor
    lease: AsyncExitStack
    attempts: int = 1
    loop: asyncio.AbstractEventLoop = field(default_factory=asyncio.get_running_loop)
    wake: asyncio.Event = field(default_factory=asyncio.Event)


class PendingSaves:
    """Successors that could not be stored, each with a task that keeps the lease and tries again with back-off.

    While one is pending, its record is pinned in the cache, and no process can send its spent refresh token: this
    one has the lease. `_saves` has at most one entry a user, and ends with the failure of the store.
    """

    def __init__(
        self, records: Records, cache: TokenCache, announce: Callable[[TokenEvent], None], limits: Limits
    ) -> None:
        self._records = records
        self._cache = cache
        self._announce = announce
        self._limits = limits
        self._saves: dict[str, _PendingSave] = {}
        self._tasks: set[asyncio.Task[None]] = set()  # an event loop alone does not keep its tasks alive
        self._closing = False

    def add(self, successor: Successor, lease: AsyncExitStack, error: TokenflightError) -> None:
        """Take over `successor` and the `lease` under which it was renewed."""
        user_id = successor.key.user_id
        save = self._saves[user_id] = _PendingSave(successor, lease)
        # Pinned before the flight ends: its waiters look into the cache.
        self._cache.pin(user_id, successor.record, time.time(), spent=successor.spent)

        def try_once_more() -> bool:
            """At the end of the event loop, as in `aclose`."""
            self._closing = True
            save.wake.set()
            return True

        task = lasting_task(self._save_until_stored(save), name=f"tokenflight save {user_id}", outlasts=try_once_more)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        self._announce_failure(save, error)

    def continues(self, user_id: str, tokens: TokenSet) -> bool:
        """Whether the pending successor of `user_id` was renewed from `tokens`, and so is newer than a login with them.

        Such a login is one whose answer was slow, or one that an app repeats. What waits to be saved is its successor.
        """
        save = self._saves.get(user_id)
        return save is not None and save.successor.before is not None and save.successor.before.tokens == tokens

    def drop(self, user_id: str) -> None:
        """Give up the successor of `user_id`: a login or logout has taken its place in the store."""
        save = self._saves.pop(user_id, None)
        if save is not None:
            self._cache.unpin(user_id)
            save.wake.set()  # not cancelled: a task cancelled before its first step would never release the lease

    async def aclose(self) -> None:
        """Try once more to store each pending save.

        Raises `StoreUnavailable` if that fails: the users it names have lost their refresh tokens.
        """
        self._closing = True  # before the wake-up: each task tries once more, and then gives up
        for save in list(self._saves.values()):
            if save.loop.is_closed():
                await self._save_in_place_of_its_task(save)
            else:
                save.wake.set()
        await drained(self._tasks)
        if self._saves:
            users = ", ".join(repr(user_id) for user_id in sorted(self._saves)[:10])
            raise StoreUnavailable(
                f"renewed token sets of {len(self._saves)} users could not be stored and are lost: {users}; these "
                "users have to log in again",
                code="unsaved",
            )

    async def _save_until_stored(self, save: _PendingSave) -> None:
        pause = self._limits.first_save_pause
        async with save.lease:  # held for as long as the store has a spent refresh token
            while True:
                with suppress(TimeoutError):
                    async with asyncio.timeout(pause * random.uniform(0.5, 1.0)):  # noqa: S311 - not a secret
                        await save.wake.wait()
                if not self._is_pending(save):
                    return
                # Read before the write: if the close comes during it, one more try follows.
                pause, is_last = min(pause * 2, self._limits.longest_save_pause), self._closing
                try:
                    stored = await self._try_to_save(save)
                except TokenflightError as exc:
                    save.attempts += 1
                    self._announce_failure(save, exc)
                    if is_last:
                        return
                else:
                    # A login or logout during the write has dropped this save, and has told the cache.
                    if self._is_pending(save):
                        self._end(save, stored)
                    return

    async def _save_in_place_of_its_task(self, save: _PendingSave) -> None:
        """Try once more to store what a task can't, because its event loop was closed."""
        with suppress(TokenflightError):
            self._end(save, await self._try_to_save(save))
        with suppress(Exception):  # what a store holds for a lease may belong to the closed event loop
            await save.lease.aclose()

    async def _try_to_save(self, save: _PendingSave) -> StoredTokens | None:
        """Try once; None if a login or logout was faster."""
        key, record, before = save.successor.key, save.successor.record, save.successor.before
        try:
            await self._records.put_successor(
                key,
                record,
                before,
                may_create=lambda: self._is_pending(save),
                known=self._cache.entries.get(key.user_id),
            )
        except StoreConflict:
            # A write that seemed to fail may have arrived: then the conflict is with this very successor.
            current = await self._records.load(key)
            return current if current is not None and current.tokens == record.tokens else None
        return record

    def _end(self, save: _PendingSave, stored: StoredTokens | None) -> None:
        successor, key = save.successor, save.successor.key
        del self._saves[key.user_id]
        if stored is None:
            self._cache.unpin(key.user_id)
            self._announce(RenewalDiscarded(key.user_id, key.provider, successor.duration))
            return
        self._cache.keep(key.user_id, stored, time.time(), spent=successor.spent)
        attempts = save.attempts + 1
        self._announce(SaveRecovered(key.user_id, key.provider, successor.duration, attempts=attempts))

    def _is_pending(self, save: _PendingSave) -> bool:
        return self._saves.get(save.successor.key.user_id) is save

    def _announce_failure(self, save: _PendingSave, error: TokenflightError) -> None:
        key, duration = save.successor.key, save.successor.duration
        self._announce(SaveFailed(key.user_id, key.provider, duration, code=error.code, attempts=save.attempts))
