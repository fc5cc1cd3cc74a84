"""A lease that lapses when its holder does not extend it in time.

The store of such a lease keeps its owner and its end. The holder counts the time itself, from before each request to
the store: so the lease ends here first, and only then for the other users of the store. A timer starts a task that
extends the lease; most leases are given back before it fires, which costs them no task.
"""

import asyncio
import logging
import secrets
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from typing import Final

from tokenflight._log import log
from tokenflight.errors import StoreError
from tokenflight.stores.base import Lease
from tokenflight.tokens import TokenKey

EXTENSIONS_PER_DURATION: Final = 4
"""How often a lease is extended in the time that one extension lasts."""

RETRIES_PER_DURATION: Final = 16
"""How often an extension or a release that failed is tried again in that time."""

REMEMBERED_SECONDS: Final = 3600.0
"""For how long a store remembers a holder that it hears of no more."""


def lease_clock() -> float:
    """Seconds that also pass while the process stands still and, on Linux, while the machine sleeps."""
    return time.clock_gettime(time.CLOCK_BOOTTIME) if sys.platform == "linux" else time.monotonic()


class TimedLease(Lease):
    """A lease of `owner`, a name of its own, for `duration` seconds from when it was last extended."""

    __slots__ = ("_extending", "_held_until", "_timer", "_unreleased_since", "duration", "key", "owner")

    def __init__(self, key: TokenKey, duration: float) -> None:
        self.key = key
        self.owner = secrets.token_hex(16)
        self.duration = duration
        self._held_until = 0.0
        self._unreleased_since: float | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._extending: asyncio.Task[None] | None = None

    def is_held(self) -> bool:
        """See `Lease.is_held`."""
        return lease_clock() < self._held_until

    def unreleased_for(self) -> float | None:
        """See `Lease.unreleased_for`."""
        return None if self._unreleased_since is None else lease_clock() - self._unreleased_since

    def acquired(
        self, asked_at: float, extend: Callable[[], Awaitable[bool]], *, unreleased_for: float | None = None
    ) -> None:
        """Note that the store granted what was asked for at `asked_at`, by `lease_clock`, and extend it from now on.

        `extend` says whether the lease was still ours, or raises `StoreError`. `unreleased_for` is how many seconds ago
        the store last heard of a former holder that never gave the lease back, None without one.
        """
        self._held_until = asked_at + self.duration
        self._unreleased_since = None if unreleased_for is None else lease_clock() - unreleased_for
        self._timer = asyncio.get_running_loop().call_later(
            self.duration / EXTENSIONS_PER_DURATION, self._start_extending, extend
        )

    def released(self) -> None:
        """Note that the lease is given back, and extend it no more."""
        self._held_until = 0.0  # before the request to the store: after it, another holder may have the lease
        if self._timer is not None:
            self._timer.cancel()
        if self._extending is not None:
            self._extending.cancel()

    def _start_extending(self, extend: Callable[[], Awaitable[bool]]) -> None:
        self._extending = asyncio.get_running_loop().create_task(self._extend(extend), name="tokenflight lease")

    async def _extend(self, extend: Callable[[], Awaitable[bool]]) -> None:
        while True:
            asked_at = lease_clock()
            pause = self.duration / RETRIES_PER_DURATION
            # An extension that this timeout ends may still happen. That does no harm: the store compares the owner.
            with suppress(StoreError, TimeoutError):
                async with asyncio.timeout(self.duration / EXTENSIONS_PER_DURATION):
                    still_ours = await extend()
                if not still_ours:
                    self._held_until = 0.0
                    lapsed = "the lease on user %r at %s lapsed while it was held"
                    log(logging.WARNING, lapsed, self.key.user_id, self.key.provider)
                    return
                self._held_until = asked_at + self.duration
                pause = self.duration / EXTENSIONS_PER_DURATION
            await asyncio.sleep(pause)


class LateReleases:
    """Gives leases back in the background that could not be given back at first, until they have lapsed.

    There is one task for each such lease; it ends within the lease's duration.
    """

    def __init__(self) -> None:
        self._tasks: set[asyncio.Task[None]] = set()  # asyncio itself holds tasks by weak references only
        self._closing: list[asyncio.AbstractEventLoop] = []

    def begin(self, lease: TimedLease, release: Callable[[], Awaitable[object]]) -> None:
        """Call `release` again and again, until it no longer raises `StoreError` or `lease` must have lapsed."""
        loop = asyncio.get_running_loop()
        if loop not in self._closing:
            task = loop.create_task(_release_until_lapsed(lease.duration, release), name="tokenflight late release")
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

    @asynccontextmanager
    async def ended(self) -> AsyncIterator[None]:
        """End the tasks of the running event loop, and begin none on it before the context ends."""
        loop = asyncio.get_running_loop()
        self._closing.append(loop)
        try:
            if tasks := [task for task in tuple(self._tasks) if task.get_loop() is loop]:
                for task in tasks:
                    task.cancel()
                await asyncio.wait(tasks)
            yield
        finally:
            self._closing.remove(loop)


async def _release_until_lapsed(duration: float, release: Callable[[], Awaitable[object]]) -> None:
    lapsed_at = lease_clock() + duration  # at the latest: it was last extended before the first release
    pause = duration / RETRIES_PER_DURATION
    while (left := lapsed_at - lease_clock() - pause) > 0:
        await asyncio.sleep(pause)
        with suppress(StoreError, TimeoutError):
            async with asyncio.timeout(left):
                await release()
            return
