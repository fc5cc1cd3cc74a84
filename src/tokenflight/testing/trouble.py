"""The faults and gates that stand before a provider's endpoints, and which requests they are for."""

import asyncio
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import get_args

from tokenflight.errors import ConfigurationError
from tokenflight.testing.asgi import Request
from tokenflight.testing.faults import Delay, DropReply, DropRequest, Endpoint, Fault, WrongIssuer
from tokenflight.testing.gates import Gate
from tokenflight.testing.replies import Reply, canned_reply, with_issuer


@dataclass(frozen=True, slots=True)
class Target:
    """Which requests a fault or a gate is for: all at `endpoint`, or those of one user."""

    endpoint: Endpoint
    user_id: str | None = None

    def __post_init__(self) -> None:
        if self.endpoint not in get_args(Endpoint):
            raise ConfigurationError(f"endpoint must be one of {get_args(Endpoint)}, not {self.endpoint!r}")
        if self.endpoint == "discovery" and self.user_id is not None:
            raise ConfigurationError("discovery is not about a user: leave user_id out")

    def hits(self, request: Request) -> bool:
        """Whether `request` is one of them."""
        return request.endpoint == self.endpoint and self.user_id in {None, request.user_id}


@dataclass(eq=False, slots=True)
class _PlannedFault:
    target: Target
    fault: Fault
    times: int | None


@dataclass(eq=False, slots=True)
class _PlacedGate:
    target: Target
    gate: Gate
    after: bool


class Trouble:
    """All faults and gates of a provider, in the order in which they were set. False when there are none."""

    def __init__(self) -> None:
        self._faults: list[_PlannedFault] = []
        self._gates: list[_PlacedGate] = []

    def __bool__(self) -> bool:
        return bool(self._faults or self._gates)

    def plan(self, fault: Fault, target: Target, *, times: int | None) -> None:
        """Let `fault` happen to the next `times` requests, or to all if None."""
        if not isinstance(fault, Fault):
            raise ConfigurationError(f"fault must be a fault such as DropReply(), not {fault!r:.60}")
        if isinstance(fault, WrongIssuer) and target.endpoint != "discovery":
            raise ConfigurationError('WrongIssuer is a fault of discovery: say endpoint="discovery"')
        if times is not None and times < 1:
            raise ConfigurationError(f"times must be at least 1, or None, not {times}")
        self._faults.append(_PlannedFault(target, fault, times))

    def lift_faults(self) -> None:
        """Forget all faults."""
        self._faults.clear()

    def place_gate(self, target: Target, *, after: bool) -> Gate:
        """Return a new gate before acting, or `after` it."""
        gate = Gate()
        self._gates.append(_PlacedGate(target, gate, after))
        return gate

    async def outcome(self, request: Request, act: Callable[[Request], Reply]) -> Reply | None:
        """Return the reply, or None where the connection is closed without one.

        `act` is what the provider does with a request that it is allowed to see.
        """
        await self._pass_gates(request, after=False)
        reply = await self._act_under_faults(request, act)
        await self._pass_gates(request, after=True)
        return reply

    async def _pass_gates(self, request: Request, *, after: bool) -> None:
        self._gates = [placed for placed in self._gates if not placed.gate.is_open]
        for placed in self._gates:
            if placed.after == after and placed.target.hits(request):
                await placed.gate.passage()

    async def _act_under_faults(self, request: Request, act: Callable[[Request], Reply]) -> Reply | None:
        for fault in self._faults_of(request):
            match fault:
                case Delay():
                    await asyncio.sleep(fault.seconds)
                case DropRequest():
                    return None
                case DropReply():
                    act(request)
                    return None
                case WrongIssuer():
                    return with_issuer(act(request), fault.issuer)
                case _:
                    return canned_reply(fault, request.endpoint)
        return act(request)

    def _faults_of(self, request: Request) -> Iterator[Fault]:
        """Yield the faults that happen to `request`; each is used up only when its turn comes."""
        for planned in tuple(self._faults):
            # Looked up again: while the request was delayed, the fault may have been lifted or used up.
            if planned not in self._faults or not planned.target.hits(request):
                continue
            if planned.times is not None:
                planned.times -= 1
                if not planned.times:
                    self._faults.remove(planned)
            yield planned.fault
