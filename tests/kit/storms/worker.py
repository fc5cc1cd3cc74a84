"""An app process in a storm: tasks that ask for the tokens of random users until standard input ends.

    python worker.py SETTINGS

SETTINGS is a `Settings` as JSON. Reports go to standard output. At the end of its input `main` returns in the middle
of what is under way, and a Ctrl-C ends it there too.
"""

import asyncio
import json
import os
import random
import signal
import sys
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import asdict, dataclass
from typing import Any, Final

from kit.storms.reports import Report, fingerprint, tell
from kit.storms.stalls import watch_for_stalls
from kit.storms.stores import StoreSpec, open_store
from tokenflight import (
    ClientSecretBasic,
    Lease,
    OAuth2Provider,
    RefreshPolicy,
    RenewalDiscarded,
    SaveRecovered,
    TokenEvent,
    TokenflightError,
    TokenKey,
    TokenRefresher,
    TokenSet,
    TokenStore,
)

PROVIDER: Final = "storm"

LONGEST_PAUSE_SECONDS: Final = 0.05
PAUSE_AFTER_FAILURE_SECONDS: Final = 0.2


@dataclass(frozen=True, slots=True)
class Regime:
    """How many seconds access tokens live, and when they are renewed.

    In a storm not more than 5: with more life left, an old token is served in place of an error.
    """

    lifetime: float
    policy: RefreshPolicy


HASTY: Final = Regime(5.0, RefreshPolicy(expiry_buffer=4, refresh_ahead=0.25, max_buffer_fraction=1.0))
"""Every token is renewed about once a second, long before it expires, however slow the machine is."""


@dataclass(frozen=True, slots=True)
class Settings:
    """What a worker is to do. One that `stands_still` stops itself when it gets its first lease."""

    store: StoreSpec
    token_endpoint: str
    users: list[str]
    tasks: int
    policy: RefreshPolicy
    stands_still: bool = False

    def to_json(self) -> str:
        """These settings as a command line argument."""
        return json.dumps(asdict(self))

    @classmethod
    def from_json(cls, text: str) -> "Settings":
        """The settings that `to_json` wrote."""
        members: dict[str, Any] = json.loads(text)
        policy = RefreshPolicy(**members["policy"])
        return cls(**{**members, "store": StoreSpec(**members["store"]), "policy": policy})


class Callers:
    """Callers who ask for tokens, and tell of every token that is new to this process and of every failure."""

    def __init__(self, refresher: TokenRefresher, users: list[str]) -> None:
        self._refresher = refresher
        self._users = users
        self._told: set[str] = set()

    async def call_for_ever(self) -> None:
        """Ask for the token of one random user after the other."""
        while True:
            succeeded = await self._call(random.choice(self._users))
            longest = LONGEST_PAUSE_SECONDS if succeeded else PAUSE_AFTER_FAILURE_SECONDS
            await asyncio.sleep(random.uniform(0, longest))

    async def _call(self, user_id: str) -> bool:
        asked_at = time.monotonic()
        try:
            tokens = await self._refresher.get_valid_token(user_id)
        except Exception as error:  # noqa: BLE001 - whatever a caller meets is told
            code = error.code if isinstance(error, TokenflightError) else str(error)
            tell(Report(kind="failed", user_id=user_id, asked_at=asked_at, error=type(error).__name__, code=code))
            return False
        self._check(user_id, tokens, asked_at)
        return True

    def _check(self, user_id: str, tokens: TokenSet, asked_at: float) -> None:
        at = time.monotonic()  # before the other clock: the token expires no earlier than the two together tell
        life_left = (tokens.expires_at or 0.0) - time.time()
        told = f"{user_id} {tokens.access_token}"
        if life_left > 0 and told in self._told:
            return
        self._told.add(told)
        access = fingerprint(tokens.access_token)
        tell(Report(kind="served", user_id=user_id, asked_at=asked_at, at=at, access=access, life_left=life_left))


def tell_of(event: TokenEvent) -> None:
    """Tell of a renewal whose token set was stored late or, as somebody else had written meanwhile, not at all."""
    if isinstance(event, RenewalDiscarded):
        tell(Report(kind="discarded", user_id=event.user_id))
    if isinstance(event, SaveRecovered):
        tell(Report(kind="saved", user_id=event.user_id))


def tell_of_stall(began: float, ended: float) -> None:
    """Tell that this process stood still."""
    tell(Report(kind="stalled", asked_at=began, at=ended))


def stand_still_with_the_first_lease_of(store: TokenStore) -> None:
    """Let this process stop, as by a SIGSTOP from outside, right after `store` has given it a lease."""
    lease = store.lease

    @asynccontextmanager
    async def lease_and_stand_still(key: TokenKey, *, timeout: float) -> AsyncIterator[Lease]:
        async with lease(key, timeout=timeout) as held:
            store.lease = lease  # type: ignore[method-assign] # once is enough
            tell(Report(kind="standing still", user_id=key.user_id))
            os.kill(os.getpid(), signal.SIGSTOP)
            yield held

    store.lease = lease_and_stand_still  # type: ignore[method-assign]


async def main(settings: Settings) -> None:
    """Let the callers call until standard input ends."""
    provider = OAuth2Provider(settings.token_endpoint, ClientSecretBasic("app", "s3cret"), name=PROVIDER)
    store = open_store(settings.store)
    if settings.stands_still:
        stand_still_with_the_first_lease_of(store)
    async with TokenRefresher(provider, store, policy=settings.policy, on_event=tell_of) as refresher:
        callers = Callers(refresher, settings.users)
        tasks = [asyncio.create_task(callers.call_for_ever()) for _ in range(settings.tasks)]
        tasks.append(asyncio.create_task(watch_for_stalls(tell_of_stall)))
        try:
            await end_of_input()
        finally:
            tell(Report(kind="leaving"))
            for task in tasks:
                task.cancel()


async def end_of_input() -> None:
    """Wait until standard input is closed at its other end, be it because that process died."""
    ended = asyncio.Event()
    loop = asyncio.get_running_loop()
    loop.add_reader(sys.stdin.fileno(), ended.set)
    try:
        await ended.wait()
    finally:
        loop.remove_reader(sys.stdin.fileno())


if __name__ == "__main__":
    asyncio.run(main(Settings.from_json(sys.argv[1])))
