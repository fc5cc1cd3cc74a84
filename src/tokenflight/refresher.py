"""A valid token for any user: cache, judge, flight, and what the waiters get. Read top to bottom.

`TokenRefresher.get_valid_token` returns a fresh token set from the cache at once. Otherwise the caller joins the user's
flight, a task that the refresher owns. `tokenflight._core.renewal` says what a flight does: it reads the store; if the
record will not do, it takes the lease and reads again; then it adopts what another process stored, or asks the
provider, saves, and only then publishes.
"""

import asyncio
import threading
import time
import warnings
from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import aclosing
from copy import copy
from typing import Final, Self

from tokenflight._checks import checked_seconds, require_count, require_kind, require_text
from tokenflight._core import failures
from tokenflight._core.limits import Limits
from tokenflight._core.logins import Logins
from tokenflight._core.outcome import Outcome
from tokenflight._core.renewal import Renewal
from tokenflight._core.requirement import NO_REQUIREMENT, Requirement
from tokenflight._core.state import RefresherState
from tokenflight._core.sweep import SweepOutcome, SweptUsers, sweep
from tokenflight._singleflight import Flight
from tokenflight.errors import ConfigurationError
from tokenflight.events import OnEvent, checked_listeners
from tokenflight.policy import Freshness, RefreshPolicy, valid_until
from tokenflight.providers.base import AccessTokenHeader, Provider, as_base_provider
from tokenflight.stores import TokenStore, default_store
from tokenflight.tokens import TokenKey, TokenResult, TokenSet

__all__ = ["SweepOutcome", "TokenRefresher"]

_now: Final = time.time
_thread: Final = threading.get_ident


def _never_used() -> bool:
    return False


class TokenRefresher:
    """Hands out valid access tokens, each user's renewed at most once however many callers ask.

    `provider` renews; `store` keeps token sets and gives the lease (a `MemoryTokenStore` if None). `on_event`, a
    callable or several, is called with each `TokenEvent` on the event loop, and can't break a flight. An async context
    manager, bound to the event loop on which it first waits; make one for the life of the application and share it.
    """

    def __init__(
        self,
        provider: Provider,
        store: TokenStore | None = None,
        *,
        policy: RefreshPolicy = RefreshPolicy(),  # noqa: B008 - frozen
        on_event: OnEvent | Sequence[OnEvent] | None = None,
        _limits: Limits = Limits(),  # noqa: B008 - frozen
    ) -> None:
        if not isinstance(getattr(provider, "name", None), str) or not callable(getattr(provider, "renew", None)):
            raise ConfigurationError(f"provider must have a name and a renew method; {type(provider).__name__} has not")
        require_kind("store", store, TokenStore | None)
        require_kind("policy", policy, RefreshPolicy)
        self._provider = as_base_provider(provider)
        self._store = default_store() if store is None else store
        self._state = RefresherState(self._provider, self._store, policy, _limits, checked_listeners(on_event))
        self._logins = Logins(self._state)
        self._entries = self._state.cache.entries  # for the fast path, which is one look-up
        self._loop: asyncio.AbstractEventLoop | None = None
        # What the fast path asks in place of the running loop, for which Python 3.11 makes a system call.
        self._thread = 0
        self._is_loop_closed: Callable[[], bool] = _never_used
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

    @property
    def access_token_header(self) -> AccessTokenHeader:
        """The header in which a request to the API carries the access token, as the provider defines it."""
        return self._provider.access_token_header

    async def get_valid_token(
        self, user_id: str, *, min_validity: float | None = None, rejected: str | None = None
    ) -> TokenSet:
        """Return a valid token set for `user_id`, renewed first if it has to be.

        `min_validity` is the life that the caller needs, in seconds; if even a new token lives shorter, the caller gets
        the newest. `rejected` is an access token that an API answered 401 to: the refresher does not hand it out again.
        It trusts a token that was issued because of a rejection for half a minute: if an API rejects that too, the
        fault is not the token's. That time doubles with each repetition, up to an hour.

        Raises `ReauthenticationRequired`, `ProviderUnavailable`, `ProviderMisconfigured`,
        `InvalidProviderResponse` or a `StoreError` if there is no valid token and none could be had.
        """
        entry = self._entries.get(user_id)
        # The fast path: no await, no lock, no I/O; not even `CacheEntry.is_fresh`, because a call costs more than this.
        if (
            entry is not None
            and min_validity is None
            and rejected is None
            and entry.since <= _now() <= entry.fresh_until
            and _thread() == self._thread
            and not self._is_loop_closed()
        ):
            return entry.record.tokens
        if rejected is not None:
            require_text("user_id", user_id)
            require_kind("rejected", rejected, str)
            self._state.cache.reject(user_id, rejected, _now())
        if min_validity is not None:
            return await self._obtain(user_id, Requirement(min_validity=checked_seconds("min_validity", min_validity)))
        return await self._obtain(user_id, NO_REQUIREMENT)

    def cached_token(self, user_id: str) -> TokenSet | None:
        """Return the token set that `get_valid_token` would return without a wait, or None if it would have to wait.

        It is for callers that can't, or need not, await. It starts no renewal: after None, await `get_valid_token`.
        """
        entry = self._entries.get(user_id)
        return entry.record.tokens if entry is not None and entry.since <= _now() <= entry.fresh_until else None

    async def ensure_valid_token(self, user_id: str, tokens: TokenSet) -> TokenResult:
        """Return a valid token set for a caller that keeps token sets itself and holds `tokens` for `user_id`.

        If the result's `should_update` is true, the caller stores its `tokens`. A caller that holds a spent refresh
        token gets its successor, not a second renewal; after a logout it must hold none, because the successor is gone.
        Raises as `get_valid_token` does.
        """
        require_text("user_id", user_id)
        require_kind("tokens", tokens, TokenSet)
        entry = self._entries.get(user_id)
        is_known = entry is not None and entry.supersedes(tokens)
        if not is_known and self._state.judge(user_id, tokens).is_good:
            return TokenResult(tokens, should_update=False)
        current = await self._obtain(user_id, Requirement(held=tokens))
        is_same = (current.access_token, current.refresh_token) == (tokens.access_token, tokens.refresh_token)
        return TokenResult(current, should_update=not is_same)

    async def refresh_token(self, user_id: str) -> TokenSet:
        """Renew the token set of `user_id` now, whatever its expiry, or join the renewal under way.

        A renewal by another process since the last read of the store counts too. Raises as `get_valid_token` does,
        even if the present token is still valid.
        """
        return await self._obtain(user_id, Requirement(renewal=True))

    async def save_tokens(self, user_id: str, tokens: TokenSet) -> None:
        """Store the `tokens` of a login. It wins over the stored record and over a renewal under way.

        Some providers send a refresh token at a user's first login only. If `tokens` has none, this keeps the stored
        one, unless the ID tokens name two users. It then waits for a renewal under way, which is about to replace it,
        and raises `LeaseTimeout` if that does not end. Raises any other `StoreError` of the store.
        """
        require_kind("tokens", tokens, TokenSet)
        await self._logins.save(self._key(user_id), tokens)

    async def load_tokens(self, user_id: str) -> TokenSet | None:
        """Return the stored token set of `user_id`, whatever its expiry, or None. Renew nothing.

        Raises a `StoreError` if it can't be read, and `ProviderMisconfigured` if another issuer issued it.
        """
        record = await self._state.records.load(self._key(user_id))
        return None if record is None else record.tokens

    async def delete_tokens(self, user_id: str) -> bool:
        """Log `user_id` out: forget the token set here and in the store. Say whether there was one.

        It wins over a renewal under way, and tells the provider nothing. Raises a `StoreError` if the store fails.
        """
        return await self._logins.delete(self._key(user_id))

    async def sweep(self, *, within: float = 0.0, concurrency: int = 16) -> AsyncGenerator[SweepOutcome, None]:
        """Renew each user in the store whose token set is due, or will be `within` so many seconds; yield the outcomes.

        It also renews refresh tokens that will end `within` so many seconds, if the provider told their life. At most
        `concurrency` users are under way at once. One user's failure does not stop the others. If the provider asks for
        a pause of up to a minute, the sweep waits.

        Raises a `StoreError` if the users can't be listed; a `ConfigurationError` once the refresher is closed.
        """
        checked_seconds("within", within)
        require_count("concurrency", concurrency)
        self._check_use()

        users = SweptUsers(self._state, self._obtain, self._check_use, within=within)
        async with aclosing(sweep(users.keys(), users.renew_if_due, concurrency=concurrency)) as outcomes:
            async for outcome in outcomes:
                yield outcome

    async def aclose(self) -> None:
        """Wait until the flights under way have ended and their results are stored; then close provider and store.

        Both open again if another refresher uses them. Raises `StoreUnavailable` if a renewed token set
        could not be stored, and `ConfigurationError` on another event loop while the refresher's own is still open.
        """
        if self._loop is not None and not self._loop.is_closed() and self._loop is not asyncio.get_running_loop():
            raise failures.wrong_event_loop()
        self._closed = True
        try:
            await self._logins.drain()
            await self._state.flights.drain()
            await self._state.pending.aclose()
        finally:  # also if token sets are lost or the caller is cancelled: connections must not stay open
            self._entries.clear()
            try:
                await self._provider.aclose()
            finally:
                await self._store.aclose()

    async def _obtain(self, user_id: str, requirement: Requirement) -> TokenSet:
        """Return a token set that meets `requirement`: from the cache, or else from a flight.

        Each turn of the loop waits for one flight. Another turn follows where a login or logout has overtaken that
        flight, or where it was started by another caller and brought less than this one needs.
        """
        flights, remaining = self._state.flights, requirement
        while True:
            self._check_use()
            require_text("user_id", user_id)
            flight = flights.get(user_id)
            # A flight that serves all was started because the cached token set will not do.
            if (flight is None or not flight.serves_all) and (tokens := self._cached(user_id, remaining)) is not None:
                return tokens
            if flights.is_reentrant(user_id):
                raise failures.reentered(self._state.records.key(user_id))
            is_joined = flight is not None
            if flight is None:
                flight = self._start_renewal(user_id, remaining)
            entry = self._entries.get(user_id)
            if remaining is NO_REQUIREMENT and entry is not None and _now() >= valid_until(entry.tokens):
                outcome = await flight.result()  # nothing can stand in: a thousand waiters are spared a timer each
            elif isinstance(waited := await self._state.wait_for(flight, user_id, remaining), TokenSet):
                return waited
            else:
                outcome = waited
            if remaining is NO_REQUIREMENT:
                # Take the published entry if it is fresh: a thousand waiters then skip the full check.
                entry = self._entries.get(user_id)
                if entry is not None and entry.is_fresh(_now()):
                    return entry.tokens
            unanswered = self._state.unanswered(remaining, flight, outcome, is_joined=is_joined)
            if unanswered is None:
                return self._deliver(user_id, outcome, remaining)
            remaining = unanswered

    def _deliver(self, user_id: str, outcome: Outcome, requirement: Requirement) -> TokenSet:
        """Return the token set of `outcome`, or one that stands in for it; otherwise raise its error."""
        if outcome.error is not None:
            # A failed renewal is no outage for this caller while the old token is really valid.
            if (tokens := self._state.fallback(user_id, outcome, requirement)) is None:
                raise copy(outcome.error)
            return tokens
        tokens = outcome.tokens_for(requirement)
        assert tokens is not None, "an outcome without an error has a token set"  # noqa: S101 - for type checkers
        self._renew_ahead(user_id, tokens, requirement)
        return tokens

    def _cached(self, user_id: str, requirement: Requirement) -> TokenSet | None:
        """The cached token set, if it will do; None if a flight has to find a better one."""
        entry = self._entries.get(user_id)
        if entry is None or not entry.is_current(_now()):
            return None
        tokens = entry.record.tokens_for(requirement.target)
        if tokens is None or not self._state.judge(user_id, tokens, requirement).is_good:
            return None
        self._renew_ahead(user_id, tokens, requirement)
        return tokens

    def _renew_ahead(self, user_id: str, tokens: TokenSet, requirement: Requirement) -> None:
        """Start a flight in the background, if `tokens` is AGING and no flight is under way."""
        state = self._state
        if requirement.held is not None or state.flights.get(user_id) is not None:
            return
        is_aging = state.judge(user_id, tokens) is Freshness.AGING
        if is_aging and state.blocked_by(state.records.key(user_id)) is None:
            self._start_renewal(user_id, Requirement(requirement.target, replacing=tokens))

    def _start_renewal(self, user_id: str, requirement: Requirement) -> Flight[Outcome]:
        renewal = Renewal(self._state, self._state.records.key(user_id), requirement)
        # A flight started for a default request serves every caller that arrives before it ends.
        return self._state.flights.start(user_id, renewal.run, serves_all=requirement == NO_REQUIREMENT)

    def _check_use(self) -> None:
        """Raise `ConfigurationError` unless the refresher may be used, here and now."""
        if self._closed:
            raise failures.closed()
        loop = asyncio.get_running_loop()
        if self._loop is None:
            self._loop, self._thread, self._is_loop_closed = loop, _thread(), loop.is_closed
        elif self._loop is not loop:
            raise failures.wrong_event_loop()

    def _key(self, user_id: str) -> TokenKey:
        self._check_use()
        require_text("user_id", user_id)
        return self._state.records.key(user_id)
