"""One flight of one user: read, take the lease, read again, adopt or ask the provider, save, publish, tell.

Six nouns
=========
- The **cache** holds one `CacheEntry` a user: the record as last read or written here. It answers nearly all calls.
  An entry is *fresh* while the fast path returns it, *current* while the store need not be read again, and *pinned*
  while the store can't take its record.
- A **flight** (`tokenflight._singleflight.Flight`) is a task that all callers of one user wait for. It belongs to the
  refresher: a caller that is cancelled leaves the flight alone. A flight is *outdated* once a login or logout may have
  happened since it started, and *detached* once one has: its waiters are released then, with `SUPERSEDED`.
- A **renewal**, the object below, is the work of one flight. What the flight learns on its way are its attributes.
- A **record** (`StoredTokens`) is what the store has for a user: the grant, and an access token for each target. Its
  version is new with each write, so that `TokenStore.replace` finds out whether another writer came between.
- The **lease** is the right to renew one user's grant, among all processes and hosts that share the store.
- A **pending save** (`PendingSaves`) is a renewed record that the store did not take. It keeps the lease for as long as
  the store lets it, and its record is pinned in the cache.

States of a flight
==================
===========  =======================  ================================  ==========================================
state        holds                    a login or logout in this         ends with
                                      process
===========  =======================  ================================  ==========================================
reading      a reader's place         detaches it                       the record, where it will do; `refused`,
                                                                        `no_tokens`, a pause; the store's error
waiting for  first a place, then the  detaches it; it still waits, but  `overloaded`; a record that another holder
its turn     lease too; neither if    asks nobody                       stored (adopted); `refused`
             another process renews
asking       place and lease          detaches it; the reply belongs    the provider's error; a successor
                                      to a grant that is over
saving       lease                    detaches it; the version, or for  the record, published; a pending save, also
                                      a first record the login lock,    published; SUPERSEDED, where another writer
                                      keeps the successor out           won
===========  =======================  ================================  ==========================================

A login or logout that *failed* may have reached the store: the flight is outdated. Its waiters check the store once
more, and it stores no caller's row and no first record, which could undo a logout. Its successor is stored if the old
record is still there. Where that save fails too, it stays pending: its refresh token may be the only one that lives.

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
``Logins._by_user``, ``_tasks``        `Logins` alone         one for each login or logout under way
=====================================  =====================  ==============================================

Why this order
==============
The first read takes no lease: in most cold starts another process has renewed already, and one read finds that out.
The lease comes before the second read. A refresh token read before the lease may be spent when the lease arrives, and
sending it would cost the user the grant. From the provider's reply to the store's write nothing else is awaited, but
for the login lock where there was no record: a crash in between loses the only copy of the rotated refresh token. The
record is published after it is stored, so that no caller gets a token set that a crash could take back. A pending save
is the one exception: its record is served unstored, because keeping it from the callers would help none of them.

What processes tell each other
==============================
All of it is in the store, and costs no round trip. A record that has changed tells of a renewal or a login; a marker in
its place tells of a logout. A record tells of a failure at the provider, and for how long to leave that alone. A lease
tells of a holder before it that was cut off: that one may have spent the refresh token and yet store its successor. And
a record that is older than what is cached here tells that the store has gone back in time.

Two things that were tried and are not done: storing a row that a caller offers before the flight starts, which costs
either a second lease or the guarantee that no spent refresh token is sent; and treating a login that may have happened
like one that has.
"""

import asyncio
import time
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager, AsyncExitStack, suppress
from typing import TypeVar

from tokenflight._core import failures
from tokenflight._core.deadlines import deadline
from tokenflight._core.goal import Goal
from tokenflight._core.outcome import SUPERSEDED, Outcome
from tokenflight._core.pending import Successor
from tokenflight._core.places import Place
from tokenflight._core.provider_call import ask_provider
from tokenflight._core.records import is_same_grant
from tokenflight._core.requirement import NO_REQUIREMENT, Requirement
from tokenflight._core.state import RefresherState
from tokenflight._singleflight import Flight
from tokenflight.errors import (
    LeaseTimeout,
    ReauthenticationRequired,
    StoreConflict,
    StoreError,
    TokenflightError,
    TokenRefreshError,
)
from tokenflight.events import RenewalDiscarded, RenewalFailed, TokenAdopted, TokenEvent, TokenRenewed
from tokenflight.policy import Freshness
from tokenflight.providers.base import PartialRenewal
from tokenflight.stores.base import Lease, StoredTokens
from tokenflight.tokens import TokenKey

E = TypeVar("E", bound=TokenEvent)


class Renewal:
    """Finds or makes a token set of `key` that meets `requirement`."""

    def __init__(self, state: RefresherState, key: TokenKey, requirement: Requirement) -> None:
        self._state = state
        self._key = key
        self._goal = Goal(state, key.user_id, requirement)
        self._read_at: float | None = None
        """When the flight read or wrote the record last, in POSIX seconds; None while it has only the cache's."""
        self._spent: str | None = None
        """The refresh token that this flight used up."""
        self._event: TokenEvent | None = None
        self._paused_for: TokenflightError | None = None
        """The failure after which a pause has begun."""

    async def run(self, flight: Flight[Outcome]) -> Outcome:
        """Do all of it; the work of `flight`."""
        self._flight = flight
        self._started = time.monotonic()
        self._entry = self._state.cache.entries.get(self._key.user_id)
        self._record = None if self._entry is None else self._entry.record
        try:
            outcome = await self._find_or_renew()
        except Exception as exc:  # noqa: BLE001 - the waiters have to get any error
            outcome = self._fail(failures.as_tokenflight_error(exc, self._key))
        self._publish()  # before the event, whose listeners may look into the cache
        if self._event is not None:
            self._state.announce(self._event)
        return outcome

    async def _find_or_renew(self) -> Outcome:
        if (outcome := self._stand_in_during_pause() or await self._read()) is not None:
            return outcome
        if self._read_at is not None and self._goal.held is None:
            # Before looking at pauses: a caller has to learn that it takes a login, paused or not.
            tokens = None if self._record is None else self._record.tokens
            self._state.provider.require_refresh_token(self._key.user_id, tokens)
        obstacle = self._state.blocked_by(self._key)
        if obstacle is not None and not isinstance(obstacle, LeaseTimeout):  # that one says nothing about the provider
            return Outcome(self._record, obstacle)
        return await self._renew()

    def _stand_in_during_pause(self) -> Outcome | None:
        """In a pause, a valid cached token set stands in without a read, if it is current or the store had failed."""
        entry = self._entry
        if entry is None or self._goal.requirement != NO_REQUIREMENT:
            return None
        if self._state.judge(self._key.user_id, self._goal.tokens_in(entry.record)) is Freshness.EXPIRED:
            return None
        obstacle = self._state.blocked_by(self._key)
        if obstacle is None or not (entry.is_current(time.time()) or isinstance(obstacle, StoreError)):
            return None  # a pause keeps nobody from reading the store: another process may have logged the user out
        if entry.record.refused:
            obstacle = failures.refused_before(self._key)  # a caller that joins has to learn that it takes a login
        return Outcome(entry.record, obstacle)

    async def _read(self) -> Outcome | None:
        """Read the record without a lease, unless the cache is current; None if it has to be renewed."""
        entry = self._entry
        if entry is not None and entry.is_current(time.time()) and not entry.record.refused:
            self._goal.start_from(entry.record)
            return None
        async with self._turn(), self._state.reads:  # a queue here, so that no read times out in the store's own queue
            record = self._note_record(await self._state.records.load(self._key))
        if record is None:
            self._goal.start_from(None)
            return None
        if entry is not None and entry.is_past(record.tokens):
            # The store has gone back in time. What it has is not used, and what is known here is written back.
            self._goal.start_from(self._note_record(entry.record))
            return None
        # A forced refresh must postdate this read; otherwise any refresh since the cached entry counts.
        self._goal.start_from(record if entry is None or self._goal.requirement.renewal else entry.record)
        if self._goal.is_met_by(record):
            return Outcome(record)
        if record.refused and not self._goal.is_older_than_held(record):
            raise failures.refused_before(self._key)
        if entry is None:
            self._publish()  # callers whose patience ends get it from the cache, if it is still really valid
        return None

    async def _renew(self) -> Outcome:
        """Renew under the lease: read again, then adopt what another process stored, or ask the provider and save."""
        while True:
            async with AsyncExitStack() as lease_stack:
                with Place(self._state.places) as place:
                    async with self._turn():
                        lease = await self._acquire_lease(lease_stack, place)
                        if lease is not None:
                            await self._read_under_lease()
                    result = await self._spare_former_holder(lease, place) or await self._adopt_or_ask(lease, place)
                if isinstance(result, Successor):
                    # The refresh token in the store is spent now: nothing but the write may come between.
                    return await self._save(result, lease_stack)
                if result is not None:
                    return result
            # The lease lapsed while this process stood still. Another process may be renewing: begin again.

    async def _acquire_lease(self, lease_stack: AsyncExitStack, place: Place) -> Lease | None:
        """Take a place and the lease. None if the lease stayed with a holder that has stored a good record."""
        await place.take()  # before the lease, so that no more leases are held than there are places
        with suppress(LeaseTimeout):
            return await lease_stack.enter_async_context(self._state.records.lease(self._key, wait=False))
        place.give_back()  # another holder is renewing this user: waiting for it keeps no place from other users
        if isinstance(obstacle := self._state.blocked_by(self._key), LeaseTimeout):
            raise obstacle  # a caller has waited for this holder in vain: the next ones only look
        try:
            return await lease_stack.enter_async_context(self._state.records.lease(self._key, wait=True))
        except LeaseTimeout:
            record = self._note_record(await self._state.records.load(self._key))
            if record is None or not self._goal.is_met_by(record):
                raise
            return None

    async def _read_under_lease(self) -> None:
        """Read the record. If this process or the caller knows a newer token set, store that one first."""
        while True:
            known = self._state.cache.entries.get(self._key.user_id)
            record = self._note_record(await self._state.records.load_newest(self._key, known))
            held = self._goal.held
            if (
                held is None
                or self._flight.outdated
                or (record is not None and not self._goal.is_older_than_held(record))
            ):
                return
            successor = self._state.records.successor(held, record)
            try:
                await self._state.put(self._flight, self._key, successor, record)
            except StoreConflict as exc:
                if exc.code == "logged_out":
                    raise failures.logged_out(self._key) from None
                continue  # another process has written a record: read it
            self._goal.start_from_held()
            self._note_record(successor)
            return

    async def _spare_former_holder(self, lease: Lease | None, place: Place) -> Outcome | None:
        """Give a holder of the lease that was cut off the time to store what it may have renewed, before asking again.

        It gets a moment; and while the token set is really valid, all the time that its request may take. In that case
        this returns how the flight ends.
        """
        silent, record = None if lease is None else lease.unreleased_for(), self._record
        if silent is None or record is None or record.refused or self._goal.is_met_by(record):
            return None
        if (error := self._state.pause_for_former_holder(self._key, self._goal.tokens_in(record), silent)) is not None:
            return Outcome(record, error)
        place.give_back()  # the wait keeps no place from other users
        await asyncio.sleep(self._state.limits.former_holder_grace)
        await self._read_under_lease()
        return None

    async def _adopt_or_ask(self, lease: Lease | None, place: Place) -> Outcome | Successor | None:
        """Return what ends the flight, or what is to be saved. None if the lease lapsed before the provider was asked.

        A refusal that comes together with another record is the answer to a race that this flight lost: begin again
        with that record. `lease` is None where the flight has only a good record of another holder's.
        """
        while (outcome := self._adopt()) is None and lease is not None:
            async with self._turn():
                await place.take()
            if not lease.is_held():
                return None
            if self._flight.detached:
                return Outcome(self._record)  # a login or logout has released the waiters
            obstacle = self._state.blocked_by(self._key)
            if obstacle is not None and not isinstance(obstacle, LeaseTimeout):
                return Outcome(self._record, obstacle)  # another user's flight failed while this one waited
            self._state.backoff.begin(self, time.time())  # with no await since the look at the pauses
            self._flight.must_finish = True  # the reply may hold the only refresh token that is not spent
            if (successor := await self._ask(place)) is not None:
                return successor
            self._flight.must_finish = False
        return outcome

    def _adopt(self) -> Outcome | None:
        """The record just read, if it will do; None if it has to be renewed. Raises if that takes a login."""
        record = self._record
        if record is None:
            return None
        if self._goal.is_met_by(record):
            if self._goal.is_newer(record):
                self._state.backoff.clear(self._key.user_id)  # the trouble that others had is over
            self._event = self._make_event(TokenAdopted, expires_at=record.tokens.expires_at)
            return Outcome(record, renewed=self._goal.is_newer(record))
        if record.refused:
            raise failures.refused_before(self._key)
        return None

    async def _ask(self, place: Place) -> Successor | None:
        """Ask the provider. None if it refused a refresh token that is no longer the stored one."""
        record = self._record
        error: TokenRefreshError | None = None
        try:
            with place.given_up_after(self._state.limits.hanging_after):
                tokens = await ask_provider(
                    self._state, self._key, None if record is None else record.tokens, probe=self
                )
        except ReauthenticationRequired as refusal:
            place.give_back()  # before the write to the store, which needs no place
            if record is None or refusal.reason != "refused":
                raise
            current = self._note_record(await self._state.records.mark_refused(self._key, record))
            if current is not None and is_same_grant(current.tokens, record.tokens):
                raise
            return None
        except PartialRenewal as partial:
            tokens, error = partial.tokens, partial.error
        except TokenRefreshError as exc:
            place.give_back()  # as above
            self._paused_for, failure = exc, self._state.begin_pause(self._key.user_id, exc)
            if record is not None and failures.concerns_all_processes(exc):
                self._note_record(await self._state.records.note_failure(self._key, record, failure))
            raise
        return Successor(self._key, self._state.records.successor(tokens, record), record, self._started, error)

    async def _save(self, successor: Successor, lease_stack: AsyncExitStack) -> Outcome:
        """Store what the provider returned. If that fails, serve it unstored, and go on trying in the background."""
        state, user_id, tokens = self._state, self._key.user_id, successor.record.tokens
        try:
            await self._state.put(self._flight, self._key, successor.record, successor.before)
        except TokenflightError as exc:
            if isinstance(exc, StoreConflict) or self._is_overtaken(successor):
                return self._discard()
            state.note_issued(successor)
            # The lease goes along: while the store has a spent refresh token, no other process may renew.
            state.pending.add(successor, lease_stack.pop_all(), exc)
            if self._flight.detached:
                # A login stored the same token set again, and its flight waits for this lease: serve its waiters now.
                state.flights.detach(user_id, SUPERSEDED)
        else:
            state.note_issued(successor)
            self._event = self._make_event(TokenRenewed, rotated=successor.is_rotated, expires_at=tokens.expires_at)
        self._spent = successor.spent
        self._note_record(successor.record)
        if successor.error is not None:
            return self._fail(successor.error)
        state.backoff.clear(user_id)
        return Outcome(successor.record, renewed=True)

    def _discard(self) -> Outcome:
        """Another writer won: a login, a logout, or, where the lease had lapsed, another renewal."""
        self._note_record(None)
        self._event = self._make_event(RenewalDiscarded)
        return SUPERSEDED

    def _fail(self, error: TokenflightError) -> Outcome:
        """End without a new token set; note when it makes sense to try again."""
        record, user_id = self._record, self._key.user_id
        is_served = self._state.judge(user_id, self._goal.tokens_in(record)) is not Freshness.EXPIRED
        is_about_provider = isinstance(error, TokenRefreshError) and not isinstance(error, ReauthenticationRequired)
        is_stuck = isinstance(error, LeaseTimeout)  # the next caller would wait for the same holder, and as long
        if error is not self._paused_for and (is_served or is_about_provider or is_stuck):
            # Also if detached: the flight that waits for the lease must not ask at once.
            self._state.begin_pause(user_id, error)
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

    def _turn(self) -> AbstractAsyncContextManager[None]:
        """Bound the wait for a place and the lease."""
        seconds = self._state.limits.turn_timeout
        return deadline(seconds, failures.overloaded(self._key, seconds))

    def _note_record(self, record: StoredTokens | None) -> StoredTokens | None:
        """Note what the store holds, as just read or written; return it."""
        self._record, self._read_at = record, time.time()
        if record is not None:
            self._state.heed_failure(self._key, record)
        return record

    def _is_overtaken(self, successor: Successor) -> bool:
        """Whether a login or logout has detached this flight, other than a login of the very grant it has renewed."""
        if not self._flight.detached:
            return False
        entry, before = self._state.cache.entries.get(self._key.user_id), successor.before
        return entry is None or before is None or entry.tokens != before.tokens

    def _make_event(self, kind: Callable[..., E], **members: object) -> E:
        return kind(self._key.user_id, self._key.provider, time.monotonic() - self._started, **members)
