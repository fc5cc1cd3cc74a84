"""A store in memory: for tests, for one process, and for callers that keep token sets themselves."""

import asyncio
import threading
from collections import deque
from collections.abc import AsyncIterator
from concurrent.futures import Future, InvalidStateError
from contextlib import AbstractAsyncContextManager, asynccontextmanager, suppress

from tokenflight.stores import _failures
from tokenflight.stores.base import Lease, StoredTokens, TokenStore, Version
from tokenflight.tokens import TokenKey


class MemoryTokenStore(TokenStore):
    """Token sets in this process's memory, gone with it. Refreshers on several event loops may share it."""

    def __init__(self) -> None:
        self._records: dict[TokenKey, StoredTokens] = {}
        # For each lease, the tickets of its holder and its waiters. A ticket is done when it is its owner's turn.
        self._queues: dict[TokenKey, deque[Future[None]]] = {}
        self._guard = threading.Lock()  # guards both: event loops in several threads may share the store

    async def load(self, key: TokenKey) -> StoredTokens | None:
        """See `TokenStore.load`."""
        return self._records.get(key)  # without the guard: one look-up in a dict is one step

    async def save(self, key: TokenKey, record: StoredTokens) -> None:
        """See `TokenStore.save`."""
        with self._guard:
            self._records[key] = record

    async def replace(self, key: TokenKey, record: StoredTokens, *, expected: Version | None) -> None:
        """See `TokenStore.replace`."""
        with self._guard:  # makes the comparison and the write one step
            current = self._records.get(key)
            if (None if current is None else current.version) != expected:
                raise _failures.conflict(key, expected)
            self._records[key] = record

    async def delete(self, key: TokenKey) -> bool:
        """See `TokenStore.delete`."""
        with self._guard:
            return self._records.pop(key, None) is not None

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

    @staticmethod
    def _call_next(queue: deque[Future[None]]) -> None:
        # A waiter that is cancelled at this instant leaves the queue and calls the next one.
        with suppress(InvalidStateError):
            if not queue[0].done():
                queue[0].set_result(None)
