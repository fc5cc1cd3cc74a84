"""Doubles of other databases: SQLite under another dialect's name.

``mysql+sqlite_double:///…`` has the functions of MySQL that the store calls, and no upsert. ``unknown+sqlite_double:///…``
is a database that the store does not know.
"""

import time
from collections.abc import Callable
from typing import Any, Final

from sqlalchemy.dialects import registry
from sqlalchemy.dialects.sqlite.aiosqlite import SQLiteDialect_aiosqlite

SECONDS_TO_1970: Final = 62_167_219_200


class MySQLDouble(SQLiteDialect_aiosqlite):
    name = "mysql"
    supports_statement_cache = True

    def on_connect(self) -> Callable[[Any], None]:
        sqlite_on_connect = super().on_connect()

        def add_clock(connection: Any) -> None:
            sqlite_on_connect(connection)
            connection.create_function("utc_timestamp", 1, lambda _digits: time.time())
            connection.create_function("to_seconds", 1, lambda moment: int(moment) + SECONDS_TO_1970)
            connection.create_function("microsecond", 1, lambda moment: moment % 1 * 1e6)
            connection.create_function("unhex", 1, bytes.fromhex)

        return add_clock


class UnknownDouble(SQLiteDialect_aiosqlite):
    name = "unknown"
    supports_statement_cache = True


def register() -> None:
    """Make SQLAlchemy know the doubles."""
    for double in (MySQLDouble, UnknownDouble):
        registry.register(f"{double.name}.sqlite_double", __name__, double.__name__)
