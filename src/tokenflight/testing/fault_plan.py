"""The faults and gates that a test has set, in order, and the choice of those that strike an operation."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Generic, TypeVar

from tokenflight.errors import ConfigurationError
from tokenflight.testing.gates import Gate

FaultT = TypeVar("FaultT")
ThingT = TypeVar("ThingT")


@dataclass(frozen=True, slots=True)
class Selector:
    """Selects the operations of a fault or a gate: all of one name, or those of one user.

    The name is an endpoint of a provider or a method of a store. `after` selects the moment once the operation has
    happened, instead of the moment before.
    """

    name: str
    user_id: str | None = None
    after: bool = False

    def matches(self, name: str, user_id: str | None, *, after: bool) -> bool:
        """Whether this selects the operation `name` for `user_id` (None where unknown) before or `after` it happens."""
        return name == self.name and self.user_id in {None, user_id} and self.after == after


@dataclass(eq=False, slots=True)
class _Planned(Generic[ThingT]):
    """A fault or a gate, and the number of operations that it will still strike: None means all."""

    thing: ThingT
    selector: Selector
    times: int | None


class FaultPlan(Generic[FaultT]):
    """All faults and gates that are set. False when there are none."""

    def __init__(self) -> None:
        self._faults: list[_Planned[FaultT]] = []
        self._gates: list[_Planned[Gate]] = []

    def __bool__(self) -> bool:
        return bool(self._faults or self._gates)

    def add_fault(self, fault: FaultT, selector: Selector, *, times: int | None) -> None:
        """Let `fault` happen to the next `times` operations that `selector` matches, or to all if None."""
        _check_times(times)
        self._faults.append(_Planned(fault, selector, times))

    def clear_faults(self) -> None:
        """Drop all faults. The gates stay."""
        self._faults.clear()

    def add_gate(self, selector: Selector, *, times: int | None = None) -> Gate:
        """Return a new gate for the next `times` operations that `selector` matches, or for all if None."""
        _check_times(times)
        gate = Gate()
        self._gates.append(_Planned(gate, selector, times))
        return gate

    def faults_of(self, name: str, user_id: str | None, *, after: bool = False) -> Iterator[FaultT]:
        """Yield the faults that strike one operation. A fault counts as used only when its turn comes."""
        for planned in tuple(self._faults):
            # An earlier fault may have suspended this operation: since then this one may be cleared or used up.
            if planned in self._faults and planned.selector.matches(name, user_id, after=after):
                _use_up(planned, self._faults)
                yield planned.thing

    async def wait_at_gates(self, name: str, user_id: str | None, *, after: bool) -> None:
        """Wait, on behalf of one operation, until all its gates are open."""
        self._gates = [placed for placed in self._gates if not placed.thing.is_open]
        for placed in tuple(self._gates):
            if placed in self._gates and placed.selector.matches(name, user_id, after=after):
                _use_up(placed, self._gates)
                await placed.thing.wait_until_open()


def _use_up(planned: _Planned[ThingT], plan: list[_Planned[ThingT]]) -> None:
    if planned.times is not None:
        planned.times -= 1
        if not planned.times:
            plan.remove(planned)


def _check_times(times: int | None) -> None:
    if times is not None and times < 1:
        raise ConfigurationError(f"times must be at least 1, or None, not {times}")
