"""A store in Redis: shared by processes on any number of hosts."""

import asyncio
import logging
import threading
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import AbstractAsyncContextManager, aclosing, asynccontextmanager, suppress
from typing import Final

from redis.asyncio import Redis, RedisCluster

from tokenflight._checks import checked_seconds, require_kind, require_text
from tokenflight._log import log
from tokenflight.errors import ConfigurationError, StoreError
from tokenflight.stores import _failures
from tokenflight.stores._timed_lease import LateReleases
from tokenflight.stores.base import (
    LOGOUT_MARKER_SECONDS,
    Lease,
    LogoutMarker,
    StoredTokens,
    TokenStore,
    Version,
)
from tokenflight.stores.codec import JSONCodec, RecordCodec
from tokenflight.stores.redis._advice import advice_on
from tokenflight.stores.redis._client import as_client, open_client, serves_running_loop
from tokenflight.stores.redis._lease import RedisLease
from tokenflight.stores.redis._limits import RedisLimits
from tokenflight.stores.redis._names import KeyNames
from tokenflight.stores.redis._scripts import CREATE, DELETE, LOAD, LOOK, REPLACE, SAVE, Script
from tokenflight.stores.redis._session import Session
from tokenflight.tokens import TokenKey, TokenSet

MIN_DURATION_SECONDS: Final = 0.001
MAX_DURATION_SECONDS: Final = 100 * 365 * 86_400
"""Redis counts in milliseconds, and takes no more of them than fit its clock."""

LATEST_PACKET_SECONDS: Final = 1200.0
"""For how long a packet may be late: longer than TCP sends it again before it gives up."""


class RedisTokenStore(TokenStore):
    """One hash a user, and keys beside it for the lease and for what a logout leaves, on a Redis server or cluster.

    `client` is a client of redis-py, which stays the caller's and serves one event loop, or a URL (``redis://``,
    ``rediss://``, ``unix://``), for which each event loop that uses the store gets a client of its own.
    `lease_duration` is how many seconds the lease of a dead holder keeps others waiting. A living one extends it; if it
    stands still for longer, it loses the lease. `record_lifetime` is after how many seconds without a write a record
    vanishes; None: never. Names are percent-encoded, `prefix` too.

    A write is as durable as the server's persistence makes it when it replies (``appendonly yes``, and
    ``appendfsync always`` for surviving a power cut). The store does not wait for replicas, so that a failover can
    lose the last writes and leases; set ``min-replicas-to-write 1``.
    """

    def __init__(
        self,
        client: Redis | RedisCluster | str,
        *,
        prefix: str = "tokenflight",
        lease_duration: float = 7.0,
        codec: RecordCodec = JSONCodec(),  # noqa: B008 - it has no state
        record_lifetime: float | None = None,
        _limits: RedisLimits = RedisLimits(),  # noqa: B008 - it is frozen
    ) -> None:
        require_kind("client", client, Redis | RedisCluster | str)
        require_text("prefix", prefix)
        if isinstance(client, str):
            open_client(client)  # it does not connect, but finds a wrong URL now
        self._client = client
        self._names = KeyNames(prefix)
        self._lease_duration = _checked_duration("lease_duration", lease_duration)
        self._codec = codec
        lifetime = 0.0 if record_lifetime is None else _checked_duration("record_lifetime", record_lifetime)
        self._lifetime_milliseconds = round(lifetime * 1000)
        self._limits = _limits
        self._server_checked = False
        self._late_releases = LateReleases()
        self._sessions: dict[asyncio.AbstractEventLoop, Session] = {}
        self._guard = threading.Lock()  # guards the sessions: event loops in several threads may share the store

    def __repr__(self) -> str:
        return f"<RedisTokenStore {self._names.prefix!r}>"  # not the URL: it may hold a password

    async def load(self, key: TokenKey) -> StoredTokens | None:
        """See `TokenStore.load`."""
        session, name = self._session(), self._names.record(key)
        reply: list[bytes | None]
        if isinstance(self._client, RedisCluster):
            reply = await session.run(LOAD, (name,))
        else:
            reply = await session.call("HMGET", name, "version", "record")
        await self._check_server()
        version, data = reply
        if version is None and data is None:
            return None
        record = None if data is None else self._codec.decode(key, data)
        if record is None or version != record.version.encode():
            raise _failures.foreign_version(key)
        return record

    async def save(self, key: TokenKey, record: StoredTokens) -> None:
        """See `TokenStore.save`. It takes two round trips, as a deletion does."""
        data, session = self._codec.encode(key, record), self._session()
        await session.run_to_end(self._save(session, key, record.version, data))
        await self._check_server()

    async def replace(self, key: TokenKey, record: StoredTokens, *, expected: Version | None) -> None:
        """See `TokenStore.replace`."""
        if expected is None:
            await self._create(key, record)
            return
        names = self._names.record(key), self._names.holders(key)
        if not await self._write(REPLACE, names, key, record, expected):
            raise _failures.conflict(key, expected)

    async def delete(self, key: TokenKey) -> bool:
        """See `TokenStore.delete`."""
        session = self._session()
        existed = await session.run_to_end(self._delete(session, key))
        await self._check_server()
        return existed

    def lease(self, key: TokenKey, *, timeout: float) -> AbstractAsyncContextManager[Lease]:
        """See `TokenStore.lease`. It lapses when the holder dies, or can't reach Redis, for `lease_duration`."""
        return self._lease(key, timeout)

    async def keys(self, provider: str | None = None) -> AsyncIterator[TokenKey]:
        """See `TokenStore.keys`. Goes through the whole database; a key may come twice while that grows or shrinks."""
        async with aclosing(self._session().scan(self._names.pattern(provider))) as names:
            async for name in names:
                if (key := self._names.key_of(name)) is not None:
                    yield key

    async def aclose(self) -> None:
        """Close the store's own client of the running event loop, once its commands under way have ended."""
        async with self._late_releases.ended():  # first: they would open the client again
            with self._guard:
                session = self._sessions.pop(asyncio.get_running_loop(), None)
            if session is not None:
                await session.aclose()

    @asynccontextmanager
    async def _lease(self, key: TokenKey, timeout: float) -> AsyncIterator[Lease]:
        lease = RedisLease(
            key,
            self._lease_duration,
            self._session,
            self._names,
            late_releases=self._late_releases,
            limits=self._limits,
        )
        if not await lease.acquire(timeout):
            raise _failures.lease_timeout(key, timeout)
        try:
            await self._check_server()
            yield lease
        except BaseException:
            with suppress(StoreError):  # the error in the body is the one to report
                await lease.release()
            raise
        await lease.release()

    async def _save(self, session: Session, key: TokenKey, version: Version, data: bytes) -> None:
        names = self._names.of_record(key)
        ticket, _, _ = await session.send(LOOK, names[:2])
        if not await session.send(SAVE, names, version, data, self._lifetime_milliseconds, ticket):
            raise _failures.overtaken(key)

    async def _delete(self, session: Session, key: TokenKey) -> bool:
        names = self._names.of_record(key)
        while True:
            ticket, version, data = await session.send(LOOK, names[:2])
            marker = LogoutMarker.of(self._tokens_in(key, data), time.time())
            arguments = (
                *(ticket, version or b"", _milliseconds(LOGOUT_MARKER_SECONDS)),
                *(marker.digest or "", repr(marker.ended_at), _milliseconds(LATEST_PACKET_SECONDS)),
            )
            existed = await session.send(DELETE, names, *arguments)
            if existed >= 0:
                return bool(existed)
            # Another process has written the record since: the marker has to tell of that one.

    async def _create(self, key: TokenKey, record: StoredTokens) -> None:
        names, seen = self._names.of_record(key), b""
        while isinstance(reply := await self._write(CREATE, names, key, record, seen), list):
            seen, digest, ended_at = reply
            if LogoutMarker(float(ended_at), (digest or b"").decode() or None).ends(record.tokens):
                raise _failures.logged_out(key)
        if not reply:
            raise _failures.conflict(key, None)

    def _tokens_in(self, key: TokenKey, data: bytes | None) -> TokenSet | None:
        """The token set in `data`; None where there is none, or where it can't be read, which stops no logout."""
        with suppress(StoreError):
            return None if data is None else self._codec.decode(key, data).tokens
        return None

    async def _write(
        self, script: Script, names: Sequence[str], key: TokenKey, record: StoredTokens, *arguments: str | bytes
    ) -> object:
        data, session = self._codec.encode(key, record), self._session()
        reply = await session.run(script, names, record.version, data, self._lifetime_milliseconds, *arguments)
        await self._check_server()
        return reply

    def _session(self) -> Session:
        """What the store has open on the running event loop."""
        loop = asyncio.get_running_loop()
        with self._guard:
            if (session := self._sessions.get(loop)) is not None:
                return session
            # Event loops that ended without aclose have left their sessions behind.
            for ended in [each for each in self._sessions if each.is_closed()]:
                del self._sessions[ended]
            if isinstance(self._client, str):
                client = open_client(self._client)
            elif not self._sessions and serves_running_loop(self._client):
                client = as_client(self._client)
            else:
                raise _failures.wrong_event_loop("client")
            session = self._sessions[loop] = Session(
                client, self._names.channel, owned=isinstance(self._client, str), limits=self._limits
            )
            return session

    async def _check_server(self) -> None:
        """Warn once if Redis may lose records or leases: short of memory, or in a failover.

        Called after a reply: asked first, a server that is down would be waited for twice.
        """
        if self._server_checked:
            return
        self._server_checked = True  # before the await, so that concurrent calls do not ask and warn too
        server = await self._session().server_info()
        for advice in advice_on(server, records_expire=self._lifetime_milliseconds > 0):
            log(logging.WARNING, advice)


def _milliseconds(seconds: float) -> int:
    return round(seconds * 1000)


def _checked_duration(name: str, value: float) -> float:
    if not MIN_DURATION_SECONDS <= checked_seconds(name, value) <= MAX_DURATION_SECONDS:
        raise ConfigurationError(f"{name} must be a positive number of seconds, up to a century, not {value!r:.40}")
    return value
