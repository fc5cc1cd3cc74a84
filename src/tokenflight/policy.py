"""The freshness of a token set: the policy, and the judge, a pure function of policy, token set and clock."""

import enum
import hashlib
import math
from dataclasses import dataclass, fields
from typing import Final

from tokenflight._token_times import MAX_CLOCK_SKEW_SECONDS
from tokenflight.errors import ConfigurationError
from tokenflight.tokens import TokenSet

LEAST_LIFE_SECONDS: Final = 5.0
"""With less life left than this, a token may expire on its way to the API."""

MAX_SECONDS: Final = 1e15
"""More than any policy needs. An int of this size still fits a float."""


@dataclass(frozen=True, slots=True)
class RefreshPolicy:
    """How early to renew, and how long to trust the cached copy. All times are in seconds.

    `expiry_buffer`: with less life left than this, a caller waits for the renewal.
    `refresh_ahead`: up to this much earlier still, the current token is returned and renewed in the background.
    Each user's own point in this window is a stable hash of the user id, so that users drift apart that logged in
    together. If the provider says when to renew (`TokenSet.refresh_at`), the window begins at that moment.
    `max_buffer_fraction`: `expiry_buffer` never exceeds this share of the token's lifetime, nor `refresh_ahead` half
    of this share, so that a token of a minute is not renewed on every call.
    `assumed_lifetime`: the lifetime of a token if the provider does not state one, counted from `TokenSet.issued_at`.
    It applies only if there is a refresh token to renew it with. If the moment of issue is unknown too, the token is
    due.
    `patience`: how long a caller waits for a renewal while its token set is due but still really valid. The time counts
    from the start of the renewal. When it is over, the caller gets that token set, and the renewal goes on. None waits
    to the end.
    `cache_ttl`: how long the refresher trusts the cached copy before it reads the store again, and so sees a logout or
    a renewal of another process. None trusts it until the token is due.
    `max_cached_users`: the number of users in the cache. For one more, the oldest is evicted and has to be read again.
    `max_concurrent_renewals`: the number of renewals of one refresher that are at the provider, or about to be sent to
    it, at the same moment. One that takes longer than a second no longer counts, unless some five hundred do.

    Raises `ConfigurationError` for a value out of range.
    """

    expiry_buffer: float = 300
    refresh_ahead: float = 300
    max_buffer_fraction: float = 0.25
    patience: float | None = 1
    assumed_lifetime: float = 3600
    cache_ttl: float | None = 60
    max_cached_users: int = 100_000
    max_concurrent_renewals: int = 32

    def __post_init__(self) -> None:
        for field in fields(self):
            value = getattr(self, field.name)
            if value is None and field.name in {"cache_ttl", "patience"}:
                continue
            if isinstance(value, bool) or not isinstance(value, int | float) or not abs(value) <= MAX_SECONDS:
                raise ConfigurationError(f"RefreshPolicy.{field.name} must be a finite number, not {value!r:.40}")
            if value < 0:
                raise ConfigurationError(f"RefreshPolicy.{field.name} must not be negative, not {value!r}")
        if self.max_buffer_fraction > 1:
            raise ConfigurationError(
                f"RefreshPolicy.max_buffer_fraction is a share of 1, not {self.max_buffer_fraction}"
            )
        for name in ("max_cached_users", "max_concurrent_renewals"):
            if not isinstance(value := getattr(self, name), int) or value < 1:
                raise ConfigurationError(f"RefreshPolicy.{name} must be a whole number of at least 1, not {value!r}")


class Freshness(enum.Enum):
    """The grade of a token set, which says what to do with it."""

    FRESH = "return it"
    AGING = "return it, and renew it in the background"
    DUE = "wait for its renewal; where that fails, return it"
    EXPIRED = "wait for its renewal; where that fails, there is nothing to return"

    @property
    def is_good(self) -> bool:
        """Whether a caller gets the token set without a wait."""
        return self is Freshness.FRESH or self is Freshness.AGING


def judge(
    tokens: TokenSet, policy: RefreshPolicy, now: float, *, jitter: float = 1.0, min_validity: float = 0.0
) -> Freshness:
    """Grade `tokens` at `now` (POSIX seconds).

    `jitter`, from 0 to 1, is the share of the `refresh_ahead` window that applies to the user. `min_validity` is the
    life that the caller needs, in seconds. A token set whose expiry is neither known nor assumed is fresh.
    """
    if fresh_from(tokens) <= now <= _due_at(tokens, policy, min_validity):
        return Freshness.FRESH if now <= fresh_until(tokens, policy, jitter=jitter) else Freshness.AGING
    return Freshness.DUE if now < valid_until(tokens) else Freshness.EXPIRED


def valid_until(tokens: TokenSet) -> float:
    """Until when `tokens` is really valid, in POSIX seconds, with time enough to reach an API; infinity if unknown.

    An expiry that a policy only assumes does not count: the token may well live on.
    """
    if not tokens.access_token:
        return -math.inf
    return math.inf if tokens.expires_at is None else tokens.expires_at - LEAST_LIFE_SECONDS


def expiry_of(tokens: TokenSet, policy: RefreshPolicy) -> float:
    """The expiry of the access token in POSIX seconds, known or assumed by `policy`.

    It is infinity for a token set with neither an expiry nor a refresh token, because nothing can renew it. It is minus
    infinity if there is no access token yet, or if neither its expiry nor its age is known.
    """
    if not tokens.access_token:
        return -math.inf
    if tokens.expires_at is not None:
        return tokens.expires_at
    if tokens.refresh_token is None:
        return math.inf
    return -math.inf if tokens.issued_at is None else tokens.issued_at + policy.assumed_lifetime


def fresh_from(tokens: TokenSet) -> float:
    """The first moment, in POSIX seconds, at which `judge` finds `tokens` fresh; minus infinity where unknown.

    Before that moment the token set seems to be issued in the future: the clock of the host that renewed it was ahead,
    and its expiry is just as wrong. Clocks may be `MAX_CLOCK_SKEW_SECONDS` apart. For a token set that never expires,
    the clock does not matter.
    """
    never_expires = tokens.expires_at is None and tokens.refresh_token is None
    if never_expires or tokens.issued_at is None:
        return -math.inf
    return tokens.issued_at - MAX_CLOCK_SKEW_SECONDS


def fresh_until(tokens: TokenSet, policy: RefreshPolicy, *, jitter: float = 1.0) -> float:
    """The last moment, in POSIX seconds, at which `judge` finds `tokens` fresh; infinity without an expiry."""
    due_at = _due_at(tokens, policy)
    ahead = policy.refresh_ahead
    lifetime = _lifetime_of(tokens, policy)
    if lifetime is not None:
        ahead = min(ahead, lifetime * policy.max_buffer_fraction / 2)
    if tokens.refresh_at is not None:
        return min(tokens.refresh_at + ahead * (1 - jitter), due_at)
    return due_at - ahead * jitter


def user_jitter(user_id: str) -> float:
    """The share of the `refresh_ahead` window that applies to `user_id`: the same in every process, on every host."""
    digest = hashlib.blake2b(user_id.encode("utf-8", "surrogatepass"), digest_size=8).digest()
    return int.from_bytes(digest) / 2**64


def _due_at(tokens: TokenSet, policy: RefreshPolicy, min_validity: float = 0.0) -> float:
    buffer = policy.expiry_buffer
    lifetime = _lifetime_of(tokens, policy)
    if lifetime is not None:
        buffer = min(buffer, lifetime * policy.max_buffer_fraction)
        if min_validity >= lifetime:  # no renewal can give that much: do not renew on every call in the attempt
            min_validity = lifetime * 0.75
    expires_at = expiry_of(tokens, policy)
    return expires_at if math.isinf(expires_at) else expires_at - max(buffer, min_validity)


def _lifetime_of(tokens: TokenSet, policy: RefreshPolicy) -> float | None:
    """The whole lifetime of `tokens` in seconds, known or assumed; None if it is neither."""
    is_assumed = tokens.expires_at is None and tokens.refresh_token is not None and tokens.issued_at is not None
    return policy.assumed_lifetime if is_assumed else tokens.lifetime
