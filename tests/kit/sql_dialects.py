"""Doubles of other databases: SQLite under another dialect's name.

``mysql+sqlite_double:///…`` has MySQL's clock functions and, for the store, no upsert. ``unknown+sqlite_double:///…``
is a database that the store does not know.
"""

import time
from collections.abc import Callable
from typing import Any

from sqlalchemy.dialects import registry
from sqlalchemy.dialects.sqlite.aiosqlite import SQLiteDialect_aiosqlite


class MySQLDouble(SQLiteDialect_aiosqlite):
    name = "mysql"
    supports_statement_cache = True

    def on_connect(self) -> Callable[[Any], None]:
        sqlite_on_connect = super().on_connect()

        def add_clock(connection: Any) -> None:
            sqlite_on_connect(connection)
            connection.create_function("now", 1, lambda _digits: time.time())
            connection.create_function("unix_timestamp", 1, lambda moment: moment)

        return add_clock


class UnknownDouble(SQLiteDialect_aiosqlite):
    name = "unknown"
    supports_statement_cache = True


def register() -> None:
    """Make SQLAlchemy know the doubles."""
    for double in (MySQLDouble, UnknownDouble):
        registry.register(f"{double.name}.sqlite_double", __name__, double.__name__)
