"""How the work of a storm begins and how it ends."""

from typing import Final

from kit.storms.processes import Crew, Worker
from kit.storms.storm import Storm
from kit.storms.verdict import Verdict, verdict_on

TASKS_IN_EACH: Final = 25
USERS: Final = 20


async def put_to_work(storm: Storm, processes: int) -> None:
    """Log all users in, and start so many workers; wait until each has served somebody."""
    for user_id in storm.users:
        await storm.log_in(user_id)
    for worker in [await storm.crew.start() for _ in range(processes)]:
        await worker.has_reported("served")


async def end_of_work(storm: Storm) -> Verdict:
    """Wait for calm, let all workers end, and judge."""
    await storm.calm()
    survivors = [worker for worker in storm.crew.workers.values() if worker.killed_at is None]
    for worker in survivors:
        worker.dismiss()
    exit_statuses = [await worker.ended() for worker in survivors]
    assert exit_statuses == [0] * len(survivors)
    assert await storm.stored_users() == sorted(storm.users)
    return await verdict_on(storm)


def workers_at_work(crew: Crew) -> list[Worker]:
    """The workers that have served somebody."""
    return [worker for worker in crew.running if any(worker.of_kind("served"))]
