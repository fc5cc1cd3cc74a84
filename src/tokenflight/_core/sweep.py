"""A pass over all users of a store: streamed, a few at a time, each with an outcome of its own."""

import asyncio
import time
from collections.abc import AsyncGenerator, Awaitable, Callable
from dataclasses import dataclass

from tokenflight._core.requirement import Requirement
from tokenflight._core.state import RefresherState
from tokenflight.errors import ProviderUnavailable, ReauthenticationRequired, TokenflightError
from tokenflight.tokens import TokenKey, TokenSet


@dataclass(frozen=True, slots=True)
class SweepOutcome:
    """What became of one user in a sweep.

    `renewed` tells that the token set was due and is a new one now; `error` why it is not. Neither: it was not due.
    """

    user_id: str
    renewed: bool = False
    error: TokenflightError | None = None


class SweptUsers:
    """The users of a store, each renewed if its token set is due or will be `within` so many seconds.

    A refresh token that will end by then is renewed too: at many providers, its successor lives for longer.

    `obtain` and `check_use` are the refresher's: the one renews, the other raises once the refresher is closed.
    """

    def __init__(
        self,
        state: RefresherState,
        obtain: Callable[[str, Requirement], Awaitable[TokenSet]],
        check_use: Callable[[], None],
        *,
        within: float,
    ) -> None:
        self._state = state
        self._obtain = obtain
        self._check_use = check_use
        self._within = within

    async def keys(self) -> AsyncGenerator[TokenKey, None]:
        """The keys of the provider's records."""
        keys = self._state.records.keys()
        try:
            async for key in keys:
                yield key
                self._check_use()  # before the store is read on: a closed one would open again
        finally:
            # Closed now, not when it is collected: it may hold a connection of the store.
            if isinstance(keys, AsyncGenerator):
                await keys.aclose()

    async def renew_if_due(self, key: TokenKey) -> bool:
        """Renew the token set that the store has for `key`, if it is due; say whether it did."""
        self._check_use()
        tokens = await self._due_tokens(key)
        if tokens is None:
            return False
        while True:
            try:
                await self._obtain(key.user_id, Requirement(replacing=tokens))
            except ReauthenticationRequired as exc:
                if exc.reason != "no_tokens":
                    raise
                return False  # logged out while the sweep was on its way
            except ProviderUnavailable:
                backoff, now = self._state.backoff, time.time()
                pause = backoff.provider_remaining(now)
                is_over = not backoff.remaining(key.user_id, now)
                if not is_over and not 0 < pause <= self._state.limits.longest_sweep_pause:
                    raise
                await asyncio.sleep(pause)  # the provider asked it of all users: the rest of the sweep can't do better
            else:
                return True

    async def _due_tokens(self, key: TokenKey) -> TokenSet | None:
        """The stored token set of `key`, if it is due."""
        state, user_id = self._state, key.user_id
        entry = state.cache.entries.get(user_id)
        record = entry.record if entry is not None and entry.is_current(time.time()) else await state.records.load(key)
        if record is None:
            return None  # logged out while the sweep was on its way
        tokens = record.tokens
        refresh_token_ends = tokens.refresh_token_expires_at
        is_ending = refresh_token_ends is not None and refresh_token_ends <= time.time() + self._within
        is_good = state.judge(user_id, tokens, later=self._within).is_good
        return tokens if is_ending or not is_good else None


async def sweep(
    keys: AsyncGenerator[TokenKey, None], tend: Callable[[TokenKey], Awaitable[bool]], *, concurrency: int
) -> AsyncGenerator[SweepOutcome, None]:
    """Call `tend` on each of `keys`, at most `concurrency` at once; yield the outcomes as they come.

    `tend` tells whether it renewed. Memory holds only the users under way.
    """
    pending: set[asyncio.Task[SweepOutcome]] = set()
    try:
        async for key in keys:
            pending.add(asyncio.create_task(_outcome(key, tend)))
            if len(pending) >= concurrency:
                done, pending = await asyncio.wait(pending, return_when=asyncio.FIRST_COMPLETED)
                for ended in done:
                    yield ended.result()
        while pending:
            done, pending = await asyncio.wait(pending, return_when=asyncio.FIRST_COMPLETED)
            for ended in done:
                yield ended.result()
    finally:
        for task in pending:  # the caller has stopped iterating; a renewal under way is a flight and goes on
            task.cancel()
        if pending:
            await asyncio.wait(pending)  # no task outlives the sweep and goes on to use a closed store
        await keys.aclose()  # it may hold a connection of the store


async def _outcome(key: TokenKey, tend: Callable[[TokenKey], Awaitable[bool]]) -> SweepOutcome:
    try:
        return SweepOutcome(key.user_id, renewed=await tend(key))
    except TokenflightError as exc:
        if exc.code == "closed":
            raise  # no user's failure
        return SweepOutcome(key.user_id, error=exc)
