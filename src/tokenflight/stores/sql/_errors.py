"""What the errors of SQLAlchemy and of the drivers under it mean."""

from typing import Final

from sqlalchemy.exc import DBAPIError

from tokenflight.errors import StoreError, StoreUnavailable

# SQLSTATE codes, SQLite's names, and MySQL's numbers.
_CONTENTION_CODES: Final = frozenset({"40001", "40P01", "42710", "42P07", "1205", "1213"})
_DUPLICATE_CODES: Final = frozenset({"23505", "SQLITE_CONSTRAINT_PRIMARYKEY", "SQLITE_CONSTRAINT_UNIQUE", "1062"})
_READ_ONLY_CODES: Final = frozenset({"25006", "1290", "1792", "1836"})
_REFUSED_CODES: Final = _READ_ONLY_CODES | {"0A000", "1047"}
"""The statement did nothing: the server has become read-only, the plan that the connection has cached is older than the
table, or the server has left its cluster."""
_SHUTDOWN_CODES: Final = frozenset({"57P01", "57P02", "57P03", "57P05", "1053", "1927"})
"""The server ended the connection, or is about to."""
_NO_CONNECTION_LEFT_CODES: Final = frozenset({"53300", "1040", "1203", "1226"})
_MISSING_TABLE_CODES: Final = frozenset({"42P01", "1146"})


def is_contention(exc: Exception) -> bool:
    """Whether two statements were in each other's way, and the database gave up this one."""
    code = _code_of(exc)
    return code in _CONTENTION_CODES or code.startswith(("SQLITE_BUSY", "SQLITE_LOCKED"))


def is_duplicate(exc: Exception) -> bool:
    """Whether another statement has just made the same row or table."""
    return _code_of(exc) in _DUPLICATE_CODES


def is_stale(exc: BaseException) -> bool:
    """Whether another connection may do what this one can't, though it is still open."""
    return _code_of(exc) in _REFUSED_CODES | _SHUTDOWN_CODES


def was_refused(exc: Exception) -> bool:
    """Whether the statement was refused by a server that may have been replaced, and did nothing."""
    return _code_of(exc) in _REFUSED_CODES


def error_for(exc: Exception, *, dialect: str, table_name: str, timeout: float) -> StoreError:
    """The one mapping of what SQLAlchemy and the drivers raise.

    Their messages show the parameters of a statement, tokens among them: only the class and the code go on.
    """
    code = _code_of(exc)
    if code in _MISSING_TABLE_CODES or str(_driver_error(exc)).startswith("no such table"):
        return StoreError(
            f"the table {table_name} is missing; call `await store.create_table()` once, or make it in a migration",
            code="missing_table",
        )
    if isinstance(exc, TimeoutError):
        return StoreUnavailable(f"the {dialect} database took longer than {timeout:.0f} s", code="timeout")
    if code in _READ_ONLY_CODES:
        return StoreUnavailable(f"the {dialect} database is read-only ({code}); give the store the primary's address")
    if code in _NO_CONNECTION_LEFT_CODES:
        return StoreUnavailable(
            f"the {dialect} database takes no more connections ({code}); raise its limit or make the pools smaller"
        )
    reason = type(_driver_error(exc)).__name__ + (f", {code:.40}" if code else "")
    return StoreUnavailable(f"the {dialect} database failed ({reason}); its log may say more")


def _driver_error(exc: BaseException) -> BaseException:
    """The driver's error where SQLAlchemy has wrapped one."""
    return exc.orig if isinstance(exc, DBAPIError) and exc.orig is not None else exc


def _code_of(exc: BaseException) -> str:
    """MySQL's number, the SQLSTATE, or SQLite's name of the error."""
    error = _driver_error(exc)
    if error.args and isinstance(error.args[0], int):
        return str(error.args[0])  # first, because many of MySQL's errors share one SQLSTATE
    # Of asyncpg's errors, SQLAlchemy's translation of a stale plan alone does not carry the SQLSTATE over.
    sqlstate = getattr(error, "sqlstate", None) or getattr(error.__cause__, "sqlstate", None)
    return str(sqlstate or getattr(error, "sqlite_errorname", None) or "")
