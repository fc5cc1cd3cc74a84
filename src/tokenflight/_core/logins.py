"""Logins and logouts: the writes that win over a renewal, in the order in which they were called.

Each write is a task of the refresher's, and a caller that is cancelled, once or again and again, leaves it alone. Only
the task knows when the write has ended, and no other write of that user may begin before: a store can't always stop a
write in its middle, so that a cancelled logout could delete the login that followed it.
"""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any, TypeVar

from tokenflight._core import failures
from tokenflight._core.deadlines import deadline
from tokenflight._core.outcome import SUPERSEDED
from tokenflight._core.state import RefresherState
from tokenflight._tasks import drained
from tokenflight.errors import StoreConflict
from tokenflight.stores.base import StoredTokens
from tokenflight.tokens import TokenKey, TokenSet

T = TypeVar("T")


@dataclass(slots=True)
class _UserWrites:
    """The writes of one user: how many were called, which of them took effect last, and how many have not ended."""

    called: int = 0
    last: int = 0
    under_way: int = 0


@dataclass(slots=True)
class _Write:
    """One login or logout, the `number`-th among the `writes` of its user."""

    key: TokenKey
    writes: _UserWrites
    number: int = field(init=False)
    has_begun: bool = False

    def __post_init__(self) -> None:
        self.writes.called += 1
        self.writes.under_way += 1
        self.number = self.writes.called


class Logins:
    """The logins and logouts of one refresher's users.

    `_by_user` has an entry for each user with a write under way. `_tasks` holds the tasks of the writes: an event loop
    alone does not keep them alive.
    """

    def __init__(self, state: RefresherState) -> None:
        self._state = state
        self._by_user: dict[str, _UserWrites] = {}
        self._tasks: set[asyncio.Task[Any]] = set()

    async def save(self, key: TokenKey, tokens: TokenSet) -> None:
        """Store the `tokens` of a login; see `TokenRefresher.save_tokens`."""
        await self._in_order(key, lambda write: self._save(write, tokens))

    async def delete(self, key: TokenKey) -> bool:
        """Remove the record of a user, and say whether there was one; see `TokenRefresher.delete_tokens`."""
        return await self._in_order(key, self._delete)

    async def drain(self) -> None:
        """Wait until no write is under way."""
        await drained(self._tasks)

    async def _in_order(self, key: TokenKey, work: Callable[[_Write], Coroutine[Any, Any, T]]) -> T:
        user_id = key.user_id
        write = _Write(key, self._by_user.setdefault(user_id, _UserWrites()))
        task = asyncio.get_running_loop().create_task(work(write), name=f"tokenflight login {user_id}")
        self._tasks.add(task)

        def end(task: asyncio.Task[T]) -> None:
            self._tasks.discard(task)
            write.writes.under_way -= 1
            if not write.writes.under_way:
                del self._by_user[user_id]
            if not task.cancelled():
                task.exception()  # or asyncio would log it as never retrieved, where the caller has left

        task.add_done_callback(end)
        try:
            return await asyncio.shield(task)
        except asyncio.CancelledError:
            if not write.has_begun:
                task.cancel()
            self._may_have_been_written(user_id)
            raise

    async def _save(self, write: _Write, tokens: TokenSet) -> None:
        records, known = self._state.records, self._state.cache.rejections.known(write.key.user_id)

        async def save(put: Callable[[TokenKey, TokenSet], Awaitable[StoredTokens]]) -> None:
            async with self._turn(write) as is_last_word:
                if not is_last_word:
                    return
                try:
                    record = await put(write.key, tokens)
                except StoreConflict as exc:
                    if exc.code != "overtaken":
                        raise
                    # It counts as stored, and then replaced: the store knows by what.
                    self._state.cache.forget(write.key.user_id)
                else:
                    self._state.keep_login(write.key.user_id, record, known)

        if await records.keeps_refresh_token(write.key, tokens):
            # The lease first: a flight that holds it may be waiting for the login lock.
            async with records.lease(write.key, wait=True):
                await save(records.save_keeping_refresh_token)
        else:
            await save(records.save)

    async def _delete(self, write: _Write) -> bool:
        user_id, is_deleted = write.key.user_id, False
        async with self._turn(write) as is_last_word:
            if is_last_word:
                try:
                    is_deleted = await self._state.records.delete(write.key)
                    self._state.pending.drop(user_id)
                finally:
                    # Also if it failed: it may have happened, so the store has to be read before a token is served.
                    self._state.cache.forget(user_id)
        return is_deleted

    @asynccontextmanager
    async def _turn(self, write: _Write) -> AsyncIterator[bool]:
        """Wait until no other write of the user is under way. False if a later one has taken effect meanwhile."""
        state, user_id = self._state, write.key.user_id
        seconds = state.limits.store_timeout
        async with deadline(seconds, failures.store_timed_out(seconds)), state.records.login_lock(user_id):
            if write.writes.last > write.number:
                yield False
                return
            write.has_begun = True
            try:
                yield True
            except BaseException:
                self._may_have_been_written(user_id)
                raise
            # It is stored. What failed before belongs to a grant that is over.
            write.writes.last = write.number
            state.flights.detach(user_id, SUPERSEDED)
            state.backoff.clear(user_id)

    def _may_have_been_written(self, user_id: str) -> None:
        """Let the flight under way and the next caller look into the store again."""
        self._state.flights.mark_outdated(user_id)
        self._state.cache.mark_stale(user_id)
