"""The kill storm: processes that serve many users from one store, and one of them killed every few hundred ms."""

import asyncio
import random
from typing import Final

from storms.processes import Crew, Worker
from storms.stores import StoreSpec
from storms.storm import storm_on
from storms.verdict import Verdict, verdict_on

PROCESSES: Final = 4
TASKS_IN_EACH: Final = 25
USERS: Final = 20
SHORTEST_PEACE_SECONDS: Final = 0.2
LONGEST_PEACE_SECONDS: Final = 0.5


async def kill_storm(spec: StoreSpec, *, seconds: float) -> Verdict:
    """Let the storm rage on the store that `spec` names; then calm down, let all workers end, and judge."""
    async with storm_on(spec, users=USERS, tasks=TASKS_IN_EACH) as storm:
        for user_id in storm.users:
            await storm.log_in(user_id)
        for worker in [await storm.crew.start() for _ in range(PROCESSES)]:
            await worker.has_reported("served")
        loop = asyncio.get_running_loop()
        end = loop.time() + seconds
        while loop.time() < end:
            await asyncio.sleep(random.uniform(SHORTEST_PEACE_SECONDS, LONGEST_PEACE_SECONDS))
            if at_work := workers_at_work(storm.crew):
                await storm.kill(random.choice(at_work))
                await storm.crew.start()
            await storm.log_in_again()
        await storm.calm()
        survivors = [worker for worker in storm.crew.workers.values() if worker.killed_at is None]
        for worker in survivors:
            worker.dismiss()
        exit_statuses = [await worker.ended() for worker in survivors]
        assert exit_statuses == [0] * PROCESSES
        assert await storm.stored_users() == sorted(storm.users)
        return await verdict_on(storm)


def workers_at_work(crew: Crew) -> list[Worker]:
    """The workers that have served somebody: to kill one that is still starting would be no loss to anybody."""
    return [worker for worker in crew.running if any(worker.of_kind("served"))]
