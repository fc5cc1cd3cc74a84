"""The limits of a SQL store."""

from dataclasses import dataclass

from tokenflight.stores._cancellation import CANCELLATION_SECONDS


@dataclass(frozen=True, slots=True, kw_only=True)
class SQLLimits:
    """How much a SQL store reads at once, and how long it waits. Tests hand in other limits."""

    keys_per_read: int = 1000
    statement_timeout_seconds: float = 8.0
    """Shorter than a refresher waits for its store, so that a connection that hangs is closed and not kept."""
    shortest_poll_seconds: float = 0.005
    """The first pause before a waiter asks for a lease again. Each further one is twice as long."""
    brisk_poll_seconds: float = 0.05
    """The longest pause during the first `brisk_seconds`, which is how long a renewal takes."""
    brisk_seconds: float = 2.0
    longest_poll_seconds: float = 0.25
    cancellation_seconds: float = CANCELLATION_SECONDS
