"""The stage of a scene: a fake provider on a socket, a file store, an app's refresher and API client."""

import tempfile
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import httpx

from tokenflight import FileTokenStore, TokenRefresher, TokenSet
from tokenflight.cli.demo._calls import Tally, api_client, app_provider, call_api
from tokenflight.testing import FakeProvider

LIFETIME_SECONDS: Final = 3600


@dataclass(frozen=True, slots=True)
class Counts:
    """The result of a scene: the server counts the first four numbers, the callers count the others.

    `token_requests` counts all requests to the token endpoint, and `refreshes` the granted ones. `reuses` counts
    requests with a spent refresh token. `adopted` counts token sets that another process renewed.
    """

    api_calls: int
    token_requests: int
    refreshes: int
    reuses: int = 0
    failed: int = 0
    adopted: int = 0


class Meter:
    """Counts the requests that reach the server after the last `restart`."""

    def __init__(self, fake: FakeProvider) -> None:
        self._fake = fake
        self.restart()

    def restart(self) -> None:
        """Count from zero again."""
        self._before = self._totals()

    def reading(self, tally: Tally = Tally()) -> Counts:  # noqa: B008 - frozen
        """The counts of the server, and of the callers' `tally`."""
        calls, requests, refreshes, reuses = (
            now - before for now, before in zip(self._totals(), self._before, strict=True)
        )
        return Counts(calls, requests, refreshes, reuses, tally.failed, tally.adopted)

    def _totals(self) -> tuple[int, ...]:
        fake = self._fake
        return fake.api_calls(), fake.requests(), fake.refreshes(), fake.reuses()


@dataclass(frozen=True, slots=True)
class Stage:
    """The objects that a scene may use."""

    fake: FakeProvider
    store_directory: Path
    refresher: TokenRefresher
    api: httpx.AsyncClient
    meter: Meter

    async def log_in(self, user_id: str, *, seconds_ago: float = 0) -> None:
        """Store the tokens of a login `seconds_ago`. The access token lives for an hour, also at the provider."""
        reply = self.fake.login(user_id, lifetime=LIFETIME_SECONDS - seconds_ago)
        tokens = TokenSet.from_response(
            {**reply, "expires_in": LIFETIME_SECONDS},
            received_at=time.time() - seconds_ago,
        )
        await self.refresher.save_tokens(user_id, tokens)

    async def call(self, user_id: str) -> str | None:
        """Call the API as `user_id`; see `call_api`."""
        return await call_api(self.api, self.fake.api_url, self.refresher, user_id)


@asynccontextmanager
async def open_stage(fake: FakeProvider) -> AsyncIterator[Stage]:
    """Serve `fake`, which must know the client of `app_provider`, and create the other objects of the stage."""
    with tempfile.TemporaryDirectory(prefix="tokenflight-demo-") as directory:
        async with (
            fake.serve() as issuer,
            api_client() as api,
            app_provider(issuer) as provider,
            TokenRefresher(provider, FileTokenStore(directory)) as refresher,
        ):
            yield Stage(fake, Path(directory), refresher, api, Meter(fake))
