"""Statements on a database: each runs to its end, and once more where that does no harm.

A statement runs in a task of its own, so that it ends although its caller is cancelled: left to itself, it could undo
what the caller does next. `aclose` waits for all tasks of the event loop.
"""

import asyncio
import random
from collections.abc import Coroutine, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, nullcontext
from typing import Any, Final, NamedTuple, TypeVar
from weakref import WeakKeyDictionary

from sqlalchemy import URL, Connection, Executable, Pool, StaticPool
from sqlalchemy.exc import DBAPIError, IntegrityError, SQLAlchemyError
from sqlalchemy.ext.asyncio import AsyncEngine, create_async_engine

from tokenflight.errors import ConfigurationError
from tokenflight.stores import _failures
from tokenflight.stores._cancellation import shielded_result
from tokenflight.stores.sql._errors import error_for, is_contention, is_duplicate
from tokenflight.stores.sql._limits import SQLLimits
from tokenflight.stores.sql._sqlite_file import create_private_file

T = TypeVar("T")

NO_PARAMETERS: Final[Mapping[str, object]] = {}
PRESERVE_ROWCOUNT: Final = {"preserve_rowcount": True}

_connection_locks: Final[WeakKeyDictionary[Pool, asyncio.Lock]] = WeakKeyDictionary()
"""A lock for each pool that has one connection for all its users."""


class Result(NamedTuple):
    """What a statement did and found."""

    changed_rows: int
    rows: Sequence[tuple[Any, ...]]


class Database:
    """Runs statements on an engine of the app's, or on one of its own for each event loop."""

    def __init__(
        self, engine: AsyncEngine | URL | str, *, autocommit: bool, table_name: str, limits: SQLLimits
    ) -> None:
        self._options: dict[str, Any] = {"isolation_level": "AUTOCOMMIT"} if autocommit else {}
        self._given_engine = engine if isinstance(engine, AsyncEngine) else None
        # SQLite begins no transaction that would cost a round trip, so an app's engine stays as it is.
        if self._given_engine is not None and self._given_engine.dialect.name != "sqlite":
            self._given_engine = self._given_engine.execution_options(**self._options)
        self._given_engine_loop: asyncio.AbstractEventLoop | None = None
        self._url = None if isinstance(engine, AsyncEngine) else engine
        # The connections of an engine belong to one event loop, and several may share the store.
        self._own_engines: WeakKeyDictionary[asyncio.AbstractEventLoop, AsyncEngine] = WeakKeyDictionary()
        self._tasks: set[asyncio.Task[Any]] = set()  # asyncio itself holds tasks by weak references only
        self._table_name = table_name
        self._limits = limits
        self.dialect = (self._given_engine or self._new_engine()).dialect.name

    async def changes(
        self, statement: Executable, parameters: Mapping[str, object], *, repeatable: bool = True
    ) -> bool:
        """Run `statement`; say whether it changed a row."""
        return (await self.run(statement, parameters, repeatable=repeatable)).changed_rows > 0

    async def run(
        self, statement: Executable, parameters: Mapping[str, object] = NO_PARAMETERS, *, repeatable: bool = True
    ) -> Result:
        """Run `statement`, to its end even if cancelled; again if its connection was lost and it is `repeatable`."""
        task = self.start(self._run(self._engine(), statement, parameters, repeatable=repeatable))
        try:
            return await shielded_result(task, self._limits.cancellation_seconds)
        except asyncio.CancelledError:
            task.cancel()  # a statement that still hangs must not run again
            raise

    def start(self, work: Coroutine[Any, Any, T]) -> asyncio.Task[T]:
        """Start `work`, which `aclose` waits for."""
        task = asyncio.get_running_loop().create_task(work, name="tokenflight sql store")
        self._tasks.add(task)
        task.add_done_callback(self._forget)
        return task

    async def aclose(self) -> None:
        """Wait for what is under way on this event loop, then dispose of the loop's own engine."""
        loop = asyncio.get_running_loop()
        # First with the engine in its place: work that goes on to its next statement would open another one.
        await self._wait_for_tasks(loop)
        engine = self._own_engines.pop(loop, None)
        await self._wait_for_tasks(loop)
        if engine is not None:
            # A caller that gives up waiting must not leave half of the connections open.
            await asyncio.shield(self.start(engine.dispose()))

    async def _wait_for_tasks(self, loop: asyncio.AbstractEventLoop) -> None:
        if tasks := [task for task in tuple(self._tasks) if task.get_loop() is loop]:
            await asyncio.wait(tasks)

    async def _run(
        self, engine: AsyncEngine, statement: Executable, parameters: Mapping[str, object], *, repeatable: bool
    ) -> Result:
        try:
            return await self._execute_with_retries(engine, statement, parameters, repeatable=repeatable)
        except Exception as exc:  # noqa: BLE001 - drivers let their own errors through while they connect
            timeout = self._limits.statement_timeout_seconds
            error = error_for(exc, dialect=self.dialect, table_name=self._table_name, timeout=timeout)
        # Outside the except block, so that the driver's error, which shows tokens, does not become its context.
        raise error

    async def _execute_with_retries(
        self, engine: AsyncEngine, statement: Executable, parameters: Mapping[str, object], *, repeatable: bool
    ) -> Result:
        pause = self._limits.shortest_poll_seconds
        async with asyncio.timeout(self._limits.statement_timeout_seconds):
            while True:
                try:
                    return await _execute(engine, statement, parameters)
                except DBAPIError as exc:
                    if exc.connection_invalidated and repeatable:
                        # The connection died in the pool. Once is enough: the pool drops all others of its age too.
                        repeatable = False
                    elif not is_contention(exc):
                        raise
                await asyncio.sleep(random.uniform(pause / 2, pause))  # noqa: S311 - spreads, hides nothing
                pause = min(pause * 2, self._limits.longest_poll_seconds)

    def _engine(self) -> AsyncEngine:
        loop = asyncio.get_running_loop()
        if self._given_engine is not None:
            if self._given_engine_loop is None or self._given_engine_loop.is_closed():
                self._given_engine_loop = loop
            if self._given_engine_loop is not loop and self.dialect != "sqlite":
                raise _failures.wrong_event_loop("engine")
            return self._given_engine
        if (engine := self._own_engines.get(loop)) is None:
            engine = self._new_engine()
            if self.dialect == "sqlite":
                create_private_file(engine.url.database, engine.url.query)
            self._own_engines[loop] = engine
        return engine

    def _new_engine(self) -> AsyncEngine:
        assert self._url is not None, "there is a URL where no engine was given"  # noqa: S101 - for type checkers
        try:
            return create_async_engine(self._url, hide_parameters=True, **self._options)
        except (SQLAlchemyError, ImportError) as exc:
            reason = f"{type(exc).__name__}: {exc}" if isinstance(exc, ImportError) else type(exc).__name__
        # Outside the except block: SQLAlchemy's error may show the URL with the password in it.
        raise ConfigurationError(
            f"engine must be an AsyncEngine or a URL with an asyncio driver, such as postgresql+asyncpg://… ({reason})"
        )

    def _forget(self, task: asyncio.Task[Any]) -> None:
        self._tasks.discard(task)
        if not task.cancelled():
            task.exception()  # or asyncio would log it as never retrieved when the caller has left


async def _execute(engine: AsyncEngine, statement: Executable, parameters: Mapping[str, object]) -> Result:
    async with _connection_lock(engine.pool):
        connection = await engine.connect()
        try:
            return await connection.run_sync(_execute_and_commit, statement, parameters)
        except IntegrityError as exc:
            if not is_duplicate(exc):
                raise
            return Result(0, ())
        finally:
            # `async with` would close the connection in one task more. No caller needs it: this runs in a task already.
            await connection.close()


def _connection_lock(pool: Pool) -> AbstractAsyncContextManager[None]:
    # A database in memory has one connection for all its users: the commit of one statement would end another's
    # transaction.
    return _connection_locks.setdefault(pool, asyncio.Lock()) if isinstance(pool, StaticPool) else nullcontext()


def _execute_and_commit(connection: Connection, statement: Executable, parameters: Mapping[str, object]) -> Result:
    cursor = connection.execute(statement, parameters, execution_options=PRESERVE_ROWCOUNT)
    result = Result(cursor.rowcount, [tuple(row) for row in cursor] if cursor.returns_rows else ())
    connection.commit()
    return result
