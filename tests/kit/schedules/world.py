"""A user, some refreshers, their callers, and the rules that hold for all of them under any schedule."""

import asyncio
import time
from collections import Counter, defaultdict
from collections.abc import Awaitable, Callable, Coroutine
from contextlib import AsyncExitStack
from dataclasses import dataclass
from functools import partial
from itertools import pairwise
from typing import Final, Protocol

from kit.schedules.explorer import PLACE, SPEAKER, Schedule
from kit.schedules.parts import Fault, PausingStore, StrictProvider, label
from kit.tally import Counts
from tokenflight import (
    ReauthenticationRequired,
    RefreshPolicy,
    StoredTokens,
    StoreUnavailable,
    TokenflightError,
    TokenKey,
    TokenRefresher,
    TokenSet,
)

USER: Final = "alice"
KEY: Final = TokenKey(StrictProvider.name, USER)

LATER_SECONDS: Final = 200.0
"""After that, flights and cool-downs are over, no cached entry is current, and what was unsaved is saved."""

LONGEST_WAIT_SECONDS: Final = 300.0
"""More than a flight may take, with all its deadlines."""


class Ask(Protocol):
    """A way to ask a refresher for a token set of a user."""

    __name__: str

    async def __call__(self, refresher: TokenRefresher, user_id: str, /) -> TokenSet: ...


async def get(refresher: TokenRefresher, user_id: str) -> TokenSet:
    return await refresher.get_valid_token(user_id)


async def get_for_long(refresher: TokenRefresher, user_id: str) -> TokenSet:
    return await refresher.get_valid_token(user_id, min_validity=2500)


async def renew(refresher: TokenRefresher, user_id: str) -> TokenSet:
    return await refresher.refresh_token(user_id)


def without(rejected: TokenSet) -> Ask:
    """The way of a caller to whom an API answered 401."""

    async def get_another(refresher: TokenRefresher, user_id: str) -> TokenSet:
        return await refresher.get_valid_token(user_id, rejected=rejected.access_token)

    return get_another


def holding(row: TokenSet) -> Ask:
    """The way of a caller who keeps token sets itself, and holds `row`."""

    async def ensure(refresher: TokenRefresher, user_id: str) -> TokenSet:
        result = await refresher.ensure_valid_token(user_id, row)
        assert result.should_update == (result.tokens != row)
        return result.tokens

    return ensure


@dataclass(frozen=True, slots=True)
class Parts:
    """What a world is made of; a planted bug takes the place of a part."""

    refresher: type[TokenRefresher] = TokenRefresher
    store: type[PausingStore] = PausingStore


LIBRARY: Final = Parts()
"""The library as it is, with no bug planted."""


class World:
    """A user, some refreshers that share a store as processes do, their callers, and the rules for all of them.

    Each scenario adds to the rules: `allowed` are the codes of the errors that callers may be told, `requests` says
    how many of them the provider may get, `recovers` that all faults end before the refreshers are closed,
    `may_serve_unsaved` that token sets may be served which can't be stored, `serves` that what is stored stays valid
    long enough to stand in for a renewal that fails, `ends_logged_out` that nothing may be stored in the end,
    `ends_logged_in` that what is stored in the end has to come from the last login.
    """

    def __init__(self, schedule: Schedule, parts: Parts) -> None:
        self.schedule = schedule
        self.random = schedule.random
        self.provider = StrictProvider(schedule)
        self.store = parts.store(schedule)
        self.refreshers: list[TokenRefresher] = []
        self.allowed: frozenset[str] = frozenset()
        self.requests: range | None = None
        self.recovers = True
        self.may_serve_unsaved = False
        self.serves = False
        self.ends_logged_out = False
        self.ends_logged_in = False
        self._login: TokenSet | None = None
        self.all_have_come = asyncio.Event()
        self._users_lost = 0
        self._refresher = parts.refresher
        self._open = AsyncExitStack()
        self._actors: list[asyncio.Task[None]] = []
        self._last_word: Counter[TokenRefresher] = Counter()
        self._rejected: defaultdict[TokenRefresher, set[str]] = defaultdict(set)
        self._trust: float | None = None
        self._to_come = 0
        self._places: dict[TokenRefresher, str] = {}
        self._is_unsaved = False

    async def begin(
        self, life_left: float, *, refreshers: int | None = None, trust: float | None = 60, stored: bool = True
    ) -> TokenSet:
        """Log the user in, and wait until `life_left` seconds are left. Some refreshers then have it cached."""
        self._trust = trust
        for _ in range(self.random.randint(1, 3) if refreshers is None else refreshers):
            refresher = self._refresher(self.provider, self.store, policy=RefreshPolicy(cache_ttl=trust))
            self._places[refresher] = f" at refresher {len(self.refreshers)}"
            self.refreshers.append(refresher)
            self._open.push_async_callback(self._close, refresher)
        tokens = self.provider.log_in()
        if stored:
            await self.store.save(KEY, StoredTokens(tokens))
            for refresher in self.refreshers:
                if self.random.random() < 0.5:
                    PLACE.set(self._places[refresher])
                    await refresher.get_valid_token(USER)
        assert tokens.expires_at is not None
        await asyncio.sleep(tokens.expires_at - life_left - time.time())
        return tokens

    def some_faults(self, *kinds: Fault) -> list[Fault]:
        """One to three of `kinds`."""
        return self.random.choices(kinds, k=self.random.randint(1, 3))

    # Who acts, each at a moment of its own.

    def callers(self, *asks: Ask, at_most: int = 10) -> None:
        """Some callers, each of whom asks some refresher in one of these ways."""
        self._to_come = self.random.randint(1, at_most)
        for _ in range(self._to_come):
            self.act("caller", self._call(self.random.choice(self.refreshers), self.random.choice(asks)))

    def rejections(self, tokens: TokenSet) -> None:
        """Some callers whom an API answered 401 to."""
        for _ in range(self.random.randint(1, 6)):
            refresher = self.random.choice(self.refreshers)
            self.act("caller", self._call(refresher, without(tokens), rejected=tokens.access_token))

    def cancellations(self) -> None:
        """Cancel none of those who act so far, the first, half or all of them."""
        actors = list(self._actors)
        half = self.random.sample(actors, len(actors) // 2)
        for actor in self.random.choice(([], actors[:1], half, actors)):
            self.act("canceller", self._cancel(actor))

    def logins(self, number: int) -> None:
        """The user logs in so many times."""
        for _ in range(number):
            refresher = self.random.choice(self.refreshers)
            self.act("login", self._say(refresher, partial(self._log_in, refresher)))

    def logouts(self, number: int) -> None:
        """The user logs out so many times."""
        for _ in range(number):
            refresher = self.random.choice(self.refreshers)
            self.act("logout", self._say(refresher, partial(refresher.delete_tokens, USER)))

    def closings(self, number: int) -> None:
        """So many refreshers are closed."""
        for refresher in self.random.sample(self.refreshers, number):
            self.act("closer", self._close_early(refresher))

    def act(self, name: str, doing: Coroutine[None, None, None]) -> None:
        """Let somebody do something."""
        self._actors.append(asyncio.create_task(doing, name=f"{name} {len(self._actors)}"))

    async def _cancel(self, actor: "asyncio.Task[None]") -> None:
        await self.schedule.arrive()
        self.schedule.note(f"cancels {actor.get_name()}")
        actor.cancel()

    async def _log_in(self, refresher: TokenRefresher) -> None:
        self._login = self.provider.log_in()
        await refresher.save_tokens(USER, self._login)

    async def _say(self, refresher: TokenRefresher, word: Callable[[], Awaitable[object]]) -> None:
        await self.schedule.arrive()
        PLACE.set(self._places[refresher])
        SPEAKER.set(self.schedule.actor)
        try:
            await word()
        except TokenflightError as error:
            self._judge_error(error)
        else:
            self.schedule.note("is done")
            place = self.store.written_by.get(self.schedule.actor, 0)  # nothing written: a later word came first
            self._last_word[refresher] = max(self._last_word[refresher], place)

    async def _close_early(self, refresher: TokenRefresher) -> None:
        await self.schedule.arrive()
        self.refreshers.remove(refresher)
        await self._close(refresher)

    async def _close(self, refresher: TokenRefresher) -> None:
        try:
            await refresher.aclose()
        except StoreUnavailable as error:
            self.schedule.note(f"closing says {error.code}")
            self.schedule.require(not self.recovers, "closing stores what could not be stored before")
            self._is_unsaved = True

    async def _call(self, refresher: TokenRefresher, ask: Ask, *, rejected: str | None = None) -> None:
        await self.schedule.arrive()
        self._to_come -= 1
        if not self._to_come:
            self.all_have_come.set()
        if rejected is not None:
            self._rejected[refresher].add(rejected)
        unwanted, last_word = set(self._rejected[refresher]), self._last_word[refresher]
        PLACE.set(self._places[refresher])
        self.schedule.note(f"asks to {ask.__name__}")
        began = self.schedule.loop.time()
        try:
            tokens = await ask(refresher, USER)
        except TokenflightError as error:
            self._judge_error(error)
            self.schedule.require(ask is renew or not self.serves, "nobody is told of an outage who can be served")
        else:
            self._judge_tokens(tokens, unwanted, last_word)
        waited = self.schedule.loop.time() - began
        self.schedule.require(waited <= LONGEST_WAIT_SECONDS, "nobody waits for longer than all deadlines together")

    def _judge_error(self, error: TokenflightError) -> None:
        self.schedule.note(f"is told {error.code}" + (f" because of {error.__cause__!r}" if error.__cause__ else ""))
        is_allowed = error.code in self.allowed
        self.schedule.require(is_allowed, f"nobody is told {error.code} here")
        self._users_lost += isinstance(error, ReauthenticationRequired) and not is_allowed

    def _judge_tokens(self, tokens: TokenSet, unwanted: set[str], last_word: int) -> None:
        require = self.schedule.require
        places = [place for place, written in enumerate(self.store.writes) if written == tokens]
        self.schedule.note(f"gets {label(tokens)}")
        require(tokens.expires_at is not None and tokens.expires_at > time.time(), "nobody gets an expired token")
        require(tokens.access_token not in unwanted, "nobody gets a token that was rejected before")
        require(bool(places) or self.may_serve_unsaved, "nobody gets a token set before it is stored")
        require(not places or places[-1] >= last_word, "nobody gets a token set from before the last login or logout")

    # How it ends.

    async def end(self) -> None:
        """Wait for everybody, and ask everywhere once more, later."""
        if self._actors:
            await asyncio.wait(self._actors)
        for actor in self._actors:
            error = None if actor.cancelled() else actor.exception()
            self.schedule.require(error is None, f"{actor.get_name()} meets no {error!r}")
        if self.recovers:
            self.provider.faults.clear()
            self.store.faults.clear()
            self.allowed = frozenset()
            self.serves = False
        await asyncio.sleep(LATER_SECONDS)
        excused = self.allowed
        for refresher in self.refreshers:
            self.allowed = excused | self._reasons_to_log_in()
            if self._trust is not None:
                self._last_word[refresher] = len(self.store.writes) - 1  # by now everybody has heard of it
            await self._call(refresher, get)

    async def close(self) -> None:
        """Close all refreshers."""
        await self._open.aclose()

    def look_back(self) -> None:
        """Check what must be true when all is over."""
        require, writes, provider = self.schedule.require, self.store.writes, self.provider
        require(not self.store.holders, "no lease is left")
        for before, after in pairwise(writes):
            if after is not None and after != provider.grant(after).first:
                require(before is not None, "a logout stays a logout")
                require(before is None or provider.grant(before) is provider.grant(after), "a login wins")
        require(not self.ends_logged_out or not writes or writes[-1] is None, "a logout has the last word")
        if self.ends_logged_in:
            stored = writes[-1]
            require(stored is not None and provider.grant(stored).first == self._login, "a login has the last word")
        if self.requests is not None:
            require(provider.requests in self.requests, f"there are {self.requests} requests, not {provider.requests}")
        if writes and writes[-1] is not None and not self._reasons_to_log_in() and not self._is_unsaved:
            require(writes[-1] == provider.grant(writes[-1]).current, "what the provider issued last is stored")

    def counts(self) -> Counts:
        """What happened."""
        return Counts(
            schedules=1,
            refreshes=self.provider.renewals,
            faults=self.provider.faulted + self.store.faulted,
            reuses=self.provider.reuses,
            excused_reuses=self.provider.excused_reuses,
            users_lost=self._users_lost,
        )

    def _reasons_to_log_in(self) -> frozenset[str]:
        """The error that later callers may be told, if the user was logged out or the provider lost a reply."""
        last = self.store.writes[-1] if self.store.writes else None
        if last is None:
            return frozenset({"no_tokens"})
        grant = self.provider.grant(last)
        return frozenset({"refused"} if grant.revoked or last.refresh_token in grant.unanswered else ())
