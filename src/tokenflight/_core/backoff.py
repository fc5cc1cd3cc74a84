"""Pauses after failures: when a user's token set, or any at the provider, may be renewed again."""

import random
from dataclasses import dataclass

from tokenflight._core.limits import Limits


@dataclass(frozen=True, slots=True)
class _Pause:
    failures: int
    since: float
    until: float

    def remaining(self, now: float) -> float:
        # A clock set back by an hour must not stretch the pause by an hour: before `since`, it is over.
        return self.until - now if self.since <= now < self.until else 0.0


class Backoff:
    """Pauses per user, exponential with jitter, and one for the provider where it asked for it.

    All times are POSIX seconds. At most `max_backoff_users` pauses are kept; the oldest are dropped first.
    """

    def __init__(self, limits: Limits) -> None:
        self._limits = limits
        self._by_user: dict[str, _Pause] = {}
        self._provider = _Pause(0, 0.0, 0.0)

    def remaining(self, user_id: str, now: float) -> float:
        """How many seconds `user_id` still has to wait; zero if not at all."""
        remaining = self.provider_remaining(now)
        pause = self._by_user.get(user_id)
        return remaining if pause is None else max(remaining, pause.remaining(now))

    def provider_remaining(self, now: float) -> float:
        """How many seconds the provider still wants all users to wait; zero if not at all."""
        return self._provider.remaining(now)

    def failed(self, user_id: str, now: float) -> None:
        """Start the next, longer pause of `user_id`."""
        previous = self._by_user.pop(user_id, None)  # taken out first, so that it goes to the end of the dict
        failures = 1 if previous is None else previous.failures + 1
        longest = min(self._limits.first_backoff * 2.0 ** min(failures - 1, 30), self._limits.longest_backoff)
        # Jitter, so that users who failed together do not come back together.
        seconds = longest * random.uniform(0.5, 1.0)  # noqa: S311 - not a secret
        self._by_user[user_id] = _Pause(failures, now, now + seconds)
        if len(self._by_user) > self._limits.max_backoff_users:
            del self._by_user[next(iter(self._by_user))]

    def hold_provider(self, now: float, seconds: float) -> None:
        """Make all users wait for `seconds`, which the provider asked for."""
        if seconds > self._provider.remaining(now):
            self._provider = _Pause(1, now, now + seconds)

    def clear(self, user_id: str) -> None:
        """Forget the failures of `user_id`."""
        self._by_user.pop(user_id, None)
