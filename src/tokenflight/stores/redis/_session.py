"""What a Redis store has open on one event loop. Together with the store, all that knows redis-py."""

import asyncio
import hashlib
from collections.abc import AsyncGenerator, AsyncIterator, Coroutine, Iterator
from contextlib import contextmanager
from typing import Any, Final, Generic, Protocol, TypeVar, cast

from redis import exceptions
from redis.asyncio import BlockingConnectionPool, Redis, RedisCluster
from redis.asyncio.client import PubSub
from redis.asyncio.retry import Retry
from redis.backoff import ExponentialWithJitterBackoff

from tokenflight.errors import ConfigurationError, StoreCorrupted, StoreError, StoreUnavailable
from tokenflight.stores._cancellation import shielded_result, wait_briefly

T = TypeVar("T")

POLL_SECONDS: Final = 1.0
"""How often one who waits for a lease asks for it without having heard that it was released."""

COMMAND_TIMEOUT_SECONDS: Final = 8.0
"""Shorter than a refresher waits for its store; a client of the app's may have none of its own."""

SEARCH_TIMEOUT_SECONDS: Final = 60.0
"""For the next of all keys: between two of ours there may be millions of other programs'."""

MAX_CONNECTIONS: Final = 32
SOCKET_TIMEOUT_SECONDS: Final = 5.0
MAX_RESENDS: Final = 3
KEYS_PER_SCAN: Final = 1000

_CONNECTION_ERRORS: Final = (exceptions.ConnectionError, exceptions.TimeoutError, OSError)
_REDIS_ERRORS: Final = (exceptions.RedisError, exceptions.RedisClusterException, OSError)


class Script:
    """A Lua script, which the server runs as one step, on the one key it is given.

    redis-py sends a command again when the connection broke before the reply: each script does the same when it is
    run twice.
    """

    def __init__(self, text: str) -> None:
        self.text = text
        self.sha: str = hashlib.sha1(text.encode(), usedforsecurity=False).hexdigest()


class _Client(Protocol):
    """The part of redis-py's clients that is used here; their own types are looser, and say nothing of the options."""

    async def execute_command(self, *command: str | bytes | int, NEVER_DECODE: bool) -> Any: ...  # noqa: N803 - redis-py names it so
    async def info(self, section: str) -> dict[str, Any]: ...
    async def aclose(self) -> None: ...
    def scan_iter(self, *, match: str, count: int) -> AsyncIterator[str | bytes]: ...
    def pubsub(self) -> PubSub: ...


def as_client(client: Redis | RedisCluster) -> _Client:
    """`client`, with the types it has here."""
    return cast(_Client, cast(object, client))


def open_client(url: str) -> _Client:
    """A client that has not connected yet. The URL's own options win over those set here."""
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
    if pool is None:  # not raised from there: the error may quote a password
        raise ConfigurationError("client is no URL of a Redis server, such as redis://localhost:6379/0")
    return as_client(Redis.from_pool(pool))


class Command(Generic[T]):
    """A command, or a few, in a task of its own: it goes on when who waits for it is cancelled.

    Waiting for a future that the task sets is what costs least: `asyncio.shield` takes twice as long.
    """

    __slots__ = ("_result", "_work", "deadline", "task")

    def __init__(self, work: Coroutine[Any, Any, T]) -> None:
        loop = asyncio.get_running_loop()
        self.deadline = loop.time() + COMMAND_TIMEOUT_SECONDS
        self._work = work
        self._result: asyncio.Future[T] = loop.create_future()
        self.task = loop.create_task(self._run())

    async def result(self) -> T:
        """Its reply. Cancelled, this waits for a moment for the command to end."""
        try:
            return await self._result
        except asyncio.CancelledError:
            await wait_briefly(self.task)
            raise

    async def _run(self) -> None:
        error: Exception
        try:
            reply = await self._work
        except asyncio.CancelledError:
            error = StoreUnavailable(_no_reply(COMMAND_TIMEOUT_SECONDS), code="timeout")
        except Exception as exc:  # noqa: BLE001 - it is who waits that has to know
            error = exc
        else:
            if not self._result.done():
                self._result.set_result(reply)
            return
        if not self._result.done():
            self._result.set_exception(error)
            self._result.exception()  # where nobody waits any more, it is not asyncio's to log

    def close(self) -> None:
        """Let nobody wait where the task was cancelled before its first step."""
        if not self._result.done():
            self._result.cancel()
            self._work.close()


class Session:
    """A client on its one event loop, what is under way there, and who waits for a lease there."""

    def __init__(self, client: _Client, channel: str, *, owned: bool) -> None:
        self.channel = channel
        self._client = client
        self._owned = owned
        # An event loop alone does not keep its tasks alive. The command begun first comes first.
        self._commands: dict[asyncio.Task[None], Command[Any]] = {}
        self._listeners: set[asyncio.Task[None]] = set()
        self._timer: asyncio.TimerHandle | None = None
        self._waiting: dict[str, set[asyncio.Event]] = {}
        self._listening: asyncio.Task[None] | None = None
        self._closing: asyncio.Task[None] | None = None

    async def run(self, script: Script, name: str, *arguments: str | bytes | int) -> Any:
        """The reply to `script` on the key `name`, in one round trip, or two where the server did not know it.

        Cancelled or not, it is over when this ends: left to itself, it could undo what the caller does next.
        """
        return await self._run_to_end(self._run(script, name, *arguments))

    async def call(self, *command: str | bytes | int) -> Any:
        """The reply to `command`, as `run` gives it."""
        return await self._run_to_end(self._call(*command))

    def start(self, script: Script, name: str, *arguments: str | bytes | int) -> Command[Any]:
        """Run `script` whether somebody waits for it or not."""
        return self._start(self._run(script, name, *arguments))

    async def scan(self, pattern: str) -> AsyncGenerator[str, None]:
        """The names of all keys that match `pattern`."""
        names = aiter(self._client.scan_iter(match=pattern, count=KEYS_PER_SCAN))
        while True:
            timeout = asyncio.timeout(SEARCH_TIMEOUT_SECONDS)
            try:
                async with timeout:
                    name = await anext(names)
            except StopAsyncIteration:
                return
            except UnicodeDecodeError:
                raise StoreError(
                    "a key of another program's has a name that is no text, where this store's records should be; "
                    "give the store a client that does not decode responses"
                ) from None
            except _REDIS_ERRORS as exc:
                if timeout.expired():
                    raise StoreUnavailable(_no_reply(SEARCH_TIMEOUT_SECONDS), code="timeout") from None
                raise _error_for(exc) from exc
            yield _text(name)

    async def eviction_policy(self) -> str | None:
        """What the server does when it is out of memory, or None if it does not tell or has no limit."""
        try:
            memory = await self._run_to_end(self._client.info("memory"))
        except (*_REDIS_ERRORS, StoreError):
            return None
        return str(memory["maxmemory_policy"]) if memory.get("maxmemory") and "maxmemory_policy" in memory else None

    @contextmanager
    def notified_of_release(self, name: str) -> Iterator[asyncio.Event]:
        """Set the event whenever the lease `name` may be free.

        All who wait share one connection, on a channel that tells of all leases: a blocking command each would take
        as many connections, and a channel each a round trip more.
        """
        released = asyncio.Event()
        self._waiting.setdefault(name, set()).add(released)
        if self._listening is None or self._listening.done():
            self._listening = asyncio.get_running_loop().create_task(self._listen())
            self._listeners.add(self._listening)
            self._listening.add_done_callback(self._listeners.discard)
        else:
            released.set()  # what came between being refused and listening was for nobody: ask once more
        try:
            yield released
        finally:
            self._waiting[name].discard(released)
            if not self._waiting[name]:
                del self._waiting[name]
            if not self._waiting:
                self._stop_listening()

    async def aclose(self) -> None:
        """Wait for what is under way, and close the client if it is the store's own."""
        # A task, so that who gives up waiting for it does not leave the connections open.
        self._closing = asyncio.get_running_loop().create_task(self._close())
        await shielded_result(self._closing)

    async def _close(self) -> None:
        self._stop_listening()
        if tasks := [*self._listeners, *self._commands]:
            await asyncio.wait(tasks)
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if self._owned:
            await self._client.aclose()

    async def _run(self, script: Script, name: str, *arguments: str | bytes | int) -> Any:
        try:
            return await self._call("EVALSHA", script.sha, 1, name, *arguments)
        except exceptions.NoScriptError:
            pass
        return await self._call("EVAL", script.text, 1, name, *arguments)

    async def _call(self, *command: str | bytes | int) -> Any:
        try:
            # Bytes, whatever the client does otherwise.
            return await self._client.execute_command(*command, NEVER_DECODE=True)
        except exceptions.NoScriptError:
            raise
        except _REDIS_ERRORS as exc:
            error = _error_for(exc)
        # Outside the except block, so that it is no context either: some errors of Redis quote the command.
        raise error

    async def _run_to_end(self, work: Coroutine[Any, Any, T]) -> T:
        command = self._start(work)
        try:
            return await command.result()
        finally:
            command.task.cancel()  # where it hangs, it is not sent again

    def _start(self, work: Coroutine[Any, Any, T]) -> Command[T]:
        command = Command(work)
        self._commands[command.task] = command
        command.task.add_done_callback(self._forget)
        if self._timer is None:
            self._set_timer(command.deadline)
        return command

    def _forget(self, task: asyncio.Task[None]) -> None:
        self._commands.pop(task).close()

    def _set_timer(self, moment: float) -> None:
        # One timer for all commands, of which hardly one takes so long: one each would cost a third of the task.
        self._timer = asyncio.get_running_loop().call_at(moment, self._time_out)

    def _time_out(self) -> None:
        """End the commands whose time is over."""
        self._timer = None
        now = asyncio.get_running_loop().time()
        for task, command in self._commands.items():
            if command.deadline > now:
                self._set_timer(command.deadline)
                return
            task.cancel()

    async def _listen(self) -> None:
        if not hasattr(self._client, "pubsub"):  # a cluster's, before redis-py 8: those who wait ask without being told
            return
        while self._waiting:  # until then, not for ever: in Python 3.11, redis-py can overlook that it was cancelled
            try:
                async with self._client.pubsub() as pubsub:
                    await pubsub.subscribe(self.channel)
                    while self._waiting:
                        self._wake(await pubsub.get_message(timeout=POLL_SECONDS))
            except _REDIS_ERRORS:
                await asyncio.sleep(POLL_SECONDS)  # those who wait ask without being told

    def _wake(self, message: dict[str, Any] | None) -> None:
        if message is None:
            return
        # Subscribed, perhaps again: any lease may have been released before.
        names = [_text(message["data"])] if message["type"] == "message" else list(self._waiting)
        for name in names:
            for released in self._waiting.get(name, ()):
                released.set()

    def _stop_listening(self) -> None:
        if self._listening is not None:
            self._listening.cancel()
            self._listening = None


def _error_for(exc: Exception) -> StoreError:
    """The one mapping of redis-py's exceptions. Some quote the command, and a command has tokens in it."""
    if isinstance(exc, exceptions.ResponseError):
        words = str(exc).partition(", with args")[0]
        if words.startswith("WRONGTYPE"):
            return StoreCorrupted("there is a key of another program's with the name of a record; it was left as it is")
        return StoreUnavailable(f"Redis refused: {words:.200}")
    if isinstance(exc, _CONNECTION_ERRORS):
        error = StoreUnavailable(f"Redis can't be reached: {exc}")
        error.__cause__ = exc
        return error
    return StoreUnavailable(f"Redis failed ({type(exc).__name__})")


def _no_reply(seconds: float) -> str:
    return f"Redis did not reply within {seconds:.0f} s"


def _text(name: bytes | str) -> str:
    # A client given to the store may decode what it reads. Other programs' names may be any bytes.
    return name.decode(errors="replace") if isinstance(name, bytes) else name
