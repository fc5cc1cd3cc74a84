"""Tasks that belong to nobody who could cancel them, and the wait for their end."""

import asyncio
from collections.abc import Callable, Collection, Coroutine
from typing import Any, TypeVar

T = TypeVar("T")


class _LastingTask(asyncio.Task[T]):
    """A task that the end of its event loop does not cut off.

    `asyncio.run` cancels all tasks when the program ends, by Ctrl-C too, and then waits for them. A task that must not
    stop in the middle, because a provider has spent a refresh token for it, goes on to its end in that time.
    """

    outlasts: Callable[[], bool]

    def cancel(self, msg: Any | None = None) -> bool:
        """Cancel the task, unless the event loop is ending and the task goes on to its own end."""
        # A time limit cancels the task as well, but from within the running loop.
        if not self.get_loop().is_running() and self.outlasts():
            return False
        return super().cancel(msg)


def lasting_task(work: Coroutine[Any, Any, T], *, name: str, outlasts: Callable[[], bool]) -> asyncio.Task[T]:
    """A task that does `work`, and that the end of the event loop does not cancel if `outlasts` then says so.

    An app's own task factory makes the task as it likes: then nothing keeps it from being cancelled.
    """
    loop = asyncio.get_running_loop()
    if loop.get_task_factory() is not None:
        return loop.create_task(work, name=name)
    task = _LastingTask(work, loop=loop, name=name)
    task.outlasts = outlasts
    return task


async def drained(tasks: Collection[asyncio.Task[Any]]) -> None:
    """Wait until all of `tasks` have ended, those that join meanwhile too, except on an event loop that was closed.

    Such a loop takes no step any more: its tasks would be waited for without end.
    """
    while alive := [task for task in tasks if not task.get_loop().is_closed()]:
        await asyncio.wait(alive)
