"""Noticing that a process stood still because the machine was busy, or because something blocked its event loop."""

import asyncio
import time
from collections.abc import Callable
from typing import Final

BEAT_SECONDS: Final = 0.05
STALL_SECONDS: Final = 0.25
"""A beat that comes so much too late tells of a stall."""


async def watch_for_stalls(told: Callable[[float, float], object]) -> None:
    """For ever, call `told` with the beginning and end of each stall, in seconds of `time.monotonic`."""
    while True:
        before = time.monotonic()
        await asyncio.sleep(BEAT_SECONDS)
        if (now := time.monotonic()) - before > BEAT_SECONDS + STALL_SECONDS:
            told(before, now)
