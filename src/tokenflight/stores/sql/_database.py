"""Statements on a database: run to their end, again where that does no harm, their errors mapped once."""

import asyncio
import os
import random
from collections.abc import Coroutine, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, nullcontext, suppress
from typing import Any, Final, NamedTuple, TypeVar
from weakref import WeakKeyDictionary

from sqlalchemy import URL, Connection, Executable, Pool, StaticPool
from sqlalchemy.exc import DBAPIError, IntegrityError, SQLAlchemyError
from sqlalchemy.ext.asyncio import AsyncEngine, create_async_engine

from tokenflight.errors import ConfigurationError, StoreError, StoreUnavailable
from tokenflight.stores import _failures
from tokenflight.stores._cancellation import shielded_result

T = TypeVar("T")

STATEMENT_TIMEOUT_SECONDS: Final = 8.0
"""Shorter than a refresher waits for its store, so that a connection that hangs is closed and not kept."""

SHORTEST_POLL_SECONDS: Final = 0.005
LONGEST_POLL_SECONDS: Final = 0.25
BRISK_POLL_SECONDS: Final = 0.05
"""The longest pause between two questions in the first seconds, which is how long a renewal takes."""
BRISK_SECONDS: Final = 2.0

NO_PARAMETERS: Final[Mapping[str, object]] = {}
PRESERVE_ROWCOUNT: Final = {"preserve_rowcount": True}

_CONTENTION_CODES: Final = frozenset({"40001", "40P01", "42710", "42P07", "1205", "1213"})
"""What a database says when two statements were in each other's way and this one had to yield (SQLSTATE, MySQL)."""

_DUPLICATE_CODES: Final = frozenset({"23505", "SQLITE_CONSTRAINT_PRIMARYKEY", "SQLITE_CONSTRAINT_UNIQUE", "1062"})
_MISSING_TABLE_CODES: Final = frozenset({"42P01", "1146"})

_connection_locks: Final[WeakKeyDictionary[Pool, asyncio.Lock]] = WeakKeyDictionary()


class Database:
    """Runs statements on an engine that was given, or on one of its own for each event loop."""

    def __init__(self, engine: AsyncEngine | URL | str, *, autocommit: bool, table_name: str) -> None:
        self._options: dict[str, Any] = {"isolation_level": "AUTOCOMMIT"} if autocommit else {}
        self._given_engine = engine if isinstance(engine, AsyncEngine) else None
        if self._given_engine is not None and self._given_engine.dialect.name != "sqlite":  # there, it would only cost
            self._given_engine = self._given_engine.execution_options(**self._options)
        self._given_engine_loop: asyncio.AbstractEventLoop | None = None
        self._url = None if isinstance(engine, AsyncEngine) else engine
        # An engine's connections belong to one event loop; a store may be shared by several.
        self._own_engines: WeakKeyDictionary[asyncio.AbstractEventLoop, AsyncEngine] = WeakKeyDictionary()
        self._tasks: set[asyncio.Task[Any]] = set()  # an event loop alone does not keep its tasks alive
        self._table_name = table_name
        self.dialect = (self._given_engine or self._new_engine()).dialect.name

    async def changes(
        self, statement: Executable, parameters: Mapping[str, object], *, repeatable: bool = True
    ) -> bool:
        """Run `statement`; say whether it changed a row."""
        return (await self.run(statement, parameters, repeatable=repeatable)).changed_rows > 0

    async def run(
        self, statement: Executable, parameters: Mapping[str, object] = NO_PARAMETERS, *, repeatable: bool = True
    ) -> "Result":
        """Run `statement`, to its end even if cancelled; once more if its connection was lost and it is `repeatable`.

        The one mapping of what SQLAlchemy and the drivers raise. Their errors tell the parameters, tokens among them:
        nothing of them goes on but the class and the code.
        """
        task = self.start(self._run(self._engine(), statement, parameters, repeatable=repeatable))
        try:
            return await shielded_result(task)
        except asyncio.CancelledError:
            task.cancel()  # where it hangs, it is not begun again
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
        await self._wait_for_tasks(loop)  # one that goes on to its next statement would open the engine again
        engine = self._own_engines.pop(loop, None)
        await self._wait_for_tasks(loop)
        if engine is not None:
            await asyncio.shield(self.start(engine.dispose()))

    async def _wait_for_tasks(self, loop: asyncio.AbstractEventLoop) -> None:
        if tasks := [task for task in tuple(self._tasks) if task.get_loop() is loop]:
            await asyncio.wait(tasks)

    async def _run(
        self, engine: AsyncEngine, statement: Executable, parameters: Mapping[str, object], *, repeatable: bool
    ) -> "Result":
        try:
            return await _execute_with_retries(engine, statement, parameters, repeatable=repeatable)
        except Exception as exc:  # noqa: BLE001 - drivers let their own errors through while they connect
            error = self._error_for(exc)
        # Outside the except block, so that it is no context either.
        raise error

    def _error_for(self, exc: Exception) -> StoreError:
        code = _code_of(exc)
        if code in _MISSING_TABLE_CODES or str(_origin(exc)).startswith("no such table"):
            return StoreError(
                f"the table {self._table_name} is missing; call `await store.create_table()` once, or make it in a "
                "migration",
                code="missing_table",
            )
        if isinstance(exc, TimeoutError):
            return StoreUnavailable(
                f"the {self.dialect} database took longer than {STATEMENT_TIMEOUT_SECONDS:.0f} s", code="timeout"
            )
        told = type(_origin(exc)).__name__ + (f", {code:.40}" if code else "")
        return StoreUnavailable(f"the {self.dialect} database failed ({told}); its log may say more")

    def _engine(self) -> AsyncEngine:
        loop = asyncio.get_running_loop()
        if self._given_engine is not None:
            if self._given_engine_loop is None or self._given_engine_loop.is_closed():
                self._given_engine_loop = loop
            if self._given_engine_loop is not loop and self.dialect != "sqlite":
                raise _failures.wrong_event_loop("engine")
            return self._given_engine
        if (engine := self._own_engines.get(loop)) is None:
            engine = self._own_engines[loop] = self._new_engine()
            _create_private_file(engine.url)
        return engine

    def _new_engine(self) -> AsyncEngine:
        assert self._url is not None, "there is a URL where no engine was given"  # noqa: S101 - for type checkers
        try:
            return create_async_engine(self._url, hide_parameters=True, **self._options)
        except (SQLAlchemyError, ImportError) as exc:
            trouble = f"{type(exc).__name__}: {exc}" if isinstance(exc, ImportError) else type(exc).__name__
        # Outside the except block: the error may tell the URL with the password in it.
        raise ConfigurationError(
            f"engine must be an AsyncEngine or a URL with an asyncio driver, such as postgresql+asyncpg://… ({trouble})"
        )

    def _forget(self, task: asyncio.Task[Any]) -> None:
        self._tasks.discard(task)
        if not task.cancelled():
            task.exception()  # told to who waits for it; where nobody does any more, it is not asyncio's to log


class Result(NamedTuple):
    """What a statement did and found."""

    changed_rows: int
    rows: Sequence[tuple[Any, ...]]


async def _execute_with_retries(
    engine: AsyncEngine, statement: Executable, parameters: Mapping[str, object], *, repeatable: bool
) -> Result:
    pause = SHORTEST_POLL_SECONDS
    async with asyncio.timeout(STATEMENT_TIMEOUT_SECONDS):
        while True:
            try:
                return await _execute(engine, statement, parameters)
            except DBAPIError as exc:
                if exc.connection_invalidated and repeatable:
                    repeatable = False  # it died in the pool; all others of its age have left the pool with it
                elif not _is_contention(exc):
                    raise
            await asyncio.sleep(random.uniform(pause / 2, pause))  # noqa: S311 - spreads, hides nothing
            pause = min(pause * 2, LONGEST_POLL_SECONDS)


async def _execute(engine: AsyncEngine, statement: Executable, parameters: Mapping[str, object]) -> Result:
    async with _connection_lock(engine.pool):
        connection = await engine.connect()
        try:
            return await connection.run_sync(_execute_and_commit, statement, parameters)
        except IntegrityError as exc:
            if _code_of(exc) not in _DUPLICATE_CODES:
                raise
            return Result(0, ())  # somebody else made this row, or this table, at the same moment
        finally:
            await connection.close()  # plainly, as nobody but this task waits for it: `async with` takes one task more


def _connection_lock(pool: Pool) -> AbstractAsyncContextManager[None]:
    # A database in memory is one connection to all its users, where the end of one statement would undo another.
    return _connection_locks.setdefault(pool, asyncio.Lock()) if isinstance(pool, StaticPool) else nullcontext()


def _execute_and_commit(connection: Connection, statement: Executable, parameters: Mapping[str, object]) -> Result:
    cursor = connection.execute(statement, parameters, execution_options=PRESERVE_ROWCOUNT)
    result = Result(cursor.rowcount, [tuple(row) for row in cursor] if cursor.returns_rows else ())
    connection.commit()
    return result


def _create_private_file(url: URL) -> None:
    """Make the file of a SQLite database, if there is none, so that its owner alone can read it."""
    path = url.database
    if url.get_backend_name() == "sqlite" and path and path != ":memory:" and not path.startswith("file:"):
        with suppress(OSError):  # SQLite will say so itself
            os.close(os.open(path, os.O_RDWR | os.O_CREAT, 0o600))


def _origin(exc: Exception) -> BaseException:
    """The driver's error where SQLAlchemy has wrapped one."""
    return exc.orig if isinstance(exc, DBAPIError) and exc.orig is not None else exc


def _code_of(exc: Exception) -> str:
    """The SQLSTATE, or what the driver has in its place."""
    origin = _origin(exc)
    number = origin.args[0] if origin.args and isinstance(origin.args[0], int) else ""
    return str(getattr(origin, "sqlstate", None) or getattr(origin, "sqlite_errorname", None) or number)


def _is_contention(exc: Exception) -> bool:
    code = _code_of(exc)
    return code in _CONTENTION_CODES or code.startswith(("SQLITE_BUSY", "SQLITE_LOCKED"))
