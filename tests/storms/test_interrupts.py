"""Programs that end in the middle of flights, by Ctrl-C or because ``main`` returns: nothing is lost."""

import asyncio
import random
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Final

import pytest

from kit.storms.processes import Worker
from kit.storms.stores import StoreSpec
from kit.storms.storm import Storm, storm_on
from kit.storms.verdict import verdict_on
from kit.tally import Counts, Tally

LONGEST_DELAY_SECONDS: Final = 0.02
"""Between a token request and the signal: about as long as it takes to store what it brings."""

Ending = Callable[[Worker], None]

ENDINGS = [pytest.param(Worker.interrupt, id="Ctrl-C"), pytest.param(Worker.dismiss, id="main returns")]
EXIT_STATUSES: dict[Ending, int] = {Worker.interrupt: -signal.SIGINT, Worker.dismiss: 0}


@pytest.mark.parametrize("ending", ENDINGS)
@pytest.mark.parametrize("after", [False, True], ids=["before the provider acts", "after the provider acted"])
async def test_s3_l3_a_program_that_ends_while_replies_are_held_back_stores_every_rotated_token(
    tmp_path: Path, ending: Ending, *, after: bool
) -> None:
    async with storm_on(StoreSpec("file", str(tmp_path / "tokens")), users=10, tasks=300) as storm:
        for user_id in storm.users:
            await storm.log_in(user_id, life_left=-1)
        with storm.fake.hold(after=after) as gate:  # so many tasks that each user is asked for by one at least
            worker = await storm.crew.start()
            await gate.reached(len(storm.users))
            ending(worker)
            await worker.has_reported("leaving")
            assert await storm.users_lost() == (set(storm.users) if after else set())  # the replies are in the air
        assert await worker.ended() == EXIT_STATUSES[ending]
        assert storm.fake.refreshes() == len(storm.users)
        assert await storm.users_lost() == set()
        await succeed(storm)


@pytest.mark.parametrize(
    "rounds",
    [
        pytest.param(3, id="3 rounds"),
        pytest.param(60, id="60 rounds", marks=[pytest.mark.long, pytest.mark.timeout(300)]),
    ],
)
async def test_s3_l3_programs_that_end_at_any_moment_store_every_rotated_token(
    tmp_path: Path, tally: Tally, rounds: int
) -> None:
    async with storm_on(StoreSpec("file", str(tmp_path / "tokens")), users=20, tasks=25) as storm:
        for _ in range(rounds):
            for user_id in storm.users:
                await storm.log_in(user_id, life_left=-1)
            workers = [await storm.crew.start() for _ in EXIT_STATUSES]
            before = len(storm.fake.ledger.rotations)
            await storm.fake.ledger.rotated(before + random.randint(1, len(storm.users)))
            await asyncio.sleep(random.uniform(0, LONGEST_DELAY_SECONDS))
            for worker, ending in zip(workers, EXIT_STATUSES, strict=True):
                ending(worker)
            assert [await worker.ended() for worker in workers] == list(EXIT_STATUSES.values())
            assert await storm.users_lost() == set()
        counts = await succeed(storm)
    tally.add("Ctrl-C storm, files", counts)


async def succeed(storm: Storm) -> Counts:
    """Let one more process serve every user from what is stored; nobody has met a failure or sent a spent token."""
    successor = await storm.crew.start()
    await storm.calm()
    successor.dismiss()
    assert await successor.ended() == 0
    verdict = await verdict_on(storm)
    assert verdict.faults == []
    assert storm.fake.reuses() == 0
    return verdict.counts
