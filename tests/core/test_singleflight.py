"""One flight per key: shared results, shared failures, and slots that are always cleared."""

import asyncio
import gc
import traceback
from collections.abc import AsyncIterator, Callable, Coroutine, Generator
from copy import copy
from typing import Any

import pytest

from tokenflight._singleflight import Flight, SingleFlight
from tokenflight.errors import ProviderUnavailable, TokenflightError, TokenRefreshError

TaskFactory = Callable[..., "asyncio.Task[Any]"]


def apps_own_task_factory(
    loop: asyncio.AbstractEventLoop, work: Coroutine[Any, Any, Any], **options: Any
) -> "asyncio.Task[Any]":
    return asyncio.Task(work, loop=loop, **options)


TASK_FACTORIES: dict[str, TaskFactory | None] = {
    "the loop's": None,
    "the app's own": apps_own_task_factory,
    "eager": getattr(asyncio, "eager_task_factory", None),  # Python 3.12
}
if TASK_FACTORIES["eager"] is None:
    del TASK_FACTORIES["eager"]


@pytest.fixture(autouse=True, params=TASK_FACTORIES.values(), ids=[*TASK_FACTORIES])
async def task_factory(request: pytest.FixtureRequest) -> AsyncIterator[None]:
    """Whatever makes the tasks of the app, a flight is a flight."""
    asyncio.get_running_loop().set_task_factory(request.param)
    yield
    asyncio.get_running_loop().set_task_factory(None)


class Work:
    """A piece of work that waits until it is let go, and counts how often it was begun."""

    def __init__(self, outcome: str | BaseException = "done") -> None:
        self.begun = 0
        self.ended = 0
        self.let_go = asyncio.Event()
        self._outcome = outcome

    async def __call__(self, _: Flight[str]) -> str:
        self.begun += 1
        await self.let_go.wait()
        self.ended += 1
        if isinstance(self._outcome, BaseException):
            raise self._outcome
        return self._outcome


async def join(
    flights: SingleFlight[str], work: Callable[[Flight[str]], Coroutine[Any, Any, str]], key: str = "k"
) -> str:
    """What every caller does: join the flight under way, or start one."""
    return await (flights.get(key) or flights.start(key, work)).result()


async def some_turns(turns: int = 5) -> None:
    for _ in range(turns):
        await asyncio.sleep(0)


async def failure_of(waiter: Coroutine[Any, Any, str]) -> TokenflightError:
    with pytest.raises(TokenflightError) as caught:
        await waiter
    return caught.value


def cancel_tasks_but(spared: "set[asyncio.Task[Any]]") -> None:
    """As at the end of `asyncio.run`."""
    for task in asyncio.all_tasks() - spared:
        task.cancel()


def depth(error: BaseException) -> int:
    return len(traceback.extract_tb(error.__traceback__))


# Sharing


async def test_s1_many_callers_share_one_piece_of_work() -> None:
    flights, work = SingleFlight[str](), Work()
    waiters = [asyncio.create_task(join(flights, work)) for _ in range(100)]
    await some_turns()
    work.let_go.set()

    assert await asyncio.gather(*waiters) == ["done"] * 100
    assert work.begun == 1


async def test_s1_each_key_has_a_flight_of_its_own() -> None:
    flights, one, other = SingleFlight[str](), Work("one"), Work("other")
    waiting = asyncio.gather(join(flights, one, "alice"), join(flights, other, "bob"))
    await some_turns()

    assert (one.begun, other.begun) == (1, 1)
    other.let_go.set()
    one.let_go.set()
    assert [*await waiting] == ["one", "other"]


async def test_callers_one_after_the_other_do_not_share() -> None:
    flights = SingleFlight[str]()
    begun: list[str] = []

    async def at_once(_: Flight[str]) -> str:
        begun.append("once more")
        return str(len(begun))

    assert [await join(flights, at_once), await join(flights, at_once)] == ["1", "2"]


async def test_work_may_look_at_its_own_flight() -> None:
    flights = SingleFlight[str]()

    async def look(flight: Flight[str]) -> str:
        assert flights.get("k") is flight
        return "seen"

    assert await join(flights, look) == "seen"


async def test_a_login_that_may_have_happened_marks_the_flight_under_way_and_only_that() -> None:
    flights, work = SingleFlight[str](), Work()
    flight = flights.start("alice", work)
    flights.mark_outdated("bob")
    before = flight.outdated
    flights.mark_outdated("alice")

    assert (before, flight.outdated) == (False, True)
    work.let_go.set()
    await flight.result()


# Cancelling


async def test_s3_cancelling_the_first_waiter_stops_neither_the_flight_nor_the_others() -> None:
    flights, work = SingleFlight[str](), Work()
    first, *others = [asyncio.create_task(join(flights, work)) for _ in range(100)]
    await some_turns()
    first.cancel()
    with pytest.raises(asyncio.CancelledError):
        await first
    work.let_go.set()

    assert await asyncio.gather(*others) == ["done"] * 99
    assert work.begun == 1


async def test_s3_cancelling_all_waiters_does_not_stop_the_flight() -> None:
    flights, work = SingleFlight[str](), Work()
    waiters = [asyncio.create_task(join(flights, work)) for _ in range(100)]
    await some_turns()
    for waiter in waiters:
        waiter.cancel()
    assert all(
        isinstance(end, asyncio.CancelledError) for end in await asyncio.gather(*waiters, return_exceptions=True)
    )

    flight = flights.get("k")
    assert flight is not None
    work.let_go.set()
    assert await flight.result() == "done"
    assert (work.begun, work.ended) == (1, 1)


async def test_s3_a_waiter_that_runs_out_of_time_does_not_stop_the_flight() -> None:
    flights, work = SingleFlight[str](), Work()
    flight = flights.start("k", work)
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0):
            await flight.result()
    work.let_go.set()

    assert await flight.result() == "done"


async def test_s6_a_flight_cancelled_from_outside_is_a_clear_error_for_every_waiter() -> None:
    flights, work = SingleFlight[str](), Work()
    waiters = [asyncio.create_task(failure_of(join(flights, work))) for _ in range(3)]
    await some_turns()
    [flight] = [task for task in asyncio.all_tasks() if task.get_name() == "tokenflight k"]
    flight.cancel()

    errors = await asyncio.gather(*waiters)
    assert [error.code for error in errors] == ["flight_cancelled"] * 3
    assert len({id(error) for error in errors}) == 3
    assert flights.get("k") is None


async def test_s3_a_waiter_cancelled_together_with_the_flight_is_cancelled() -> None:
    flights, work = SingleFlight[str](), Work()
    before = asyncio.all_tasks()
    waiter = asyncio.create_task(join(flights, work))
    await some_turns()
    cancel_tasks_but(before)

    with pytest.raises(asyncio.CancelledError):
        await waiter


# Failing


async def test_s4_a_failure_is_shared_by_all_waiters() -> None:
    flights, work = SingleFlight[str](), Work(ProviderUnavailable("down", code="server_error", retry_after=2.5))
    waiters = [asyncio.create_task(failure_of(join(flights, work))) for _ in range(100)]
    await some_turns()
    work.let_go.set()

    errors = await asyncio.gather(*waiters)
    assert work.begun == 1
    assert {(type(error), str(error), error.code) for error in errors} == {
        (ProviderUnavailable, "down", "server_error")
    }
    assert {vars(error)["retry_after"] for error in errors} == {2.5}


@pytest.mark.parametrize("number", [1, 100])
async def test_s12_no_traceback_grows_with_the_number_of_waiters(number: int) -> None:
    flights, work = SingleFlight[str](), Work(TokenRefreshError("down"))
    waiters = [asyncio.create_task(failure_of(join(flights, work))) for _ in range(number)]
    await some_turns()
    work.let_go.set()

    errors = await asyncio.gather(*waiters)
    assert len({id(error) for error in errors}) == number
    assert len({id(error.__traceback__) for error in errors}) == number
    assert {depth(error) for error in errors} == {3}  # failure_of, join, result


async def test_s12_each_waiters_error_keeps_the_one_cause() -> None:
    cause = ConnectionError("refused")
    error = TokenRefreshError("down")
    error.__cause__ = cause
    flights, work = SingleFlight[str](), Work(error)
    waiters = [asyncio.create_task(failure_of(join(flights, work))) for _ in range(3)]
    await some_turns()
    work.let_go.set()

    for own in await asyncio.gather(*waiters):
        assert own is not error
        assert own.__cause__ is cause
        assert own.__suppress_context__


async def test_s12_raising_one_waiters_error_again_leaves_the_others_alone() -> None:
    flights, work = SingleFlight[str](), Work(TokenRefreshError("down"))
    waiters = [asyncio.create_task(failure_of(join(flights, work))) for _ in range(2)]
    await some_turns()
    work.let_go.set()
    one, other = await asyncio.gather(*waiters)
    before = depth(other)

    with pytest.raises(TokenRefreshError):
        raise one
    one.add_note("seen by one caller")

    assert depth(other) == before
    assert not hasattr(other, "__notes__")


def test_s12_a_note_on_one_copy_is_not_seen_on_another() -> None:
    error = TokenRefreshError("down")
    error.add_note("from the provider")
    one, other = copy(error), copy(error)
    one.add_note("from one waiter")

    assert (other.__notes__, error.__notes__) == (["from the provider"], ["from the provider"])
    assert one.__notes__ == ["from the provider", "from one waiter"]


class VendorError(TokenRefreshError):
    """As somebody's own provider may raise it."""

    def __init__(self, status: int, body: str) -> None:
        super().__init__(f"the vendor said {status}", code="vendor", user_id="alice")
        self.body = body


async def test_s12_an_error_with_a_constructor_of_its_own_reaches_each_waiter() -> None:
    flights, work = SingleFlight[str](), Work(VendorError(418, "teapot"))
    waiters = [asyncio.create_task(failure_of(join(flights, work))) for _ in range(2)]
    await some_turns()
    work.let_go.set()

    for own in await asyncio.gather(*waiters):
        assert isinstance(own, VendorError)
        assert (str(own), own.code, own.user_id, own.body) == ("the vendor said 418", "vendor", "alice", "teapot")


async def test_s4_an_unexpected_exception_is_wrapped_and_shared() -> None:
    bug = ZeroDivisionError("with a secret in its words")
    flights, work = SingleFlight[str](), Work(bug)
    waiters = [asyncio.create_task(failure_of(join(flights, work))) for _ in range(3)]
    await some_turns()
    work.let_go.set()

    for error in await asyncio.gather(*waiters):
        assert error.code == "unexpected"
        assert error.__cause__ is bug
        assert str(error) == "unexpected ZeroDivisionError; see the cause"


async def test_a_failure_that_nobody_waits_for_is_not_reported_as_never_retrieved() -> None:
    complaints: list[object] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: complaints.append(context))
    flights, work = SingleFlight[str](), Work(TokenRefreshError("down"))
    flights.start("k", work)
    work.let_go.set()
    await flights.drain()
    gc.collect()

    assert work.ended == 1
    assert complaints == []


# Clearing the slot


@pytest.mark.parametrize("outcome", ["done", TokenRefreshError("down"), ZeroDivisionError("a bug")], ids=repr)
async def test_s6_the_slot_is_cleared_when_the_work_has_ended(outcome: str | Exception) -> None:
    flights, work = SingleFlight[str](), Work(outcome)
    waiter = asyncio.create_task(join(flights, work))
    await some_turns()
    assert flights.get("k") is not None
    work.let_go.set()
    await asyncio.gather(waiter, return_exceptions=True)

    assert flights.get("k") is None
    again = Work("again")
    again.let_go.set()
    assert await join(flights, again) == "again"


async def test_s6_the_slot_is_cleared_when_the_flight_is_cancelled_before_its_first_step() -> None:
    flights, work = SingleFlight[str](), Work()
    before = asyncio.all_tasks()
    flight = flights.start("k", work)
    cancel_tasks_but(before)

    assert (await failure_of(flight.result())).code == "flight_cancelled"
    assert flights.get("k") is None


async def test_s6_work_cancelled_before_its_first_step_leaves_no_coroutine_behind(
    recwarn: pytest.WarningsRecorder,
) -> None:
    flights, work = SingleFlight[str](), Work()
    before = asyncio.all_tasks()
    flights.start("k", work)
    cancel_tasks_but(before)
    await flights.drain()
    gc.collect()

    assert [str(warning.message) for warning in recwarn] == []


async def test_s6_a_task_factory_that_fails_leaves_the_slot_free() -> None:
    def fail(
        _: asyncio.AbstractEventLoop, work: Coroutine[Any, Any, Any] | Generator[Any, None, Any], **__: object
    ) -> "asyncio.Task[Any]":
        work.close()
        raise RuntimeError("no task today")

    loop, flights, work = asyncio.get_running_loop(), SingleFlight[str](), Work()
    factory = loop.get_task_factory()
    loop.set_task_factory(fail)
    try:
        with pytest.raises(RuntimeError, match="no task today"):
            flights.start("k", work)
    finally:
        loop.set_task_factory(factory)
    work.let_go.set()

    assert await asyncio.wait_for(join(flights, work), timeout=5) == "done"


# Draining


async def test_l3_draining_waits_for_every_flight_and_for_those_started_meanwhile() -> None:
    flights, first, second = SingleFlight[str](), Work(), Work(TokenRefreshError("down"))
    flights.start("alice", first)
    draining = asyncio.create_task(flights.drain())
    await some_turns()
    flights.start("bob", second)
    first.let_go.set()
    await some_turns()
    assert not draining.done()

    second.let_go.set()
    await draining
    assert (first.ended, second.ended) == (1, 1)
    assert flights.get("alice") is flights.get("bob") is None


async def test_l3_with_no_flight_under_way_draining_is_over_at_once() -> None:
    await asyncio.wait_for(SingleFlight[str]().drain(), timeout=1)


async def test_l3_giving_up_on_draining_does_not_stop_the_flights() -> None:
    flights, work = SingleFlight[str](), Work()
    flight = flights.start("k", work)
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0):
            await flights.drain()
    work.let_go.set()

    assert await flight.result() == "done"


async def test_no_key_means_no_flight() -> None:
    assert SingleFlight[str]().get("nobody") is None
