"""An app process in a storm: tasks that ask for the tokens of random users until standard input ends.

    python worker.py SETTINGS

SETTINGS is a `Settings` as JSON. Reports go to standard output. At the end of its input `main` returns in the middle
of what is under way, and a Ctrl-C ends it there too.
"""

import asyncio
import json
import random
import sys
import time
from dataclasses import asdict, dataclass
from typing import Any, Final

from storms.reports import Report, fingerprint, tell
from storms.stores import StoreSpec, open_store
from tokenflight import ClientSecretBasic, OAuth2Provider, RefreshPolicy, TokenflightError, TokenRefresher, TokenSet

PROVIDER: Final = "storm"

LIFETIME_SECONDS: Final = 5.0
"""Of access tokens. Not more: with more life left, an old token is served in place of an error."""

POLICY: Final = RefreshPolicy(expiry_buffer=4, refresh_ahead=0.25, max_buffer_fraction=1.0)
"""Every token is renewed about once a second, long before it expires, however slow the machine is."""

LONGEST_PAUSE_SECONDS: Final = 0.05
PAUSE_AFTER_FAILURE_SECONDS: Final = 0.2


@dataclass(frozen=True, slots=True)
class Settings:
    """What a worker is to do."""

    store: StoreSpec
    token_endpoint: str
    users: list[str]
    tasks: int

    def to_json(self) -> str:
        """These settings as a command line argument."""
        return json.dumps(asdict(self))

    @classmethod
    def from_json(cls, text: str) -> "Settings":
        """The settings that `to_json` wrote."""
        members: dict[str, Any] = json.loads(text)
        return cls(**{**members, "store": StoreSpec(**members["store"])})


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
        life_left = (tokens.expires_at or 0.0) - time.time()
        told = f"{user_id} {tokens.access_token}"
        if life_left > 0 and told in self._told:
            return
        self._told.add(told)
        access = fingerprint(tokens.access_token)
        tell(Report(kind="served", user_id=user_id, asked_at=asked_at, access=access, life_left=life_left))


async def main(settings: Settings) -> None:
    """Let the callers call until standard input ends."""
    provider = OAuth2Provider(settings.token_endpoint, ClientSecretBasic("app", "s3cret"), name=PROVIDER)
    async with TokenRefresher(provider, open_store(settings.store), policy=POLICY) as refresher:
        callers = Callers(refresher, settings.users)
        tasks = [asyncio.create_task(callers.call_for_ever()) for _ in range(settings.tasks)]
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
