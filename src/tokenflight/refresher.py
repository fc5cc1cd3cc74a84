"""A valid token for any user: memory, judge, flight, lease, renew, save, publish. Read top to bottom.

``get_valid_token`` returns a fresh copy from memory at once. Otherwise it joins the user's flight, a task that the
refresher owns. The flight reads the store; if what it finds will not do either, it takes the lease, reads again,
adopts what another process stored or asks the provider, saves, and only then publishes.
"""

import asyncio
import time
import warnings
from collections.abc import AsyncGenerator
from contextlib import AbstractAsyncContextManager, AsyncExitStack, aclosing, asynccontextmanager, nullcontext, suppress
from functools import partial
from inspect import iscoroutinefunction
from typing import Final, Self

from tokenflight._checks import checked_seconds, require_count, require_kind, require_text
from tokenflight._core import failures as _failures
from tokenflight._core.backoff import CoolDowns
from tokenflight._core.cache import Memory
from tokenflight._core.calls import ask, require_renewable
from tokenflight._core.course import NOTHING_MORE, OVERTAKEN, Course, Landing, Need
from tokenflight._core.decisions import Decisions
from tokenflight._core.pending import Renewal, Unsaved
from tokenflight._core.records import Records
from tokenflight._core.sweep import SweepOutcome, sweep
from tokenflight._singleflight import Flight, Flights, outside_flights, own_copy
from tokenflight.errors import (
    ConfigurationError,
    LeaseTimeout,
    ProviderUnavailable,
    ReauthenticationRequired,
    StoreConflict,
    TokenflightError,
    TokenRefreshError,
)
from tokenflight.events import (
    OnEvent,
    RenewalDiscarded,
    RenewalFailed,
    TokenAdopted,
    TokenEvent,
    TokenRenewed,
    announce,
)
from tokenflight.policy import RefreshPolicy
from tokenflight.providers.base import Closeable, Provider
from tokenflight.stores import Lease, StoredTokens, TokenStore, default_store
from tokenflight.tokens import TokenKey, TokenResult, TokenSet

MAX_CONCURRENT_READS: Final = 64
"""How many flights read their record at the same moment, without a lease."""

LONGEST_WAIT_OF_SWEEP_SECONDS: Final = 60.0
"""For a provider that asks for a pause. After a longer one, the next sweep will do."""

_now = time.time


class TokenRefresher:
    """Hands out valid access tokens, each user's renewed at most once however many ask.

    `provider` renews; `store` keeps token sets and gives the lease (a `MemoryTokenStore` if None); `on_event` is
    called with each `TokenEvent`, on the event loop, and can't break a flight. An async context manager, bound to
    the event loop on which it first waits; make one for the life of the application and share it.
    """

    def __init__(
        self,
        provider: Provider,
        store: TokenStore | None = None,
        *,
        policy: RefreshPolicy = RefreshPolicy(),  # noqa: B008 - frozen
        on_event: OnEvent | None = None,
    ) -> None:
        if not isinstance(getattr(provider, "name", None), str) or not callable(getattr(provider, "renew", None)):
            raise ConfigurationError(f"provider must have a name and a renew method; {type(provider).__name__} has not")
        require_kind("store", store, TokenStore | None)
        require_kind("policy", policy, RefreshPolicy)
        if on_event is not None and (not callable(on_event) or iscoroutinefunction(on_event)):
            raise ConfigurationError(f"on_event must be a plain callable or None, not {type(on_event).__name__}")
        self._provider = provider
        self._store = default_store() if store is None else store
        self._records = Records(self._store, provider)
        self._on_event = on_event
        self._memory = Memory(policy)
        self._copies = self._memory.copies  # for the fast path, which is one look-up
        self._cool_downs = CoolDowns()
        self._flights = Flights[Landing]()
        self._unsaved = Unsaved(
            self._records,
            announce=self._announce,
            on_saved=lambda key, record: self._memory.keep(key.user_id, record, _now()),
            on_dropped=lambda key: self._memory.drop_copy(key.user_id),
        )
        self._decide = Decisions(policy, self._memory, self._unsaved, self._cool_downs)
        self._slots = asyncio.Semaphore(policy.max_concurrent_renewals)
        self._reads = asyncio.Semaphore(MAX_CONCURRENT_READS)
        self._loop: asyncio.AbstractEventLoop | None = None
        self._closed = False

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *exc_info: object) -> None:
        await self.aclose()

    def __del__(self) -> None:
        if not getattr(self, "_closed", True) and self._loop is not None:
            warnings.warn(f"{self!r} was never closed; use `async with` or aclose()", ResourceWarning, stacklevel=1)

    def __repr__(self) -> str:
        return f"<TokenRefresher at {self._provider.name!r} with {type(self._store).__name__}>"

    async def get_valid_token(
        self, user_id: str, *, min_validity: float | None = None, rejected: str | None = None
    ) -> TokenSet:
        """Return a valid token set for `user_id`, renewed first if it has to be.

        `min_validity` is how many seconds of life the caller needs; where even a new token lives shorter, the newest
        is returned. `rejected` is an access token that an API answered 401 to: it is not handed out again.

        Raises `ReauthenticationRequired`, `ProviderUnavailable`, `ProviderMisconfigured`,
        `InvalidProviderResponse` or a `StoreError` if there is no valid token and none could be had.
        """
        copy = self._copies.get(user_id)
        # The fast path: no await, no lock, no I/O; not even `Copy.is_fresh`, as a call costs more than comparing.
        if copy is not None and min_validity is None and rejected is None and copy.since <= _now() <= copy.fast_until:
            return copy.record.tokens
        if rejected is not None:
            require_text("user_id", user_id)
            require_kind("rejected", rejected, str)
            self._memory.reject(user_id, rejected)
        if min_validity is not None:
            return await self._obtain(user_id, Need(min_validity=checked_seconds("min_validity", min_validity)))
        return await self._obtain(user_id, NOTHING_MORE)

    def cached_token(self, user_id: str) -> TokenSet | None:
        """Return the token set that `get_valid_token` would return without waiting, or None if it would have to wait.

        For callers that can't await, and for those that can't spend a coroutine. It starts no renewal: after None,
        await `get_valid_token`.
        """
        copy = self._copies.get(user_id)
        return copy.record.tokens if copy is not None and copy.since <= _now() <= copy.fast_until else None

    async def ensure_valid_token(self, user_id: str, tokens: TokenSet) -> TokenResult:
        """Return a valid token set for a caller who keeps token sets itself and holds `tokens` for `user_id`.

        Where the result's `should_update` is true, the caller stores its `tokens` in place of its own. A caller that
        holds a spent refresh token gets its successor, not a second renewal; after a logout it must hold none, as the
        successor is gone. Raises as `get_valid_token` does.
        """
        require_text("user_id", user_id)
        require_kind("tokens", tokens, TokenSet)
        copy = self._decide.known(user_id)
        known = copy is not None and copy.supersedes(tokens)
        expires = tokens.expires_at is not None or tokens.refresh_token is None
        if not known and expires and not self._decide.is_due(user_id, tokens, Need()):
            return TokenResult(tokens, should_update=False)
        current = await self._obtain(user_id, Need(offered=tokens))
        same = (current.access_token, current.refresh_token) == (tokens.access_token, tokens.refresh_token)
        return TokenResult(current, should_update=not same)

    async def refresh_token(self, user_id: str) -> TokenSet:
        """Renew the token set of `user_id` now, whatever its expiry, or join the renewal under way.

        One that another process has made since the store was read last, up to `cache_ttl` seconds ago, will do too.
        Raises as `get_valid_token` does, also where the present token is still valid.
        """
        return await self._obtain(user_id, Need(renewal=True))

    async def save_tokens(self, user_id: str, tokens: TokenSet) -> None:
        """Store the `tokens` of a login. It wins over what is stored and over a renewal under way."""
        require_kind("tokens", tokens, TokenSet)
        key = self._key(user_id)
        async with self._overtaking(user_id):
            record = await self._records.save(key, tokens)
        self._memory.vouch(user_id, tokens)
        self._memory.keep(user_id, record, _now())

    async def load_tokens(self, user_id: str) -> TokenSet | None:
        """Return what is stored for `user_id`, whatever its expiry, or None. Renews nothing."""
        record = await self._records.load(self._key(user_id))
        return None if record is None else record.tokens

    async def delete_tokens(self, user_id: str) -> bool:
        """Log `user_id` out: forget the token set here and in the store. Say whether there was one.

        It wins over a renewal under way. The provider is not told.
        """
        key = self._key(user_id)
        async with self._overtaking(user_id):
            try:
                return await self._records.delete(key)
            finally:  # failed, it may have happened all the same: no caller's row is to undo it
                self._flights.overtake(user_id, instead=OVERTAKEN)
                self._memory.drop_copy(user_id)

    async def sweep(self, *, within: float = 0.0, concurrency: int = 16) -> AsyncGenerator[SweepOutcome, None]:
        """Renew what is due, or will be `within` so many seconds, of all users in the store; yield each one's outcome.

        For cron jobs, and for refresh tokens that die when unused. At most `concurrency` users are looked at at once;
        one user's failure does not stop the others, and where the provider asks for a pause of up to a minute, the
        sweep waits. Raises a `StoreError` if the users can't be listed; a `ConfigurationError` once the refresher is
        closed.
        """
        checked_seconds("within", within)
        require_count("concurrency", concurrency)
        self._check_use()

        tend = partial(self._renew_if_due, within=within)
        async with aclosing(sweep(self._listed(), tend, concurrency=concurrency)) as outcomes:
            async for outcome in outcomes:
                yield outcome

    async def aclose(self) -> None:
        """Wait for the flights under way to finish and to store what they got; then close provider and store.

        Both open again if another refresher goes on using them. Raises `StoreUnavailable` if a renewed token set
        could not be stored.
        """
        self._closed = True
        try:
            await self._flights.drain()
            await self._unsaved.aclose()
        finally:
            self._copies.clear()
            try:
                if isinstance(self._provider, Closeable):
                    await self._provider.aclose()
            finally:
                await self._store.aclose()

    # The waiter's side: the copy in memory, or a flight.

    async def _obtain(self, user_id: str, need: Need) -> TokenSet:
        while True:
            self._check_use()
            require_text("user_id", user_id)
            flight = self._flights.get(user_id)
            if (flight is None or not flight.for_everybody) and (tokens := self._at_hand(user_id, need)) is not None:
                return tokens
            joined = flight is not None
            if self._flights.enclose_caller(user_id):
                raise _failures.reentered(self._records.key(user_id))
            if flight is None:
                work = partial(self._fly, self._records.key(user_id), need)
                # What is due for who needs nothing more is due for all who come meanwhile.
                flight = self._flights.start(user_id, work, for_everybody=need == NOTHING_MORE)
            landing = await flight.result()
            # What the fast path gives from now on, this waiter gets too: it spares a thousand a judgement each.
            if need == NOTHING_MORE and (copy := self._copies.get(user_id)) is not None and copy.is_fresh(_now()):
                return copy.tokens
            if (unmet := self._decide.unmet(need, flight, landing, joined=joined)) is not None:
                need = unmet
            elif landing.error is not None:
                # A failed renewal is no outage for this caller while the old token is really valid.
                if (tokens := self._decide.stand_in(user_id, landing, need)) is None:
                    raise own_copy(landing.error)
                return tokens
            elif landing.record is not None:
                self._renew_if_aging(user_id, landing.record, need)
                return landing.record.tokens

    def _at_hand(self, user_id: str, need: Need) -> TokenSet | None:
        """What memory holds, if it will do; None if that has to be renewed first."""
        copy = self._decide.known(user_id)
        if copy is None or not copy.is_trusted(_now()) or self._decide.is_due(user_id, copy.tokens, need):
            return None
        self._renew_if_aging(user_id, copy.record, need)
        return copy.tokens

    def _renew_if_aging(self, user_id: str, record: StoredTokens, need: Need) -> None:
        """Start a flight that nobody waits for."""
        if need.offered is not None or not self._decide.is_aging(user_id, record.tokens):
            return
        key = self._records.key(user_id)
        if self._flights.get(user_id) is None and self._decide.obstacle(key) is None:
            self._flights.start(user_id, partial(self._fly, key, Need(renewal=True, instead_of=record.tokens)))

    @asynccontextmanager
    async def _overtaking(self, user_id: str) -> AsyncGenerator[None, None]:
        """Write a login or logout, which wins over the flight under way."""
        async with self._records.writing(user_id):
            try:
                yield
                self._flights.overtake(user_id, instead=OVERTAKEN)
                self._unsaved.drop(user_id)  # what failed before or waits to be stored is past
                self._cool_downs.clear(user_id)
            finally:  # also if cancelled or failed: it may have been stored
                self._flights.overtake(user_id)
                self._memory.distrust_copy(user_id)

    # The sweep's side.

    async def _listed(self) -> AsyncGenerator[TokenKey, None]:
        keys = self._records.keys()
        try:
            async for key in keys:
                yield key
                self._check_use()  # before the store is read on: closed, it would open again
        finally:
            if isinstance(keys, AsyncGenerator):
                await keys.aclose()

    async def _renew_if_due(self, key: TokenKey, *, within: float) -> bool:
        """Renew the token set that the store has for `key`, if it is due or will be `within` so many seconds."""
        self._check_use()
        copy = self._decide.known(key.user_id)
        record = await self._records.load(key) if copy is None or not copy.is_trusted(_now()) else copy.record
        if record is None or not self._decide.will_be_due(key.user_id, record.tokens, within):
            return False  # logged out meanwhile, or good for longer
        need = Need(renewal=True, instead_of=record.tokens)
        while True:
            try:
                await self._obtain(key.user_id, need)
            except ReauthenticationRequired as exc:
                if exc.reason != "no_tokens":
                    raise
                return False  # logged out meanwhile
            except ProviderUnavailable:
                pause = self._cool_downs.provider_remaining(_now())
                if not 0 < pause <= LONGEST_WAIT_OF_SWEEP_SECONDS:
                    raise
                await asyncio.sleep(pause)  # which it asked of everybody: the rest of the sweep can't do better
            else:
                return True

    # The flight: a task of its own.

    async def _fly(self, key: TokenKey, need: Need, flight: Flight[Landing]) -> Landing:
        """Find or make a token set that meets `need`, publish it, and tell of it."""
        course = Course(key, need, self._decide.known(key.user_id), flight)
        try:
            landing = await self._find_or_renew(course)
        except Exception as exc:  # noqa: BLE001 - whatever it is, the waiters have to hear of it
            landing = self._failed(course, _failures.in_the_tree(exc, key))
        self._publish(course)
        if landing.event is not None:
            self._announce(landing.event)
        return landing

    async def _find_or_renew(self, course: Course) -> Landing:
        if (found := self._decide.spared(course) or await self._read(course)) is not None:
            return found
        self._require_renewable(course)  # first: no pause is to hide that it takes a login
        if (obstacle := self._decide.obstacle(course.key)) is not None:
            return Landing(course.record, obstacle)
        return await self._renew(course)

    def _require_renewable(self, course: Course) -> None:
        """Raise `ReauthenticationRequired` if all that the store holds and the caller has can't be renewed."""
        if course.read_at is not None and course.need.offered is None:
            require_renewable(self._provider, course.key, None if course.record is None else course.record.tokens)

    async def _read(self, course: Course) -> Landing | None:
        """Read the record without a lease, unless the copy in memory is trusted; None if it has to be renewed."""
        copy = course.copy
        if copy is not None and copy.is_trusted(_now()) and not copy.record.refused:
            course.set_out_from = course.need.instead_of or copy.tokens
            return None
        async with course.deadline(), self._reads:  # in a queue, so that no read waits in the store's for its timeout
            record = course.found(await self._records.load(course.key))
        if record is None:
            return None
        # Who asks for a renewal wants one from this reading on; for others, one since the copy was made will do.
        before = record.tokens if copy is None or course.need.renewal else copy.tokens
        course.set_out_from = course.need.instead_of or before
        if self._decide.fits(course, record):
            return Landing(record)
        if record.refused and self._decide.covers_offer(course.key.user_id, record.tokens, course.need):
            raise _failures.refused_before(course.key)
        return None

    async def _renew(self, course: Course) -> Landing:
        """Under the lease: read again, then adopt what somebody else stored, or ask the provider and save."""
        async with AsyncExitStack() as lease:
            async with course.deadline():
                while (outcome := await self._adopt_or_ask(course, lease)) is None:
                    await lease.aclose()  # it lapsed while this process stood still: somebody else may be at it
            if isinstance(outcome, Landing):
                return outcome
            # The refresh token in the store is spent now: nothing but the write may come between.
            return await self._save(course, outcome, lease)

    async def _adopt_or_ask(self, course: Course, lease: AsyncExitStack) -> Landing | Renewal | None:
        """Take the lease and see. None if the lease lapsed before the provider was asked."""
        async with self._slots:  # taken first, so that no more leases are held than the policy has slots
            try:
                held = await lease.enter_async_context(self._records.lease(course.key, wait=False))
            except LeaseTimeout:
                pass
            else:
                return await self._adopt_or_ask_under(held, course, slot=nullcontext())
        # Somebody else is at it. Waiting for them keeps no slot from other users.
        try:
            held = await lease.enter_async_context(self._records.lease(course.key, wait=True))
        except LeaseTimeout:
            record = course.found(await self._records.load(course.key))
            if record is None or not self._decide.fits(course, record):
                raise
            return self._adopted(course, record)  # stored by a holder that has been stuck since
        return await self._adopt_or_ask_under(held, course, slot=self._slots)

    async def _adopt_or_ask_under(
        self, lease: Lease, course: Course, *, slot: AbstractAsyncContextManager[None]
    ) -> Landing | Renewal | None:
        key, record = course.key, await self._load_or_take_offer(course)
        while True:
            if record is not None:
                if self._decide.fits(course, record):
                    return self._adopted(course, record)
                if record.refused:
                    raise _failures.refused_before(key)
            try:
                async with slot:
                    if not lease.is_held():
                        return None
                    if course.flight.void:
                        return Landing(record)
                    if (obstacle := self._decide.obstacle(key)) is not None:
                        return Landing(record, obstacle)  # from while this flight waited for its turn
                    course.ask()
                    tokens = await ask(self._provider, key, None if record is None else record.tokens)
            except ReauthenticationRequired as refusal:
                record = await self._after_refusal(course, record, refusal)
            else:
                return Renewal(key, tokens, record, course.started)

    async def _load_or_take_offer(self, course: Course) -> StoredTokens | None:
        """The record; or, where a caller keeps token sets itself and offers a newer one, that one, stored first."""
        while True:
            record = course.found(await self._records.load(course.key))
            offered = self._decide.better_offer(course, record)
            if offered is None or course.flight.overtaken:
                return record
            with suppress(StoreConflict):  # somebody else was faster: read again
                record = await self._records.succeed(course.key, offered, record, wanted=course.is_wanted)
                course.set_out_from = record.tokens
                return course.found(record)

    async def _after_refusal(
        self, course: Course, record: StoredTokens | None, refusal: ReauthenticationRequired
    ) -> StoredTokens | None:
        """The record to go on with if somebody else wrote it meanwhile; otherwise remember the refusal and raise it."""
        if record is None or refusal.reason != "refused":
            raise refusal
        current = course.found(await self._records.mark_refused(course.key, record))
        if current is not None and current.tokens.refresh_token == record.tokens.refresh_token:
            raise refusal
        return current

    async def _save(self, course: Course, renewal: Renewal, lease: AsyncExitStack) -> Landing:
        """Store what the provider returned. Where that fails, it is served all the same and kept until it is stored."""
        key, tokens = course.key, renewal.tokens
        before = None if renewal.before is None else renewal.before.tokens.refresh_token
        rotated = tokens.refresh_token != before
        course.spent = before if rotated else None
        try:
            record = await self._records.succeed(key, tokens, renewal.before, wanted=course.is_wanted)
        except TokenflightError as exc:
            if isinstance(exc, StoreConflict) or (course.flight.void and not self._decide.is_unchanged(renewal)):
                return await self._discarded(course)
            # The lease goes along: while the store holds a spent refresh token, nobody else may renew.
            record, event = self._unsaved.keep(renewal, lease.pop_all(), exc), None
            if course.flight.void:  # then another flight waits for that lease: serve those who wait for it at once
                self._flights.overtake(key.user_id, instead=OVERTAKEN)
        else:
            event = course.event(TokenRenewed, rotated=rotated, expires_at=tokens.expires_at)
        self._cool_downs.clear(key.user_id)
        self._memory.vouch(key.user_id, tokens)
        return Landing(course.found(record), renewed=True, event=event)

    async def _discarded(self, course: Course) -> Landing:
        """A login or logout won: what the provider returned belongs to a grant that nobody wants any more."""
        course.found(None)
        self._announce(course.event(RenewalDiscarded))
        login = course.found(await self._records.load(course.key))
        error = _failures.logged_out(course.key) if login is None else None
        return Landing(login, error, renewed=True, lost=True)

    def _adopted(self, course: Course, record: StoredTokens) -> Landing:
        event = course.event(TokenAdopted, expires_at=record.tokens.expires_at)
        return Landing(record, renewed=course.has_changed(record), event=event)

    def _failed(self, course: Course, error: TokenflightError) -> Landing:
        """Land without a new token set; say when it makes sense to try again."""
        record, user_id, now = course.record, course.key.user_id, _now()
        served = record is not None and self._decide.is_servable(user_id, record.tokens)
        if isinstance(error, ProviderUnavailable) and error.retry_after:
            self._cool_downs.hold_provider(now, error.retry_after)
        about_provider = isinstance(error, TokenRefreshError) and not isinstance(error, ReauthenticationRequired)
        if served or about_provider:
            self._cool_downs.failed(user_id, now)
        event = course.event(RenewalFailed, error=type(error).__name__, code=error.code, served=served)
        return Landing(record, error, event=event)

    def _publish(self, course: Course) -> None:
        """Keep a copy of what the flight has found, or stored, unless a login or logout has made that worthless."""
        user_id = course.key.user_id
        if course.read_at is None or course.flight.void:
            return
        if course.record is None:
            self._memory.drop_copy(user_id)
        else:
            self._memory.keep(user_id, course.record, course.read_at, spent=course.spent)
        if course.flight.overtaken:
            self._memory.distrust_copy(user_id)

    # Small parts.

    def _announce(self, event: TokenEvent) -> None:
        with outside_flights():  # what `on_event` starts is no part of the flight that the event is about
            announce(event, self._on_event)

    def _check_use(self) -> None:
        """Raise `ConfigurationError` unless the refresher may be used, here and now."""
        if self._closed:
            raise _failures.closed()
        loop = asyncio.get_running_loop()
        if self._loop is None:
            self._loop = loop
        elif self._loop is not loop:
            raise _failures.wrong_event_loop()

    def _key(self, user_id: str) -> TokenKey:
        self._check_use()
        require_text("user_id", user_id)
        return self._records.key(user_id)
