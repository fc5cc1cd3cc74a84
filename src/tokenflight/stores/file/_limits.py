"""The limits of a file store."""

from dataclasses import dataclass

from tokenflight.stores._cancellation import CANCELLATION_SECONDS


@dataclass(frozen=True, slots=True, kw_only=True)
class FileLimits:
    """How much a file store does at once, and how long it waits. Tests hand in shorter ones."""

    max_threads: int = 16
    keys_per_read: int = 1000
    shortest_poll_seconds: float = 0.005
    """The first pause between two attempts to take a lease. Each further one is twice as long."""
    longest_poll_seconds: float = 0.05
    lock_timeout_seconds: float = 10.0
    """How long a write waits for the write of another process to the same record, which takes milliseconds."""
    cancellation_seconds: float = CANCELLATION_SECONDS
