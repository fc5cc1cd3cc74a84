"""Simulate a fleet's load on its provider after all users log in at once, and after an outage."""

import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Final

from benchmarks.comparison import FULL, Effort
from benchmarks.fleet_simulation import (
    CALL_SECONDS,
    LIFETIME_SECONDS,
    Outage,
    Pod,
    Tally,
    issued_at,
    renewals_per_minute,
    token_sets,
    user_id,
)
from benchmarks.report import Cell, Table
from benchmarks.subjects import HOUR_SECONDS, USER, PromptProvider
from tokenflight import MemoryTokenStore, RefreshPolicy, StoredTokens, TokenKey, TokenRefresher

USERS: Final = 1_000_000
PODS: Final = 200
LEAST_USERS: Final = 1_000
HOURS: Final = (0, 2, 4, 6, 9, 12, 24, 36, 48)
"""The columns begin and end at these hours."""

STEADY_HOUR: Final = 12
"""The first hour whose peaks are compared with the target."""

TARGET_PEAK: Final = 1.5
PODS_IN_OUTAGE: Final = 20
OUTAGE_START: Final = 24.0 * HOUR_SECONDS
OUTAGE_SECONDS: Final = 1800.0
WARM_UP_SECONDS: Final = 600.0
AFTERMATH_SECONDS: Final = 2.0 * HOUR_SECONDS


@dataclass(frozen=True, slots=True)
class _Scene:
    name: str
    policy: RefreshPolicy
    goes_to_any_pod: bool = False
    is_held_to_target: bool = False


SCENES: Final = (
    _Scene("default policy", RefreshPolicy(), is_held_to_target=True),
    _Scene("default policy, calls go to any pod", RefreshPolicy(), goes_to_any_pod=True, is_held_to_target=True),
    _Scene("no jitter: refresh_ahead=0", RefreshPolicy(refresh_ahead=0)),
    _Scene("more jitter: refresh_ahead=450", RefreshPolicy(refresh_ahead=450)),
)


async def fleet(effort: Effort) -> list[Table]:
    """Simulate two days after a restart, with an outage of the provider on the second day."""
    users = max(LEAST_USERS, USERS // effort.divisor**2)
    reading_renews = await _reading_renews()
    scale = USERS / users
    what = f"{USERS:,} users on {PODS} pods, an hour a token, all logged in within 5 minutes"
    if users != USERS:
        what += f" (simulated: {users:,})"
    rows, mean_rate = [], 0.0
    for scene in SCENES:
        chance = 1.0 if reading_renews or not scene.goes_to_any_pod else _chance_to_be_known(scene.policy)
        minutes = renewals_per_minute(
            map(user_id, range(users)), scene.policy, until=HOURS[-1] * HOUR_SECONDS, chance=chance
        )
        row, rate = _row(scene, minutes, scale)
        rows.append(row)
        mean_rate = mean_rate or rate
    return [
        Table(
            f"{what}: busiest minute over the mean",
            (
                "policy",
                "renewals/s, mean",
                *(f"{start}-{end} h" for start, end in pairwise(HOURS)),
                f"target from {STEADY_HOUR} h on",
            ),
            rows,
            notes=(
                f"Each user calls every {CALL_SECONDS:.0f} s. The mean is that from {STEADY_HOUR} h on.",
                "Each renewal widens a wave by refresh_ahead; it has flattened when as wide as a token's useful life.",
                "Calls go to one pod a user, except where they go to any: few of these pods know the user.",
                f"Reading an aging token set from the store {'renews' if reading_renews else 'does not renew'} it.",
            ),
        ),
        _outages(effort, mean_rate),
    ]


def _row(scene: _Scene, minutes: Sequence[int], scale: float) -> tuple[list[Cell], float]:
    steady = minutes[STEADY_HOUR * 60 :]
    mean = sum(steady) / len(steady)
    peaks = [max(minutes[start * 60 : end * 60]) / mean for start, end in pairwise(HOURS)]
    rate = mean * scale / 60
    target = f"≤ {TARGET_PEAK:.2f}" if scene.is_held_to_target else None
    return [scene.name, round(rate), *peaks, target], rate


def _outages(effort: Effort, mean_rate: float) -> Table:
    policy = RefreshPolicy()
    pods, users = (PODS_IN_OUTAGE, USERS // PODS) if effort is FULL else (1, LEAST_USERS)
    end = OUTAGE_START + OUTAGE_SECONDS
    rows: list[list[Cell]] = []
    for name, failure_seconds in (("fails after 0.2 s", 0.2), ("says nothing until the timeout of 30 s", 30.0)):
        tally, outage = Tally(), Outage(OUTAGE_START, end, failure_seconds)
        for number in range(pods):
            names = [user_id(each) for each in range(number * users, (number + 1) * users)]
            held = token_sets(names, policy, at=OUTAGE_START - WARM_UP_SECONDS)
            Pod(held, policy, outage, tally, seed=number).run(end + AFTERMATH_SECONDS)
        scale = USERS / (pods * users)
        during = sum(tally.per_second(OUTAGE_START, end)) * scale / OUTAGE_SECONDS
        after = max(tally.per_second(end, end + HOUR_SECONDS / 2)) * scale
        next_wave = max(tally.per_minute(end + HOUR_SECONDS / 2, end + AFTERMATH_SECONDS)) * scale / 60
        rows.append(
            [
                f"each request {name}",
                round(during),
                f"{tally.expired_users / tally.users:.0%}",
                round(after),
                tally.most_at_once,
                f"≤ {policy.max_concurrent_renewals}",
                round(tally.recovered_at - end),
                next_wave / mean_rate,
            ]
        )
    return Table(
        f"The provider fails for {OUTAGE_SECONDS / 60:.0f} minutes on the second day"
        f" (simulated: {pods} of {PODS} pods, requests scaled up)",
        (
            "outage",
            "requests/s during it",
            "users expired at its end",
            "requests/s after, most",
            "at once per pod, most",
            "target",
            "all renewed after, s",
            "next wave, minute over mean",
        ),
        rows,
    )


async def _reading_renews() -> bool:
    """Whether a refresher with an empty cache that reads an aging token set renews it in the background."""
    provider, store = PromptProvider(), MemoryTokenStore()
    aging = issued_at(time.time() - LIFETIME_SECONDS + RefreshPolicy().expiry_buffer + 1)
    await store.save(TokenKey(provider.name, USER), StoredTokens(replace(aging, refresh_token="refresh")))
    async with TokenRefresher(provider, store) as refresher:
        await refresher.get_valid_token(USER)
    return provider.renewals > 0


def _chance_to_be_known(policy: RefreshPolicy) -> float:
    """The probability that a random pod still has a current cache entry from an earlier call of the user."""
    if policy.cache_ttl is None:
        return 1.0
    return 1.0 - (1.0 - 1.0 / PODS) ** int(policy.cache_ttl / CALL_SECONDS)
