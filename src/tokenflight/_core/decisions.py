"""Whether a token set will do, and whether a flight may start: decisions on what is in memory, free of I/O."""

import time
from dataclasses import replace

from tokenflight._core import failures as _failures
from tokenflight._core.backoff import CoolDowns
from tokenflight._core.cache import Copy, Memory
from tokenflight._core.course import NOTHING_MORE, OVERTAKEN, Course, Landing, Need
from tokenflight._core.pending import Renewal, Unsaved
from tokenflight._singleflight import Flight
from tokenflight.errors import TokenflightError
from tokenflight.policy import Freshness, RefreshPolicy, is_servable, judge, user_jitter
from tokenflight.stores.base import StoredTokens
from tokenflight.tokens import TokenKey, TokenSet


class Decisions:
    """Judges token sets by policy, by what APIs rejected, and by what the caller needs or offers."""

    def __init__(self, policy: RefreshPolicy, memory: Memory, unsaved: Unsaved, cool_downs: CoolDowns) -> None:
        self._policy = policy
        self._memory = memory
        self._unsaved = unsaved
        self._cool_downs = cool_downs

    def known(self, user_id: str) -> Copy | None:
        """The copy in memory; a token set that can't be stored yet goes before it."""
        record = self._unsaved.get(user_id)
        return self._memory.copies.get(user_id) if record is None else Copy.of_unsaved(record)

    def is_due(self, user_id: str, tokens: TokenSet, need: Need) -> bool:
        """Whether `tokens` won't do for `need`."""
        if need.renewal or self._memory.is_rejected(user_id, tokens) or not self.covers_offer(user_id, tokens, need):
            return True
        return judge(tokens, self._policy, time.time(), min_validity=need.min_validity) is Freshness.DUE

    def is_aging(self, user_id: str, tokens: TokenSet) -> bool:
        """Whether `tokens` should be renewed in the background."""
        return judge(tokens, self._policy, time.time(), jitter=user_jitter(user_id)) is Freshness.AGING

    def will_be_due(self, user_id: str, tokens: TokenSet, seconds: float) -> bool:
        """Whether `tokens`, as stored, is due or will be in so many `seconds`."""
        if tokens.expires_at is None:  # never seen, nobody can say how old it is
            return tokens.refresh_token is not None and self.known(user_id) is None
        rejected = self._memory.is_rejected(user_id, tokens)
        return rejected or judge(tokens, self._policy, time.time() + seconds) is Freshness.DUE

    def is_servable(self, user_id: str, tokens: TokenSet) -> bool:
        """Whether `tokens` may stand in for a renewal that failed."""
        return is_servable(tokens, time.time()) and not self._memory.is_rejected(user_id, tokens)

    def covers_offer(self, user_id: str, tokens: TokenSet, need: Need) -> bool:
        """Whether `tokens` is what the caller offers, or came after it, or is better than a spent refresh token."""
        if need.offered is None:
            return True
        copy = self.known(user_id)
        if copy is not None and copy.spent is not None and copy.spent == need.offered.refresh_token:
            return True  # sent again, it would cost the user the grant: whatever is stored is better
        return tokens.supersedes(need.offered)

    def obstacle(self, key: TokenKey) -> TokenflightError | None:
        """Why the provider may not be asked now, or None if it may."""
        if self._unsaved.get(key.user_id) is not None:
            return _failures.still_unsaved(key)
        seconds = self._cool_downs.remaining(key.user_id, time.time())
        return _failures.cooling_down(key, seconds) if seconds else None

    def spared(self, course: Course) -> Landing | None:
        """During the pause after a failure, a copy that is still valid stands in: the store may be what failed."""
        user_id, copy = course.key.user_id, course.copy
        if copy is None or course.need != NOTHING_MORE or not self.is_servable(user_id, copy.tokens):
            return None
        obstacle = self.obstacle(course.key)
        return None if obstacle is None else Landing(copy.record, obstacle)

    def unmet(self, need: Need, flight: Flight[Landing], landing: Landing, *, joined: bool) -> Need | None:
        """What to look for again, where the landing of `flight` does not answer `need`; None where it does."""
        if landing is OVERTAKEN or (landing.lost and landing.record is not None):
            return replace(need, renewal=False, offered=None)  # a login or logout is the last word
        if flight.overtaken:
            return replace(need, renewal=False)  # by one that failed, and may have been stored all the same
        if joined and not self._meets(flight.key, landing, need):
            # Another caller's flight brought less than this one needs. After a logout, look without a row.
            return replace(need, offered=None) if landing.lost else need
        return None

    def stand_in(self, user_id: str, landing: Landing, need: Need) -> TokenSet | None:
        """The token set to serve although the renewal failed; None where the failure has to be raised."""
        if landing.error is None or need.renewal or landing.error.code == "no_tokens":
            return None  # after a logout, not even what the caller offers
        tokens = need.offered
        if landing.record is not None and self.covers_offer(user_id, landing.record.tokens, need):
            tokens = landing.record.tokens
        return tokens if tokens is not None and self.is_servable(user_id, tokens) else None

    def better_offer(self, course: Course, record: StoredTokens | None) -> TokenSet | None:
        """The token set that the caller offers, if `record` is not the same or a later one."""
        if record is not None and self.covers_offer(course.key.user_id, record.tokens, course.need):
            return None
        return course.need.offered

    def fits(self, course: Course, record: StoredTokens) -> bool:
        """Whether `record`, just read, makes a renewal unnecessary."""
        tokens, need = record.tokens, course.need
        changed = course.has_changed(record)
        if changed:
            need = replace(need, renewal=False)  # somebody else has just renewed it
        if self.is_due(course.key.user_id, tokens, need):
            return False
        # Without a known expiry it is due when first seen: nobody can say how old it is.
        return tokens.expires_at is not None or tokens.refresh_token is None or changed or course.is_known(record)

    def is_unchanged(self, renewal: Renewal) -> bool:
        """Whether the login that came meanwhile stored the very token set that was renewed."""
        copy, before = self._memory.copies.get(renewal.key.user_id), renewal.before
        return copy is not None and before is not None and copy.tokens == before.tokens

    def _meets(self, user_id: str, landing: Landing, need: Need) -> bool:
        """Whether the landing of a flight that another caller started answers this one's `need` too."""
        if landing.record is None:
            return need.offered is None  # then its failure is shared
        if landing.error is not None:
            return self.covers_offer(user_id, landing.record.tokens, need)
        tokens = landing.record.tokens
        if landing.renewed and not self._memory.is_rejected(user_id, tokens):
            return self.covers_offer(user_id, tokens, need)
        return not self.is_due(user_id, tokens, need)
