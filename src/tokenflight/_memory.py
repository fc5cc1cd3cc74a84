"""What a refresher remembers: copies of records, ready for a fast path of one look-up, and rejected access tokens."""

import math
from dataclasses import dataclass, replace
from typing import Final, Self

from tokenflight.policy import RefreshPolicy, fresh_until, user_jitter
from tokenflight.stores.base import StoredTokens
from tokenflight.tokens import TokenSet

MAX_REJECTED: Final = 10_000


@dataclass(frozen=True, slots=True)
class Copy:
    """A record as read or written at `since`. All times are POSIX seconds.

    From `since` to `fast_until` its token set is returned without a further thought: it is fresh, and the copy is
    trusted. Until `trusted_until` the store need not be read again. `spent` is the refresh token that this record's
    one replaced, None where unknown.
    """

    record: StoredTokens
    since: float
    fast_until: float
    trusted_until: float
    spent: str | None = None

    @property
    def tokens(self) -> TokenSet:
        """The token set in the record."""
        return self.record.tokens

    @classmethod
    def of_unsaved(cls, record: StoredTokens) -> Self:
        """A copy that is newer than what the store holds, and so is trusted before it."""
        return cls(record, -math.inf, -math.inf, math.inf)

    def is_trusted(self, now: float) -> bool:
        """Whether the store need not be read again at `now`."""
        # Before `since`, the clock was set back: how old the copy is can't be told.
        return self.since <= now <= self.trusted_until

    def supersedes(self, tokens: TokenSet) -> bool:
        """Whether `tokens` is the set in the record or one that came before it."""
        return self.record.tokens.supersedes(tokens, spent=self.spent)


class Memory:
    """The copies, at most `policy.max_cached_users`; the one written longest ago gives way.

    An access token that an API rejected is marked until another one takes its place.
    """

    def __init__(self, policy: RefreshPolicy) -> None:
        self._policy = policy
        self._rejected: dict[str, str] = {}
        self.copies: dict[str, Copy] = {}

    def keep(self, user_id: str, record: StoredTokens, now: float, *, spent: str | None = None) -> None:
        """Keep a copy of `record`, read or written at `now`, which was renewed with the refresh token `spent`."""
        previous = self.copies.pop(user_id, None)  # taken out first, so that it goes to the end of the dict
        if spent is None and previous is not None and previous.tokens.refresh_token == record.tokens.refresh_token:
            spent = previous.spent
        trusted_until = math.inf if self._policy.cache_ttl is None else now + self._policy.cache_ttl
        fast_until = fresh_until(record.tokens, self._policy, jitter=user_jitter(user_id))
        if self.is_rejected(user_id, record.tokens):
            fast_until = -math.inf
        else:
            self.vouch(user_id)
        self.copies[user_id] = Copy(record, now, min(fast_until, trusted_until), trusted_until, spent)
        if len(self.copies) > self._policy.max_cached_users:
            del self.copies[next(iter(self.copies))]

    def forget(self, user_id: str) -> None:
        """Drop the copy, so that the store is read next time."""
        self.copies.pop(user_id, None)
        self._rejected.pop(user_id, None)

    def reject(self, user_id: str, access_token: str) -> None:
        """Remember that an API rejected `access_token`, unless another one has taken its place already."""
        copy = self.copies.get(user_id)
        if copy is not None:
            if copy.tokens.access_token != access_token:
                return
            self.copies[user_id] = replace(copy, fast_until=-math.inf)
        self._rejected[user_id] = access_token
        if len(self._rejected) > MAX_REJECTED:
            del self._rejected[next(iter(self._rejected))]

    def vouch(self, user_id: str) -> None:
        """Forget the rejection: what comes next has just been issued."""
        self._rejected.pop(user_id, None)

    def is_rejected(self, user_id: str, tokens: TokenSet) -> bool:
        """Whether an API rejected the access token in `tokens`."""
        return self._rejected.get(user_id) == tokens.access_token
