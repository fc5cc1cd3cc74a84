"""What a refresher remembers: copies of records, ready for a fast path of one look-up, and rejected access tokens."""

import math
from dataclasses import dataclass, replace
from typing import Final, Self

from tokenflight.policy import RefreshPolicy, fresh_until, user_jitter
from tokenflight.stores.base import StoredTokens
from tokenflight.tokens import TokenSet

MAX_REJECTED_USERS: Final = 10_000
MAX_REJECTED_PER_USER: Final = 4


@dataclass(frozen=True, slots=True)
class Copy:
    """A record as read or written at `since`. All times are POSIX seconds.

    From `since` to `fast_until` its token set is returned without a further thought: it is fresh, and the copy is
    trusted. For `trusted_seconds` the store need not be read again. `spent` is the refresh token that this record's
    one replaced, None where unknown.
    """

    record: StoredTokens
    since: float
    fast_until: float
    trusted_seconds: float
    spent: str | None = None

    @property
    def tokens(self) -> TokenSet:
        """The token set in the record."""
        return self.record.tokens

    @classmethod
    def of_unsaved(cls, record: StoredTokens) -> Self:
        """A copy that is newer than what the store holds, and so is trusted before it."""
        return cls(record, since=0.0, fast_until=-math.inf, trusted_seconds=math.inf)

    def is_fresh(self, now: float) -> bool:
        """Whether the token set may be returned at `now` without a further thought."""
        return self.since <= now <= self.fast_until

    def is_trusted(self, now: float) -> bool:
        """Whether the store need not be read again at `now`."""
        # Before `since`, the clock was set back: how old the copy is can't be told.
        return self.since <= now <= self.since + self.trusted_seconds

    def supersedes(self, tokens: TokenSet) -> bool:
        """Whether `tokens` is the set in the record or one that came before it."""
        return self.record.tokens.supersedes(tokens, spent=self.spent)


class Memory:
    """The copies, at most `policy.max_cached_users`; the one written longest ago gives way.

    Of each user, the last few access tokens that APIs rejected are remembered too.
    """

    def __init__(self, policy: RefreshPolicy) -> None:
        self._policy = policy
        self._rejected: dict[str, tuple[str, ...]] = {}
        self.copies: dict[str, Copy] = {}

    def keep(self, user_id: str, record: StoredTokens, read_at: float, *, spent: str | None = None) -> None:
        """Keep a copy of `record`, as it was at `read_at`, which was renewed with the refresh token `spent`."""
        previous = self.copies.pop(user_id, None)  # taken out first, so that it goes to the end of the dict
        if spent is None and previous is not None and previous.tokens.refresh_token == record.tokens.refresh_token:
            spent = previous.spent
        trusted_seconds = math.inf if self._policy.cache_ttl is None else self._policy.cache_ttl
        fast_until = fresh_until(record.tokens, self._policy, jitter=user_jitter(user_id))
        if self.is_rejected(user_id, record.tokens):
            fast_until = -math.inf
        self.copies[user_id] = Copy(record, read_at, min(fast_until, read_at + trusted_seconds), trusted_seconds, spent)
        if len(self.copies) > self._policy.max_cached_users:
            del self.copies[next(iter(self.copies))]

    def drop_copy(self, user_id: str) -> None:
        """Drop the copy, so that the store is read next time."""
        self.copies.pop(user_id, None)

    def distrust_copy(self, user_id: str) -> None:
        """Let the store be read next time, but go on knowing which refresh token is spent."""
        if (copy := self.copies.get(user_id)) is not None:
            self.copies[user_id] = replace(copy, fast_until=-math.inf, trusted_seconds=-math.inf)

    def reject(self, user_id: str, access_token: str) -> None:
        """Remember that an API rejected `access_token`."""
        copy = self.copies.get(user_id)
        if copy is not None and copy.tokens.access_token == access_token:
            self.copies[user_id] = replace(copy, fast_until=-math.inf)
        rejected = self._rejected.pop(user_id, ())
        if access_token not in rejected:
            rejected = (*rejected, access_token)
        latest = rejected[-MAX_REJECTED_PER_USER:]
        if copy is not None and copy.tokens.access_token in rejected[:-MAX_REJECTED_PER_USER]:
            latest = (copy.tokens.access_token, *latest)  # the one that could be handed out again is never forgotten
        self._rejected[user_id] = latest
        if len(self._rejected) > MAX_REJECTED_USERS:
            del self._rejected[next(iter(self._rejected))]

    def is_rejected(self, user_id: str, tokens: TokenSet) -> bool:
        """Whether an API rejected the access token in `tokens`."""
        return tokens.access_token in self._rejected.get(user_id, ())

    def vouch(self, user_id: str, tokens: TokenSet) -> None:
        """Forget a rejection of the access token in `tokens`: the provider has just issued it, perhaps once more."""
        if self.is_rejected(user_id, tokens):
            others = tuple(token for token in self._rejected.pop(user_id) if token != tokens.access_token)
            if others:
                self._rejected[user_id] = others
