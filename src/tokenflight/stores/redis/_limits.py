"""The limits of a Redis store."""

from dataclasses import dataclass

from tokenflight.stores._cancellation import CANCELLATION_SECONDS


@dataclass(frozen=True, slots=True, kw_only=True)
class RedisLimits:
    """How long a Redis store waits. Tests hand in shorter times."""

    poll_seconds: float = 1.0
    """How often a waiter asks for a lease although it has not heard that the lease was released."""
    command_timeout_seconds: float = 8.0
    """Shorter than a refresher waits for its store. A client of the app's own may have no timeout at all."""
    search_timeout_seconds: float = 60.0
    """For the next of all keys: between two records there may be millions of keys of other programs."""
    cancellation_seconds: float = CANCELLATION_SECONDS
