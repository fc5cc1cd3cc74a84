"""Back-off after a failure: when a user's token set, or a whole provider, may be tried again."""

import random
from dataclasses import dataclass
from typing import Final

FIRST_PAUSE_SECONDS: Final = 1.0
LONGEST_PAUSE_SECONDS: Final = 60.0
MAX_TRACKED_USERS: Final = 10_000


@dataclass(frozen=True, slots=True)
class _Pause:
    failures: int
    since: float
    until: float

    def remaining(self, now: float) -> float:
        # A clock set back by an hour must not stretch the pause by an hour: before `since`, it is over.
        return self.until - now if self.since <= now < self.until else 0.0


class CoolDowns:
    """Pauses per user, exponential with jitter, and one for the provider where it asked for it.

    All times are POSIX seconds. At most `MAX_TRACKED_USERS` pauses are kept; the oldest give way.
    """

    def __init__(self) -> None:
        self._by_user: dict[str, _Pause] = {}
        self._provider = _Pause(0, 0.0, 0.0)

    def remaining(self, user_id: str, now: float) -> float:
        """How many seconds `user_id` still has to wait; zero if not at all."""
        remaining = self.provider_remaining(now)
        pause = self._by_user.get(user_id)
        return remaining if pause is None else max(remaining, pause.remaining(now))

    def provider_remaining(self, now: float) -> float:
        """How many seconds the provider still wants everybody to wait; zero if not at all."""
        return self._provider.remaining(now)

    def failed(self, user_id: str, now: float) -> None:
        """Start the next, longer pause of `user_id`."""
        previous = self._by_user.pop(user_id, None)
        failures = 1 if previous is None else previous.failures + 1
        longest = min(FIRST_PAUSE_SECONDS * 2.0 ** min(failures - 1, 30), LONGEST_PAUSE_SECONDS)
        # Jitter, so that users who failed together do not come back together.
        seconds = longest * random.uniform(0.5, 1.0)  # noqa: S311 - not a secret
        self._by_user[user_id] = _Pause(failures, now, now + seconds)
        if len(self._by_user) > MAX_TRACKED_USERS:
            del self._by_user[next(iter(self._by_user))]

    def hold_provider(self, now: float, seconds: float) -> None:
        """Make everybody wait for `seconds`, as the provider asked."""
        if seconds > self._provider.remaining(now):
            self._provider = _Pause(1, now, now + seconds)

    def clear(self, user_id: str) -> None:
        """Forget the failures of `user_id`."""
        self._by_user.pop(user_id, None)
