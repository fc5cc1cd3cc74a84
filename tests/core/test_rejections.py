"""S11, A6: which rejected access tokens are remembered, and which rejections are believed."""

import pytest

from tokenflight._core.limits import Limits
from tokenflight._core.rejections import Rejections

NOW = 1_800_000_000.0
LIMITS = Limits(max_rejected_users=2, first_probation=30.0, longest_probation=3600.0)


@pytest.fixture
def rejections() -> Rejections:
    return Rejections(LIMITS)


def reject(rejections: Rejections, user_id: str, access_token: str, *, now: float = NOW) -> bool:
    return rejections.add(user_id, access_token, current=access_token, now=now)


def test_l2_of_users_with_rejected_tokens_the_one_rejected_longest_ago_is_forgotten(rejections: Rejections) -> None:
    for user_id in ("alice", "bob", "alice", "carol"):
        reject(rejections, user_id, "access")

    assert [user_id for user_id in ("alice", "bob", "carol") if (user_id, "access") in rejections] == ["alice", "carol"]


def test_s11_a_token_issued_once_more_brings_no_other_rejected_one_back(rejections: Rejections) -> None:
    for access_token in ("one", "two"):
        reject(rejections, "alice", access_token)
    rejections.answer("alice", "two", replaced="two", now=NOW)

    assert ("alice", "one") in rejections
    assert ("alice", "two") not in rejections


def test_a6_a_token_that_has_just_answered_a_rejection_stays_good_when_it_is_rejected_too(
    rejections: Rejections,
) -> None:
    assert reject(rejections, "alice", "old")
    rejections.answer("alice", "new", replaced="old", now=NOW)

    assert not reject(rejections, "alice", "new", now=NOW + 29)
    assert ("alice", "new") not in rejections
    assert reject(rejections, "alice", "new", now=NOW + 31)


def test_a6_the_probation_of_a_token_doubles_with_each_renewal_up_to_an_hour(rejections: Rejections) -> None:
    now, seconds = NOW, []
    reject(rejections, "alice", "token 0")
    for number in range(1, 12):
        rejections.answer("alice", f"token {number}", replaced=f"token {number - 1}", now=now)
        probation = 0
        while not reject(rejections, "alice", f"token {number}", now=now + probation):
            probation += 1
        seconds.append(probation)
        now += probation

    assert seconds == [30, 60, 120, 240, 480, 960, 1920, 3600, 3600, 3600, 3600]


def test_a6_a_probation_long_over_counts_no_more(rejections: Rejections) -> None:
    reject(rejections, "alice", "token 0")
    rejections.answer("alice", "token 1", replaced="token 0", now=NOW)
    later = NOW + 2 * LIMITS.longest_probation
    assert reject(rejections, "alice", "token 1", now=later)
    rejections.answer("alice", "token 2", replaced="token 1", now=later)

    assert reject(rejections, "alice", "token 2", now=later + 31)


def test_a6_a_token_renewed_for_another_reason_is_on_no_probation(rejections: Rejections) -> None:
    reject(rejections, "alice", "older")
    rejections.answer("alice", "new", replaced="old", now=NOW)

    assert reject(rejections, "alice", "new", now=NOW + 1)


def test_a6_a_login_ends_the_probation(rejections: Rejections) -> None:
    reject(rejections, "alice", "old")
    rejections.answer("alice", "new", replaced="old", now=NOW)
    rejections.forgive("alice", "new", rejections.known("alice"))

    assert reject(rejections, "alice", "new", now=NOW + 1)


def test_k18_what_was_rejected_while_its_own_login_was_on_its_way_stays_rejected(rejections: Rejections) -> None:
    for before in ((), ("older",), ("new",)):
        for token in before:
            reject(rejections, "alice", token)
        known = rejections.known("alice")
        reject(rejections, "alice", "new", now=NOW + 1)
        rejections.forgive("alice", "new", known)
        assert ("alice", "new") in rejections


def test_k18_what_was_rejected_before_its_login_is_good_after_it(rejections: Rejections) -> None:
    reject(rejections, "alice", "new")
    rejections.forgive("alice", "new", rejections.known("alice"))
    assert ("alice", "new") not in rejections


def test_a6_a_clock_set_back_ends_the_probation(rejections: Rejections) -> None:
    reject(rejections, "alice", "old")
    rejections.answer("alice", "new", replaced="old", now=NOW)

    assert reject(rejections, "alice", "new", now=NOW - 60)
