"""Statements on a database: each runs to its end, and once more where that does no harm.

A statement runs in a task of its own, so that it ends although its caller is cancelled: left to itself, it could undo
what the caller does next. `aclose` waits for all tasks of the event loop.
"""

import asyncio
import random
from collections.abc import Coroutine, Mapping, Sequence
from typing import Any, Final, NamedTuple, TypeVar

from sqlalchemy import URL, Connection, Executable
from sqlalchemy.exc import DBAPIError, IntegrityError
from sqlalchemy.ext.asyncio import AsyncEngine

from tokenflight.stores._cancellation import shielded_result
from tokenflight.stores.sql._engines import Engines, GivenEngine, OwnEngines, turn_on
from tokenflight.stores.sql._errors import error_for, is_contention, is_duplicate, was_refused
from tokenflight.stores.sql._limits import SQLLimits

T = TypeVar("T")

NO_PARAMETERS: Final[Mapping[str, object]] = {}
PRESERVE_ROWCOUNT: Final = {"preserve_rowcount": True}


class Result(NamedTuple):
    """What a statement did and found."""

    changed_rows: int
    rows: Sequence[tuple[Any, ...]]


class Database:
    """Runs statements on an engine that was given, or on one of its own for each event loop."""

    def __init__(
        self,
        engine: AsyncEngine | URL | str,
        *,
        autocommit: bool,
        share_pool: bool,
        table_name: str,
        limits: SQLLimits,
    ) -> None:
        self._url = None if isinstance(engine, AsyncEngine) else engine
        self._engines: Engines
        if isinstance(engine, AsyncEngine):
            self._engines = GivenEngine(engine, autocommit=autocommit, share_pool=share_pool)
        else:
            self._engines = OwnEngines(engine, autocommit=autocommit)
        self._tasks: set[asyncio.Task[Any]] = set()  # asyncio itself holds tasks by weak references only
        self._table_name = table_name
        self._limits = limits
        self.dialect = self._engines.dialect

    async def changes(
        self, statement: Executable, parameters: Mapping[str, object], *, repeatable: bool = True
    ) -> bool:
        """Run `statement`; say whether it changed a row."""
        return (await self.run(statement, parameters, repeatable=repeatable)).changed_rows > 0

    async def run(
        self, statement: Executable, parameters: Mapping[str, object] = NO_PARAMETERS, *, repeatable: bool = True
    ) -> Result:
        """Run `statement`, to its end even if cancelled; again if its connection was lost and it is `repeatable`."""
        task = self.start(self._run(self._engines.engine(), statement, parameters, repeatable=repeatable))
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
        engine = self._engines.release()
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
        may_try_again = True
        async with asyncio.timeout(self._limits.statement_timeout_seconds):
            while True:
                try:
                    return await _execute(engine, statement, parameters)
                except DBAPIError as exc:
                    if exc.connection_invalidated and may_try_again and (repeatable or was_refused(exc)):
                        # The connection died or went stale in the pool, which replaces all others of its age too.
                        may_try_again = False
                    elif not is_contention(exc):
                        raise
                await asyncio.sleep(random.uniform(pause / 2, pause))  # noqa: S311 - spreads, hides nothing
                pause = min(pause * 2, self._limits.longest_poll_seconds)

    def _forget(self, task: asyncio.Task[Any]) -> None:
        self._tasks.discard(task)
        if not task.cancelled():
            task.exception()  # or asyncio would log it as never retrieved when the caller has left


async def _execute(engine: AsyncEngine, statement: Executable, parameters: Mapping[str, object]) -> Result:
    async with turn_on(engine.pool):
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


def _execute_and_commit(connection: Connection, statement: Executable, parameters: Mapping[str, object]) -> Result:
    cursor = connection.execute(statement, parameters, execution_options=PRESERVE_ROWCOUNT)
    result = Result(cursor.rowcount, [tuple(row) for row in cursor] if cursor.returns_rows else ())
    connection.commit()
    return result
