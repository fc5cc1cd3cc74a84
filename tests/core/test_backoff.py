"""T5: the pauses after failures, per user and for a whole provider."""

import gc
import random
import weakref

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tokenflight._core.backoff import Backoff
from tokenflight._core.limits import Limits
from tokenflight.errors import ProviderMisconfigured, ProviderUnavailable

NOW = 1_800_000_000.0
FAILURE = ProviderUnavailable("down")
LIMITS = Limits()


@pytest.fixture
def backoff() -> Backoff:
    return Backoff(LIMITS)


def test_t5_who_never_failed_does_not_wait(backoff: Backoff) -> None:
    assert backoff.remaining("alice", NOW) == 0


@given(failures=st.integers(1, 2_000), seed=st.integers())
def test_t5_each_failure_doubles_the_pause_up_to_a_minute_less_up_to_half(failures: int, seed: int) -> None:
    random.seed(seed)
    backoff = Backoff(LIMITS)
    for _ in range(failures):
        backoff.failed("alice", NOW, FAILURE)

    longest = min(LIMITS.first_backoff * 2.0 ** min(failures - 1, 100), LIMITS.longest_backoff)
    assert longest / 2 - 1e-6 <= backoff.remaining("alice", NOW) <= longest + 1e-6


def test_t5_users_who_failed_together_do_not_come_back_together(backoff: Backoff) -> None:
    users = [f"user-{number}" for number in range(100)]
    for user in users:
        backoff.failed(user, NOW, FAILURE)

    assert len({backoff.remaining(user, NOW) for user in users}) > 90


def test_t5_a_pause_gets_shorter_with_time_and_ends(backoff: Backoff) -> None:
    backoff.failed("alice", NOW, FAILURE)
    pause = backoff.remaining("alice", NOW)

    remaining = [backoff.remaining("alice", NOW + pause * share) for share in (0.25, 0.5, 1, 1.5)]
    assert remaining == pytest.approx([pause * 0.75, pause * 0.5, 0, 0], abs=1e-6)


def test_t5_a_failure_after_a_pause_has_ended_still_doubles_the_next(backoff: Backoff) -> None:
    backoff.failed("alice", NOW, FAILURE)
    backoff.failed("alice", NOW + 5, FAILURE)
    backoff.failed("alice", NOW + 60, FAILURE)

    assert 2 <= backoff.remaining("alice", NOW + 60) <= 4


def test_t5_a_success_ends_the_pause_and_starts_over(backoff: Backoff) -> None:
    for _ in range(6):
        backoff.failed("alice", NOW, FAILURE)
    backoff.clear("alice")

    assert backoff.remaining("alice", NOW) == 0
    backoff.failed("alice", NOW, FAILURE)
    assert backoff.remaining("alice", NOW) <= LIMITS.first_backoff


def test_t5_clearing_who_never_failed_changes_nothing(backoff: Backoff) -> None:
    backoff.failed("alice", NOW, FAILURE)
    backoff.clear("bob")

    assert backoff.remaining("alice", NOW) > 0


def test_t5_one_users_failure_holds_nobody_else(backoff: Backoff) -> None:
    backoff.failed("alice", NOW, FAILURE)

    assert backoff.remaining("bob", NOW) == 0


def test_t5_a_pause_the_provider_asked_for_holds_everybody(backoff: Backoff) -> None:
    backoff.hold_provider(NOW, 30, FAILURE)

    assert backoff.remaining("alice", NOW) == 30
    assert backoff.remaining("bob", NOW + 29) == 1
    assert backoff.remaining("bob", NOW + 30) == 0


@pytest.mark.parametrize("providers", [0.25, 30])
def test_t5_of_a_users_and_the_providers_pause_the_longer_counts(backoff: Backoff, providers: float) -> None:
    backoff.failed("alice", NOW, FAILURE)
    own = backoff.remaining("alice", NOW)
    backoff.hold_provider(NOW, providers, FAILURE)

    assert backoff.remaining("alice", NOW) == max(own, providers)


def test_t5_a_success_of_one_user_does_not_end_the_providers_pause(backoff: Backoff) -> None:
    backoff.hold_provider(NOW, 30, FAILURE)
    backoff.clear("alice")

    assert backoff.remaining("alice", NOW) == 30


def test_t5_a_clock_set_back_ends_a_pause_instead_of_stretching_it(backoff: Backoff) -> None:
    backoff.failed("alice", NOW, FAILURE)
    backoff.hold_provider(NOW, 10, FAILURE)

    assert backoff.remaining("alice", NOW - 3600) == 0


def test_l2_of_a_hundred_thousand_users_who_failed_only_the_latest_are_remembered(backoff: Backoff) -> None:
    users = [f"user-{number}" for number in range(100_000)]
    for user in users:
        backoff.failed(user, NOW, FAILURE)

    assert [user for user in users if backoff.remaining(user, NOW)] == users[-LIMITS.max_backoff_users :]


def test_l2_a_user_who_failed_again_is_not_the_first_to_be_forgotten(backoff: Backoff) -> None:
    backoff.failed("alice", NOW, FAILURE)
    for number in range(LIMITS.max_backoff_users - 1):
        backoff.failed(f"user-{number}", NOW, FAILURE)
    backoff.failed("alice", NOW, FAILURE)
    backoff.failed("one more", NOW, FAILURE)

    assert backoff.remaining("alice", NOW) > 0
    assert backoff.remaining("user-0", NOW) == 0


@pytest.mark.parametrize(("users", "providers", "code"), [(10, 30, "wrong"), (30, 10, "user's")])
def test_w4_the_failure_told_in_a_pause_is_that_of_the_pause_which_ends_later(
    backoff: Backoff, users: float, providers: float, code: str
) -> None:
    backoff.failed("alice", NOW, ProviderUnavailable("down", code="user's"), at_least=users)
    backoff.hold_provider(NOW, providers, ProviderMisconfigured("wrong", code="wrong"))
    cause = backoff.cause("alice", NOW)
    assert cause is not None
    assert cause.code == code
    assert backoff.cause("alice", NOW + 31) is None


def test_w4_a_pause_keeps_no_frame_of_its_failure_alive(backoff: Backoff) -> None:
    class Local:
        pass

    def connect() -> None:
        raise ConnectionError("reset")

    def fail() -> None:
        local = Local()
        alive.append(weakref.ref(local))
        try:
            connect()
        except ConnectionError as exc:
            raise ProviderUnavailable("down") from exc

    alive: list[weakref.ref[Local]] = []
    try:
        fail()
    except ProviderUnavailable as exc:
        backoff.failed("alice", NOW, exc)
    gc.collect()
    assert alive[0]() is None
    cause = backoff.cause("alice", NOW)
    assert cause is not None
    assert isinstance(cause.__cause__, ConnectionError)
