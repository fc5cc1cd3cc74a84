"""The records that a refresher remembers, ready for a fast path of one look-up."""

import hashlib
import math
from dataclasses import dataclass, replace
from typing import Final

from tokenflight._core.limits import Limits
from tokenflight._core.rejections import Rejections
from tokenflight.policy import RefreshPolicy, fresh_from, fresh_until, user_jitter
from tokenflight.stores.base import StoredTokens
from tokenflight.tokens import TokenSet

MAX_PAST: Final = 8
"""Of how many refresh tokens an entry knows that they are past: by so many renewals a store may go back in time."""


@dataclass(frozen=True, slots=True)
class CacheEntry:
    """A record as read or written at `since`. All times are POSIX seconds, `ttl` is in seconds.

    From `since` to `fresh_until` the fast path returns its token set for the default target without a full check. For
    `ttl` the store need not be read again. `past` has digests of the refresh tokens that this record's one came after,
    the last few of them. `pinned` marks a record that could not be stored yet: this entry is the only copy of it.
    """

    record: StoredTokens
    since: float
    fresh_until: float
    ttl: float
    past: tuple[bytes, ...] = ()
    pinned: bool = False

    @property
    def tokens(self) -> TokenSet:
        """The record's token set for the default target."""
        return self.record.tokens

    def is_fresh(self, now: float) -> bool:
        """Whether the token set may be returned at `now` without a full check."""
        return self.since <= now <= self.fresh_until

    def is_current(self, now: float) -> bool:
        """Whether the store need not be read again at `now`."""
        # Before `since`, the clock was set back: the age of the entry is unknown. A pinned record is newer at any age.
        return self.pinned or self.since <= now <= self.since + self.ttl

    def supersedes(self, tokens: TokenSet) -> bool:
        """Whether `tokens` is the set in the record or one that came before it."""
        return self.is_past(tokens) or self.record.tokens.supersedes(tokens)

    def is_past(self, tokens: TokenSet) -> bool:
        """Whether the refresh token in `tokens` is one that this record's came after: sent, it would cost the grant."""
        return tokens.refresh_token is not None and _digest(tokens.refresh_token) in self.past


def _past_of(record: StoredTokens, previous: CacheEntry | None, spent: str | None) -> tuple[bytes, ...]:
    """The digests of the refresh tokens that are known to come before that of `record`, the latest last."""
    latest = record.tokens.refresh_token
    if previous is not None and previous.tokens.refresh_token == latest and spent is None:
        return previous.past
    replaced = None if previous is None or not _is_older(previous.tokens, record.tokens) else previous.tokens
    before = (None if replaced is None else replaced.refresh_token, spent)
    digests = [] if previous is None else list(previous.past)
    digests += [_digest(token) for token in before if token is not None and token != latest]
    current = None if latest is None else _digest(latest)
    return tuple(dict.fromkeys(digest for digest in digests if digest != current))[-MAX_PAST:]


def _is_older(tokens: TokenSet, other: TokenSet) -> bool:
    """Whether `tokens` was issued before `other`, as far as their members tell."""
    return tokens.issued_at is not None and other.issued_at is not None and tokens.issued_at < other.issued_at


def _digest(refresh_token: str) -> bytes:
    return hashlib.blake2b(refresh_token.encode("utf-8", "surrogatepass"), digest_size=12).digest()


class TokenCache:
    """One entry a user, at most `policy.max_cached_users`; the one written longest ago is evicted."""

    def __init__(self, policy: RefreshPolicy, limits: Limits) -> None:
        self._policy = policy
        self._ttl = math.inf if policy.cache_ttl is None else policy.cache_ttl
        self.rejections = Rejections(limits)
        self.entries: dict[str, CacheEntry] = {}

    def keep(self, user_id: str, record: StoredTokens, read_at: float, *, spent: str | None = None) -> None:
        """Keep `record`, as it was at `read_at`, which was renewed with the refresh token `spent`."""
        self._put(user_id, record, read_at, self._ttl, spent=spent)

    def pin(self, user_id: str, record: StoredTokens, renewed_at: float, *, spent: str | None) -> None:
        """Keep `record` until `unpin`, in place of what the store has: it can't be stored yet."""
        self._put(user_id, record, renewed_at, math.inf, spent=spent, pinned=True)

    def unpin(self, user_id: str) -> None:
        """Drop a pinned record: a login or logout has taken its place."""
        if self.is_pinned(user_id):
            del self.entries[user_id]

    def is_pinned(self, user_id: str) -> bool:
        """Whether the record of `user_id` could not be stored yet."""
        entry = self.entries.get(user_id)
        return entry is not None and entry.pinned

    def forget(self, user_id: str) -> None:
        """Drop the entry, unless it is pinned, so that the store is read next time."""
        if not self.is_pinned(user_id):
            self.entries.pop(user_id, None)

    def mark_stale(self, user_id: str) -> None:
        """Let the store be read next time, but keep in mind which refresh tokens are past."""
        entry = self.entries.get(user_id)
        if entry is not None and not entry.pinned:  # pinned: the store has only the spent refresh token
            self.entries[user_id] = replace(entry, fresh_until=-math.inf, ttl=-math.inf)

    def reject(self, user_id: str, access_token: str, now: float) -> None:
        """Note that an API rejected `access_token`: if that is believed, it is not handed out again."""
        entry = self.entries.get(user_id)
        current = None if entry is None else entry.tokens.access_token
        is_believed = self.rejections.add(user_id, access_token, current=current, now=now)
        if is_believed and entry is not None and access_token == current:
            self.entries[user_id] = replace(entry, fresh_until=-math.inf)

    def is_rejected(self, user_id: str, tokens: TokenSet) -> bool:
        """Whether an API rejected the access token in `tokens`."""
        return (user_id, tokens.access_token) in self.rejections

    def _put(
        self,
        user_id: str,
        record: StoredTokens,
        since: float,
        ttl: float,
        *,
        spent: str | None,
        pinned: bool = False,
    ) -> None:
        previous = self.entries.pop(user_id, None)  # taken out first, so that it goes to the end of the dict
        past = _past_of(record, previous, spent)
        if self.is_rejected(user_id, record.tokens) or since < fresh_from(record.tokens):
            until = -math.inf
        else:
            until = min(fresh_until(record.tokens, self._policy, jitter=user_jitter(user_id)), since + ttl)
        self.entries[user_id] = CacheEntry(record, since, until, ttl, past, pinned)
        if len(self.entries) > self._policy.max_cached_users:
            self._evict()

    def _evict(self) -> None:
        """Drop the entry written longest ago that is not pinned."""
        for user_id, entry in self.entries.items():
            if not entry.pinned:
                del self.entries[user_id]
                return
