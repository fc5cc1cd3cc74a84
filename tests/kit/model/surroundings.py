"""The network and the store around the refreshers of the model-based test: troubled when told to, and watched."""

import asyncio
import enum
import itertools
from collections import Counter, defaultdict
from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from urllib.parse import parse_qsl

import httpx
import time_machine

from kit.model.ledger import Ledger, acting
from tokenflight import (
    Lease,
    MemoryTokenStore,
    StoreConflict,
    StoredTokens,
    StoreUnavailable,
    TokenKey,
    Version,
)
from tokenflight.testing import FakeProvider, Gate


class Wire(httpx.AsyncBaseTransport):
    """The network between the refresher that acts and the provider, watched."""

    def __init__(self, fake: FakeProvider, ledger: Ledger, *, latency: float) -> None:
        self._provider = httpx.ASGITransport(app=fake)
        self._ledger = ledger
        self._latency = latency

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        if request.method == "GET":
            return await self._provider.handle_async_request(request)
        refresh_token = dict(parse_qsl(request.content.decode()))["refresh_token"]
        reply: httpx.Response | None = None
        self._ledger.send(acting.get(), refresh_token)
        try:
            await asyncio.sleep(self._latency / 2)
            response = await self._provider.handle_async_request(request)
            await response.aread()
            await asyncio.sleep(self._latency / 2)
            reply = response
        finally:
            self._ledger.receive(acting.get(), refresh_token, reply)
        return response


class Trouble(enum.Enum):
    """What a store does wrong."""

    FAILS = "it fails before it acts"
    FAILS_LATE = "it acts, and fails"
    STALLS = "it does not act until it has recovered"
    STALLS_LATE = "it acts, and does not answer until it has recovered"


class TroubledStore(MemoryTokenStore):
    """A store in memory with `troubles` by operation, and `next_troubles` that happen once; it tells the ledger.

    As its contract says (K2), a login or logout that a later one has overtaken on the way to it never lands.
    """

    def __init__(self, clock: time_machine.Traveller, *, provider: str, latency: float) -> None:
        super().__init__()
        self.ledger = Ledger(self, clock)
        self.troubles: dict[str, Trouble] = {}
        self.next_troubles: dict[str, Trouble] = {}
        self.holders: Counter[TokenKey] = Counter()
        self._provider = provider
        self._latency = latency
        self._recovery = Gate()
        self._tickets = itertools.count(1)
        self._landed: defaultdict[TokenKey, int] = defaultdict(int)

    @property
    def records(self) -> dict[TokenKey, StoredTokens]:
        return self._records

    def record(self, user_id: str) -> StoredTokens | None:
        return self._records.get(TokenKey(self._provider, user_id))

    def recover(self) -> None:
        """End all troubles; what has stalled goes on."""
        self.troubles.clear()
        self.next_troubles.clear()
        self._recovery.open()
        self._recovery = Gate()

    async def load(self, key: TokenKey) -> StoredTokens | None:
        trouble = await self._begin("load", key)
        record = await super().load(key)
        await self._end(trouble)
        return record

    async def save(self, key: TokenKey, record: StoredTokens) -> None:
        ticket = next(self._tickets)
        try:
            trouble = await self._begin("save", key)
            if self._is_overtaken(key, ticket):
                raise StoreConflict("overtaken", code="overtaken")
            before = self._records.get(key)
            await super().save(key, record)
            self.ledger.has_stored(key, self._records[key], before)
            await self._end(trouble)
            self.ledger.acknowledged.add(record.version)
        finally:
            self.ledger.tried_to_store.add(record.tokens.access_token)

    async def replace(self, key: TokenKey, record: StoredTokens, *, expected: Version | None) -> None:
        try:
            trouble = await self._begin("replace", key)
            before = self._records.get(key)
            await super().replace(key, record, expected=expected)
            self.ledger.has_stored(key, self._records[key], before)
            await self._end(trouble)
            self.ledger.acknowledged.add(record.version)
        finally:
            self.ledger.tried_to_store.add(record.tokens.access_token)

    async def delete(self, key: TokenKey) -> bool:
        ticket = next(self._tickets)
        trouble = await self._begin("delete", key)
        if self._is_overtaken(key, ticket):
            return False
        was_there = await super().delete(key)
        self.ledger.has_logged_out(key.user_id)
        await self._end(trouble)
        return was_there

    def lease(self, key: TokenKey, *, timeout: float) -> AbstractAsyncContextManager[Lease]:
        return self._watched_lease(key, timeout)

    @asynccontextmanager
    async def _watched_lease(self, key: TokenKey, timeout: float) -> AsyncIterator[Lease]:
        await self._end(await self._begin("lease", key))
        async with super().lease(key, timeout=timeout) as lease:
            self.holders[key] += 1
            try:
                yield lease
            finally:
                self.holders[key] -= 1

    def _is_overtaken(self, key: TokenKey, ticket: int) -> bool:
        self._landed[key] = max(self._landed[key], ticket)
        return self._landed[key] > ticket

    async def _begin(self, operation: str, key: TokenKey) -> Trouble | None:
        await asyncio.sleep(self._latency)
        trouble = self.next_troubles.pop(operation, None) or self.troubles.get(operation)
        if trouble is not None:
            self.ledger.has_failed(key.user_id)
        if trouble is Trouble.FAILS:
            raise StoreUnavailable("down")
        if trouble is Trouble.STALLS:
            await self._recovery.wait_until_open()
        return trouble

    async def _end(self, trouble: Trouble | None) -> None:
        await asyncio.sleep(self._latency)
        if trouble is Trouble.FAILS_LATE:
            raise StoreUnavailable("down")
        if trouble is Trouble.STALLS_LATE:
            await self._recovery.wait_until_open()
