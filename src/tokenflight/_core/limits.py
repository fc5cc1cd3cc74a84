"""The bounds of a refresher: how long it waits, and how much it remembers."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Limits:
    """Bounds that a refresher is made with. All times are in seconds.

    An app sets what it may want to set in `RefreshPolicy`. These are the others: tests make them smaller.
    """

    turn_timeout: float = 120.0
    """How long a flight waits for its turn: for a reader's place, a renewal's place and the lease together."""

    provider_timeout: float = 120.0
    """How long a provider may take for one renewal, discovery included."""

    lease_timeout: float = 90.0
    """How long a flight waits for a lease: longer than the lease of a dead holder lasts in any store."""

    store_timeout: float = 10.0
    """How long one operation of a store may take."""

    max_concurrent_reads: int = 64
    """How many flights read their record at the same moment, without a lease."""

    hanging_after: float = 1.0
    """How long the provider may take until a renewal counts as one that hangs, and gives its place to another."""

    max_renewals_under_way: int = 512
    """How many renewals may be under way, those that hang included; at least twice as many as there are places."""

    max_rejected_users: int = 10_000
    """Of how many users the refresher remembers access tokens that an API rejected."""

    max_rejected_per_user: int = 4

    first_probation: float = 30.0
    """How long a token that answered a rejection is not renewed because of another one. It doubles each time."""

    longest_probation: float = 3600.0

    first_save_pause: float = 0.1
    """Between two tries to save a renewed token set. It doubles up to `longest_save_pause`."""

    longest_save_pause: float = 2.0
    """Short: a lease with a time limit may lapse before the next try, and a try costs one small write."""

    former_holder_seconds: float = 130.0
    """How long a holder of the lease that was cut off may still be at the provider: a lease and `provider_timeout`."""

    former_holder_grace: float = 2.5
    """How long one that was cut off gets to store its renewal: a little longer than `longest_save_pause`."""

    first_backoff: float = 1.0
    """The longest first pause after a failed renewal. It doubles up to `longest_backoff`."""

    longest_backoff: float = 60.0

    max_backoff_users: int = 10_000

    provider_pause: float = 30.0
    """How long a provider that says "too many requests", and not for how long, is left alone."""

    longest_provider_pause: float = 3600.0
    """A provider that asks for more, such as a third party's that says `inf`, is asked again after this."""

    longest_sweep_pause: float = 60.0
    """How long a sweep waits for a provider that asks for a pause. After a longer one, the next sweep will do."""
