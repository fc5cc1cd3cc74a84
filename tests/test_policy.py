"""Freshness: the policy and the judge, to the tick."""

import dataclasses
import math
import os
import subprocess
import sys
from collections import Counter
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tokenflight._token_times import MAX_CLOCK_SKEW_SECONDS
from tokenflight.errors import ConfigurationError
from tokenflight.policy import (
    LEAST_LIFE_SECONDS,
    Freshness,
    RefreshPolicy,
    expiry_of,
    fresh_from,
    fresh_until,
    judge,
    user_jitter,
)
from tokenflight.tokens import TokenSet

NOW = 1_800_000_000.0
HOUR = 3600.0
DEFAULT = RefreshPolicy()
OLDER = [Freshness.FRESH, Freshness.AGING, Freshness.DUE, Freshness.EXPIRED]
"""The verdicts in the order in which a token set goes through them."""

policies = st.builds(
    RefreshPolicy,
    expiry_buffer=st.floats(0, 7200),
    refresh_ahead=st.floats(0, 7200),
    max_buffer_fraction=st.floats(0, 1),
)
lifetimes = st.floats(1, 30 * 86_400)
ages = st.floats(-MAX_CLOCK_SKEW_SECONDS, 40 * 86_400)
jitters = st.floats(0, 1)


def issued_now(lifetime: float) -> TokenSet:
    return TokenSet("at", issued_at=NOW, expires_at=NOW + lifetime)


@st.composite
def token_sets(draw: st.DrawFn) -> TokenSet:
    """A token set whose expiry is known; when it was issued may be not, and when to renew it ahead may be told."""
    tokens = issued_now(draw(lifetimes))
    tokens = dataclasses.replace(tokens, refresh_at=draw(st.none() | st.floats(NOW, NOW + 40 * 86_400)))
    return tokens if draw(st.booleans()) else dataclasses.replace(tokens, issued_at=None)


# The verdict


@pytest.mark.parametrize(
    ("life_left", "verdict"),
    [
        (3600, Freshness.FRESH),
        (601, Freshness.FRESH),
        (600, Freshness.FRESH),
        (599, Freshness.AGING),
        (301, Freshness.AGING),
        (300, Freshness.AGING),
        (299, Freshness.DUE),
        (6, Freshness.DUE),
        (5, Freshness.EXPIRED),
        (0, Freshness.EXPIRED),
        (-1, Freshness.EXPIRED),
        (-86_400, Freshness.EXPIRED),
    ],
)
def test_r5_a_token_of_an_hour_is_judged_right_a_second_around_each_boundary(
    life_left: float, verdict: Freshness
) -> None:
    assert judge(issued_now(HOUR), DEFAULT, NOW + HOUR - life_left) is verdict


@given(
    expires_at=st.integers(1_000_000_000, 3_000_000_000),
    buffer=st.integers(0, 7200),
    ahead=st.integers(0, 7200),
)
def test_r5_each_boundary_belongs_to_the_better_verdict_and_the_next_instant_does_not(
    expires_at: int, buffer: int, ahead: int
) -> None:
    tokens, policy = TokenSet("at", expires_at=expires_at), RefreshPolicy(expiry_buffer=buffer, refresh_ahead=ahead)
    due, aging = float(expires_at - buffer), float(expires_at - buffer - ahead)
    after_due = Freshness.DUE if buffer > LEAST_LIFE_SECONDS else Freshness.EXPIRED

    assert judge(tokens, policy, aging) is Freshness.FRESH
    assert judge(tokens, policy, math.nextafter(aging, math.inf)) is (Freshness.AGING if ahead else after_due)
    assert judge(tokens, policy, due) is (Freshness.AGING if ahead else Freshness.FRESH)
    assert judge(tokens, policy, math.nextafter(due, math.inf)) is after_due


@given(token_sets(), policies, jitters, st.floats(0, 7200), ages, st.floats(0, 86_400))
def test_r5_a_token_set_never_gets_fresher_with_time(
    tokens: TokenSet, policy: RefreshPolicy, jitter: float, min_validity: float, age: float, later: float
) -> None:
    verdict = judge(tokens, policy, NOW + age, jitter=jitter, min_validity=min_validity)
    verdict_later = judge(tokens, policy, NOW + age + later, jitter=jitter, min_validity=min_validity)

    assert OLDER.index(verdict) <= OLDER.index(verdict_later)


@given(token_sets(), policies, jitters, ages)
def test_the_last_fresh_moment_is_the_one_the_judge_means(
    tokens: TokenSet, policy: RefreshPolicy, jitter: float, age: float
) -> None:
    last = fresh_until(tokens, policy, jitter=jitter)

    if last >= fresh_from(tokens):
        assert judge(tokens, policy, last, jitter=jitter) is Freshness.FRESH
    assert judge(tokens, policy, math.nextafter(last, math.inf), jitter=jitter) is not Freshness.FRESH
    assert (judge(tokens, policy, NOW + age, jitter=jitter) is Freshness.FRESH) == (NOW + age <= last)


@given(token_sets(), policies, jitters, jitters)
def test_a_greater_share_of_the_window_never_means_a_later_renewal(
    tokens: TokenSet, policy: RefreshPolicy, one: float, other: float
) -> None:
    lesser, greater = sorted((one, other))

    assert fresh_until(tokens, policy, jitter=greater) <= fresh_until(tokens, policy, jitter=lesser)


def test_a_token_set_without_a_known_expiry_is_fresh_for_ever() -> None:
    tokens = TokenSet("at", issued_at=NOW)

    assert judge(tokens, DEFAULT, NOW + 100 * 365 * 86_400, min_validity=HOUR) is Freshness.FRESH
    assert fresh_until(tokens, DEFAULT) == math.inf


def test_where_the_lifetime_is_unknown_the_whole_buffers_apply() -> None:
    tokens = TokenSet("at", expires_at=NOW + 60)

    assert judge(tokens, DEFAULT, NOW) is Freshness.DUE
    assert fresh_until(tokens, DEFAULT) == NOW + 60 - 600


# Short lifetimes


def test_r4_a_token_of_a_minute_is_fresh_when_new_and_due_in_its_last_quarter() -> None:
    tokens = issued_now(60)

    assert judge(tokens, DEFAULT, NOW) is Freshness.FRESH
    assert judge(tokens, DEFAULT, NOW + 37.5) is Freshness.FRESH
    assert judge(tokens, DEFAULT, NOW + 38) is Freshness.AGING
    assert judge(tokens, DEFAULT, NOW + 45) is Freshness.AGING
    assert judge(tokens, DEFAULT, NOW + 46) is Freshness.DUE


@given(lifetimes, jitters, st.floats(0, 0.62))
def test_r4_by_default_a_token_of_any_lifetime_is_fresh_for_most_of_it(
    lifetime: float, jitter: float, share: float
) -> None:
    assert judge(issued_now(lifetime), DEFAULT, NOW + share * lifetime, jitter=jitter) is Freshness.FRESH


@given(lifetimes, policies, jitters)
def test_r4_the_buffers_never_exceed_their_share_of_the_lifetime(
    lifetime: float, policy: RefreshPolicy, jitter: float
) -> None:
    tokens = issued_now(lifetime)
    longest = lifetime * policy.max_buffer_fraction
    last = fresh_until(tokens, policy, jitter=jitter)

    assert last >= NOW + lifetime - longest * 1.5 - 1e-6
    if (still_fresh := min(NOW + lifetime - longest, last)) >= fresh_from(tokens):
        assert judge(tokens, policy, still_fresh, jitter=jitter) is Freshness.FRESH


# The life a caller needs


def test_with_less_life_left_than_a_caller_needs_a_token_is_due() -> None:
    tokens = issued_now(HOUR)

    assert judge(tokens, DEFAULT, NOW + 1800, min_validity=1800) is not Freshness.DUE
    assert judge(tokens, DEFAULT, NOW + 1801, min_validity=1800) is Freshness.DUE
    assert judge(tokens, DEFAULT, NOW + 1801) is Freshness.FRESH


def test_needing_less_life_than_the_buffer_does_not_shorten_the_buffer() -> None:
    assert judge(issued_now(HOUR), DEFAULT, NOW + HOUR - 299, min_validity=10) is Freshness.DUE


@pytest.mark.parametrize("min_validity", [HOUR, HOUR + 1, 10 * HOUR, math.inf])
def test_r4_needing_as_much_life_as_a_new_token_has_or_more_does_not_renew_on_every_call(min_validity: float) -> None:
    tokens = issued_now(HOUR)

    assert judge(tokens, DEFAULT, NOW + 1, min_validity=min_validity) is Freshness.FRESH
    assert judge(tokens, DEFAULT, NOW + 600, min_validity=min_validity) is Freshness.FRESH


def test_r4_without_any_buffer_needing_more_life_than_a_new_token_has_does_not_renew_on_every_call() -> None:
    policy = RefreshPolicy(max_buffer_fraction=0)

    assert judge(issued_now(HOUR), policy, NOW + 1, min_validity=2 * HOUR) is Freshness.FRESH


def test_needing_more_life_than_any_token_has_still_renews_well_before_the_expiry() -> None:
    assert judge(issued_now(HOUR), DEFAULT, NOW + 2700, min_validity=10 * HOUR) is Freshness.DUE


@given(lifetimes, policies, st.floats(0, 100 * 86_400))
def test_r4_whatever_life_a_caller_needs_the_moment_of_issue_is_not_yet_due(
    lifetime: float, policy: RefreshPolicy, min_validity: float
) -> None:
    assert judge(issued_now(lifetime), policy, NOW, min_validity=min_validity).is_good


@given(lifetimes, st.floats(0, 1), st.floats(0, 1))
def test_with_enough_life_left_for_the_caller_and_the_buffer_a_token_is_not_due(
    lifetime: float, share_needed: float, share_left: float
) -> None:
    needed, left = lifetime * share_needed, lifetime * share_left
    verdict = judge(issued_now(lifetime), DEFAULT, NOW + lifetime - left, min_validity=needed)

    if left > max(needed, lifetime / 4) + 1e-3:
        assert verdict.is_good
    if left < needed - 1e-3 < lifetime * 0.99:
        assert not verdict.is_good


# A lifetime that the provider does not tell


UNTOLD = TokenSet("at", refresh_token="rt", issued_at=NOW)


@pytest.mark.parametrize(
    ("age", "verdict"),
    [(0, Freshness.FRESH), (3000, Freshness.FRESH), (3001, Freshness.AGING), (3301, Freshness.DUE)],
)
def test_v4_a_token_whose_lifetime_the_provider_does_not_tell_is_judged_as_one_of_the_assumed_lifetime(
    age: float, verdict: Freshness
) -> None:
    assert judge(UNTOLD, DEFAULT, NOW + age) is verdict
    assert judge(issued_now(HOUR), DEFAULT, NOW + age) is verdict


@given(lifetimes, policies, jitters, ages)
def test_v4_the_assumed_lifetime_is_as_good_as_a_told_one(
    lifetime: float, policy: RefreshPolicy, jitter: float, age: float
) -> None:
    policy = dataclasses.replace(policy, assumed_lifetime=lifetime)

    told, untold = issued_now(lifetime), UNTOLD
    told = dataclasses.replace(told, expires_at=NOW + lifetime)

    assert fresh_until(untold, policy, jitter=jitter) == pytest.approx(fresh_until(told, policy, jitter=jitter))
    assert expiry_of(untold, policy) == expiry_of(told, policy)


def test_v4_a_token_of_untold_lifetime_and_age_is_due() -> None:
    tokens = TokenSet("at", refresh_token="rt")

    assert judge(tokens, DEFAULT, NOW) is Freshness.DUE
    assert fresh_until(tokens, DEFAULT) == -math.inf


def test_v4_a_token_of_untold_lifetime_that_nothing_can_renew_is_fresh() -> None:
    assert judge(TokenSet("at"), DEFAULT, NOW) is Freshness.FRESH


def test_v4_t4_a_token_whose_expiry_is_only_assumed_may_stand_in_for_a_failed_renewal() -> None:
    assert judge(UNTOLD, DEFAULT, NOW + 10 * HOUR) is Freshness.DUE


def test_needing_more_life_than_is_assumed_does_not_renew_on_every_call() -> None:
    assert judge(UNTOLD, DEFAULT, NOW + 1, min_validity=10 * HOUR) is Freshness.FRESH


# Without an access token


REFRESH_TOKEN_ALONE = TokenSet("", refresh_token="rt", issued_at=NOW, expires_at=NOW + HOUR)


@given(policies, jitters, ages)
def test_a_refresh_token_alone_is_due_at_any_time_and_never_stands_in(
    policy: RefreshPolicy, jitter: float, age: float
) -> None:
    assert judge(REFRESH_TOKEN_ALONE, policy, NOW + age, jitter=jitter) is Freshness.EXPIRED
    assert fresh_until(REFRESH_TOKEN_ALONE, policy, jitter=jitter) == -math.inf


# Renewing when the provider says so


HALF_A_DAY = TokenSet("at", issued_at=NOW, expires_at=NOW + 86_399, refresh_at=NOW + 43_199)


@pytest.mark.parametrize(
    ("age", "verdict"),
    [(43_199, Freshness.FRESH), (43_200, Freshness.AGING), (86_099, Freshness.AGING), (86_100, Freshness.DUE)],
)
def test_the_window_for_renewing_ahead_begins_when_the_provider_says(age: float, verdict: Freshness) -> None:
    assert judge(HALF_A_DAY, DEFAULT, NOW + age) is verdict


def test_t8_users_keep_points_of_their_own_in_a_window_that_the_provider_moved() -> None:
    assert fresh_until(HALF_A_DAY, DEFAULT, jitter=0.25) == NOW + 43_199 + 225


@pytest.mark.parametrize("refresh_at", [NOW + 86_398, NOW + 10 * 86_400])
def test_a_provider_that_says_to_renew_late_does_not_put_off_the_moment_when_a_token_is_due(refresh_at: float) -> None:
    tokens = dataclasses.replace(HALF_A_DAY, refresh_at=refresh_at)

    assert fresh_until(tokens, DEFAULT, jitter=0.5) == NOW + 86_399 - 300
    assert judge(tokens, DEFAULT, NOW + 86_100) is Freshness.DUE


# Clocks that were wrong


@pytest.mark.parametrize("ahead", [61, 600, 365 * 86_400])
def test_c1_a_token_set_that_a_clock_ahead_of_ours_issued_is_due(ahead: float) -> None:
    tokens = TokenSet("at", issued_at=NOW + ahead, expires_at=NOW + ahead + HOUR)

    assert judge(tokens, DEFAULT, NOW) is Freshness.DUE
    assert judge(tokens, DEFAULT, NOW, min_validity=60) is Freshness.DUE


@pytest.mark.parametrize("ahead", [-3000, 0, 1, 60])
def test_c1_clocks_that_are_a_little_apart_do_no_harm(ahead: float) -> None:
    assert judge(TokenSet("at", issued_at=NOW + ahead, expires_at=NOW + ahead + HOUR), DEFAULT, NOW) is Freshness.FRESH


@given(lifetimes, policies, st.floats(-30 * 86_400, 30 * 86_400))
def test_c1_no_token_with_more_life_left_than_its_lifetime_is_fresh(
    lifetime: float, policy: RefreshPolicy, age: float
) -> None:
    tokens = issued_now(lifetime)
    life_left = lifetime - age

    if life_left > lifetime + MAX_CLOCK_SKEW_SECONDS + 1:
        assert judge(tokens, policy, NOW + age) is Freshness.DUE


def test_c1_the_first_fresh_moment_is_the_one_the_judge_means() -> None:
    tokens = issued_now(HOUR)
    first = fresh_from(tokens)

    assert judge(tokens, DEFAULT, first) is Freshness.FRESH
    assert judge(tokens, DEFAULT, math.nextafter(first, 0)) is Freshness.DUE
    assert fresh_from(TokenSet("at")) == fresh_from(TokenSet("at", issued_at=NOW)) == -math.inf


# Standing in for a failed renewal


def test_t4_a_token_set_may_stand_in_for_a_failed_renewal_while_it_has_life_to_spare() -> None:
    tokens = issued_now(HOUR)
    last = NOW + HOUR - LEAST_LIFE_SECONDS

    assert judge(tokens, RefreshPolicy(), last - 1) is Freshness.DUE
    assert judge(tokens, RefreshPolicy(), last) is Freshness.EXPIRED
    assert judge(tokens, RefreshPolicy(), NOW + HOUR + 1) is Freshness.EXPIRED


def test_t4_a_token_set_without_a_known_expiry_may_always_stand_in() -> None:
    assert judge(TokenSet("at"), RefreshPolicy(), NOW) is Freshness.FRESH


# Spreading users


@pytest.mark.parametrize("seed", ["0", "1", "random"])
def test_t8_a_users_share_of_the_window_is_the_same_in_every_process(seed: str) -> None:
    code = "from tokenflight.policy import user_jitter; print(user_jitter('alice'), user_jitter('bób/\\x00'))"
    environment = {**os.environ, "PYTHONHASHSEED": seed}

    printed = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)

    assert printed.stdout.split() == [str(user_jitter("alice")), str(user_jitter("bób/\x00"))]


def test_t8_a_users_share_of_the_window_is_the_same_in_every_release() -> None:
    assert user_jitter("alice") == pytest.approx(0.304366, abs=1e-6)


def test_t8_users_are_spread_evenly_over_the_window() -> None:
    tenths = Counter(int(user_jitter(f"user-{number}") * 10) for number in range(10_000))

    assert sorted(tenths) == list(range(10))
    assert all(850 < count < 1150 for count in tenths.values())


@given(st.text(st.characters(exclude_categories=[])))
def test_t8_any_user_has_a_share_between_nothing_and_the_whole_window(user_id: str) -> None:
    assert 0 <= user_jitter(user_id) <= 1


# The policy itself


def test_the_defaults_are_the_documented_ones() -> None:
    assert dataclasses.asdict(RefreshPolicy()) == {
        "expiry_buffer": 300,
        "refresh_ahead": 300,
        "max_buffer_fraction": 0.25,
        "patience": 1,
        "assumed_lifetime": 3600,
        "cache_ttl": 60,
        "max_cached_users": 100_000,
        "max_concurrent_renewals": 32,
    }


FIELDS = [field.name for field in dataclasses.fields(RefreshPolicy)]
NO_NUMBER = [-1, -0.001, math.nan, math.inf, "60", None, True, [60], 10**400]


@pytest.mark.parametrize(
    ("field", "value"),
    [
        (field, value)
        for field in FIELDS
        for value in NO_NUMBER
        if not (field in {"cache_ttl", "patience"} and value is None)
    ],
    ids=lambda value: str(value)[:20],
)
def test_a_wrong_policy_is_refused_and_the_field_is_named(field: str, value: Any) -> None:
    with pytest.raises(ConfigurationError, match=rf"RefreshPolicy\.{field}"):
        RefreshPolicy(**{field: value})


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("max_buffer_fraction", 1.01),
        ("max_cached_users", 0),
        ("max_cached_users", 1.5),
        ("max_concurrent_renewals", 0),
        ("max_concurrent_renewals", 2.0),
    ],
)
def test_a_number_outside_its_range_is_refused_and_the_field_is_named(field: str, value: Any) -> None:
    with pytest.raises(ConfigurationError, match=rf"RefreshPolicy\.{field}"):
        RefreshPolicy(**{field: value})


@pytest.mark.parametrize(
    "field", ["expiry_buffer", "refresh_ahead", "max_buffer_fraction", "assumed_lifetime", "cache_ttl"]
)
def test_nothing_is_a_valid_length_of_time(field: str) -> None:
    settings_: dict[str, Any] = {field: 0}

    assert getattr(RefreshPolicy(**settings_), field) == 0


def test_without_a_time_to_live_the_copy_in_memory_is_trusted_until_due() -> None:
    policy = RefreshPolicy(cache_ttl=None, patience=None)
    assert (policy.cache_ttl, policy.patience) == (None, None)


def test_policies_are_values() -> None:
    assert RefreshPolicy(expiry_buffer=60) == RefreshPolicy(expiry_buffer=60) != RefreshPolicy()
    assert hash(RefreshPolicy(expiry_buffer=60)) == hash(RefreshPolicy(expiry_buffer=60))
    with pytest.raises(dataclasses.FrozenInstanceError):
        DEFAULT.expiry_buffer = 1  # type: ignore[misc] # the point
