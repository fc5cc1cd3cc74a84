"""redis-py as the store sees it: how a client is opened, what is used of it, and what its errors mean."""

import asyncio
from collections.abc import AsyncIterator, Iterator
from typing import Any, Final, Protocol, cast

from redis import exceptions
from redis.asyncio import BlockingConnectionPool, Redis, RedisCluster
from redis.asyncio.client import PubSub
from redis.asyncio.retry import Retry
from redis.backoff import ExponentialWithJitterBackoff

from tokenflight.errors import ConfigurationError, StoreCorrupted, StoreError, StoreUnavailable

MAX_CONNECTIONS: Final = 32
SOCKET_TIMEOUT_SECONDS: Final = 5.0
MAX_RESENDS: Final = 3

REDIS_ERRORS: Final = (exceptions.RedisError, exceptions.RedisClusterException, OSError)
_CONNECTION_ERRORS: Final = (exceptions.ConnectionError, exceptions.TimeoutError, OSError)


class Client(Protocol):
    """The part of redis-py's clients that is used here. Their own types are looser and leave the options out."""

    async def execute_command(self, *command: str | bytes | int, NEVER_DECODE: bool) -> Any: ...  # noqa: N803 - redis-py names it so
    async def info(self, section: str) -> dict[str, Any]: ...
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


def _loops_of(client: Redis | RedisCluster) -> Iterator[object]:
    """The event loop of each open connection of `client`. redis-py and asyncio keep them in private attributes."""
    connections: list[Any] = []
    if isinstance(client, RedisCluster):
        for node in client.get_nodes():
            connections += getattr(node, "_connections", ())
    else:
        for state in ("_available_connections", "_in_use_connections"):
            connections += getattr(client.connection_pool, state, ())
    for connection in connections:
        if (reader := getattr(connection, "_reader", None)) is not None:
            yield getattr(reader, "_loop", None)


def error_for(exc: Exception) -> StoreError:
    """The one mapping of redis-py's exceptions. Some quote the command, and commands hold tokens."""
    if isinstance(exc, exceptions.ResponseError):
        reason = str(exc).partition(", with args")[0]
        if reason.startswith("WRONGTYPE"):
            return StoreCorrupted("there is a key of another program's with the name of a record; it was left as it is")
        return StoreUnavailable(f"Redis refused: {reason:.200}")
    if isinstance(exc, _CONNECTION_ERRORS):
        error = StoreUnavailable(f"Redis can't be reached: {exc}")
        error.__cause__ = exc
        return error
    return StoreUnavailable(f"Redis failed ({type(exc).__name__})")


def no_reply(seconds: float) -> StoreUnavailable:
    """The server took longer than `seconds`."""
    return StoreUnavailable(f"Redis did not reply within {seconds:.0f} s", code="timeout")


def decoded(name: bytes | str) -> str:
    """The name of a key or a channel as text: bytes, unless the app's client decodes what it reads.

    Keys of other programs may have any bytes for a name.
    """
    return name.decode(errors="replace") if isinstance(name, bytes) else name
