"""The engines that a store runs its statements on: its own for each event loop, or one beside the app's.

A request that holds a connection of the app's pool may wait for a token. If the store then waited for that same pool,
as many requests as the pool has connections would wait for each other. So beside an app's engine, the stores on it have
a small pool of their own, which connects as the app's does.

A pool's connections belong to one event loop. The driver's errors on another one are opaque, so it is refused here.
"""

import asyncio
from contextlib import AbstractAsyncContextManager, nullcontext, suppress
from typing import Final, Protocol
from weakref import WeakKeyDictionary, WeakSet

from sqlalchemy import URL, Engine, NullPool, Pool, QueuePool, StaticPool, event
from sqlalchemy.dialects.mysql.base import MySQLDialect
from sqlalchemy.engine import ExceptionContext
from sqlalchemy.engine.base import OptionEngine
from sqlalchemy.engine.interfaces import DBAPIConnection, IsolationLevel
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.ext.asyncio import AsyncEngine, create_async_engine

from tokenflight.errors import ConfigurationError
from tokenflight.stores import _failures
from tokenflight.stores.sql._errors import is_stale
from tokenflight.stores.sql._sqlite_file import create_private_file
from tokenflight.stores.sql._table import MYSQL_DIALECTS

MAX_CONNECTIONS_BESIDE: Final = 5
"""How many connections the stores on an app's engine open beside its pool. A statement takes about a millisecond."""

MYSQL_LOCK_WAIT_SECONDS: Final = 1
"""How long a statement waits for a lock on MySQL before it is sent again. The server counts whole seconds."""

_IS_OURS: Final = "tokenflight"
"""The execution option that marks the engines of stores: the app's engine shares their dialect and its events."""


class Engines(Protocol):
    """Where a store gets its engine from, at each statement."""

    @property
    def dialect(self) -> str:
        """The name of the dialect, which is the database's."""
        ...

    def engine(self) -> AsyncEngine:
        """The engine for the running event loop."""
        ...

    def release(self) -> AsyncEngine | None:
        """Give up the engine of the running event loop; return it if the caller is to dispose of it."""
        ...


class OwnEngines:
    """Engines made from a URL, one for each event loop."""

    def __init__(self, url: URL | str, *, autocommit: bool) -> None:
        self._url = url
        self._autocommit = autocommit
        self._engines: WeakKeyDictionary[asyncio.AbstractEventLoop, AsyncEngine] = WeakKeyDictionary()
        self.dialect = self._new_engine().dialect.name

    def engine(self) -> AsyncEngine:
        """See `Engines.engine`."""
        loop = asyncio.get_running_loop()
        if (engine := self._engines.get(loop)) is None:
            engine = self._new_engine()
            if self.dialect == "sqlite":
                create_private_file(engine.url.database, engine.url.query)
            self._engines[loop] = engine
        return engine

    def release(self) -> AsyncEngine | None:
        """See `Engines.release`."""
        return self._engines.pop(asyncio.get_running_loop(), None)

    def _new_engine(self) -> AsyncEngine:
        options = {_IS_OURS: True}
        try:
            engine = create_async_engine(self._url, hide_parameters=True, execution_options=options)
        except (SQLAlchemyError, ImportError) as exc:
            reason = f"{type(exc).__name__}: {exc}" if isinstance(exc, ImportError) else type(exc).__name__
        else:
            event.listen(engine.sync_engine, "handle_error", _drop_stale_connections)
            _prepare_connections(engine, autocommit=self._autocommit)
            return engine
        # Outside the except block: SQLAlchemy's error may show the URL with the password in it.
        raise ConfigurationError(
            f"engine must be an AsyncEngine or a URL with an asyncio driver, such as postgresql+asyncpg://… ({reason})"
        )


class GivenEngine:
    """An app's engine, with a pool beside the app's unless `share_pool`.

    A pool that lets nobody wait (`NullPool`), or has one connection for all (a database in memory), is shared anyway.
    """

    def __init__(self, engine: AsyncEngine, *, autocommit: bool, share_pool: bool) -> None:
        self._given = engine
        self._autocommit = autocommit
        self._share_pool = share_pool
        self.dialect = engine.dialect.name
        self._shared = engine
        # SQLite begins no transaction that would cost a round trip, so an app's engine stays as it is.
        if self.dialect != "sqlite":
            options = {"isolation_level": "AUTOCOMMIT"} if autocommit else {}
            self._shared = engine.execution_options(**{_IS_OURS: True}, **options)
            self._shared.sync_engine.hide_parameters |= self.dialect in MYSQL_DIALECTS
            event.listen(engine.sync_engine, "handle_error", _drop_stale_connections)

    def engine(self) -> AsyncEngine:
        """See `Engines.engine`.

        :raises ConfigurationError: the engine's pool belongs to another event loop.
        """
        pool, loop = self._given.pool, asyncio.get_running_loop()
        is_bound = self.dialect != "sqlite" and not isinstance(pool, NullPool)
        # Also of a loop that is closed: its connections are still in the pool.
        if is_bound and _loops.setdefault(pool, loop) is not loop:
            raise _failures.wrong_event_loop("engine", "give the store a URL or an engine with poolclass=NullPool")
        if self._share_pool or not isinstance(pool, QueuePool):
            return self._shared
        besides = _besides.setdefault(self._given.sync_engine, {})
        if (beside := besides.get(self._autocommit)) is None:
            beside = besides[self._autocommit] = _Beside(self._given.sync_engine, autocommit=self._autocommit)
        beside.users.add(self)
        return beside.engine

    def release(self) -> AsyncEngine | None:
        """See `Engines.release`. The last store that uses the pool beside the app's gives it up."""
        besides = _besides.get(self._given.sync_engine, {})
        if (beside := besides.get(self._autocommit)) is None:
            return None
        beside.users.discard(self)
        if beside.users or not beside.is_ours_to_close():
            return None
        del besides[self._autocommit]
        return beside.engine


class _BesideEngine(OptionEngine):
    """The app's engine with its dialect, options and listeners, on another pool."""

    # In place of the property that leads to the app's pool.
    pool: Pool = None  # type: ignore[assignment] # __init__ sets it

    def __init__(self, given: Engine, pool: Pool) -> None:
        super().__init__(given, {_IS_OURS: True})
        self.hide_parameters |= given.dialect.name in MYSQL_DIALECTS
        self.pool = pool

    def dispose(self, close: bool = True) -> None:  # noqa: FBT001, FBT002 - SQLAlchemy's signature
        """Close the pool's connections, without telling the app's listeners that its engine was disposed of."""
        if close:
            self.pool.dispose()


class _Beside:
    """What the stores on an app's engine have beside its pool. `users` are those that have not been closed."""

    def __init__(self, given: Engine, *, autocommit: bool) -> None:
        engine = _BesideEngine(given, given.pool.recreate())
        self.engine = AsyncEngine(engine)
        _prepare_connections(self.engine, autocommit=autocommit)
        self.users: WeakSet[GivenEngine] = WeakSet()
        self._loop = asyncio.get_running_loop()
        if given.dialect.name != "sqlite":  # whose pool several event loops may use
            _turns[engine.pool] = asyncio.Semaphore(MAX_CONNECTIONS_BESIDE)
        # An app that disposes of its engine closes the connections of its stores too.
        event.listen(given, "engine_disposed", _dispose_beside)

    def is_ours_to_close(self) -> bool:
        """Whether this is the connections' event loop. Elsewhere, or after a fork, others may be using them."""
        with suppress(RuntimeError):  # where none is running
            return self._loop is asyncio.get_running_loop() or self._loop.is_closed()
        return False


_besides: Final[WeakKeyDictionary[Engine, dict[bool, _Beside]]] = WeakKeyDictionary()
"""What is beside each app's engine, with autocommit and without. It goes when the app disposes of the engine."""

_loops: Final[WeakKeyDictionary[Pool, asyncio.AbstractEventLoop]] = WeakKeyDictionary()
"""The event loop on which a store first used an app's pool. `AsyncEngine.dispose` puts a new pool in its place."""

_turns: Final[WeakKeyDictionary[Pool, asyncio.Lock | asyncio.Semaphore]] = WeakKeyDictionary()
"""What limits how many statements run at once on a pool, where it is not the pool itself."""


def turn_on(pool: Pool) -> AbstractAsyncContextManager[object]:
    """What a statement holds while it has a connection of `pool`."""
    # A database in memory has one connection for all its users: the commit of one statement would end another's
    # transaction.
    if isinstance(pool, StaticPool):
        return _turns.setdefault(pool, asyncio.Lock())
    return _turns.get(pool) or nullcontext()


def _prepare_connections(engine: AsyncEngine, *, autocommit: bool) -> None:
    """Set what is ours once for each connection. As execution options, it would cost round trips at each statement."""
    dialect = engine.dialect
    is_mysql = isinstance(dialect, MySQLDialect)
    # MySQL's own default locks the gaps between rows too, so that statements on different users would deadlock.
    levels: list[IsolationLevel] = ["READ COMMITTED"] if is_mysql else []
    if autocommit:
        levels.append("AUTOCOMMIT")

    def prepare(connection: DBAPIConnection, _record: object) -> None:
        for level in levels:
            dialect.set_isolation_level(connection, level)
        if is_mysql:
            # MySQL goes on waiting for a lock although the client has gone, and then executes the statement after all.
            cursor = connection.cursor()
            cursor.execute(f"set session innodb_lock_wait_timeout = {MYSQL_LOCK_WAIT_SECONDS}")
            cursor.close()

    event.listen(engine.pool, "connect", prepare)


def _dispose_beside(given: Engine) -> None:
    for beside in _besides.pop(given, {}).values():
        if beside.is_ours_to_close():
            beside.engine.sync_engine.dispose()


def _drop_stale_connections(context: ExceptionContext) -> None:
    """Have SQLAlchemy replace the connection, and each that is older than this moment, as if it had been lost."""
    if context.engine is not None and _IS_OURS in context.engine.get_execution_options():
        context.is_disconnect = context.is_disconnect or is_stale(context.original_exception)
