"""The kill storm: processes that serve many users from one store, and one of them killed every few hundred ms."""

import asyncio
import random
from typing import Final

from kit.storms.stores import StoreSpec
from kit.storms.storm import storm_on
from kit.storms.verdict import Verdict
from kit.storms.work import TASKS_IN_EACH, USERS, end_of_work, put_to_work, workers_at_work
from kit.storms.worker import HASTY, Regime

PROCESSES: Final = 4
SHORTEST_PEACE_SECONDS: Final = 0.2
LONGEST_PEACE_SECONDS: Final = 0.5


async def kill_storm(
    spec: StoreSpec,
    *,
    seconds: float,
    processes: int = PROCESSES,
    patient: bool = False,
    regime: Regime = HASTY,
    shortest_peace: float = SHORTEST_PEACE_SECONDS,
    longest_peace: float = LONGEST_PEACE_SECONDS,
) -> Verdict:
    """Let the storm rage on the store that `spec` names; then calm down, let all workers end, and judge.

    A `patient` one lets the worker that takes a killed one's place begin its work before it kills the next.
    """
    async with storm_on(spec, users=USERS, tasks=TASKS_IN_EACH, regime=regime) as storm:
        await put_to_work(storm, processes)
        loop = asyncio.get_running_loop()
        end = loop.time() + seconds
        while loop.time() < end:
            await asyncio.sleep(random.uniform(shortest_peace, longest_peace))
            if at_work := workers_at_work(storm.crew):
                await storm.kill(random.choice(at_work))
                successor = await storm.crew.start()
                if patient:
                    await successor.has_reported("served")
            await storm.log_in_again()
        return await end_of_work(storm)
