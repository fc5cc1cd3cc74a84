"""What every storm stands on: a provider, an app that logs users in, workers, and the evidence they leave."""

import asyncio
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from typing import Final

from kit.storms.ledger import Login, Rotation, WatchedProvider
from kit.storms.processes import PATIENCE_SECONDS, Crew, Worker, crew
from kit.storms.reports import Pause
from kit.storms.stalls import watch_for_stalls
from kit.storms.stores import StoreSpec, make_store
from kit.storms.worker import HASTY, PROVIDER, Regime
from kit.support import login
from tokenflight import ClientSecretBasic, OAuth2Provider, StoredTokens, TokenKey, TokenRefresher, TokenStore

LOOK_AGAIN_SECONDS: Final = 0.1


@dataclass(frozen=True, slots=True)
class Outage:
    """When the store was down: from just before until just after, in seconds of `time.monotonic`."""

    began: float
    ended: float


class Storm:
    """A storm under way on a store of any kind.

    `left_behind` has the rotations that were found unsaved in the store when the process that had asked for them was
    dead or stood still. `outages` are those of the store, `stalls` those of this process, which is the provider too.
    `repeated_logins` are the logins that a user had to repeat because the grant was revoked. `has_calmed_down` says
    whether `calm` came to its end before its patience did.
    """

    def __init__(
        self,
        fake: WatchedProvider,
        app: TokenRefresher,
        store: TokenStore,
        workers: Crew,
        users: list[str],
        regime: Regime,
    ) -> None:
        self.fake = fake
        self.regime = regime
        self.crew = workers
        self.users = users
        self.left_behind: set[Rotation] = set()
        self.outages: list[Outage] = []
        self.stalls: list[Pause] = []
        self.repeated_logins: set[Login] = set()
        self.has_calmed_down = False
        self._app = app
        self._store = store
        self._logged_in_at: dict[str, float] = {}

    async def log_in(self, user_id: str, *, life_left: float | None = None) -> None:
        """Log `user_id` in and store the tokens, as the app's login page does in a process of its own."""
        seconds = self.regime.lifetime if life_left is None else life_left
        await self._app.save_tokens(user_id, login(self.fake, user_id, life_left=seconds))
        self._logged_in_at[user_id] = time.monotonic()

    async def log_in_again(self) -> None:
        """Log those users in whose grants are revoked and whose callers have been told so."""
        failed = [report for worker in self.crew.workers.values() for report in worker.of_kind("failed")]
        for user_id in self.users:
            told = any(report.user_id == user_id and report.at > self._logged_in_at[user_id] for report in failed)
            if told and self.fake.revoked(user_id):
                self.repeated_logins.add(self.fake.ledger.latest_login(user_id))
                await self.log_in(user_id)

    async def kill(self, worker: Worker) -> None:
        """Kill `worker`, and find out which of its rotations it did not live to save."""
        await worker.kill()
        await self._note_what_is_left_behind_by(worker)

    async def freeze(self, worker: Worker) -> None:
        """Let `worker` stand still, and find out which of its rotations it has not saved yet."""
        worker.freeze()
        await self._note_what_is_left_behind_by(worker)

    @contextmanager
    def outage(self) -> Iterator[None]:
        """Note that the store is down for as long as the context lasts."""
        began = time.monotonic()
        yield
        self.outages.append(Outage(began, time.monotonic()))

    async def calm(self) -> None:
        """Wait until every worker has served every user with a token issued from now on and not revoked."""
        since = time.monotonic()
        self.has_calmed_down = False
        while not self.has_calmed_down and time.monotonic() < since + PATIENCE_SECONDS:
            await self.log_in_again()
            await asyncio.sleep(LOOK_AGAIN_SECONDS)
            self.has_calmed_down = all(self._serves_all(worker, since) for worker in self.crew.running)

    async def record(self, user_id: str) -> StoredTokens:
        """What is stored of `user_id`. Nobody is ever logged out, so there always is something."""
        record = await self._store.load(TokenKey(PROVIDER, user_id))
        assert record is not None, f"the record of {user_id} is gone"
        return record

    async def stored_users(self) -> list[str]:
        """The users of all records in the store, in order."""
        return sorted([key.user_id async for key in self._store.keys(PROVIDER)])

    async def users_lost(self) -> set[str]:
        """The users whose stored refresh token is not the one that the provider would accept."""
        return {user_id for user_id in self.users if not await self._is_live(user_id)}

    async def _note_what_is_left_behind_by(self, worker: Worker) -> None:
        for user_id in self.users:
            record = await self.record(user_id)
            spent_by = self.fake.ledger.spent_by(record.tokens.refresh_token)
            if spent_by is not None and spent_by.process == worker.number:
                self.left_behind.add(spent_by)

    async def _is_live(self, user_id: str) -> bool:
        record = await self.record(user_id)
        if record.refused or self.fake.revoked(user_id):
            return False
        return record.tokens.refresh_token == self.fake.current_refresh_token(user_id)

    def _serves_all(self, worker: Worker, since: float) -> bool:
        issues = self.fake.ledger.issues
        served = {
            issues[report.access].login
            for report in worker.of_kind("served")
            if report.access in issues and issues[report.access].at >= since
        }
        return all(
            self.fake.ledger.latest_login(user_id) in served and not self.fake.revoked(user_id)
            for user_id in self.users
        )


@asynccontextmanager
async def storm_on(spec: StoreSpec, *, users: int, tasks: int, regime: Regime = HASTY) -> AsyncIterator[Storm]:
    """A storm on the store that `spec` names, with so many users, none logged in yet, and `tasks` in each worker."""
    fake = WatchedProvider(lifetime=regime.lifetime)
    names = [f"user-{number}" for number in range(users)]
    async with fake.serve():
        # It renews nothing, but its records are bound to the issuer that the workers' are bound to.
        provider = OAuth2Provider(fake.token_endpoint, ClientSecretBasic("app", "s3cret"), name=PROVIDER)
        store = await make_store(spec)
        async with (
            TokenRefresher(provider, store) as app,
            crew(spec, fake, names, tasks, regime.policy) as workers,
        ):
            storm = Storm(fake, app, store, workers, names, regime)
            watch = asyncio.create_task(watch_for_stalls(lambda *ends: storm.stalls.append(Pause(ends[0], *ends))))
            try:
                yield storm
            finally:
                watch.cancel()
