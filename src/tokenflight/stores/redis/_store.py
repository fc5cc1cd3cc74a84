"""A store in Redis: shared by processes on any number of hosts."""

import asyncio
import logging
import threading
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, aclosing, asynccontextmanager, suppress
from functools import lru_cache
from typing import Any, Final
from urllib.parse import quote, unquote

from redis.asyncio import Redis, RedisCluster

from tokenflight._checks import checked_seconds, require_kind, require_text
from tokenflight._log import log
from tokenflight.errors import ConfigurationError, StoreError
from tokenflight.stores import _failures
from tokenflight.stores._cancellation import wait_briefly
from tokenflight.stores._timed_lease import TimedLease, lease_clock
from tokenflight.stores.base import Lease, StoredTokens, TokenStore, Version
from tokenflight.stores.codec import JSONCodec, RecordCodec
from tokenflight.stores.redis._session import POLL_SECONDS, Command, Script, Session, as_client, open_client
from tokenflight.tokens import TokenKey

MAX_MILLISECONDS: Final = 100 * 365 * 86_400_000
"""Redis takes no more than fit its clock."""

# For a cluster, whose client may send a plain read to a replica, which lags behind.
LOAD: Final = Script("return redis.pcall('hmget', KEYS[1], 'version', 'record')")

# `saved` is the version with which the record was last saved or created. A save that is sent again must not undo the
# renewal that followed it.
SAVE: Final = Script("""
local version, record, lifetime = ARGV[1], ARGV[2], tonumber(ARGV[3])
if redis.pcall('hget', KEYS[1], 'saved') == version then return end
redis.call('del', KEYS[1])
redis.call('hset', KEYS[1], 'version', version, 'saved', version, 'record', record)
if lifetime > 0 then redis.call('pexpire', KEYS[1], lifetime) end
""")

CREATE: Final = Script("""
local version, record, lifetime = ARGV[1], ARGV[2], tonumber(ARGV[3])
if redis.pcall('hget', KEYS[1], 'saved') == version then return 1 end
if redis.call('exists', KEYS[1]) == 1 then return 0 end
redis.call('hset', KEYS[1], 'version', version, 'saved', version, 'record', record)
if lifetime > 0 then redis.call('pexpire', KEYS[1], lifetime) end
return 1
""")

REPLACE: Final = Script("""
local version, record, lifetime, expected = ARGV[1], ARGV[2], tonumber(ARGV[3]), ARGV[4]
local current = redis.pcall('hget', KEYS[1], 'version')
if current == version then return 1 end
if current ~= expected then return 0 end
redis.call('hset', KEYS[1], 'version', version, 'record', record)
if lifetime > 0 then redis.call('pexpire', KEYS[1], lifetime) else redis.call('persist', KEYS[1]) end
return 1
""")

# No reply: the lease is given. A number: it is another's for as many milliseconds, or for ever if negative.
ACQUIRE: Final = Script("""
local owner, duration = ARGV[1], ARGV[2]
if redis.call('set', KEYS[1], owner, 'nx', 'px', duration) then return end
if redis.pcall('get', KEYS[1]) == owner then return end
return redis.call('pttl', KEYS[1])
""")

EXTEND: Final = Script("""
local owner, duration = ARGV[1], ARGV[2]
if redis.pcall('get', KEYS[1]) ~= owner then return 0 end
return redis.call('pexpire', KEYS[1], duration)
""")

# Publishing may be forbidden to us: then those who wait find out by asking.
RELEASE: Final = Script("""
local owner, channel = ARGV[1], ARGV[2]
if redis.pcall('get', KEYS[1]) ~= owner then return end
redis.call('del', KEYS[1])
redis.pcall('publish', channel, KEYS[1])
""")


class RedisTokenStore(TokenStore):
    """One hash a user, and one key for the lease on it, on a Redis server or cluster.

    `client` is a client of redis-py, which stays the caller's and serves one event loop, or a URL (``redis://``,
    ``rediss://``, ``unix://``), for which each event loop that uses the store gets a client of its own.
    `lease_duration` is how many seconds the lease of a dead holder keeps others waiting; it has to be longer than any
    pause of a living one. `record_lifetime` is after how many seconds without a write a record vanishes; None: never.
    Names are percent-encoded, `prefix` too.

    A write is as durable as the server's persistence makes it when it replies (``appendonly yes``, and
    ``appendfsync always`` for surviving a power cut); replicas are not waited for, so that a failover can lose the
    last writes and leases.
    """

    def __init__(
        self,
        client: Redis | RedisCluster | str,
        *,
        prefix: str = "tokenflight",
        lease_duration: float = 60.0,
        codec: RecordCodec = JSONCodec(),  # noqa: B008 - it has no state
        record_lifetime: float | None = None,
    ) -> None:
        require_kind("client", client, Redis | RedisCluster | str)
        require_text("prefix", prefix)
        if isinstance(client, str):
            open_client(client)  # without connecting: a wrong URL is found now
        self._client = client
        self._prefix = quote(prefix, safe=":/", errors="surrogatepass")
        self._lease_duration = _checked_duration("lease_duration", lease_duration)
        self._codec = codec
        self._record_lifetime = (
            0.0 if record_lifetime is None else _checked_duration("record_lifetime", record_lifetime)
        )
        self._eviction_checked = False
        self._sessions: dict[asyncio.AbstractEventLoop, Session] = {}
        self._guard = threading.Lock()  # guards the sessions, as event loops in several threads may share the store

    def __repr__(self) -> str:
        return f"<RedisTokenStore {self._prefix!r}>"  # not the URL: it may hold a password

    async def load(self, key: TokenKey) -> StoredTokens | None:
        """See `TokenStore.load`."""
        session, name = self._session(), self._record_name(key)
        reply: list[bytes | None]
        if isinstance(self._client, RedisCluster):
            reply = await session.run(LOAD, name)
        else:
            reply = await session.call("HMGET", name, "version", "record")
        await self._check_eviction()
        version, data = reply
        if version is None and data is None:
            return None
        record = None if data is None else self._codec.decode(key, data)
        if record is None or version != record.version.encode():
            raise _failures.foreign_version(key)
        return record

    async def save(self, key: TokenKey, record: StoredTokens) -> None:
        """See `TokenStore.save`."""
        await self._write(SAVE, key, record)

    async def replace(self, key: TokenKey, record: StoredTokens, *, expected: Version | None) -> None:
        """See `TokenStore.replace`."""
        if expected is None:
            written = await self._write(CREATE, key, record)
        else:
            written = await self._write(REPLACE, key, record, expected)
        if not written:
            raise _failures.conflict(key, expected)

    async def delete(self, key: TokenKey) -> bool:
        """See `TokenStore.delete`. Where the reply is lost and the command sent again, it says that there was none."""
        deleted = await self._session().call("DEL", self._record_name(key))
        await self._check_eviction()
        return bool(deleted)

    def lease(self, key: TokenKey, *, timeout: float) -> AbstractAsyncContextManager[Lease]:
        """See `TokenStore.lease`. It lapses when the holder dies, or can't reach Redis, for `lease_duration`."""
        return self._lease(key, timeout)

    async def keys(self, provider: str | None = None) -> AsyncIterator[TokenKey]:
        """See `TokenStore.keys`. Goes through the whole database; a key may come twice while that grows or shrinks."""
        providers = "*" if provider is None else _quoted(provider)
        async with aclosing(self._session().scan(f"{self._prefix}:{{{providers}:*}}:tokens")) as names:
            async for name in names:
                if (key := self._key_of(name)) is not None:
                    yield key

    async def aclose(self) -> None:
        """Close the store's own client of the running event loop, once what is under way has ended."""
        with self._guard:
            session = self._sessions.pop(asyncio.get_running_loop(), None)
        if session is not None:
            await session.aclose()

    @asynccontextmanager
    async def _lease(self, key: TokenKey, timeout: float) -> AsyncIterator[Lease]:
        lease = _RedisLease(key, self._lease_duration, self._session, self._name(key, "lease"))
        if not await lease.acquire(timeout):
            raise _failures.lease_timeout(key, timeout)
        try:
            await self._check_eviction()
            yield lease
        except BaseException:
            with suppress(StoreError):  # what went wrong first is what counts
                await lease.release()
            raise
        await lease.release()

    async def _write(self, script: Script, key: TokenKey, record: StoredTokens, *arguments: str) -> object:
        data = self._codec.encode(key, record)
        lifetime = _milliseconds(self._record_lifetime)
        reply = await self._session().run(script, self._record_name(key), record.version, data, lifetime, *arguments)
        await self._check_eviction()
        return reply

    def _session(self) -> Session:
        """What the store has open on the running event loop."""
        loop = asyncio.get_running_loop()
        with self._guard:
            if (session := self._sessions.get(loop)) is not None:
                return session
            for ended in [each for each in self._sessions if each.is_closed()]:
                del self._sessions[ended]
            if isinstance(self._client, str):
                client = open_client(self._client)
            elif not self._sessions:
                client = as_client(self._client)
            else:
                raise _failures.wrong_event_loop("client")
            owned = isinstance(self._client, str)
            session = self._sessions[loop] = Session(client, f"{self._prefix}:released", owned=owned)
            return session

    async def _check_eviction(self) -> None:
        """Warn if Redis may drop keys to free memory. Asks once, after a reply: no outage is waited for twice."""
        if self._eviction_checked:
            return
        self._eviction_checked = True
        policy = await self._session().eviction_policy()
        if policy is None or policy == "noeviction":
            return
        if policy.startswith("volatile-") and not self._record_lifetime:
            lost = "a lease, and with it the right of one process alone to renew a user's tokens"
        else:
            lost = "a user's tokens, who then has to log in again, or the lease on them"
        advice = "Redis has the maxmemory-policy %s: short of memory, it may drop %s. Set it to noeviction."
        log(logging.WARNING, advice, policy, lost)

    def _record_name(self, key: TokenKey) -> str:
        return self._name(key, "tokens")

    def _name(self, key: TokenKey, kind: str) -> str:
        # What is in braces decides on the slot in a cluster: a record and its lease are on one node.
        return f"{self._prefix}:{{{_quoted(key.provider)}:{_quoted(key.user_id)}}}:{kind}"

    def _key_of(self, name: str) -> TokenKey | None:
        """The key whose record has this name; None if it is no name of ours."""
        provider, _, user_id = name.removeprefix(f"{self._prefix}:{{").removesuffix("}:tokens").partition(":")
        try:
            key = TokenKey(*(unquote(part, errors="surrogatepass") for part in (provider, user_id)))
            return key if self._record_name(key) == name else None
        except UnicodeError:
            return None


class _RedisLease(TimedLease):
    """A lease that is taken, extended and given back by scripts."""

    __slots__ = ("_name", "_session")

    def __init__(self, key: TokenKey, duration: float, session: Callable[[], Session], name: str) -> None:
        super().__init__(key, duration)
        self._session = session  # asked for each time: the store may have been closed meanwhile, and open again
        self._name = name

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
                released.clear()  # before asking, so that a release meanwhile is not missed
                retry_in = await self._try_to_acquire()
        return retry_in is None

    async def release(self) -> None:
        """Give the lease back if it is still ours. Cancelled, it goes on."""
        self.released()
        await self._start_release().result()

    async def _try_to_acquire(self) -> float | None:
        """Take the lease if it is free; otherwise say in how many seconds to try again."""
        asked_at = lease_clock()
        try:
            left = await self._session().run(ACQUIRE, self._name, self.owner, _milliseconds(self.duration))
        except asyncio.CancelledError:
            await wait_briefly(self._start_release().task)  # it may have been given
            raise
        except StoreError:
            self._start_release()  # not waited for: it will hardly work better
            raise
        if left is not None:
            return min(left / 1000 + 0.001, POLL_SECONDS) if left >= 0 else POLL_SECONDS
        self.acquired(asked_at, self._extend_once)
        return None

    async def _extend_once(self) -> bool:
        return bool(await self._session().run(EXTEND, self._name, self.owner, _milliseconds(self.duration)))

    def _start_release(self) -> Command[Any]:
        session = self._session()
        return session.start(RELEASE, self._name, self.owner, session.channel)


@lru_cache(maxsize=1024)  # one renewal asks four times
def _quoted(text: str) -> str:
    return quote(text, safe="@+", errors="surrogatepass")


def _milliseconds(seconds: float) -> int:
    return round(seconds * 1000)


def _checked_duration(name: str, value: float) -> float:
    if not 1 <= _milliseconds(checked_seconds(name, value)) <= MAX_MILLISECONDS:
        raise ConfigurationError(f"{name} must be a positive number of seconds, up to a century, not {value!r:.40}")
    return value
