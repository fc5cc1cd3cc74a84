"""What a Redis store has open on one event loop: a client, the commands under way, and the waiters for leases.

A command runs in a task of its own, so that it ends although its caller is cancelled: a command that was sent and left
to itself could undo what the caller does next. One timer ends the commands that take too long.

All waiters for leases share one subscription to one channel, on which each release is published. A blocking command
for each waiter would need a connection for each, and a channel for each lease one more round trip.
"""

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Coroutine, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Final, Generic, TypeVar

from redis import exceptions

from tokenflight.errors import StoreError
from tokenflight.stores._cancellation import shielded_result, wait_briefly
from tokenflight.stores.redis._client import (
    REDIS_ERRORS,
    Client,
    decoded,
    drop_connections,
    error_for,
    no_reply,
    refused_by_former_primary,
)
from tokenflight.stores.redis._limits import RedisLimits
from tokenflight.stores.redis._scripts import Script

T = TypeVar("T")

KEYS_PER_SCAN: Final = 1000


class Command(Generic[T]):
    """A command, or a few, in a task of its own, which goes on when its caller is cancelled.

    The caller awaits a future that the task sets: `asyncio.shield` takes twice as long.
    """

    __slots__ = ("_limits", "_result", "_work", "deadline", "task")

    def __init__(self, work: Coroutine[Any, Any, T], limits: RedisLimits) -> None:
        loop = asyncio.get_running_loop()
        self.deadline = loop.time() + limits.command_timeout_seconds
        self._limits = limits
        self._work = work
        self._result: asyncio.Future[T] = loop.create_future()
        self.task = loop.create_task(self._run())

    async def result(self) -> T:
        """The reply. If this is cancelled, it waits briefly for the command to end."""
        try:
            return await self._result
        except asyncio.CancelledError:
            await self.wait_briefly()
            raise

    async def wait_briefly(self) -> None:
        """Wait for the command to end, but not for long: the server may hang."""
        await wait_briefly(self.task, self._limits.cancellation_seconds)

    def close(self) -> None:
        """Release the caller and the coroutine if the task was cancelled before its first step."""
        if not self._result.done():
            self._result.cancel()
            self._work.close()

    async def _run(self) -> None:
        error: Exception
        try:
            reply = await self._work
        except asyncio.CancelledError:
            error = no_reply(self._limits.command_timeout_seconds)
        except Exception as exc:  # noqa: BLE001 - it is passed on to the caller
            error = exc
        else:
            if not self._result.done():
                self._result.set_result(reply)
            return
        if not self._result.done():
            self._result.set_exception(error)
            self._result.exception()  # or asyncio would log it as never retrieved when the caller has left


class Session:
    """A client on its one event loop, with the commands and waiters there."""

    def __init__(self, client: Client, channel: str, *, owned: bool, limits: RedisLimits) -> None:
        self.channel = channel
        self._client = client
        self._owned = owned
        self._limits = limits
        # All in the order in which they began. asyncio itself holds tasks by weak references only.
        self._commands: dict[asyncio.Task[None], Command[Any]] = {}
        self._listeners: set[asyncio.Task[None]] = set()
        self._timer: asyncio.TimerHandle | None = None
        self._waiting: dict[str, set[asyncio.Event]] = {}
        self._listening: asyncio.Task[None] | None = None
        self._closing: asyncio.Task[None] | None = None
        self._drops = 0  # how often the connections were closed because one led to a former primary
        self._dropping = asyncio.Lock()  # lets all who were refused wait for one of them to close the connections

    async def run(self, script: Script, names: Sequence[str], *arguments: str | bytes | int) -> Any:
        """The reply to `script` on the keys `names`: one round trip, or two where the server does not know the script.

        Cancelled or not, the script has ended when this ends.
        """
        return await self.run_to_end(self.send(script, names, *arguments))

    async def call(self, *command: str | bytes | int) -> Any:
        """The reply to `command`, as `run` gives it."""
        return await self.run_to_end(self._call(*command))

    async def run_to_end(self, work: Coroutine[Any, Any, T]) -> T:
        """The result of `work`, a command or a few. Cancelled or not, it has ended when this ends."""
        command = self.start(work)
        try:
            return await command.result()
        finally:
            # A command that still hangs after a cancelled caller has waited briefly must not be sent again.
            command.task.cancel()

    def start(self, work: Coroutine[Any, Any, T]) -> Command[T]:
        """Do `work`, a command or a few, whether the caller waits for it or not."""
        command = Command(work, self._limits)
        self._commands[command.task] = command
        command.task.add_done_callback(self._forget)
        if self._timer is None:
            self._set_timer(command.deadline)
        return command

    async def send(self, script: Script, names: Sequence[str], *arguments: str | bytes | int) -> Any:
        """The reply to `script`, as `run` gives it; for what `run_to_end` and `start` are given."""
        try:
            return await self._call("EVALSHA", script.sha, len(names), *names, *arguments)
        except exceptions.NoScriptError:
            pass
        return await self._call("EVAL", script.text, len(names), *names, *arguments)

    async def scan(self, pattern: str) -> AsyncGenerator[str, None]:
        """The names of all keys that match `pattern`."""
        names = aiter(self._client.scan_iter(match=pattern, count=KEYS_PER_SCAN))
        while True:
            try:
                name = await self._next_of(names)
            except StopAsyncIteration:
                return
            yield decoded(name)

    async def server_info(self) -> dict[str, Any]:
        """What the server, or one of a cluster's, tells about itself; nothing if it must not or can't."""
        try:
            return await self.run_to_end(self._client.info())
        except (*REDIS_ERRORS, StoreError):
            return {}

    @contextmanager
    def notified_of_release(self, name: str) -> Iterator[asyncio.Event]:
        """Set the event whenever the lease `name` may be free."""
        released = asyncio.Event()
        self._waiting.setdefault(name, set()).add(released)
        if self._listening is None or self._listening.done():
            self._listening = asyncio.get_running_loop().create_task(self._listen())
            self._listeners.add(self._listening)
            self._listening.add_done_callback(self._listeners.discard)
        else:
            # The lease may have been released after it was refused to us and before we were entered above. A new
            # subscription wakes all waiters when it begins; this one began earlier.
            released.set()
        try:
            yield released
        finally:
            self._waiting[name].discard(released)
            if not self._waiting[name]:
                del self._waiting[name]
            if not self._waiting:  # the subscription occupies a connection
                self._stop_listening()

    async def aclose(self) -> None:
        """Wait for the commands under way, and close the client if it is the store's own."""
        # In a task: a caller that gives up waiting for this must not leave the connections open.
        self._closing = asyncio.get_running_loop().create_task(self._close())
        await shielded_result(self._closing, self._limits.cancellation_seconds)

    async def _close(self) -> None:
        self._stop_listening()
        if tasks := [*self._listeners, *self._commands]:
            await asyncio.wait(tasks)
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if self._owned:
            await self._client.aclose()  # last: the tasks above use its connections

    async def _call(self, *command: str | bytes | int, is_last_try: bool = False) -> Any:
        drops = self._drops
        try:
            # NEVER_DECODE: bytes also from an app's client that decodes what it reads.
            return await self._client.execute_command(*command, NEVER_DECODE=True)
        except exceptions.NoScriptError:
            raise
        except REDIS_ERRORS as exc:
            error = error_for(exc)
            was_closed = self._drops != drops and not isinstance(exc, exceptions.ResponseError)
            is_repeatable = refused_by_former_primary(exc) or was_closed
        # Outside the except block, so that redis-py's error, which may quote the command, does not become its context.
        if is_last_try or not is_repeatable:
            raise error
        await self._drop_connections(drops)
        return await self._call(*command, is_last_try=True)

    async def _next_of(self, names: AsyncIterator[str | bytes]) -> str | bytes:
        drops = self._drops
        timeout = asyncio.timeout(self._limits.search_timeout_seconds)
        try:
            async with timeout:
                return await anext(names)
        except UnicodeDecodeError:
            raise StoreError(
                "a key of another program's has a name that is no text, where this store's records should be; "
                "give the store a client that does not decode responses"
            ) from None
        except REDIS_ERRORS as exc:
            error = no_reply(self._limits.search_timeout_seconds) if timeout.expired() else error_for(exc)
            is_repeatable = refused_by_former_primary(exc)
        if is_repeatable:  # by the caller: the search has to begin anew
            await self._drop_connections(drops)
        raise error

    async def _drop_connections(self, drops: int) -> None:
        """Close the client's connections, which led to a former primary when they had been closed `drops` times."""
        async with self._dropping:
            if self._drops == drops:  # otherwise the connection of this command was closed with others since
                self._drops += 1  # before the await: commands that begin now get other connections
                await drop_connections(self._client)

    def _forget(self, task: asyncio.Task[None]) -> None:
        self._commands.pop(task).close()

    def _set_timer(self, moment: float) -> None:
        # One timer for all commands, hardly one of which takes so long. One for each would cost a third of its task.
        self._timer = asyncio.get_running_loop().call_at(moment, self._time_out)

    def _time_out(self) -> None:
        """End the commands whose time is over."""
        self._timer = None
        now = asyncio.get_running_loop().time()
        for task, command in self._commands.items():  # the oldest first
            if command.deadline > now:
                self._set_timer(command.deadline)
                return
            task.cancel()

    async def _listen(self) -> None:
        if not hasattr(self._client, "pubsub"):  # the client of a cluster before redis-py 8: waiters ask in turn
            return
        # Not for ever but while there are waiters: on Python 3.11, redis-py can swallow the cancellation of this task.
        while self._waiting:
            try:
                async with self._client.pubsub() as pubsub:
                    await pubsub.subscribe(self.channel)
                    while self._waiting:
                        self._wake(await pubsub.get_message(timeout=self._limits.poll_seconds))
            except REDIS_ERRORS:
                await asyncio.sleep(self._limits.poll_seconds)  # until then, waiters ask without being told

    def _wake(self, message: dict[str, Any] | None) -> None:
        if message is None:
            return
        # A message that confirms the subscription, perhaps after a lost connection, stands for all releases before it.
        names = [decoded(message["data"])] if message["type"] == "message" else list(self._waiting)
        for name in names:
            for released in self._waiting.get(name, ()):
                released.set()

    def _stop_listening(self) -> None:
        if self._listening is not None:
            self._listening.cancel()
            self._listening = None
