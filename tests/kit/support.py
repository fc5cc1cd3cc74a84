"""Helpers that tests import."""

import asyncio
import time
from contextlib import AbstractAsyncContextManager
from dataclasses import replace
from typing import Any, Final

from tokenflight import (
    Lease,
    MemoryTokenStore,
    StoredTokens,
    StoreUnavailable,
    TokenEvent,
    TokenKey,
    TokenSet,
    Version,
)
from tokenflight.testing import FakeProvider

NOW: Final = 1_800_000_000.0


def login(fake: FakeProvider, user_id: str, *, life_left: float = 3600.0, **changes: Any) -> TokenSet:
    """Log `user_id` in at the provider, with a one-hour token that has `life_left` seconds left."""
    now = time.time()
    tokens = TokenSet.from_response(fake.login(user_id, lifetime=life_left))
    return replace(tokens, issued_at=now + life_left - 3600, expires_at=now + life_left, **changes)


async def until_told(events: list[TokenEvent], kind: type[TokenEvent]) -> None:
    """Wait until the last of `events` is of `kind`."""
    async with asyncio.timeout(5):
        while not isinstance(events[-1], kind):  # noqa: ASYNC110 - events come through a plain callable
            await asyncio.sleep(0.01)


class FailingStore(MemoryTokenStore):
    """A store whose operations named in `failing` fail."""

    def __init__(self, *failing: str) -> None:
        super().__init__()
        self.failing = set(failing)
        self.leases = 0

    async def load(self, key: TokenKey) -> StoredTokens | None:
        self._trouble("load")
        return await super().load(key)

    async def save(self, key: TokenKey, record: StoredTokens) -> None:
        self._trouble("save")
        await super().save(key, record)

    async def replace(self, key: TokenKey, record: StoredTokens, *, expected: Version | None) -> None:
        self._trouble("replace")
        await super().replace(key, record, expected=expected)

    async def delete(self, key: TokenKey) -> bool:
        self._trouble("delete")
        return await super().delete(key)

    def lease(self, key: TokenKey, *, timeout: float) -> AbstractAsyncContextManager[Lease]:
        self.leases += 1
        return super().lease(key, timeout=timeout)

    def _trouble(self, operation: str) -> None:
        if operation in self.failing:
            raise StoreUnavailable("down")
