"""The lease of a Redis store: a key with a time limit, which scripts take, extend and remove."""

import asyncio
from collections.abc import Callable
from contextlib import suppress
from typing import Any

from tokenflight.errors import StoreError
from tokenflight.stores._timed_lease import TimedLease, lease_clock
from tokenflight.stores.redis._limits import RedisLimits
from tokenflight.stores.redis._scripts import ACQUIRE, EXTEND, RELEASE
from tokenflight.stores.redis._session import Command, Session
from tokenflight.tokens import TokenKey


class RedisLease(TimedLease):
    """A lease on `key` under the name `name` in Redis."""

    __slots__ = ("_limits", "_name", "_session")

    def __init__(
        self, key: TokenKey, duration: float, session: Callable[[], Session], name: str, limits: RedisLimits
    ) -> None:
        super().__init__(key, duration)
        self._session = session  # called each time: the store may be closed and opened again while the lease is held
        self._name = name
        self._limits = limits

    async def acquire(self, timeout: float) -> bool:
        """Take the lease as soon as it is free; say whether it was within `timeout` seconds."""
        loop = asyncio.get_running_loop()
        deadline = loop.time() + timeout
        retry_in = await self._try_to_acquire()
        if retry_in is None:
            return True
        if timeout <= 0:
            return False
        with self._session().notified_of_release(self._name) as released:
            while retry_in is not None and (left := deadline - loop.time()) > 0:
                with suppress(TimeoutError):
                    async with asyncio.timeout(min(left, retry_in)):
                        await released.wait()
                released.clear()  # before asking: a release that follows sets it again and is not missed
                retry_in = await self._try_to_acquire()
        return retry_in is None

    async def release(self) -> None:
        """Give the lease back if it is still ours. If this is cancelled, the release goes on."""
        self.released()
        await self._start_release().result()

    async def _try_to_acquire(self) -> float | None:
        """Take the lease if it is free; otherwise say in how many seconds to try again."""
        asked_at = lease_clock()
        try:
            left = await self._session().run(ACQUIRE, self._name, self.owner, _milliseconds(self.duration))
        except asyncio.CancelledError:
            await self._start_release().wait_briefly()  # the server may have given us the lease
            raise
        except StoreError:
            self._start_release()  # for the same reason; not waited for, because it will hardly fare better
            raise
        if left is not None:
            poll = self._limits.poll_seconds
            return min(left / 1000 + 0.001, poll) if left >= 0 else poll
        self.acquired(asked_at, self._extend_once)
        return None

    async def _extend_once(self) -> bool:
        return bool(await self._session().run(EXTEND, self._name, self.owner, _milliseconds(self.duration)))

    def _start_release(self) -> Command[Any]:
        session = self._session()
        return session.start(RELEASE, self._name, self.owner, session.channel)


def _milliseconds(seconds: float) -> int:
    return round(seconds * 1000)
