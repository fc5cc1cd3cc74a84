"""One in-flight future per key: many callers, one piece of work, one shared result or failure."""

import asyncio
import copy
from collections.abc import Callable, Coroutine
from dataclasses import dataclass, field
from typing import Any, Generic, TypeVar

from tokenflight.errors import TokenflightError

T = TypeVar("T")


@dataclass(eq=False, slots=True)
class Flight(Generic[T]):
    """Work under way. `overtaken` is set when something happened that its result does not know of."""

    overtaken: bool = False
    _task: "asyncio.Task[T | _Failure]" = field(init=False, repr=False)

    async def result(self) -> T:
        """Wait for the flight. Cancelling the waiter never cancels the flight.

        A failure is raised for each waiter as an exception of its own, so that no traceback grows with their number.
        """
        try:
            # The shield is what keeps a cancelled waiter from taking the flight, and all other waiters, with it.
            outcome = await asyncio.shield(self._task)
        except asyncio.CancelledError:
            waiter = asyncio.current_task()
            if self._task.cancelled() and waiter is not None and not waiter.cancelling():
                raise TokenflightError(
                    "the work was cancelled from outside, as at the end of the event loop; ask again",
                    code="flight_cancelled",
                ) from None
            raise
        if isinstance(outcome, _Failure):
            raise outcome.for_waiter()
        return outcome


class Flights(Generic[T]):
    """At most one flight per key. A flight is a task of its own: its first caller is not special."""

    def __init__(self) -> None:
        self._by_key: dict[str, Flight[T]] = {}

    def get(self, key: str) -> Flight[T] | None:
        """The flight under way for `key`, if there is one."""
        return self._by_key.get(key)

    def start(self, key: str, work: Callable[[Flight[T]], Coroutine[Any, Any, T]]) -> Flight[T]:
        """Start the flight of `key`; there must be none under way."""
        # The slot is taken before the task exists: an eager task factory runs the work inside create_task.
        flight = self._by_key[key] = Flight[T]()
        task = asyncio.get_running_loop().create_task(_sharing_failure(work(flight)), name=f"tokenflight {key}")
        flight._task = task  # noqa: SLF001 - Flight and Flights are one unit
        # A callback, not a finally: a task cancelled before its first step never enters its own code.
        task.add_done_callback(lambda _: self._by_key.pop(key))
        return flight

    def overtake(self, key: str) -> None:
        """Tell the flight of `key`, if there is one, that its result will be out of date."""
        if (flight := self._by_key.get(key)) is not None:
            flight.overtaken = True

    async def drain(self) -> None:
        """Wait until no flight is under way."""
        while self._by_key:
            await asyncio.wait([flight._task for flight in self._by_key.values()])  # noqa: SLF001 - one unit


@dataclass(frozen=True, slots=True)
class _Failure:
    """A failure as a value: an exception that is raised only for waiters can't go unretrieved."""

    error: TokenflightError

    def for_waiter(self) -> TokenflightError:
        return own_copy(self.error)


def own_copy(error: TokenflightError) -> TokenflightError:
    """A copy of `error` to raise once: its cause is kept, its traceback is its own."""
    own = copy.copy(error)
    own.__cause__ = error.__cause__
    own.__suppress_context__ = error.__suppress_context__
    return own


async def _sharing_failure(work: Coroutine[Any, Any, T]) -> "T | _Failure":
    try:
        return await work
    except TokenflightError as exc:
        return _Failure(exc)
    except Exception as exc:  # noqa: BLE001 - whatever it is, every waiter has to hear of it
        unexpected = TokenflightError(f"unexpected {type(exc).__name__}; see the cause", code="unexpected")
        unexpected.__cause__ = exc
        return _Failure(unexpected)
