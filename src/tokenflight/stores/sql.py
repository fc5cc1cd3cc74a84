"""A store in a SQL database: one row a user, shared by all processes and hosts that reach it.

A row holds the record and the lease. No connection is held while a lease is: each operation is one statement, or a
few that may come in any order, so that a connection pooler in between can break nothing.
"""

import asyncio
import random
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import AbstractAsyncContextManager, asynccontextmanager, suppress
from typing import Final

from sqlalchemy import (
    URL,
    ColumnElement,
    Double,
    MetaData,
    Table,
    delete,
    insert,
    literal_column,
    or_,
    select,
    type_coerce,
    update,
)
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.ext.asyncio import AsyncEngine
from sqlalchemy.schema import CreateTable

from tokenflight._checks import checked_seconds, require_kind
from tokenflight.errors import (
    ConfigurationError,
    LeaseTimeout,
    StoreConflict,
    StoreCorrupted,
    StoreError,
    StoreUnavailable,
)
from tokenflight.stores.base import Lease, StoredTokens, TokenStore, Version
from tokenflight.stores.codec import JSONCodec, RecordCodec, new_version
from tokenflight.stores.lapsing import LapsingLease, lapse_clock
from tokenflight.stores.sql_database import LONGEST_POLL_SECONDS, SETTLING_SECONDS, SHORTEST_POLL_SECONDS, Database
from tokenflight.stores.sql_table import TABLE_NAME, Record, row_id, storable, text_of, token_table
from tokenflight.tokens import TokenKey, TokenSet

__all__ = ["SQLTokenStore", "token_table"]

KEYS_PER_READ: Final = 1000

_SECONDS_NOW: Final[Mapping[str, str]] = {
    # Not PostgreSQL's now(), which stands still while a statement waits for another one's row.
    "postgresql": "cast(extract(epoch from clock_timestamp()) as double precision)",
    "sqlite": "((julianday('now') - 2440587.5) * 86400.0)",
    "mysql": "unix_timestamp(now(6))",
    "mariadb": "unix_timestamp(now(6))",
}
"""POSIX seconds by the one clock that all users of the database share: its own."""

_UPSERTS: Final[Mapping[str, Callable[[Table], postgresql.Insert | sqlite.Insert]]] = {
    "postgresql": postgresql.insert,
    "sqlite": sqlite.insert,
}


class SQLTokenStore(TokenStore):
    """Token sets in one table of a SQL database, through SQLAlchemy and any of its asyncio drivers.

    `engine` is the app's, or a URL such as ``postgresql+asyncpg://…`` from which the store makes one of its own for
    each event loop. A given engine is as bound to an event loop as its driver, and is never disposed of. `table` is a
    name, or what `token_table` made; `create_table` creates it.

    The lease is two columns of the user's row, by the database's clock: it ends `lease_duration` seconds after its
    holder died or was cut off, and is renewed four times as often while it is held. `autocommit=False` puts each
    statement between BEGIN and COMMIT, which costs two round trips more: for a pooler that gives each transaction
    another connection and knows no prepared statements, as PgBouncer before 1.21.
    """

    def __init__(
        self,
        engine: AsyncEngine | URL | str,
        *,
        table: Table | str = TABLE_NAME,
        lease_duration: float = 60.0,
        codec: RecordCodec = JSONCodec(),  # noqa: B008 - it has no state
        autocommit: bool = True,
    ) -> None:
        require_kind("engine", engine, AsyncEngine | URL | str)
        require_kind("table", table, Table | str)
        self._table = token_table(MetaData(), table) if isinstance(table, str) else table
        self._lease_duration = checked_seconds("lease_duration", lease_duration)
        if not lease_duration:
            raise ConfigurationError("lease_duration must be more than 0 seconds")
        self._codec = codec
        self._database = Database(engine, autocommit=autocommit, table_name=self._table.fullname)
        self._dialect = self._database.dialect
        if self._dialect not in _SECONDS_NOW:
            raise ConfigurationError(f"engine must be for one of {', '.join(_SECONDS_NOW)}, not for {self._dialect}")
        if missing := set(token_table(MetaData()).c.keys()) - set(self._table.c.keys()):
            raise ConfigurationError(
                f"table must have the columns of token_table; {', '.join(sorted(missing))} are missing"
            )
        self._now: ColumnElement[float] = literal_column(_SECONDS_NOW[self._dialect], Double)

    def __repr__(self) -> str:
        return f"<SQLTokenStore {self._table.fullname!r} on {self._dialect}>"

    async def create_table(self) -> None:
        """Create the table unless it is there. Several processes may do so at once."""
        await self._database.run(CreateTable(self._table, if_not_exists=True))

    async def load(self, key: TokenKey) -> StoredTokens | None:
        """See `TokenStore.load`."""
        columns = self._table.c
        query = select(columns.version, type_coerce(columns.record, Record())).where(
            columns.id == row_id(key), columns.record.is_not(None)
        )
        rows = (await self._database.run(query)).rows
        if not rows:
            return None
        [(version, data)] = rows
        record = self._codec.decode(key, data)
        if record.version != version:
            raise StoreCorrupted(
                f"the record of user {key.user_id!r} at {key.provider} and its version don't belong together; it was "
                "left as it is, and a new login overwrites it"
            )
        return record

    async def save(self, key: TokenKey, tokens: TokenSet, *, issuer: str | None = None) -> Version:
        """See `TokenStore.save`."""
        record = StoredTokens(tokens, new_version(), issuer)
        columns = self._columns_of(key, record)
        if not (await self._put(key, columns) or await self._put(key, columns)):
            raise StoreUnavailable(f"the row of user {key.user_id!r} at {key.provider} came and went", code="contended")
        return record.version

    async def replace(
        self,
        key: TokenKey,
        tokens: TokenSet,
        *,
        expected: Version,
        issuer: str | None = None,
        refused: bool = False,
    ) -> Version:
        """See `TokenStore.replace`."""
        record = StoredTokens(tokens, new_version(), issuer, refused)
        # Also where it has the new version already: run again after a lost connection, it may have been written.
        is_expected = self._table.c.version.in_([expected, record.version])
        change = update(self._table).where(self._is_row_of(key), self._table.c.record.is_not(None), is_expected)
        if not await self._database.changes(change.values(self._columns_of(key, record))):
            raise StoreConflict(f"the record of user {key.user_id!r} at {key.provider} changed or is gone")
        return record.version

    async def delete(self, key: TokenKey) -> bool:
        """See `TokenStore.delete`. The row of a user whose lease is held stays, without record, until it is released.

        After a lost connection it is not tried again: whether there was a record would be unknown.
        """
        has_record = self._table.c.record.is_not(None)
        removal = delete(self._table).where(self._is_row_of(key))
        if await self._database.changes(removal.where(has_record, self._is_free()), repeatable=False):
            return True
        emptying = update(self._table).where(self._is_row_of(key), has_record).values(record=None, version="")
        if not await self._database.changes(emptying, repeatable=False):
            return False
        with suppress(StoreError):  # the record is gone, whatever becomes of a row that was released between the two
            await self._database.changes(removal.where(~has_record, self._is_free()))
        return True

    def lease(self, key: TokenKey, *, timeout: float) -> AbstractAsyncContextManager[Lease]:
        """See `TokenStore.lease`."""
        return self._lease(key, timeout)

    async def keys(self, provider: str | None = None) -> AsyncIterator[TokenKey]:
        """See `TokenStore.keys`. Read a thousand at a time, holding no connection in between."""
        columns = self._table.c
        query = select(columns.id, columns.provider, columns.user_id).where(columns.record.is_not(None))
        if provider is not None:
            query = query.where(columns.provider == storable(provider))
        query = query.order_by(columns.id).limit(KEYS_PER_READ)
        last_id = ""
        while rows := (await self._database.run(query.where(columns.id > last_id))).rows:
            for last_id, stored_provider, stored_user_id in rows:  # noqa: B007 - the next page begins after it
                key = TokenKey(text_of(stored_provider), text_of(stored_user_id))
                if provider in (None, key.provider):  # some databases compare text by its look
                    yield key

    async def aclose(self) -> None:
        """Close the connections of the event loop's own engine, once the statements under way have ended."""
        await self._database.aclose()

    # The lease.

    @asynccontextmanager
    async def _lease(self, key: TokenKey, timeout: float) -> AsyncIterator[Lease]:
        lease = await self._take(key, timeout)
        keeper = asyncio.get_running_loop().create_task(self._keep(key, lease), name="tokenflight lease")
        try:
            yield lease
        finally:
            keeper.cancel()
            release = self._database.start(self._release(key, lease))
            try:
                await asyncio.shield(release)
            except asyncio.CancelledError:
                await asyncio.wait([release], timeout=SETTLING_SECONDS)  # it goes on after that, too
                raise

    async def _take(self, key: TokenKey, timeout: float) -> LapsingLease:
        loop = asyncio.get_running_loop()
        give_up_at = loop.time() + timeout
        pause = SHORTEST_POLL_SECONDS
        lease = LapsingLease(self._lease_duration)
        columns = {"lease_owner": lease.owner, "lease_until": self._now + self._lease_duration}
        while True:
            asked_at = lapse_clock()
            try:
                taken = await self._put(key, columns, only_where=self._is_free(lease))
            except BaseException:
                self._database.start(self._release(key, lease))  # it may have been taken all the same
                raise
            if taken:
                lease.extend(asked_at)
                return lease
            if (left := give_up_at - loop.time()) <= 0:
                raise LeaseTimeout(
                    f"the lease on user {key.user_id!r} at {key.provider} was not free within {timeout} s"
                )
            await asyncio.sleep(min(random.uniform(pause / 2, pause), left))  # noqa: S311 - spreads, hides nothing
            pause = min(pause * 2, LONGEST_POLL_SECONDS)

    async def _keep(self, key: TokenKey, lease: LapsingLease) -> None:
        """Extend the lease again and again until somebody else has it."""
        extension = update(self._table).where(self._is_row_of(key), self._table.c.lease_owner == lease.owner)
        extension = extension.values(lease_until=self._now + self._lease_duration)
        pause = self._lease_duration / 4
        while True:
            await asyncio.sleep(pause)
            asked_at = lapse_clock()
            try:
                still_ours = await self._database.changes(extension)
            except StoreError:
                pause = self._lease_duration / 16
                continue
            if not still_ours:
                lease.lose()
                return
            lease.extend(asked_at)
            pause = self._lease_duration / 4

    async def _release(self, key: TokenKey, lease: LapsingLease) -> None:
        """Let go of the lease, and of the row if it has no record."""
        ours = (self._is_row_of(key), self._table.c.lease_owner == lease.owner)
        has_record = self._table.c.record.is_not(None)
        letting_go = update(self._table).where(*ours).values(lease_owner=None, lease_until=None)
        if await self._database.changes(letting_go.where(has_record)):
            return
        if not await self._database.changes(delete(self._table).where(*ours, ~has_record)):
            await self._database.changes(letting_go)  # a login came between the two

    # Statements.

    def _is_row_of(self, key: TokenKey) -> ColumnElement[bool]:
        return self._table.c.id == row_id(key)

    def _is_free(self, lease: LapsingLease | None = None) -> ColumnElement[bool]:
        """The row's lease is held by nobody but `lease`."""
        owner, until = self._table.c.lease_owner, self._table.c.lease_until
        is_free = or_(owner.is_(None), until < self._now)
        return is_free if lease is None else or_(is_free, owner == lease.owner)

    def _columns_of(self, key: TokenKey, record: StoredTokens) -> dict[str, object]:
        return {"version": record.version, "record": type_coerce(self._codec.encode(key, record), Record())}

    async def _put(
        self, key: TokenKey, columns: Mapping[str, object], *, only_where: ColumnElement[bool] | None = None
    ) -> bool:
        """Set `columns` in the row of `key`, made if need be; in one that is there `only_where` that holds of it."""
        names = {"id": row_id(key), "provider": storable(key.provider), "user_id": storable(key.user_id)}
        if (upsert := _UPSERTS.get(self._dialect)) is not None:
            statement = upsert(self._table).values({**names, **columns})
            return await self._database.changes(
                statement.on_conflict_do_update(index_elements=["id"], set_=columns, where=only_where)
            )
        change = update(self._table).where(self._is_row_of(key)).values(dict(columns))
        if await self._database.changes(change if only_where is None else change.where(only_where)):
            return True
        return await self._database.changes(insert(self._table).values({**names, **columns}))
