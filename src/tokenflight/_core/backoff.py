"""Pauses after failures: when a user's token set, or any at the provider, may be renewed again."""

import random
from dataclasses import dataclass
from typing import Final

from tokenflight._core.failures import without_frames
from tokenflight._core.limits import Limits
from tokenflight.errors import TokenflightError, TokenRefreshError
from tokenflight.stores.base import RenewalFailure

PROBED_AGAIN_SECONDS: Final = 1.0
"""When a caller may ask again whether the probe has ended."""


@dataclass(frozen=True, slots=True)
class _Pause:
    failures: int
    since: float
    until: float
    cause: TokenflightError

    def remaining(self, now: float) -> float:
        # A clock set back by an hour must not stretch the pause by an hour: before `since`, it is over.
        return self.until - now if self.since <= now < self.until else 0.0


class Backoff:
    """Pauses per user, exponential with jitter, and one for the provider where it asked for it.

    Each pause remembers the failure that began it, for the callers who come during the pause.
    When the provider's pause is over, one renewal is the probe. Until it ends, all others still wait: of a thousand
    users that are due, one finds out whether the provider is back. All times are POSIX seconds. At most
    `max_backoff_users` users' pauses are kept; the oldest are dropped first.
    """

    def __init__(self, limits: Limits) -> None:
        self._limits = limits
        self._by_user: dict[str, _Pause] = {}
        self._provider: _Pause | None = None
        """The provider's last pause, until a renewal has shown that it is over."""
        self._probe: tuple[object, float] | None = None
        """The renewal that is the probe, and until when at most."""

    def remaining(self, user_id: str, now: float) -> float:
        """How many seconds `user_id` still has to wait; zero if not at all."""
        remaining = self.provider_remaining(now)
        pause = self._by_user.get(user_id)
        return remaining if pause is None else max(remaining, pause.remaining(now))

    def cause(self, user_id: str, now: float) -> TokenflightError | None:
        """The failure that began the pause of `user_id`, of two pauses the one that ends later; None without one."""
        pause, provider = self._by_user.get(user_id), self._provider
        of_user = 0.0 if pause is None else pause.remaining(now)
        of_provider = self.provider_remaining(now)
        if pause is not None and of_user >= of_provider:
            return pause.cause if of_user else None
        return provider.cause if provider is not None and of_provider else None

    def provider_remaining(self, now: float) -> float:
        """How many seconds all users have to wait for the provider or for the probe; zero if not at all."""
        if self._provider is None:
            return 0.0
        remaining = self._provider.remaining(now)
        if not remaining and self._probe is not None and now < self._probe[1]:
            return min(PROBED_AGAIN_SECONDS, self._probe[1] - now)
        return remaining

    def hold_provider(self, now: float, seconds: float, cause: TokenflightError) -> None:
        """Make all users wait for `seconds`, which the provider asked for with `cause`."""
        if self._provider is None or seconds > self._provider.remaining(now):
            self._provider = _Pause(1, now, now + seconds, without_frames(cause))

    def begin(self, renewal: object, now: float) -> None:
        """Note that `renewal` is about to be sent; after the provider's pause, it is the probe."""
        if self._provider is not None:
            self._probe = (renewal, now + self._limits.provider_timeout)

    def ended(self, renewal: object, now: float, *, pause: float) -> None:
        """Note that `renewal` was answered, or was not. If it was the probe, another `pause` follows, or none if zero.

        Another renewal's answer says nothing: it was sent before the provider asked for the pause.
        """
        if self._probe is not None and self._probe[0] is renewal:
            self._probe = None
            if self._provider is not None:
                self._provider = _Pause(1, now, now + pause, self._provider.cause) if pause else None

    def failed(self, user_id: str, now: float, cause: TokenflightError, *, at_least: float = 0.0) -> RenewalFailure:
        """Start the next, longer pause of `user_id`, of `at_least` so many seconds, because of `cause`."""
        previous = self._by_user.get(user_id)
        failures = 1 if previous is None else previous.failures + 1
        longest = min(self._limits.first_backoff * 2.0 ** min(failures - 1, 30), self._limits.longest_backoff)
        # Jitter, so that users that failed together do not come back together.
        seconds = max(longest * random.uniform(0.5, 1.0), at_least)  # noqa: S311 - not a secret
        self._put(user_id, _Pause(failures, now, now + seconds, without_frames(cause)))
        word = cause.error if isinstance(cause, TokenRefreshError) else None
        return RenewalFailure(type(cause).__name__, cause.code, now, now + seconds, failures, word)

    def pause(self, user_id: str, now: float, seconds: float, cause: TokenflightError) -> None:
        """Let `user_id` wait for `seconds` because of `cause`, which is no failure of this process's."""
        self._put(user_id, _Pause(0, now, now + seconds, cause))

    def failed_elsewhere(self, user_id: str, failure: RenewalFailure, cause: TokenflightError) -> None:
        """Heed the pause that another process began because of `cause`, unless the own one began later."""
        own = self._by_user.get(user_id)
        if own is None or own.since < failure.at:
            until = min(failure.until, failure.at + self._limits.longest_provider_pause)
            self._put(user_id, _Pause(failure.count, failure.at, until, cause))

    def _put(self, user_id: str, pause: _Pause) -> None:
        self._by_user.pop(user_id, None)  # taken out first, so that it goes to the end of the dict
        self._by_user[user_id] = pause
        if len(self._by_user) > self._limits.max_backoff_users:
            del self._by_user[next(iter(self._by_user))]

    def clear(self, user_id: str) -> None:
        """Forget the failures of `user_id`."""
        self._by_user.pop(user_id, None)
