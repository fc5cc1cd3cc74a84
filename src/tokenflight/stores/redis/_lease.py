"""The lease of a Redis store: a key with a time limit, which scripts take, extend and remove."""

import asyncio
from collections.abc import Callable
from contextlib import suppress
from typing import Any

from tokenflight.errors import StoreError
from tokenflight.stores._timed_lease import REMEMBERED_SECONDS, LateReleases, TimedLease, lease_clock
from tokenflight.stores.redis._limits import RedisLimits
from tokenflight.stores.redis._names import KeyNames
from tokenflight.stores.redis._scripts import ACQUIRE, EXTEND, RELEASE, Script
from tokenflight.stores.redis._session import Command, Session
from tokenflight.tokens import TokenKey


class RedisLease(TimedLease):
    """A lease on `key`, under the name that `names` has for it in Redis."""

    __slots__ = ("_late_releases", "_limits", "_names", "_session")

    def __init__(
        self,
        key: TokenKey,
        duration: float,
        session: Callable[[], Session],
        names: KeyNames,
        *,
        late_releases: LateReleases,
        limits: RedisLimits,
    ) -> None:
        super().__init__(key, duration)
        self._session = session  # called each time: the store may be closed and opened again while the lease is held
        self._names = names.lease(key), names.holders(key)
        self._late_releases = late_releases
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
        with self._session().notified_of_release(self._names[0]) as released:
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
            granted, milliseconds = await self._run(ACQUIRE)
        except asyncio.CancelledError:
            await self._start_release().wait_briefly()  # the server may have given us the lease
            raise
        except StoreError:
            self._start_release()  # for the same reason; not waited for, because it will hardly fare better
            raise
        seconds = milliseconds / 1000 if milliseconds >= 0 else None
        if not granted:
            poll = self._limits.poll_seconds
            return poll if seconds is None else min(seconds + 0.001, poll)
        self.acquired(asked_at, self._extend_once, unreleased_for=seconds)
        return None

    async def _extend_once(self) -> bool:
        return bool(await self._run(EXTEND))

    async def _run(self, script: Script) -> Any:
        remembered = _milliseconds(REMEMBERED_SECONDS + self.duration)
        return await self._session().run(script, self._names, self.owner, _milliseconds(self.duration), remembered)

    def _start_release(self) -> Command[None]:
        session = self._session()
        return session.start(self._release(session))

    async def _release(self, session: Session) -> None:
        """Give the lease back; if the server refuses or can't be reached, go on trying in the background."""
        try:
            await session.send(RELEASE, self._names, self.owner, session.channel)
        except StoreError:
            self._late_releases.begin(self, self._release_late)
            raise

    async def _release_late(self) -> None:
        session = self._session()
        await session.run(RELEASE, self._names, self.owner, session.channel)


def _milliseconds(seconds: float) -> int:
    return round(seconds * 1000)
