"""One flight of one user: read, take the lease, read again, adopt or ask the provider, save, publish, tell.

Six nouns
=========
- The **cache** holds one `CacheEntry` a user: the record as last read or written here. It answers nearly all calls.
- A **flight** (`tokenflight._singleflight.Flight`) is a task that all callers of one user wait for. It belongs to the
  refresher: a caller that is cancelled leaves the flight alone.
- A **renewal**, the object below, is the work of one flight. What the flight learns on its way are its attributes.
- A **record** (`StoredTokens`) is what the store has for a user: the grant, and an access token for each target. Its
  version is new with each write, so that `replace` finds out whether another writer came between.
- The **lease** is the right to renew one user's grant, among all processes and hosts that share the store.
- A **pending save** is a renewed record that the store did not take. It keeps the lease, and its record stays pinned
  in the cache.

States of a flight
==================
====================  ======================  ==============================  ==========================================
state                 holds                   a login or logout here          ends with
====================  ======================  ==============================  ==========================================
reading               a reader's place        detached: the waiters look      the record, where it will do
                                              again, the flight ends
waiting for its turn  a renewal's place or,   detached; it asks nobody        ``overloaded``, or what another holder
                      later, the lease                                        stored (adopted)
asking                place and lease         detached; what the provider     the provider's error, or a successor
                                              returns belongs to a grant
                                              that is over: discarded
saving                lease                   the store refuses the write:    the record, published; SUPERSEDED; or a
                                              superseded                      pending save
====================  ======================  ==============================  ==========================================

A login or logout that *failed* may have reached the store all the same. It only marks the flight as outdated: the
waiters get its outcome checked once more against the store. The two differ where a failed login meets a failed save:
then the renewed record is still the newest, and dropping it would cost the user the grant.

Who owns what, and what bounds it
=================================
=====================================  =====================  ==============================================
dictionary                             changed by             bound
=====================================  =====================  ==============================================
``SingleFlight._by_key``, ``_tasks``   `SingleFlight` alone   one flight a user; a detached one until it ends
``TokenCache.entries``                 `TokenCache` alone     ``policy.max_cached_users``, plus pinned ones
``Rejections._by_user``                `Rejections` alone     ``limits.max_rejected_users``
``PendingSaves._saves``                `PendingSaves` alone   one a user, while the store fails
``Backoff._by_user``                   `Backoff` alone        ``limits.max_backoff_users``
``Records._login_locks``               `Records` alone        weak: one for each login or logout under way
=====================================  =====================  ==============================================

Why this order
==============
The first read takes no lease: in most cold starts another process has renewed already, and one read finds that out.
The lease comes before the second read. A refresh token read before the lease may be spent when the lease arrives, and
sending it would cost the user the grant. From the provider's reply to the store's write this module awaits nothing
else: a crash in between loses the only copy of the rotated refresh token. The record is published to the cache after
it is stored, so that no caller gets a token set that a crash could take back.

Two things that were tried and are not done: storing a row that a caller offers before the flight starts, which costs
either a second lease or the guarantee; and treating a login that may have happened like one that has.
"""

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager, suppress
from dataclasses import replace
from typing import TypeVar

from tokenflight._core import failures
from tokenflight._core.outcome import SUPERSEDED, Outcome
from tokenflight._core.pending import Successor
from tokenflight._core.places import Place
from tokenflight._core.provider_call import call_provider
from tokenflight._core.records import is_same_grant
from tokenflight._core.requirement import NO_REQUIREMENT, Requirement
from tokenflight._core.state import RefresherState
from tokenflight._singleflight import Flight
from tokenflight.errors import (
    LeaseTimeout,
    ProviderUnavailable,
    ReauthenticationRequired,
    StoreConflict,
    TokenflightError,
    TokenRefreshError,
)
from tokenflight.events import RenewalDiscarded, RenewalFailed, TokenAdopted, TokenEvent, TokenRenewed
from tokenflight.policy import Freshness
from tokenflight.providers.base import PartialRenewal
from tokenflight.stores.base import Lease, StoredTokens
from tokenflight.tokens import TokenKey, TokenSet

E = TypeVar("E", bound=TokenEvent)


class Renewal:
    """Finds or makes a token set of `key` that meets `requirement`."""

    def __init__(self, state: RefresherState, key: TokenKey, requirement: Requirement) -> None:
        self._state = state
        self._key = key
        self._requirement = requirement
        self._read_at: float | None = None
        """Since when the flight knows what the store has, in POSIX seconds; None while the cache knows better."""
        self._before: TokenSet | None = None
        """The token set to be renewed. Another one in the store was written after the flight had been asked for."""
        self._spent: str | None = None
        """The refresh token that this flight used up."""
        self._event: TokenEvent | None = None
        """What to announce at the end."""

    async def run(self, flight: Flight[Outcome]) -> Outcome:
        """Do all of it; the work of `flight`."""
        self._flight = flight
        self._started = time.monotonic()
        self._entry = self._state.cache.entries.get(self._key.user_id)
        self._record = None if self._entry is None else self._entry.record
        try:
            outcome = await self._find_or_renew()
        except Exception as exc:  # noqa: BLE001 - the waiters have to hear of it, whatever it is
            outcome = self._fail(failures.as_tokenflight_error(exc, self._key))
        self._publish()
        if self._event is not None:
            self._state.announce(self._event)
        return outcome

    async def _find_or_renew(self) -> Outcome:
        if (outcome := self._spare_the_store() or await self._read()) is not None:
            return outcome
        if self._read_at is not None and self._requirement.held is None:
            # Before looking at pauses: a caller has to learn that it takes a login, paused or not.
            tokens = None if self._record is None else self._record.tokens
            self._state.provider.require_refresh_token(self._key.user_id, tokens)
        if (obstacle := self._state.blocked_by(self._key)) is not None:
            return Outcome(self._record, obstacle)
        return await self._renew()

    def _spare_the_store(self) -> Outcome | None:
        """During the pause after a failure, a cached token set that is still valid stands in without a read.

        The store may be the part that failed.
        """
        entry, requirement = self._entry, self._requirement
        if entry is None or requirement != NO_REQUIREMENT:
            return None
        if self._state.judge(self._key.user_id, self._tokens_in(entry.record)) is Freshness.EXPIRED:
            return None
        obstacle = self._state.blocked_by(self._key)
        return None if obstacle is None else Outcome(entry.record, obstacle)

    async def _read(self) -> Outcome | None:
        """Read the record without a lease, unless the cache is current; None if it has to be renewed."""
        entry = self._entry
        if entry is not None and entry.is_current(time.time()) and not entry.record.refused:
            self._set_out_from(self._tokens_in(entry.record))
            return None
        async with self._turn(), self._state.reads:  # a queue here, so that no read times out in the store's own queue
            record = self._found(await self._state.records.load(self._key))
        if record is None:
            self._set_out_from(None)
            return None
        # A forced refresh must postdate this read; otherwise any refresh since the cached entry counts.
        known = record if entry is None or self._requirement.renewal else entry.record
        self._set_out_from(self._tokens_in(known))
        if self._is_good(record):
            return Outcome(record)
        if record.refused and not self._is_older_than_held(record):
            raise failures.refused_before(self._key)
        return None

    async def _renew(self) -> Outcome:
        """Renew under the lease: read again, then adopt what another process stored, or ask the provider and save."""
        while True:
            async with AsyncExitStack() as lease:
                with Place(self._state.renewals) as place:
                    async with self._turn():
                        held = await self._acquire_lease(lease, place)
                        if held is not None:
                            await self._read_under_lease()
                    result = await self._adopt_or_ask(held, place)
                if isinstance(result, Successor):
                    # The refresh token in the store is spent now: nothing but the write may come between.
                    return await self._save(result, lease)
                if result is not None:
                    return result
            # The lease lapsed while this process stood still. Another process may be renewing: begin again.

    async def _acquire_lease(self, lease: AsyncExitStack, place: Place) -> Lease | None:
        """Take a place and the lease. None where the lease stayed with a holder who has stored a good record."""
        await place.take()  # before the lease, so that no more leases are held than there are places
        with suppress(LeaseTimeout):
            return await lease.enter_async_context(self._state.records.lease(self._key, wait=False))
        place.give_back()  # another holder is renewing this user: waiting for it keeps no place from other users
        try:
            return await lease.enter_async_context(self._state.records.lease(self._key, wait=True))
        except LeaseTimeout:
            record = self._found(await self._state.records.load(self._key))
            if record is None or not self._is_good(record):
                raise
            return None

    async def _read_under_lease(self) -> None:
        """Read the record. Where the caller keeps token sets itself and holds a newer one, store that one first."""
        while True:
            record = self._found(await self._state.records.load(self._key))
            held = self._requirement.held
            if held is None or self._flight.outdated or (record is not None and not self._is_older_than_held(record)):
                return
            successor = self._state.records.successor(held, record)
            with suppress(StoreConflict):  # another process has written a record: read it
                await self._put(successor, record)
                self._before = held
                self._found(successor)
                return

    async def _adopt_or_ask(self, lease: Lease | None, place: Place) -> Outcome | Successor | None:
        """Return what ends the flight, or what is to be saved. None if the lease lapsed before the provider was asked.

        A refusal that comes together with another record is the answer to a race that this flight lost: begin again
        with that record.
        """
        while (outcome := self._adopt()) is None and lease is not None:
            async with self._turn():
                await place.take()
            if not lease.is_held():
                return None
            if self._flight.detached:
                return Outcome(self._record)
            if (obstacle := self._state.blocked_by(self._key)) is not None:
                return Outcome(self._record, obstacle)  # another flight failed while this one waited for its turn
            self._state.backoff.begin(self._key.user_id, time.time())  # with no await since the look at the pauses
            if (successor := await self._ask(place)) is not None:
                return successor
        return outcome

    def _adopt(self) -> Outcome | None:
        """The record just read, if it will do; None if it has to be renewed."""
        record = self._record
        if record is None:
            return None
        if self._is_good(record):
            self._event = self._make_event(TokenAdopted, expires_at=record.tokens.expires_at)
            return Outcome(record, renewed=self._is_new(record))
        if record.refused:
            raise failures.refused_before(self._key)
        return None

    async def _ask(self, place: Place) -> Successor | None:
        """Ask the provider. None if it refused a refresh token that is no longer the stored one."""
        record = self._record
        error: TokenRefreshError | None = None
        try:
            async with self._deadline(self._state.limits.provider_timeout, failures.deadline_exceeded):
                tokens = await call_provider(self._state.provider, self._key, None if record is None else record.tokens)
        except ReauthenticationRequired as refusal:
            place.give_back()
            if record is None or refusal.reason != "refused":
                raise
            current = self._found(await self._state.records.mark_refused(self._key, record))
            if current is not None and is_same_grant(current.tokens, record.tokens):
                raise
            return None
        except PartialRenewal as partial:
            tokens, error = partial.tokens, partial.error
        return Successor(self._key, self._state.records.successor(tokens, record), record, self._started, error)

    async def _save(self, successor: Successor, lease: AsyncExitStack) -> Outcome:
        """Store what the provider returned. Where that fails, serve it unstored, and go on trying in the background."""
        state, user_id, tokens = self._state, self._key.user_id, successor.record.tokens
        try:
            await self._put(successor.record, successor.before)
        except TokenflightError as exc:
            if isinstance(exc, StoreConflict) or (self._flight.detached and not self._is_cached(successor.before)):
                return self._discard()
            self._note_issued(successor)
            # The lease goes along: while the store has a spent refresh token, no other process may renew.
            state.pending.add(successor, lease.pop_all(), exc)
            if self._flight.detached:
                # A login stored the same token set again, and its flight waits for this lease: serve its waiters now.
                state.flights.detach(user_id, SUPERSEDED)
        else:
            self._note_issued(successor)
            self._event = self._make_event(TokenRenewed, rotated=successor.is_rotated, expires_at=tokens.expires_at)
        self._spent = successor.spent
        self._found(successor.record)
        if successor.error is not None:
            return self._fail(successor.error)
        state.backoff.succeeded(user_id)
        return Outcome(successor.record, renewed=True)

    def _note_issued(self, successor: Successor) -> None:
        """Tell the rejections which access token the provider has issued, and in place of which."""
        if successor.error is None:
            replaced = None if successor.before is None else successor.before.tokens.access_token
            issued = successor.record.tokens.access_token
            self._state.cache.rejections.answer(self._key.user_id, issued, replaced=replaced, now=time.time())

    def _discard(self) -> Outcome:
        """A login or logout won: what the provider returned belongs to a grant that is over."""
        self._found(None)
        self._event = self._make_event(RenewalDiscarded)
        return SUPERSEDED

    def _fail(self, error: TokenflightError) -> Outcome:
        """End without a new token set; note when it makes sense to try again."""
        backoff, record, user_id, now = self._state.backoff, self._record, self._key.user_id, time.time()
        is_served = self._state.judge(user_id, self._tokens_in(record)) is not Freshness.EXPIRED
        own_pause = 0.0
        if isinstance(error, ProviderUnavailable) and error.code == "not_yet":
            own_pause = error.retry_after or 0.0  # until this user's access token is old enough: no other user waits
        elif isinstance(error, ProviderUnavailable) and (error.retry_after or error.code == "rate_limited"):
            backoff.hold_provider(now, error.retry_after or self._state.limits.provider_pause)
        is_about_provider = isinstance(error, TokenRefreshError) and not isinstance(error, ReauthenticationRequired)
        has_answered = isinstance(error, ReauthenticationRequired) or error.code == "not_yet"
        backoff.ended(user_id, now, has_answered=has_answered)
        if is_served or is_about_provider:
            backoff.failed(user_id, now, at_least=own_pause)
        self._event = self._make_event(RenewalFailed, error=type(error).__name__, code=error.code, served=is_served)
        return Outcome(record, error)

    def _publish(self) -> None:
        """Cache what the flight has found or stored, unless a login or logout has made it worthless."""
        cache, user_id = self._state.cache, self._key.user_id
        if self._read_at is None or self._flight.detached or cache.is_pinned(user_id):
            return
        if self._record is None:
            cache.forget(user_id)
        else:
            cache.keep(user_id, self._record, self._read_at, spent=self._spent)
        if self._flight.outdated:
            cache.mark_stale(user_id)

    # Small parts.

    def _turn(self) -> AbstractAsyncContextManager[None]:
        """Bound the wait for a place and the lease."""
        return self._deadline(self._state.limits.turn_timeout, failures.overloaded)

    @asynccontextmanager
    async def _deadline(
        self, seconds: float, error: Callable[[TokenKey, float], ProviderUnavailable]
    ) -> AsyncIterator[None]:
        """End the body after `seconds` with `error`."""
        timeout = asyncio.timeout(seconds)
        try:
            async with timeout:
                yield
        except TimeoutError:
            if not timeout.expired():
                raise
            raise error(self._key, seconds) from None

    def _tokens_in(self, record: StoredTokens | None) -> TokenSet | None:
        """The token set in `record` for the target that this flight is about."""
        return None if record is None else record.tokens_for(self._requirement.target)

    async def _put(self, record: StoredTokens, before: StoredTokens | None) -> None:
        await self._state.records.put_successor(self._key, record, before, is_wanted=lambda: not self._flight.outdated)

    def _set_out_from(self, tokens: TokenSet | None) -> None:
        """Note the token set to be renewed. From now on, a forced refresh means: any other one than that."""
        self._before = self._requirement.replacing or tokens
        if self._requirement.renewal:
            self._requirement = replace(self._requirement, renewal=False, replacing=self._before)

    def _found(self, record: StoredTokens | None) -> StoredTokens | None:
        """Note, and return, what the store has been found to hold, or has just been given to hold."""
        self._record, self._read_at = record, time.time()
        return record

    def _is_good(self, record: StoredTokens) -> bool:
        """Whether `record`, just read, makes a renewal unnecessary."""
        return self._state.judge(self._key.user_id, self._tokens_in(record), self._requirement).is_good

    def _is_new(self, record: StoredTokens) -> bool:
        """Whether `record` was written after the flight had been asked for."""
        return self._tokens_in(record) != self._before

    def _is_cached(self, record: StoredTokens | None) -> bool:
        """Whether the cache has the token set in `record`."""
        entry = self._state.cache.entries.get(self._key.user_id)
        return entry is not None and record is not None and entry.tokens == record.tokens

    def _is_older_than_held(self, record: StoredTokens) -> bool:
        """Whether `record` is older than the token set that the caller holds."""
        return self._state.is_older_than_held(self._key.user_id, record.tokens, self._requirement)

    def _make_event(self, kind: Callable[..., E], **members: object) -> E:
        return kind(self._key.user_id, self._key.provider, time.monotonic() - self._started, **members)
