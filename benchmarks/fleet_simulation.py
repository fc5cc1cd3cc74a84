"""Simulate a fleet whose users call all the time. The library's own code decides; only time and calls are simulated.

All times are seconds since the restart after which all users log in.
"""

import heapq
import math
import random
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from itertools import count, cycle
from typing import Final

from tokenflight import RefreshPolicy, TokenSet
from tokenflight._core.backoff import Backoff
from tokenflight._core.limits import Limits
from tokenflight.errors import ProviderUnavailable
from tokenflight.policy import Freshness, fresh_until, judge, user_jitter

_LIMITS: Final = Limits()

LOGIN_SECONDS: Final = 300.0
"""All users log in within these seconds."""

LIFETIME_SECONDS: Final = 3600.0
CALL_SECONDS: Final = 30.0
"""Between two calls of one user."""

ANSWER_SECONDS: Final = 0.2
"""From a request for a renewal to the provider's answer."""

OUTAGE_FAILURE: Final = ProviderUnavailable("down")

_DRAWS: Final = 100_003
"""A prime, so that no user gets the same draws in every cycle."""


def user_id(number: int) -> str:
    """The id of the user with this `number`."""
    return f"user-{number:07}"


def renewals_per_minute(
    users: Iterable[str], policy: RefreshPolicy, *, until: float, chance: float = 1.0
) -> Sequence[int]:
    """The number of renewals that `users` cause in each whole minute before `until`.

    `chance` is the probability that a call with an aging token set starts a renewal. A call with a due one always does.
    """
    counts = [0] * (int(until) // 60 + 1)
    for _, _, renewals in lives(users, policy, until, chance):
        for moment in renewals:
            counts[int(moment) // 60] += 1
    return counts[:-1]


def token_sets(users: Iterable[str], policy: RefreshPolicy, *, at: float) -> list[tuple[str, TokenSet]]:
    """The token set that each of `users` has at the moment `at`."""
    return [(user, issued_at(max([login, *renewals]))) for user, login, renewals in lives(users, policy, at, 1.0)]


def issued_at(moment: float) -> TokenSet:
    """The token set that the provider issues at `moment`."""
    return TokenSet("token", issued_at=moment, expires_at=moment + LIFETIME_SECONDS)


@dataclass(frozen=True, slots=True)
class Outage:
    """From `start` to `end`, each request fails after `failure_seconds`."""

    start: float
    end: float
    failure_seconds: float


@dataclass(slots=True)
class Tally:
    """What pods did, and what happened to their users. `requests` maps each second to its number of requests."""

    users: int = 0
    requests: dict[int, int] = field(default_factory=dict)
    most_at_once: int = 0
    failed_calls: int = 0
    expired_users: int = 0
    recovered_at: float = 0.0

    def per_second(self, start: float, end: float) -> list[int]:
        """The requests in each second from `start` to `end`."""
        return [self.requests.get(second, 0) for second in range(int(start), int(end))]

    def per_minute(self, start: float, end: float) -> list[int]:
        """The requests in each whole minute from `start` to `end`."""
        seconds = self.per_second(start, end)
        return [sum(seconds[first : first + 60]) for first in range(0, len(seconds) - 59, 60)]


@dataclass(slots=True, eq=False)
class _User:
    user_id: str
    tokens: TokenSet
    jitter: float
    is_flying: bool = False


@dataclass(slots=True, eq=False)
class _Flight:
    user: _User
    has_slot: bool = False
    is_over: bool = False


class Pod:
    """One refresher and the users that call it, from some time before an outage on."""

    def __init__(
        self, users: Iterable[tuple[str, TokenSet]], policy: RefreshPolicy, outage: Outage, tally: Tally, *, seed: int
    ) -> None:
        self._policy = policy
        self._outage = outage
        self._tally = tally
        self._backoff = Backoff(_LIMITS)
        self._users = [_User(name, tokens, user_jitter(name)) for name, tokens in users]
        self._due_at_end: set[_User] = set()
        self._slots = policy.max_concurrent_renewals
        self._queue: deque[_Flight] = deque()
        self._numbers = count()
        self._events: list[tuple[float, int, Callable[[float], None]]] = []
        self._draw = random.Random(seed)
        for user in self._users:
            self._sleep_while_fresh(user)
        self._at(outage.end, self._look_at_the_damage)

    def run(self, until: float) -> None:
        """Run all events before `until`."""
        while self._events and self._events[0][0] < until:
            now, _, happen = heapq.heappop(self._events)
            happen(now)

    def _at(self, moment: float, happen: Callable[[float], None]) -> None:
        heapq.heappush(self._events, (moment, next(self._numbers), happen))

    def _sleep_while_fresh(self, user: _User) -> None:
        fresh = fresh_until(user.tokens, self._policy, jitter=user.jitter)
        self._at(fresh + self._draw.uniform(0.0, CALL_SECONDS), partial(self._call, user))

    def _is_expired(self, tokens: TokenSet, now: float) -> bool:
        return judge(tokens, self._policy, now) is Freshness.EXPIRED

    def _call(self, user: _User, now: float) -> None:
        """Act as `TokenRefresher.get_valid_token` does."""
        if not user.is_flying:
            if judge(user.tokens, self._policy, now, jitter=user.jitter) is Freshness.FRESH:
                self._sleep_while_fresh(user)
                return
            if not self._backoff.remaining(user.user_id, now):
                self._fly(user, now)
            elif self._is_expired(user.tokens, now):
                self._tally.failed_calls += 1
        self._at(now + self._draw.uniform(0.5, 1.5) * CALL_SECONDS, partial(self._call, user))

    def _fly(self, user: _User, now: float) -> None:
        flight = _Flight(user)
        user.is_flying = True
        self._at(now + _LIMITS.provider_timeout, partial(self._land, flight, None))
        self._queue.append(flight)
        self._use_slots(now)

    def _use_slots(self, now: float) -> None:
        while self._slots and self._queue:
            flight = self._queue.popleft()
            if not flight.is_over:
                flight.has_slot = True
                self._slots -= 1
                self._ask(flight, now)

    def _ask(self, flight: _Flight, now: float) -> None:
        asking = self._policy.max_concurrent_renewals - self._slots
        self._tally.most_at_once = max(self._tally.most_at_once, asking)
        self._tally.requests[int(now)] = self._tally.requests.get(int(now), 0) + 1
        if self._outage.start <= now < self._outage.end:
            self._at(now + self._outage.failure_seconds, partial(self._land, flight, None))
        else:
            self._at(now + ANSWER_SECONDS, partial(self._land, flight, issued_at(now)))

    def _land(self, flight: _Flight, tokens: TokenSet | None, now: float) -> None:
        if flight.is_over:
            return
        flight.is_over = True
        self._slots += flight.has_slot
        user = flight.user
        user.is_flying = False
        if tokens is None:
            self._backoff.failed(user.user_id, now, OUTAGE_FAILURE)
        else:
            self._backoff.clear(user.user_id)
            user.tokens = tokens
            if user in self._due_at_end:
                self._due_at_end.discard(user)
                self._tally.recovered_at = max(self._tally.recovered_at, now)
        self._use_slots(now)

    def _look_at_the_damage(self, now: float) -> None:
        self._tally.users += len(self._users)
        self._tally.expired_users += sum(self._is_expired(user.tokens, now) for user in self._users)
        self._due_at_end = {user for user in self._users if judge(user.tokens, self._policy, now) is Freshness.DUE}


def lives(
    users: Iterable[str], policy: RefreshPolicy, until: float, chance: float
) -> Iterator[tuple[str, float, list[float]]]:
    """Yield each user with the moment of the login and the moments of the renewals."""
    draw = random.Random(1)
    logins = cycle([draw.uniform(0.0, LOGIN_SECONDS) for _ in range(_DRAWS - 2)])
    waits = [draw.uniform(0.0, CALL_SECONDS) for _ in range(_DRAWS)]
    calls = cycle([(wait + CALL_SECONDS * _misses(draw, chance), wait) for wait in waits])
    tokens = issued_at(0.0)  # a later token set gets the same judgement, later by the same time
    due = fresh_until(tokens, policy, jitter=0.0)
    for user in users:
        fresh = fresh_until(tokens, policy, jitter=user_jitter(user))
        moment = login = next(logins)
        renewals = []
        while True:
            until_aging_is_noticed, until_due_is_noticed = next(calls)
            moment += min(fresh + until_aging_is_noticed, due + until_due_is_noticed)
            if moment >= until:
                break
            renewals.append(moment)
        yield user, login, renewals


def _misses(draw: random.Random, chance: float) -> int:
    """The number of calls without luck before the first one with luck."""
    return 0 if chance >= 1.0 else int(math.log(1.0 - draw.random()) / math.log(1.0 - chance))
