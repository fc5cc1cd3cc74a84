"""A lease that ends by itself when its holder can't extend it in time."""

import secrets
import sys
import time

from tokenflight.stores.base import Lease


def lapse_clock() -> float:
    """Seconds that also pass while the process stands still and, on Linux, while the machine sleeps."""
    return time.clock_gettime(time.CLOCK_BOOTTIME) if sys.platform == "linux" else time.monotonic()


class LapsingLease(Lease):
    """A lease of `owner`, a name that nobody else has, for `duration` seconds from when it was last extended.

    The time is counted here, from before each asking: so it ends here first, and only then for the others.
    """

    __slots__ = ("_held_until", "duration", "owner")

    def __init__(self, duration: float) -> None:
        self.owner = secrets.token_hex(16)
        self.duration = duration
        self._held_until = 0.0

    def is_held(self) -> bool:
        """See `Lease.is_held`."""
        return lapse_clock() < self._held_until

    def extend(self, asked_at: float) -> None:
        """Note that what was asked for at `asked_at`, by `lapse_clock`, was granted."""
        self._held_until = asked_at + self.duration

    def lose(self) -> None:
        """Note that it is over."""
        self._held_until = 0.0
