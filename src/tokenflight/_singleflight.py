"""One in-flight future per key: many callers, one piece of work, one shared result or failure."""

import asyncio
from collections.abc import Callable, Coroutine, Iterator
from contextlib import contextmanager
from contextvars import ContextVar, copy_context
from copy import copy
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from tokenflight._tasks import drained, lasting_task
from tokenflight.errors import TokenflightError

T = TypeVar("T")

_enclosing: ContextVar[tuple["Flight[Any]", ...]] = ContextVar("tokenflight_enclosing", default=())
"""The flights that the running code is part of."""


class Flight(Generic[T]):
    """Work under way.

    `serves_all` says that its result answers every caller that arrives before it ends. `outdated` is set when
    something may have happened that the result does not reflect. `detached` is set when that is certain: the waiters
    have been released with another result, and the work's own result is discarded. While `must_finish` is set, the end
    of the event loop does not cut the work off; `is_ending` tells the work that this end has come.
    """

    __slots__ = (
        "_outcome",
        "_waiters",
        "detached",
        "is_ending",
        "key",
        "must_finish",
        "outdated",
        "serves_all",
        "started",
    )

    def __init__(self, key: str, *, serves_all: bool = False) -> None:
        self.key = key
        self.serves_all = serves_all
        self.started = asyncio.get_running_loop().time()
        self.outdated = False
        self.detached = False
        self.must_finish = False
        self.is_ending = False
        self._outcome: T | _Failure | None = None
        self._waiters: dict[asyncio.Future[None], None] = {}  # in the order in which they came

    async def result(self) -> T:
        """Wait for the flight. Cancelling the waiter never cancels the flight.

        A failure is raised for each waiter as an exception of its own, so that no traceback grows with their number.
        """
        if self._outcome is None:
            # A future for each waiter: cancelling one cancels neither the flight nor another waiter.
            waiter = asyncio.get_running_loop().create_future()
            self._waiters[waiter] = None
            try:
                await waiter
            except asyncio.CancelledError:
                self._waiters.pop(waiter, None)  # or a flight that hangs would keep what its callers held
                raise
        outcome = self._outcome
        assert outcome is not None, "land sets the outcome before it wakes a waiter"  # noqa: S101 - for type checkers
        if isinstance(outcome, _Failure):
            raise copy(outcome.error)
        return outcome

    async def run(
        self, work: "Callable[[Flight[T]], Coroutine[Any, Any, T]]", enclosing: "tuple[Flight[Any], ...]"
    ) -> "T | _Failure":
        """Do the `work`, in a task of the flight's own; return its result, or its failure as a value.

        `enclosing` are the flights that the code which starts this one is part of.
        """
        _enclosing.set((*enclosing, self))  # the task has a context of its own
        try:
            return await work(self)
        except TokenflightError as exc:
            return _Failure(exc)
        except Exception as exc:  # noqa: BLE001 - every waiter has to get any error
            return _unexpected(exc)

    def outlasts(self) -> bool:
        """Note that the event loop is ending; say whether the work goes on to its own end."""
        self.is_ending = True
        return self.must_finish

    def land(self, outcome: "T | _Failure") -> None:
        """Give `outcome` to all waiters, now and later."""
        self._outcome = outcome
        for waiter in self._waiters:
            if not waiter.done():
                waiter.set_result(None)
        self._waiters.clear()


class SingleFlight(Generic[T]):
    """At most one flight per key that is not detached. A flight is a task: its first caller is not special.

    So it does not run in the context of that caller either, whose context variables may hold a whole request, but in
    the one in which this object was made.
    """

    def __init__(self) -> None:
        self._context = copy_context()
        self._by_key: dict[str, Flight[T]] = {}
        # An event loop alone does not keep its tasks alive. Detached flights are here too, until they end.
        self._tasks: dict[asyncio.Task[T | _Failure], Flight[T]] = {}

    def get(self, key: str) -> Flight[T] | None:
        """The flight under way for `key`, if there is one."""
        return self._by_key.get(key)

    def start(
        self, key: str, work: Callable[[Flight[T]], Coroutine[Any, Any, T]], *, serves_all: bool = False
    ) -> Flight[T]:
        """Start the flight of `key`; there must be none under way."""
        # The slot is taken before the task exists: an eager task factory runs the work inside create_task.
        flight = self._by_key[key] = Flight[T](key, serves_all=serves_all)
        try:
            # The task copies the context that it is created in. A task factory of an app may know no other way.
            task = self._context.run(
                lasting_task, flight.run(work, _enclosing.get()), name=f"tokenflight {key}", outlasts=flight.outlasts
            )
        except BaseException:
            del self._by_key[key]  # an app's own task factory may fail
            raise
        self._tasks[task] = flight

        def land(task: asyncio.Task[T | _Failure]) -> None:
            del self._tasks[task]
            outcome = _outcome_of(task)  # also of a detached flight: asyncio logs an exception that is never retrieved
            if not flight.detached:
                del self._by_key[key]
                flight.land(outcome)

        # A callback, not a finally: a task cancelled before its first step never enters its own code.
        task.add_done_callback(land, context=self._context)
        return flight

    def mark_outdated(self, key: str) -> None:
        """Tell the flight of `key`, if there is one, that its result may be out of date."""
        if (flight := self._by_key.get(key)) is not None:
            flight.outdated = True

    def detach(self, key: str, outcome: T) -> None:
        """Release the waiters of the flight of `key`, if there is one, with `outcome`.

        The flight goes on to its end, and another one may start beside it.
        """
        # The slot is free before the waiters wake: they may start another flight.
        if (flight := self._by_key.pop(key, None)) is not None:
            flight.outdated = flight.detached = True
            flight.land(outcome)

    def is_reentrant(self, key: str) -> bool:
        """Whether the running code is part of a flight of `key`, which would wait for itself."""
        enclosing = _enclosing.get()  # empty for nearly all callers, which skip the generator
        return bool(enclosing) and any(flight.key == key and flight in self._tasks.values() for flight in enclosing)

    async def drain(self) -> None:
        """Wait until no flight is under way."""
        await drained(self._tasks)


@contextmanager
def detached_context() -> Iterator[None]:
    """Run the body as part of no flight: what it starts may wait for the flight that it is called from."""
    enclosing = _enclosing.set(())
    try:
        yield
    finally:
        _enclosing.reset(enclosing)


@dataclass(frozen=True, slots=True)
class _Failure:
    """A failure as a value: asyncio would log a task's exception that no waiter retrieves."""

    error: TokenflightError


def _outcome_of(task: "asyncio.Task[T | _Failure]") -> "T | _Failure":
    """What the waiters get of a task that has ended, whatever it ended with."""
    if task.cancelled():
        return _cancelled()
    if (error := task.exception()) is None:
        return task.result()
    # No `Exception`, such as SystemExit: the waiters get an error of their own, and the loop's handler gets this one.
    task.get_loop().call_exception_handler(
        {"message": f"{task.get_name()} ended with {type(error).__name__}", "exception": error, "task": task}
    )
    return _unexpected(error)


def _unexpected(exc: BaseException) -> _Failure:
    unexpected = TokenflightError(f"unexpected {type(exc).__name__}; see the cause", code="unexpected")
    unexpected.__cause__ = exc
    return _Failure(unexpected)


def _cancelled() -> _Failure:
    return _Failure(
        TokenflightError(
            "the work was cancelled from outside, as at the end of the event loop", code="flight_cancelled"
        )
    )
