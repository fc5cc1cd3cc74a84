"""Measure a valid token from memory: alone, and in a pass of the auth flow."""

from contextlib import AsyncExitStack

from benchmarks.auth_flow import compare_auth_flows
from benchmarks.comparison import Comparison, Effort, Rival, compare
from benchmarks.peers import OURS, PEERS, Callers, open_all, versions_note
from benchmarks.provider import provider_process
from benchmarks.subjects import HOUR_SECONDS, USER


async def hot_path(effort: Effort) -> list[Comparison]:
    """Compare a cached token of each library with a coroutine function that returns a constant."""
    async with provider_process() as provider, AsyncExitStack() as stack:
        login = await provider.login(lifetime=HOUR_SECONDS)

        async def constant(_user_id: str) -> str:
            return login.access_token

        async def await_constant(count: int) -> None:
            for _ in range(count):
                await constant(USER)

        sessions, notes = await open_all((OURS, *PEERS), provider, stack, lifetime=HOUR_SECONDS)
        rivals = [
            Rival(peer.name, session.repeat, target=5 if peer is OURS else None)
            for peer, session in sessions.items()
            if session.repeat is not None
        ]
        floor = Rival("a coroutine that returns a constant", await_constant)
        flows = [peer.name for peer in sessions if peer.callers is Callers.API_CALLS]
        if flows:
            notes.append(f"{', '.join(flows)}: one pass of the auth flow, the only way to their tokens")
        notes.append(versions_note(sessions))
        tokens = await compare(
            "A cached token", [floor, *rivals], count=effort.share_of(20_000), effort=effort, notes=notes
        )
        return [tokens, *await compare_auth_flows(sessions, effort)]
