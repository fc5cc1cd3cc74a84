"""What all renewals of one refresher share."""

import asyncio
import time
from contextlib import suppress

from tokenflight._core import failures
from tokenflight._core.backoff import Backoff
from tokenflight._core.cache import TokenCache
from tokenflight._core.limits import Limits
from tokenflight._core.outcome import SUPERSEDED, Outcome
from tokenflight._core.pending import PendingSaves, Successor
from tokenflight._core.places import Places
from tokenflight._core.records import Records
from tokenflight._core.rejections import KnownRejections
from tokenflight._core.requirement import NO_REQUIREMENT, Requirement
from tokenflight._singleflight import Flight, SingleFlight, detached_context
from tokenflight._token_times import MAX_CLOCK_SKEW_SECONDS
from tokenflight.errors import StoreUnavailable, TokenflightError
from tokenflight.events import Listeners, TokenEvent, announce
from tokenflight.policy import Freshness, RefreshPolicy, judge, user_jitter, valid_until
from tokenflight.providers.base import BaseProvider
from tokenflight.stores.base import RenewalFailure, StoredTokens, TokenStore
from tokenflight.tokens import TokenKey, TokenSet


class RefresherState:
    """The parts of a refresher, and the questions that need more than one of them.

    `cache` has an entry a user, bounded by the policy. `flights` has one a user for as long as it lasts. `pending` has
    one a user for as long as the store fails. `backoff` is bounded by the limits. Only the event loop's thread touches
    them, and each change of one is made without an `await`: none needs a lock.
    """

    def __init__(
        self, provider: BaseProvider, store: TokenStore, policy: RefreshPolicy, limits: Limits, listeners: Listeners
    ) -> None:
        self.provider = provider
        self.policy = policy
        self.limits = limits
        self._listeners = listeners
        self.records = Records(store, provider, limits)
        self.cache = TokenCache(policy, limits)
        self.backoff = Backoff(limits)
        self.flights = SingleFlight[Outcome]()
        self.pending = PendingSaves(self.records, self.cache, self.announce, limits)
        self.reads = asyncio.Semaphore(limits.max_concurrent_reads)
        places = policy.max_concurrent_renewals
        self.places = Places(places, max(limits.max_renewals_under_way, 2 * places))

    def judge(
        self, user_id: str, tokens: TokenSet | None, requirement: Requirement = NO_REQUIREMENT, *, later: float = 0.0
    ) -> Freshness:
        """Grade `tokens` for a caller with `requirement`, as of so many seconds `later`.

        None, what the requirement excludes and what an API has rejected is EXPIRED: nothing can make it good.
        """
        if tokens is None:
            return Freshness.EXPIRED
        excluded = requirement.excludes(tokens, held_is_past=self.is_past(user_id, requirement.held))
        if excluded or self.cache.is_rejected(user_id, tokens):
            return Freshness.EXPIRED
        now = time.time() + later
        return judge(tokens, self.policy, now, jitter=user_jitter(user_id), min_validity=requirement.min_validity)

    async def wait_for(self, flight: Flight[Outcome], user_id: str, requirement: Requirement) -> Outcome | TokenSet:
        """The outcome of `flight`; or, when the policy's patience is over, a token set that is still really valid."""
        patience = self.policy.patience
        if patience is None or requirement.min_validity:
            return await flight.result()
        # Counted from the flight's start: while it hangs, only its first callers wait at all.
        left = flight.started + patience - asyncio.get_running_loop().time()
        with suppress(TimeoutError):
            async with asyncio.timeout(left):
                return await flight.result()
        entry = self.cache.entries.get(user_id)  # the flight has read the store by now, unless that hangs
        tokens = self.stand_in(user_id, None if entry is None else entry.record, requirement)
        return await flight.result() if tokens is None else tokens

    def unanswered(
        self, requirement: Requirement, flight: Flight[Outcome], outcome: Outcome, *, is_joined: bool
    ) -> Requirement | None:
        """What a caller has to look for again; None if the `outcome` of `flight` answers it.

        `is_joined` tells that another caller started the flight.
        """
        if outcome is SUPERSEDED:
            return requirement.after_login()
        if flight.outdated:
            return requirement.after_possible_login()
        if is_joined and not self._answers(flight.key, outcome, requirement):
            return requirement
        return None

    def fallback(self, user_id: str, outcome: Outcome, requirement: Requirement) -> TokenSet | None:
        """The token set to serve although the renewal failed; None where the failure has to be raised."""
        if outcome.error is None or outcome.error.code in {"no_tokens", "logged_out"}:
            return None  # after a logout, not even what the caller holds
        return self.stand_in(user_id, outcome.record, requirement)

    def stand_in(self, user_id: str, record: StoredTokens | None, requirement: Requirement) -> TokenSet | None:
        """The token set, in `record` or in the caller's hands, that is still really valid; None if neither is."""
        tokens = None if record is None else record.tokens_for(requirement.target)
        if tokens is None or self.is_older_than_held(user_id, tokens, requirement):
            tokens = requirement.held
        return None if self.judge(user_id, tokens, requirement) is Freshness.EXPIRED else tokens

    def blocked_by(self, key: TokenKey) -> TokenflightError | None:
        """Why the provider may not be asked now, or None if it may."""
        if self.cache.is_pinned(key.user_id):
            return failures.still_unsaved(key)
        now = time.time()
        cause = self.backoff.cause(key.user_id, now)
        return None if cause is None else failures.paused(key, cause, self.backoff.remaining(key.user_id, now))

    async def put(
        self, flight: Flight[Outcome], key: TokenKey, record: StoredTokens, before: StoredTokens | None
    ) -> None:
        """Write `record` in place of `before`. Its version decides; where there was none, the `flight` is asked."""
        give_up_at = time.monotonic() + self.limits.store_timeout
        while True:
            known = self.cache.entries.get(key.user_id)
            try:
                return await self.records.put_successor(
                    key, record, before, may_create=lambda: not flight.outdated, known=known
                )
            except StoreUnavailable:
                # At the end of the event loop, nothing can be tried again in the background.
                if not flight.is_ending or time.monotonic() > give_up_at:
                    raise
            await asyncio.sleep(self.limits.first_save_pause)

    def begin_pause(self, user_id: str, error: TokenflightError) -> RenewalFailure:
        """Let the user, or all users where the provider asks for it, wait because of `error`; return what to tell."""
        now, pause = time.time(), failures.pause_asked_for(error, self.limits)
        if pause and error.code != "not_yet":  # "too early" for one user says nothing about others
            self.backoff.hold_provider(now, pause, error)
        return self.backoff.failed(user_id, now, error, at_least=pause)

    def heed_failure(self, key: TokenKey, record: StoredTokens) -> None:
        """Leave the provider alone for as long as a process does that has noted a failure in `record`, just read."""
        failure, entry = record.failure, self.cache.entries.get(key.user_id)
        if failure is None:
            if entry is not None and entry.record.failure is not None:
                self.backoff.clear(key.user_id)  # another process has stored a login or a renewal
        elif failure.at <= time.time() + MAX_CLOCK_SKEW_SECONDS:
            self.backoff.failed_elsewhere(key.user_id, failure, failures.failed_elsewhere(key, failure))

    def pause_for_former_holder(self, key: TokenKey, tokens: TokenSet | None, silent: float) -> TokenflightError | None:
        """While `tokens` is really valid, let the user wait for a holder that was cut off `silent` seconds ago.

        It gets all the time that its request may take. None if there is no time left to give.
        """
        now = time.time()
        if tokens is None or self.judge(key.user_id, tokens) is Freshness.EXPIRED:
            return None
        left = min(self.limits.former_holder_seconds - silent, valid_until(tokens) - now)
        if left <= 0:
            return None
        error = failures.unfinished_elsewhere(key, left)
        self.backoff.pause(key.user_id, now, left, error)
        return error

    def keep_login(self, user_id: str, record: StoredTokens, known: KnownRejections) -> None:
        """Cache the `record` of a login. The caller has the login lock: a logout that follows must find it there.

        `known` is what was known of rejections when the login began: what was rejected later stays rejected.
        """
        if not self.pending.continues(user_id, record.tokens):
            self.pending.drop(user_id)
            self.cache.rejections.forgive(user_id, record.tokens.access_token, known)
            self.cache.keep(user_id, record, time.time())

    def note_issued(self, successor: Successor) -> None:
        """Tell the rejections which access token the provider has issued, and in place of which."""
        if successor.error is None:
            replaced = None if successor.before is None else successor.before.tokens.access_token
            user_id, issued = successor.key.user_id, successor.record.tokens.access_token
            self.cache.rejections.answer(user_id, issued, replaced=replaced, now=time.time())

    def announce(self, event: TokenEvent) -> None:
        """Log `event` and tell the listeners. What a listener starts is no part of the flight that announces."""
        with detached_context():  # or a listener's task would count as part of the flight, and could not wait for it
            announce(event, self._listeners)

    def is_past(self, user_id: str, tokens: TokenSet | None) -> bool:
        """Whether the refresh token in `tokens` is known here to be used up or replaced."""
        entry = None if tokens is None else self.cache.entries.get(user_id)
        return entry is not None and tokens is not None and entry.is_past(tokens)

    def is_older_than_held(self, user_id: str, tokens: TokenSet, requirement: Requirement) -> bool:
        """Whether `tokens` is older than the token set that the caller holds."""
        return requirement.excludes_as_older(tokens, held_is_past=self.is_past(user_id, requirement.held))

    def _answers(self, user_id: str, outcome: Outcome, requirement: Requirement) -> bool:
        """Whether the `outcome` of a flight that another caller started answers a caller with `requirement` too."""
        tokens = outcome.tokens_for(requirement)
        if tokens is None:
            return requirement.held is None  # all share the failure, except a caller that holds a token set itself
        if outcome.error is None and not (outcome.renewed and not self.cache.is_rejected(user_id, tokens)):
            return self.judge(user_id, tokens, requirement).is_good
        # Another renewal would give no more, or fail again: only a caller that holds a newer set asks for one.
        return not self.is_older_than_held(user_id, tokens, requirement)
