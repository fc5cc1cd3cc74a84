"""Storms that hosts are in: short-lived tokens in a store on the network, processes that stand still, and restarts."""

import asyncio
import random
from collections.abc import Awaitable, Callable
from dataclasses import replace
from typing import Final, Protocol

from kit.storms.punctuality import faults_in_renewals
from kit.storms.stores import StoreSpec
from kit.storms.storm import Storm, storm_on
from kit.storms.verdict import Verdict
from kit.storms.work import TASKS_IN_EACH, USERS, end_of_work, put_to_work, workers_at_work
from kit.storms.worker import Regime
from tokenflight import RefreshPolicy

SHORT_LIVED: Final = Regime(2.0, RefreshPolicy(expiry_buffer=0.5, refresh_ahead=0))
"""Every token is renewed when it has lived for 1.5 s, and no sooner: nothing is renewed in the background."""

PEACE_SECONDS: Final = 1.0
"""Between two strokes of fate."""

OUTAGE_SECONDS: Final = 0.7
"""Shorter than a lease lasts that can't be extended meanwhile."""


class Server(Protocol):
    """A store's server, which keeps what it has when it is stopped in good order."""

    def start(self) -> None: ...
    def stop(self) -> None: ...


async def expiry_storm(spec: StoreSpec, *, seconds: float, processes: int) -> Verdict:
    """Nothing happens but that tokens expire: each is renewed once."""
    async with storm_on(spec, users=USERS, tasks=TASKS_IN_EACH, regime=SHORT_LIVED) as storm:
        await put_to_work(storm, processes)
        await asyncio.sleep(seconds)
        verdict = await end_of_work(storm)
        return replace(verdict, faults=[*verdict.faults, *faults_in_renewals(storm)])


async def freeze_storm(spec: StoreSpec, *, seconds: float, processes: int) -> Verdict:
    """Again and again one of the processes stands still for longer than its leases last."""

    async def freeze_one(storm: Storm) -> None:
        worker = random.choice(workers_at_work(storm.crew))
        await storm.freeze(worker)
        await asyncio.sleep(spec.lease_duration * 1.25)
        worker.thaw()
        await storm.log_in_again()

    return await _storm_of(freeze_one, spec, seconds=seconds, processes=processes)


async def restart_storm(spec: StoreSpec, server: Server, *, seconds: float, processes: int) -> Verdict:
    """Again and again the server is stopped, always with replies of the provider in the air, and started."""

    async def restart(storm: Storm) -> None:
        gate = storm.fake.hold(after=True)
        await gate.reached()  # not for many: soon all callers wait for the first
        with storm.outage():
            await asyncio.to_thread(server.stop)
            gate.open()
            await asyncio.sleep(OUTAGE_SECONDS)
            await asyncio.to_thread(server.start)

    return await _storm_of(restart, spec, seconds=seconds, processes=processes)


async def _storm_of(
    strike: Callable[[Storm], Awaitable[None]], spec: StoreSpec, *, seconds: float, processes: int
) -> Verdict:
    """Let `strike` happen again and again."""
    strokes = 0
    async with storm_on(spec, users=USERS, tasks=TASKS_IN_EACH, regime=SHORT_LIVED) as storm:
        await put_to_work(storm, processes)
        loop = asyncio.get_running_loop()
        end = loop.time() + seconds
        while loop.time() < end:
            await asyncio.sleep(PEACE_SECONDS)
            await strike(storm)
            strokes += 1
        verdict = await end_of_work(storm)
        return replace(verdict, counts=replace(verdict.counts, faults=strokes))
