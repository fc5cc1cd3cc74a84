"""One hop to a thread for each operation of a file store.

`aiofiles.os.wrap` makes a coroutine function of a blocking one: the coroutine submits the work to an executor and
awaits its future. Two things have to hold when the caller of an operation is cancelled:

- An operation that still waits in the queue of the executor never happens.
- An operation that a thread has begun happens whole, and the caller waits briefly for its end.

Only the executor's own future tells the two apart, and `wrap` keeps it to itself. So each operation passes itself to
`wrap` as its executor: it submits the work to the store's threads and keeps the future.
"""

import asyncio
import os
import threading
from collections.abc import Callable
from concurrent.futures import Executor, Future, ThreadPoolExecutor
from functools import cache
from typing import Any, Generic, ParamSpec, TypeVar

from tokenflight.stores._cancellation import wait_briefly
from tokenflight.stores.file._limits import FileLimits

P = ParamSpec("P")
R = TypeVar("R")
T = TypeVar("T")


class Operation(Executor, Generic[T]):
    """Work for one of the store's threads, awaited once by `result`."""

    future: Future[T]
    """Set as soon as `result` is awaited. It is cancelled if the work was cancelled before a thread had begun it."""

    def __init__(self, threads: "Threads", work: Callable[..., T], *args: object) -> None:
        self._threads = threads
        self._work = work
        self._args = args

    async def result(self) -> T:
        """What the work returns. If this is cancelled, work that waits in the queue never happens."""
        result: T = await _wrapped_call()(self._work, *self._args, executor=self)
        return result

    def submit(self, fn: Callable[P, R], /, *args: P.args, **kwargs: P.kwargs) -> Future[R]:
        """Submit the work to the store's threads; `wrap` calls this."""
        future = self._threads.submit(fn, *args, **kwargs)
        self.future = future  # type: ignore[assignment] # only `result` calls this, with work that returns a T
        return future


class Threads:
    """The threads of one store. The first operation starts them, also in a forked child and after `close`."""

    def __init__(self, limits: FileLimits) -> None:
        self._limits = limits
        self._pool: ThreadPoolExecutor | None = None
        self._process = 0
        # Guards both attributes: event loops in several threads may share the store. A submission holds it too, so
        # that no other event loop closes the pool between the two steps.
        self._guard = threading.Lock()

    async def run(self, work: Callable[..., T], *args: object) -> T:
        """What `work` returns in one of the threads. Cancelled, `work` has not happened, or happens whole."""
        operation = Operation(self, work, *args)
        try:
            return await operation.result()
        except asyncio.CancelledError:
            # Left alone, work that a thread has begun could undo what the caller does next.
            if not operation.future.cancel():
                await wait_briefly(asyncio.wrap_future(operation.future), self._limits.cancellation_seconds)
            raise

    def submit(self, work: Callable[P, R], *args: P.args, **kwargs: P.kwargs) -> Future[R]:
        """Queue `work` for the threads."""
        with self._guard:
            pool = self._pool
            if pool is None or self._process != os.getpid():  # a forked child inherits the pool but not its threads
                pool = self._pool = ThreadPoolExecutor(
                    self._limits.max_threads, thread_name_prefix="tokenflight-file-store"
                )
                self._process = os.getpid()
            return pool.submit(work, *args, **kwargs)

    def close(self) -> None:
        """Let the threads end as soon as they have done what is in their queue."""
        with self._guard:
            if self._pool is not None:
                self._pool.shutdown(wait=False)
                self._pool = None


@cache
def _wrapped_call() -> Callable[..., Any]:
    """`_call` as a coroutine function. Imported here: importing aiofiles takes a tenth of the time that we take."""
    from aiofiles.os import wrap  # noqa: PLC0415 - takes time to import, for programs that use no files

    return wrap(_call)


def _call(work: Callable[..., T], *args: object) -> T:
    return work(*args)
