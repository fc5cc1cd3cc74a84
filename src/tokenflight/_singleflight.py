"""One in-flight future per key: many callers, one piece of work, one shared result or failure."""

import asyncio
from collections.abc import Callable, Coroutine, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from tokenflight.errors import TokenflightError

T = TypeVar("T")

_enclosing: ContextVar[tuple["Flight[Any]", ...]] = ContextVar("tokenflight_enclosing", default=())
"""The flights that the running code is part of."""


class Flight(Generic[T]):
    """Work under way.

    `for_everybody` says that what it fetches is needed by whoever comes while it lasts. `overtaken` is set when
    something may have happened that its result does not know of, `void` when that is certain, and its result wanted by
    nobody.
    """

    __slots__ = ("_outcome", "_waiters", "for_everybody", "key", "overtaken", "void")

    def __init__(self, key: str, *, for_everybody: bool = False) -> None:
        self.key = key
        self.for_everybody = for_everybody
        self.overtaken = False
        self.void = False
        self._outcome: T | _Failure | None = None
        self._waiters: list[asyncio.Future[None]] = []

    async def result(self) -> T:
        """Wait for the flight. Cancelling the waiter never cancels the flight.

        A failure is raised for each waiter as an exception of its own, so that no traceback grows with their number.
        """
        if self._outcome is None:
            # A future of the waiter's own: cancelled, it takes neither the flight nor another waiter with it.
            waiter = asyncio.get_running_loop().create_future()
            self._waiters.append(waiter)
            await waiter
        outcome = self._outcome
        assert outcome is not None, "land sets the outcome before it wakes anybody"  # noqa: S101 - for type checkers
        if isinstance(outcome, _Failure):
            raise own_copy(outcome.error)
        return outcome

    async def run(self, work: "Callable[[Flight[T]], Coroutine[Any, Any, T]]") -> "T | _Failure":
        """Do the `work`, in a task of the flight's own; return its result, or its failure as a value."""
        _enclosing.set((*_enclosing.get(), self))  # the task has a context of its own
        try:
            return await work(self)
        except TokenflightError as exc:
            return _Failure(exc)
        except Exception as exc:  # noqa: BLE001 - whatever it is, every waiter has to hear of it
            unexpected = TokenflightError(f"unexpected {type(exc).__name__}; see the cause", code="unexpected")
            unexpected.__cause__ = exc
            return _Failure(unexpected)

    def land(self, outcome: "T | _Failure") -> None:
        """Give `outcome` to all who wait and all who come later."""
        self._outcome = outcome
        for waiter in self._waiters:
            if not waiter.done():
                waiter.set_result(None)
        self._waiters.clear()


class Flights(Generic[T]):
    """At most one flight per key that is not void. A flight is a task of its own: its first caller is not special."""

    def __init__(self) -> None:
        self._by_key: dict[str, Flight[T]] = {}
        # An event loop alone does not keep its tasks alive.
        self._tasks: dict[asyncio.Task[T | _Failure], Flight[T]] = {}

    def get(self, key: str) -> Flight[T] | None:
        """The flight under way for `key`, if there is one."""
        return self._by_key.get(key)

    def start(
        self, key: str, work: Callable[[Flight[T]], Coroutine[Any, Any, T]], *, for_everybody: bool = False
    ) -> Flight[T]:
        """Start the flight of `key`; there must be none under way."""
        # The slot is taken before the task exists: an eager task factory runs the work inside create_task.
        flight = self._by_key[key] = Flight[T](key, for_everybody=for_everybody)
        try:
            task = asyncio.get_running_loop().create_task(flight.run(work), name=f"tokenflight {key}")
        except BaseException:
            del self._by_key[key]  # an app's own task factory may fail
            raise
        self._tasks[task] = flight

        def land(task: asyncio.Task[T | _Failure]) -> None:
            del self._tasks[task]
            if not flight.void:
                del self._by_key[key]
                flight.land(_cancelled() if task.cancelled() else task.result())

        # A callback, not a finally: a task cancelled before its first step never enters its own code.
        task.add_done_callback(land)
        return flight

    def overtake(self, key: str, *, instead: T | None = None) -> None:
        """Tell the flight of `key`, if there is one, that its result may be out of date.

        With a result `instead`, it is void: those who wait get that one now, and another flight may start while this
        one goes on to its end.
        """
        if (flight := self._by_key.get(key)) is not None:
            flight.overtaken = True
            if instead is not None:
                flight.void = True
                del self._by_key[key]
                flight.land(instead)

    def enclose_caller(self, key: str) -> bool:
        """Whether the running code is part of a flight of `key`, which would wait for itself."""
        return any(flight.key == key and flight in self._tasks.values() for flight in _enclosing.get())

    async def drain(self) -> None:
        """Wait until no flight is under way."""
        while self._tasks:
            await asyncio.wait(self._tasks)


@contextmanager
def outside_flights() -> Iterator[None]:
    """Run the body as part of no flight: what it starts may wait for the one that it is called from."""
    enclosing = _enclosing.set(())
    try:
        yield
    finally:
        _enclosing.reset(enclosing)


@dataclass(frozen=True, slots=True)
class _Failure:
    """A failure as a value: an exception that is raised only for waiters can't go unretrieved."""

    error: TokenflightError


def own_copy(error: TokenflightError) -> TokenflightError:
    """A copy of `error` to raise once: its cause is kept, its traceback and notes are its own."""
    kind = type(error)
    own = kind.__new__(kind, *error.args)  # not copy.copy, which calls an __init__ that may want other arguments
    own.__dict__.update(error.__dict__)
    if hasattr(error, "__notes__"):
        own.__notes__ = list(error.__notes__)
    own.__cause__ = error.__cause__
    own.__suppress_context__ = error.__suppress_context__
    return own


def _cancelled() -> _Failure:
    return _Failure(
        TokenflightError(
            "the work was cancelled from outside, as at the end of the event loop", code="flight_cancelled"
        )
    )
