"""A store in a SQL database: one row a user, shared by all processes and hosts that reach it.

A row holds the record and the lease, and for a day what a logout has left. No connection is held while a lease is: each
operation is one statement, or a few that leave the row in order wherever they stop, so that no connection pooler in
between can break anything.
"""

import asyncio
import math
import random
import time
from collections.abc import AsyncIterator, Mapping
from contextlib import AbstractAsyncContextManager, asynccontextmanager, suppress
from functools import partial
from typing import Final

from sqlalchemy import URL, MetaData, Table
from sqlalchemy.ext.asyncio import AsyncEngine
from sqlalchemy.schema import CreateTable

from tokenflight._checks import checked_seconds, require_kind
from tokenflight.errors import ConfigurationError, StoreError
from tokenflight.stores import _failures
from tokenflight.stores._cancellation import shielded_result
from tokenflight.stores._listing import listed_key
from tokenflight.stores._timed_lease import REMEMBERED_SECONDS, LateReleases, TimedLease, lease_clock
from tokenflight.stores.base import Lease, LogoutMarker, StoredTokens, TokenStore, Version
from tokenflight.stores.codec import JSONCodec, RecordCodec
from tokenflight.stores.sql._database import Database
from tokenflight.stores.sql._limits import SQLLimits
from tokenflight.stores.sql._logouts import marker_in, marker_text, no_record_text, oldest_marker
from tokenflight.stores.sql._statements import OWNER_CHARACTERS, SECONDS_NOW, TRACE, Statements, Upsert
from tokenflight.stores.sql._table import TABLE_NAME, escape, key_of, row_id, token_table
from tokenflight.stores.sql._tickets import is_of, saved_text, ticket_after, ticket_in
from tokenflight.tokens import TokenKey, TokenSet

MAX_TRIES: Final = 4
"""How often a record is created while other processes create and remove the row."""


class SQLTokenStore(TokenStore):
    """Token sets in one table of a SQL database, through SQLAlchemy and any of its asyncio drivers.

    `engine` is the app's, or a URL such as ``postgresql+asyncpg://…`` from which the store makes one of its own for
    each event loop. Beside an app's engine, the store opens up to five connections of its own, with the settings of the
    engine: a request that holds one of the app's connections while it waits for a token would otherwise wait for
    itself. They are closed by `aclose` of the last store on the engine, or when the app disposes of the engine, which a
    store never does. `share_pool=True` is for apps that hold no connection while they wait for a token. An engine
    serves one event loop unless it has `NullPool`. `table` is a name, or what `token_table` made; `create_table`
    creates it.

    The lease is two columns of the user's row, by the database's clock: it ends `lease_duration` seconds after its
    holder died or was cut off, and is extended four times in that time while it is held. `autocommit=False` puts each
    statement between BEGIN and COMMIT, which costs two round trips more: for a pooler that gives each transaction
    another connection and knows no prepared statements, as PgBouncer does not by default before 1.24.
    """

    def __init__(
        self,
        engine: AsyncEngine | URL | str,
        *,
        table: Table | str = TABLE_NAME,
        lease_duration: float = 7.0,
        codec: RecordCodec = JSONCodec(),  # noqa: B008 - it has no state
        autocommit: bool = True,
        share_pool: bool = False,
        _limits: SQLLimits = SQLLimits(),  # noqa: B008 - it is frozen
    ) -> None:
        require_kind("engine", engine, AsyncEngine | URL | str)
        require_kind("table", table, Table | str)
        self._table = token_table(MetaData(), table) if isinstance(table, str) else table
        self._lease_duration = checked_seconds("lease_duration", lease_duration)
        if not lease_duration:
            raise ConfigurationError("lease_duration must be more than 0 seconds")
        self._codec = codec
        self._limits = _limits
        self._database = Database(
            engine, autocommit=autocommit, share_pool=share_pool, table_name=self._table.fullname, limits=_limits
        )
        self._dialect = self._database.dialect
        self._late_releases = LateReleases()
        if self._dialect not in SECONDS_NOW:
            raise ConfigurationError(f"engine must be for one of {', '.join(SECONDS_NOW)}, not for {self._dialect}")
        if missing := set(token_table(MetaData()).c.keys()) - set(self._table.c.keys()):
            raise ConfigurationError(
                f"table must have the columns of token_table; {', '.join(sorted(missing))} are missing"
            )
        self._statements = Statements(
            self._table, self._dialect, lease_duration=lease_duration, keys_per_read=_limits.keys_per_read
        )

    def __repr__(self) -> str:
        return f"<SQLTokenStore {self._table.fullname!r} on {self._dialect}>"

    async def create_table(self) -> None:
        """Create the table unless it is there. Several processes may do so at once."""
        await self._database.run(CreateTable(self._table, if_not_exists=True))

    async def load(self, key: TokenKey) -> StoredTokens | None:
        """See `TokenStore.load`."""
        rows = (await self._database.run(self._statements.load, _row_parameters(key))).rows
        if not rows:
            return None
        [(version, data)] = rows
        record = self._codec.decode(key, data)
        if record.version != version:
            raise _failures.foreign_version(key)
        return record

    async def save(self, key: TokenKey, record: StoredTokens) -> None:
        """See `TokenStore.save`. It takes two statements, as a deletion does."""
        parameters = self._record_parameters(key, record)
        [(landed, now)] = (await self._database.run(self._statements.clock, parameters)).rows
        ticket = ticket_after(landed, now)
        parameters["given_saved"] = saved_text(ticket, record.version)
        # Twice: without an upsert, another process can make or delete the row between the two statements.
        for _ in range(2):
            if await self._upsert(self._statements.save, parameters):
                return
        for _, saved, _ in (await self._database.run(self._statements.state, parameters)).rows:
            if saved == parameters["given_saved"]:
                return  # the same statement was sent before
            if ticket_in(saved) >= ticket:
                raise _failures.overtaken(key)
        raise _failures.came_and_went(key)

    async def replace(self, key: TokenKey, record: StoredTokens, *, expected: Version | None) -> None:
        """See `TokenStore.replace`."""
        if expected is None:
            await self._create(key, record)
            return
        parameters = {**self._record_parameters(key, record), "given_expected": expected}
        if not await self._database.changes(self._statements.replace, parameters):
            raise _failures.conflict(key, expected)

    async def delete(self, key: TokenKey) -> bool:
        """See `TokenStore.delete`. The row stays, without the record, until the marker in it is over."""
        row, ticket = _row_parameters(key), None
        while rows := (await self._database.run(self._statements.look, row)).rows:
            [(version, data, saved, now)] = rows
            if ticket is not None and ticket_in(saved) >= ticket:
                return False  # a later login or logout has overtaken this one
            ticket = ticket_after(saved, now) if ticket is None else ticket
            text = marker_text(LogoutMarker.of(self._tokens_in(key, data), time.time()))
            parameters = {**row, "given_expected": version, "given_version": text}
            parameters["given_saved"] = saved_text(ticket, "")
            if await self._database.changes(self._statements.log_out, parameters):
                return True
            # Another process has written the record since; or the statement has run twice, and the first time counted.
            if [found for found, _, _ in (await self._database.run(self._statements.state, row)).rows] == [text]:
                return True
        # Nobody to log out, but a login that is late must not land after this.
        [(landed, now)] = (await self._database.run(self._statements.clock, row)).rows
        saved = saved_text(ticket_after(landed, now), "")
        parameters = {**row, "given_version": no_record_text(), "given_saved": saved}
        await self._upsert(self._statements.log_out_without_record, parameters)
        return False

    def lease(self, key: TokenKey, *, timeout: float) -> AbstractAsyncContextManager[Lease]:
        """See `TokenStore.lease`."""
        return self._lease(key, timeout)

    async def keys(self, provider: str | None = None) -> AsyncIterator[TokenKey]:
        """See `TokenStore.keys`. Reads them in pages, and holds no connection in between."""
        query = self._statements.keys if provider is None else self._statements.keys_of_provider
        parameters = {} if provider is None else {"given_provider": escape(provider)}
        with suppress(StoreError):  # for a user of the database that may only read
            await self._database.run(self._statements.forget_logouts, {"given_version": oldest_marker()})
        last_id = ""
        while rows := (await self._database.run(query, {**parameters, "given_last_id": last_id})).rows:
            for last_id, stored_provider, stored_user_id in rows:  # noqa: B007 - the next page begins after it
                key = listed_key(
                    partial(key_of, stored_provider, stored_user_id), f"{stored_provider} {stored_user_id}"
                )
                # Some databases ignore case when they compare text.
                if key is not None and provider in (None, key.provider):
                    yield key

    async def aclose(self) -> None:
        """Close the connections that the store opened on this event loop, once the statements under way have ended."""
        async with self._late_releases.ended():  # first: they would open an engine again
            await self._database.aclose()

    # The lease.

    @asynccontextmanager
    async def _lease(self, key: TokenKey, timeout: float) -> AsyncIterator[Lease]:
        lease = await self._acquire(key, timeout)
        try:
            yield lease
        finally:
            lease.released()  # first, so that no extension is sent after the release
            # In a task, so that a second cancellation does not keep the lease from the others until it lapses.
            release = self._database.start(self._release(lease))
            await shielded_result(release, self._limits.cancellation_seconds)

    async def _acquire(self, key: TokenKey, timeout: float) -> TimedLease:
        loop = asyncio.get_running_loop()
        began_at = loop.time()
        limits = self._limits
        pause = limits.shortest_poll_seconds
        lease = TimedLease(key, self._lease_duration)
        parameters = _lease_parameters(lease)
        while True:
            asked_at = lease_clock()
            try:
                granted = await self._try_to_acquire(parameters)
            except BaseException:
                # The database may have granted the lease and the reply got lost.
                self._database.start(self._release(lease))
                raise
            if granted is not None:
                extend = partial(self._database.changes, self._statements.extend, parameters)
                lease.acquired(asked_at, extend, unreleased_for=_unreleased_for(*granted))
                return lease
            waited = loop.time() - began_at
            if waited >= timeout:
                raise _failures.lease_timeout(key, timeout)
            spread = random.uniform(pause / 2, pause)  # noqa: S311 - spreads, hides nothing
            await asyncio.sleep(min(spread, timeout - waited))
            is_brisk = waited < limits.brisk_seconds
            pause = min(pause * 2, limits.brisk_poll_seconds if is_brisk else limits.longest_poll_seconds)

    async def _try_to_acquire(self, parameters: Mapping[str, object]) -> tuple[str, float] | None:
        """The owner and what follows it in the row, and the database's clock; None if another holder has the lease."""
        for statement in self._statements.acquire:
            result = await self._database.run(statement, parameters)
            rows = result.rows
            if result.changed_rows > 0 and not rows:  # the dialect returns nothing of what it has changed
                rows = (await self._database.run(self._statements.lease, parameters)).rows
            for owner, now in rows:
                return owner, now
        return None

    async def _release(self, lease: TimedLease) -> None:
        """Give the lease back; if that fails, go on trying in the background."""
        try:
            await self._release_once(lease)
        except StoreError:
            self._late_releases.begin(lease, partial(self._release_once, lease))
            raise

    async def _release_once(self, lease: TimedLease) -> None:
        """Give the lease back, and delete the row if it has neither a record nor the marker of a logout."""
        parameters = _lease_parameters(lease)
        if await self._database.changes(self._statements.release_with_record, parameters):
            return
        if not await self._database.changes(self._statements.delete_released, parameters):
            # There is a marker, or a login has put a record into the row between the two statements.
            await self._database.changes(self._statements.release, parameters)

    # Statements.

    async def _create(self, key: TokenKey, record: StoredTokens) -> None:
        """Create the record. Raises `StoreConflict` if there is one, or if a logout has ended its grant."""
        parameters = self._record_parameters(key, record)
        parameters |= {"given_seen": "", "given_saved": saved_text(0, record.version)}
        for _ in range(MAX_TRIES):
            if await self._upsert(self._statements.create, parameters):
                return
            for version, saved, has_record in (await self._database.run(self._statements.state, parameters)).rows:
                if is_of(saved, record.version):
                    return  # the same statement was sent before
                if has_record:
                    raise _failures.conflict(key, None)
                if (logout := marker_in(version)) is not None and logout.ends(record.tokens):
                    raise _failures.logged_out(key)
                parameters["given_seen"] = version
        raise _failures.came_and_went(key)

    def _tokens_in(self, key: TokenKey, data: bytes) -> TokenSet | None:
        """The token set in `data`, None if it can't be understood."""
        with suppress(StoreError):
            return self._codec.decode(key, data).tokens
        return None

    async def _upsert(self, upsert: Upsert, parameters: Mapping[str, object]) -> bool:
        for statement in upsert:
            if await self._database.changes(statement, parameters):
                return True
        return False

    def _record_parameters(self, key: TokenKey, record: StoredTokens) -> dict[str, object]:
        data = self._codec.encode(key, record)
        return {**_row_parameters(key), "given_version": record.version, "given_record": data}


def _unreleased_for(owner: str, now: float) -> float | None:
    """How many seconds before `now` the database last heard of a former holder, as told after the `owner`."""
    milliseconds = owner[OWNER_CHARACTERS:].removeprefix(TRACE)
    seconds = max(now - int(milliseconds) / 1000, 0.0) if milliseconds.isdecimal() else math.inf
    return seconds if seconds < REMEMBERED_SECONDS else None


def _row_parameters(key: TokenKey) -> dict[str, object]:
    """What a statement on the row of `key` takes."""
    return {
        "given_id": row_id(key),
        "given_provider": escape(key.provider),
        "given_user_id": escape(key.user_id),
    }


def _lease_parameters(lease: TimedLease) -> dict[str, object]:
    """What a statement on the row of the lease takes."""
    return {**_row_parameters(lease.key), "given_owner": lease.owner}
