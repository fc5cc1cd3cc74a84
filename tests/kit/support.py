"""Helpers that tests import."""

import asyncio
import time
from dataclasses import replace
from typing import Any, Final

from tokenflight import TokenEvent, TokenSet
from tokenflight.testing import FakeProvider

NOW: Final = 1_800_000_000.0


def login(fake: FakeProvider, user_id: str, *, life_left: float = 3600.0, **changes: Any) -> TokenSet:
    """Log `user_id` in at the provider, with a one-hour token that has `life_left` seconds left."""
    now = time.time()
    tokens = TokenSet.from_response(fake.login(user_id, lifetime=life_left))
    return replace(tokens, issued_at=now + life_left - 3600, expires_at=now + life_left, **changes)


async def let_others_run() -> None:
    """Let every other task run until it waits for what only time or the test brings. No task may wait for I/O."""
    for _ in range(100):
        await asyncio.sleep(0)


async def until_told(events: list[TokenEvent], kind: type[TokenEvent]) -> None:
    """Wait until the last of `events` is of `kind`."""
    async with asyncio.timeout(5):
        while not isinstance(events[-1], kind):  # noqa: ASYNC110 - events come through a plain callable
            await asyncio.sleep(0.01)
