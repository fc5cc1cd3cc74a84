"""The effect of faults and gates on the requests of a fake provider."""

import asyncio
from collections.abc import Callable
from typing import get_args

from tokenflight.errors import ConfigurationError
from tokenflight.testing.asgi import Request
from tokenflight.testing.fault_plan import FaultPlan, Selector
from tokenflight.testing.faults import Delay, DropReply, DropRequest, Endpoint, Fault, WrongIssuer
from tokenflight.testing.gates import Gate
from tokenflight.testing.replies import Reply, canned_reply, with_issuer


class ProviderFaults:
    """All faults and gates before the endpoints of a provider. False when there are none."""

    def __init__(self) -> None:
        self._plan = FaultPlan[Fault]()

    def __bool__(self) -> bool:
        return bool(self._plan)

    def add(self, fault: Fault, endpoint: Endpoint, user_id: str | None, *, times: int | None) -> None:
        """Let `fault` happen to the next `times` requests at `endpoint`, of `user_id` if given, or to all if None."""
        selector = _selector(endpoint, user_id)
        if not isinstance(fault, Fault):
            raise ConfigurationError(f"fault must be a fault such as DropReply(), not {fault!r:.60}")
        if isinstance(fault, WrongIssuer) and endpoint != "discovery":
            raise ConfigurationError('WrongIssuer is a fault of discovery: say endpoint="discovery"')
        self._plan.add_fault(fault, selector, times=times)

    def clear(self) -> None:
        """Drop all faults. The gates stay."""
        self._plan.clear_faults()

    def hold(self, endpoint: Endpoint, user_id: str | None, *, after: bool) -> Gate:
        """Return a new gate at `endpoint`, for the requests of `user_id` if given."""
        return self._plan.add_gate(_selector(endpoint, user_id, after=after))

    async def reply_to(self, request: Request, act: Callable[[Request], Reply]) -> Reply | None:
        """Return the reply, or None if the connection closes without one.

        `act` handles a request that reaches the provider.
        """
        await self._plan.wait_at_gates(request.endpoint, request.user_id, after=False)
        reply = await self._act(request, act)
        await self._plan.wait_at_gates(request.endpoint, request.user_id, after=True)
        return reply

    async def _act(self, request: Request, act: Callable[[Request], Reply]) -> Reply | None:
        for fault in self._plan.faults_of(request.endpoint, request.user_id):
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


def _selector(endpoint: Endpoint, user_id: str | None, *, after: bool = False) -> Selector:
    if endpoint not in get_args(Endpoint):
        raise ConfigurationError(f"endpoint must be one of {get_args(Endpoint)}, not {endpoint!r}")
    if endpoint == "discovery" and user_id is not None:
        raise ConfigurationError("discovery is not about a user: leave user_id out")
    return Selector(endpoint, user_id, after)
