"""An event loop whose clock jumps: hours of waiting pass at once, in the order in which they would have passed."""

import asyncio
import selectors
from collections.abc import Callable, Coroutine
from typing import Any, TypeVar

import time_machine

T = TypeVar("T")


class _JumpingSelector(selectors.SelectSelector):
    """Where a selector would wait for time to pass, it lets `clock` jump; nothing else is ever waited for."""

    def __init__(self, clock: time_machine.Traveller) -> None:
        super().__init__()
        self.elapsed = 0.0
        self._clock = clock

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        ready = super().select(0)
        if not ready:
            assert timeout is not None, "everybody waits, and for nothing that could happen: a deadlock"
            self.elapsed += max(timeout, 0)
            self._clock.shift(max(timeout, 0))
        return ready


class VirtualTimeLoop(asyncio.SelectorEventLoop):
    """On it waiting takes no time: when all wait, it and `clock` jump to the next timer."""

    def __init__(self, clock: time_machine.Traveller) -> None:
        self._jumping = _JumpingSelector(clock)
        super().__init__(self._jumping)

    def time(self) -> float:
        return self._jumping.elapsed


def run_in_virtual_time(clock: time_machine.Traveller, main: Callable[[], Coroutine[Any, Any, T]]) -> T:
    """Run `main` on a loop of its own whose timers move `clock`. For code that uses neither threads nor sockets."""
    with asyncio.Runner(loop_factory=lambda: VirtualTimeLoop(clock)) as runner:
        return runner.run(main())


def seconds() -> float:
    """How many seconds have passed on the running loop."""
    return asyncio.get_running_loop().time()
