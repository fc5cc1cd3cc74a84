"""Processes are killed all the time, and no user has to log in again but for a reply that was in the air."""

from pathlib import Path

import pytest

from kit.storms.kill_storm import kill_storm
from kit.storms.stores import StoreSpec
from kit.storms.storm import storm_on
from kit.storms.verdict import verdict_on
from kit.tally import Tally


@pytest.mark.parametrize(
    "seconds",
    [
        pytest.param(5, id="5 s"),
        pytest.param(60, id="60 s", marks=[pytest.mark.long, pytest.mark.timeout(240)]),
    ],
)
async def test_x7_p8_a_process_killed_every_few_hundred_milliseconds_costs_nobody_a_login(
    tmp_path: Path, tally: Tally, seconds: int
) -> None:
    verdict = await kill_storm(StoreSpec("file", str(tmp_path / "tokens")), seconds=seconds)
    tally.add("kill storm, files", verdict.counts)
    assert verdict.faults == []
    assert (verdict.counts.reuses, verdict.counts.users_lost) == (0, 0)
    assert verdict.counts.kills >= seconds / 2
    assert verdict.counts.refreshes >= seconds * 4


async def test_p8_a_reply_in_the_air_at_the_kill_is_the_one_that_can_be_lost(tmp_path: Path) -> None:
    async with storm_on(StoreSpec("file", str(tmp_path / "tokens")), users=1, tasks=2) as storm:
        await storm.log_in("user-0", life_left=-1)
        with storm.fake.hold(after=True) as gate:
            holder = await storm.crew.start()
            await gate.reached()
            await storm.kill(holder)
        successor = await storm.crew.start()
        await successor.has_reported("failed")
        await storm.calm()
        successor.dismiss()
        assert await successor.ended() == 0
        verdict = await verdict_on(storm)
    assert verdict.faults == []
    assert (verdict.counts.kills, verdict.counts.excused_reuses, verdict.counts.users_lost) == (1, 1, 0)
