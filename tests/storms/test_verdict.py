"""The judge of a storm: an excuse is given for what was in the air at a kill, and for nothing else."""

import pytest

from kit.storms.ledger import Login, Reuse, Rotation
from kit.storms.reports import Life, Report
from kit.storms.verdict import is_excused

ROTATION = Rotation(process=1, login=Login("alice", 1), spent="old", access="new", at=10.0)
REUSE = Reuse(process=2, rotation=ROTATION, at=20.0)
SURVIVOR = Life(2)


def killed(at: float, *reports: Report) -> Life:
    return Life(1, list(reports), killed_at=at, reaped_at=at + 0.5)


def test_a_reply_that_its_process_did_not_live_to_save_is_an_excuse() -> None:
    assert is_excused(REUSE, {1: killed(11.0), 2: SURVIVOR}, {ROTATION})


def test_a_request_that_arrived_after_the_death_of_its_process_is_an_excuse() -> None:
    assert is_excused(REUSE, {1: killed(9.0), 2: SURVIVOR}, set())


def test_a_request_that_arrived_after_that_of_the_next_holder_is_an_excuse() -> None:
    belated = Reuse(process=3, rotation=ROTATION, at=20.0)
    assert is_excused(belated, {1: Life(1), 3: Life(3, killed_at=9.0, reaped_at=9.5)}, set())


@pytest.mark.parametrize(
    ("spender", "left_behind"),
    [
        pytest.param(Life(1), set(), id="a process that was not killed"),
        pytest.param(killed(11.0), set(), id="a process that had saved the reply"),
        pytest.param(killed(21.0), {ROTATION}, id="a process that was killed only after the reuse"),
        pytest.param(
            killed(11.0, Report(kind="served", user_id="alice", access="new")),
            {ROTATION},
            id="a process that had handed out the new token before it was saved",
        ),
    ],
)
def test_there_is_no_excuse_for(spender: Life, left_behind: set[Rotation]) -> None:
    assert not is_excused(REUSE, {1: spender, 2: SURVIVOR}, left_behind)


@pytest.mark.parametrize("sender", [Life(2), Life(2, killed_at=21.0, reaped_at=21.5)], ids=["alive", "killed later"])
def test_the_sender_has_no_excuse_while_it_lives(sender: Life) -> None:
    assert not is_excused(REUSE, {1: Life(1), 2: sender}, set())


def test_a_process_that_repeats_itself_has_no_excuse() -> None:
    repeated = Reuse(process=1, rotation=ROTATION, at=10.1)
    assert not is_excused(repeated, {1: killed(10.2)}, {ROTATION})
