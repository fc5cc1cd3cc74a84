"""T5: the pauses after failures, per user and for a whole provider."""

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tokenflight._core.backoff import FIRST_PAUSE_SECONDS, LONGEST_PAUSE_SECONDS, MAX_TRACKED_USERS, CoolDowns

NOW = 1_800_000_000.0


@pytest.fixture
def cool_downs() -> CoolDowns:
    return CoolDowns()


def test_t5_who_never_failed_does_not_wait(cool_downs: CoolDowns) -> None:
    assert cool_downs.remaining("alice", NOW) == 0


@given(failures=st.integers(1, 2_000), seed=st.integers())
def test_t5_each_failure_doubles_the_pause_up_to_a_minute_less_up_to_half(failures: int, seed: int) -> None:
    random.seed(seed)
    cool_downs = CoolDowns()
    for _ in range(failures):
        cool_downs.failed("alice", NOW)

    longest = min(FIRST_PAUSE_SECONDS * 2.0 ** min(failures - 1, 100), LONGEST_PAUSE_SECONDS)
    assert longest / 2 - 1e-6 <= cool_downs.remaining("alice", NOW) <= longest + 1e-6


def test_t5_users_who_failed_together_do_not_come_back_together(cool_downs: CoolDowns) -> None:
    users = [f"user-{number}" for number in range(100)]
    for user in users:
        cool_downs.failed(user, NOW)

    assert len({cool_downs.remaining(user, NOW) for user in users}) > 90


def test_t5_a_pause_gets_shorter_with_time_and_ends(cool_downs: CoolDowns) -> None:
    cool_downs.failed("alice", NOW)
    pause = cool_downs.remaining("alice", NOW)

    remaining = [cool_downs.remaining("alice", NOW + pause * share) for share in (0.25, 0.5, 1, 1.5)]
    assert remaining == pytest.approx([pause * 0.75, pause * 0.5, 0, 0], abs=1e-6)


def test_t5_a_failure_after_a_pause_has_ended_still_doubles_the_next(cool_downs: CoolDowns) -> None:
    cool_downs.failed("alice", NOW)
    cool_downs.failed("alice", NOW + 5)
    cool_downs.failed("alice", NOW + 60)

    assert 2 <= cool_downs.remaining("alice", NOW + 60) <= 4


def test_t5_a_success_ends_the_pause_and_starts_over(cool_downs: CoolDowns) -> None:
    for _ in range(6):
        cool_downs.failed("alice", NOW)
    cool_downs.clear("alice")

    assert cool_downs.remaining("alice", NOW) == 0
    cool_downs.failed("alice", NOW)
    assert cool_downs.remaining("alice", NOW) <= FIRST_PAUSE_SECONDS


def test_t5_clearing_who_never_failed_changes_nothing(cool_downs: CoolDowns) -> None:
    cool_downs.failed("alice", NOW)
    cool_downs.clear("bob")

    assert cool_downs.remaining("alice", NOW) > 0


def test_t5_one_users_failure_holds_nobody_else(cool_downs: CoolDowns) -> None:
    cool_downs.failed("alice", NOW)

    assert cool_downs.remaining("bob", NOW) == 0


def test_t5_a_pause_the_provider_asked_for_holds_everybody(cool_downs: CoolDowns) -> None:
    cool_downs.hold_provider(NOW, 30)

    assert cool_downs.remaining("alice", NOW) == 30
    assert cool_downs.remaining("bob", NOW + 29) == 1
    assert cool_downs.remaining("bob", NOW + 30) == 0


@pytest.mark.parametrize("providers", [0.25, 30])
def test_t5_of_a_users_and_the_providers_pause_the_longer_counts(cool_downs: CoolDowns, providers: float) -> None:
    cool_downs.failed("alice", NOW)
    own = cool_downs.remaining("alice", NOW)
    cool_downs.hold_provider(NOW, providers)

    assert cool_downs.remaining("alice", NOW) == max(own, providers)


def test_t5_a_success_of_one_user_does_not_end_the_providers_pause(cool_downs: CoolDowns) -> None:
    cool_downs.hold_provider(NOW, 30)
    cool_downs.clear("alice")

    assert cool_downs.remaining("alice", NOW) == 30


def test_t5_a_clock_set_back_ends_a_pause_instead_of_stretching_it(cool_downs: CoolDowns) -> None:
    cool_downs.failed("alice", NOW)
    cool_downs.hold_provider(NOW, 10)

    assert cool_downs.remaining("alice", NOW - 3600) == 0


def test_l2_of_a_hundred_thousand_users_who_failed_only_the_latest_are_remembered(cool_downs: CoolDowns) -> None:
    users = [f"user-{number}" for number in range(100_000)]
    for user in users:
        cool_downs.failed(user, NOW)

    assert [user for user in users if cool_downs.remaining(user, NOW)] == users[-MAX_TRACKED_USERS:]


def test_l2_a_user_who_failed_again_is_not_the_first_to_be_forgotten(cool_downs: CoolDowns) -> None:
    cool_downs.failed("alice", NOW)
    for number in range(MAX_TRACKED_USERS - 1):
        cool_downs.failed(f"user-{number}", NOW)
    cool_downs.failed("alice", NOW)
    cool_downs.failed("one more", NOW)

    assert cool_downs.remaining("alice", NOW) > 0
    assert cool_downs.remaining("user-0", NOW) == 0
