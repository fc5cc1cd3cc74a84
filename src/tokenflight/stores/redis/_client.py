"""redis-py as the store sees it: how a client is opened, what is used of it, and what its errors mean."""

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import suppress
from typing import Any, Final, Protocol, cast

from redis import exceptions
from redis.asyncio import BlockingConnectionPool, Redis, RedisCluster
from redis.asyncio.client import PubSub
from redis.asyncio.retry import Retry
from redis.asyncio.sentinel import MasterNotFoundError
from redis.backoff import ExponentialWithJitterBackoff

from tokenflight.errors import ConfigurationError, StoreCorrupted, StoreError, StoreUnavailable

MAX_CONNECTIONS: Final = 32
SOCKET_TIMEOUT_SECONDS: Final = 5.0
MAX_RESENDS: Final = 3

REDIS_ERRORS: Final = (exceptions.RedisError, exceptions.RedisClusterException, OSError, AttributeError)
"""The last is what redis-py raises where one task closes a connection on which another one sends."""
_CONNECTION_ERRORS: Final = (exceptions.ConnectionError, exceptions.TimeoutError, OSError)


class Client(Protocol):
    """The part of redis-py's clients that is used here. Their own types are looser and leave the options out."""

    async def execute_command(self, *command: str | bytes | int, NEVER_DECODE: bool) -> Any: ...  # noqa: N803 - redis-py names it so
    async def info(self) -> dict[str, Any]: ...
    async def aclose(self) -> None: ...
    def scan_iter(self, *, match: str, count: int) -> AsyncIterator[str | bytes]: ...
    def pubsub(self) -> PubSub: ...


def as_client(client: Redis | RedisCluster) -> Client:
    """`client`, with the types it has here."""
    return cast(Client, cast(object, client))


def serves_running_loop(client: Redis | RedisCluster) -> bool:
    """Whether no connection of `client` is open on another event loop, closed or not.

    redis-py does not look: it sends the command, which the server obeys, and fails when it waits for the reply.
    """
    running = asyncio.get_running_loop()
    return all(loop is running for loop in _loops_of(client))


def open_client(url: str) -> Client:
    """A client that has not connected yet. Options in the URL win over those set here.

    Raises `ConfigurationError` if `url` is not one of a Redis server.
    """
    try:
        pool = BlockingConnectionPool.from_url(
            url,
            max_connections=MAX_CONNECTIONS,
            timeout=SOCKET_TIMEOUT_SECONDS,
            socket_timeout=SOCKET_TIMEOUT_SECONDS,
            socket_connect_timeout=SOCKET_TIMEOUT_SECONDS,
            retry=Retry(ExponentialWithJitterBackoff(cap=0.5, base=0.01), MAX_RESENDS),
        )
    except ValueError:
        pool = None
    if pool is None:  # not raised in the except block: redis-py's error may quote a password
        raise ConfigurationError("client is no URL of a Redis server, such as redis://localhost:6379/0")
    return as_client(Redis.from_pool(pool))


def refused_by_replica(exc: Exception) -> bool:
    """Whether the server did nothing because it is a replica, as a primary becomes one in a failover.

    Before Redis 7, the error of a command in a script is a part of the script's own. Connections that Sentinel told of
    have an error of their own.
    """
    if isinstance(exc, exceptions.ReadOnlyError | exceptions.MasterDownError):
        return True
    if isinstance(exc, exceptions.ConnectionError):
        return "previous master is now a slave" in str(exc)
    return isinstance(exc, exceptions.ResponseError) and "READONLY" in _reason(exc)


def refused_by_former_primary(exc: Exception) -> bool:
    """Whether the server did nothing because another may be the primary: it is a replica, or has lost its replicas."""
    return refused_by_replica(exc) or _has_lost_replicas(exc)


async def drop_connections(client: Client) -> None:
    """Close the connections that `client` keeps: the next one resolves the server's name, or asks Sentinel, again.

    The client of a cluster has several servers, and finds the new primary itself.
    """
    own, pool = getattr(client, "connection", None), getattr(client, "connection_pool", None)
    with suppress(*REDIS_ERRORS):
        if own is not None:  # the client was made with single_connection_client
            await own.disconnect()
        if pool is not None:
            # Those in use would come back to the pool. redis-py 7 closes them then. Before it, they can only be closed
            # now, and the client sends again what they were used for.
            can_mark = hasattr(pool, "update_active_connections_for_reconnect")
            if can_mark:
                await pool.update_active_connections_for_reconnect()
            await pool.disconnect(inuse_connections=not can_mark)


def error_for(exc: Exception) -> StoreError:
    """The one mapping of redis-py's exceptions. Some quote the command, and commands hold tokens."""
    if isinstance(exc, exceptions.ResponseError):
        return _error_for_refusal(exc)
    if isinstance(exc, MasterNotFoundError):
        # Not the rest, nor the error as the cause: from older versions of redis-py, it shows the password of Sentinel.
        return StoreUnavailable(f"Redis can't be reached: {str(exc).partition(' : ')[0]}")
    if isinstance(exc, _CONNECTION_ERRORS):
        error = StoreUnavailable(f"Redis can't be reached: {exc}")
        error.__cause__ = exc
        return error
    if isinstance(exc, AttributeError):
        return StoreUnavailable("Redis can't be reached: its client closed the connection while it was used")
    return StoreUnavailable(f"Redis failed ({type(exc).__name__})")


def _loops_of(client: Redis | RedisCluster) -> Iterator[object]:
    """The event loop of each open connection of `client`. redis-py and asyncio keep them in private attributes."""
    connections: list[Any] = []
    if isinstance(client, RedisCluster):
        for node in client.get_nodes():
            connections += getattr(node, "_connections", ())
    else:
        sentinel = getattr(client.connection_pool, "sentinel_manager", None)
        for each in (client, *getattr(sentinel, "sentinels", ())):
            connections += getattr(each.connection_pool, "_available_connections", ())
            connections += getattr(each.connection_pool, "_in_use_connections", ())
    for connection in connections:
        if (reader := getattr(connection, "_reader", None)) is not None:
            yield getattr(reader, "_loop", None)


def _error_for_refusal(exc: exceptions.ResponseError) -> StoreError:
    reason = _reason(exc)
    if reason.startswith("WRONGTYPE"):
        return StoreCorrupted("there is a key of another program's with the name of a record; it was left as it is")
    if refused_by_replica(exc):
        return StoreUnavailable(f"Redis refused: the server is a replica, not or no longer the primary ({reason:.200})")
    if isinstance(exc, exceptions.AskError):  # MovedError is one too
        return StoreUnavailable(
            "Redis refused: the server is a node of a cluster; give the store a RedisCluster client"
        )
    if _has_lost_replicas(exc):
        return StoreUnavailable(
            "Redis refused: the primary has lost touch with its replicas, and takes no writes with fewer of them than "
            "its min-replicas-to-write"
        )
    return StoreUnavailable(f"Redis refused: {reason:.200}")


def _has_lost_replicas(exc: Exception) -> bool:
    """Whether the server counts its replicas before a write, and has too few."""
    return isinstance(exc, exceptions.ResponseError) and "NOREPLICAS" in _reason(exc)


def _reason(exc: exceptions.ResponseError) -> str:
    """What the server said, without the command."""
    return str(exc).partition(", with args")[0]


def no_reply(seconds: float) -> StoreUnavailable:
    """The server took longer than `seconds`."""
    return StoreUnavailable(f"Redis did not reply within {seconds:.0f} s", code="timeout")


def decoded(name: bytes | str) -> str:
    """The name of a key or a channel as text: bytes, unless the app's client decodes what it reads.

    Keys of other programs may have any bytes for a name.
    """
    return name.decode(errors="replace") if isinstance(name, bytes) else name
