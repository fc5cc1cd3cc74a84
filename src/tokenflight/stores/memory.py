"""A store in memory: for tests, for one process, and for callers that keep token sets themselves."""

import asyncio
import threading
import time
from collections import deque
from collections.abc import AsyncIterator
from concurrent.futures import Future, InvalidStateError
from contextlib import AbstractAsyncContextManager, asynccontextmanager, suppress
from typing import Final

from tokenflight.stores import _failures
from tokenflight.stores.base import LOGOUT_MARKER_SECONDS, Lease, LogoutMarker, StoredTokens, TokenStore, Version
from tokenflight.tokens import TokenKey

MAX_LOGOUT_MARKERS: Final = 256
"""Of how many logouts a store remembers which grant they ended; what is late in one process is late by moments."""


class MemoryTokenStore(TokenStore):
    """Token sets in this process's memory, gone with it. Refreshers on several event loops may share it."""

    def __init__(self) -> None:
        self._records: dict[TokenKey, StoredTokens] = {}
        self._logouts: dict[TokenKey, LogoutMarker] = {}  # the oldest first
        # For each lease, the tickets of its holder and its waiters. A ticket is done when it is its owner's turn.
        self._queues: dict[TokenKey, deque[Future[None]]] = {}
        self._guard = threading.Lock()  # guards all: event loops in several threads may share the store

    async def load(self, key: TokenKey) -> StoredTokens | None:
        """See `TokenStore.load`."""
        return self._records.get(key)  # without the guard: one look-up in a dict is one step

    async def save(self, key: TokenKey, record: StoredTokens) -> None:
        """See `TokenStore.save`."""
        with self._guard:
            self._logouts.pop(key, None)
            self._records[key] = record

    async def replace(self, key: TokenKey, record: StoredTokens, *, expected: Version | None) -> None:
        """See `TokenStore.replace`."""
        with self._guard:  # makes the comparison and the write one step
            current = self._records.get(key)
            if (None if current is None else current.version) != expected:
                raise _failures.conflict(key, expected)
            if expected is None:
                self._drop_old_logouts()
                if (logout := self._logouts.get(key)) is not None and logout.ends(record.tokens):
                    raise _failures.logged_out(key)
            self._records[key] = record

    async def delete(self, key: TokenKey) -> bool:
        """See `TokenStore.delete`."""
        with self._guard:
            if (record := self._records.pop(key, None)) is None:
                return False
            self._logouts.pop(key, None)  # taken out first, so that it goes to the end of the dict
            self._logouts[key] = LogoutMarker.of(record.tokens, time.time())
            self._drop_old_logouts()
            return True

    def lease(self, key: TokenKey, *, timeout: float) -> AbstractAsyncContextManager[Lease]:
        """See `TokenStore.lease`. Waiters get the lease in the order in which they asked for it."""
        return self._lease(key, timeout)

    async def keys(self, provider: str | None = None) -> AsyncIterator[TokenKey]:
        """See `TokenStore.keys`."""
        for key in list(self._records):  # a copy: the caller may write to the store in between
            if provider is None or key.provider == provider:
                yield key

    async def aclose(self) -> None:
        """Nothing to close; the token sets stay."""

    @asynccontextmanager
    async def _lease(self, key: TokenKey, timeout: float) -> AsyncIterator[Lease]:
        # A concurrent future, because the holder that calls this waiter may be on another event loop.
        ticket: Future[None] = Future()
        with self._guard:
            queue = self._queues.setdefault(key, deque())
            queue.append(ticket)
            self._call_next(queue)
        try:
            if not ticket.done():
                try:
                    async with asyncio.timeout(timeout):
                        await asyncio.wrap_future(ticket)
                except TimeoutError:
                    raise _failures.lease_timeout(key, timeout) from None
            yield Lease()
        finally:
            # A waiter that gives up leaves the queue too: the next one would otherwise wait for it for ever.
            with self._guard:
                queue.remove(ticket)
                if queue:
                    self._call_next(queue)
                else:
                    del self._queues[key]

    def _drop_old_logouts(self) -> None:
        oldest = time.time() - LOGOUT_MARKER_SECONDS
        while self._logouts and (
            next(iter(self._logouts.values())).ended_at < oldest or len(self._logouts) > MAX_LOGOUT_MARKERS
        ):
            del self._logouts[next(iter(self._logouts))]

    @staticmethod
    def _call_next(queue: deque[Future[None]]) -> None:
        # A waiter that is cancelled at this instant leaves the queue and calls the next one.
        with suppress(InvalidStateError):
            if not queue[0].done():
                queue[0].set_result(None)
