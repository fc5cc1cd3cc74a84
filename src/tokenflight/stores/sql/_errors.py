"""What the errors of SQLAlchemy and of the drivers under it mean."""

from typing import Final

from sqlalchemy.exc import DBAPIError

from tokenflight.errors import StoreError, StoreUnavailable

# SQLSTATE codes, SQLite's names, and MySQL's numbers.
_CONTENTION_CODES: Final = frozenset({"40001", "40P01", "42710", "42P07", "1205", "1213"})
_DUPLICATE_CODES: Final = frozenset({"23505", "SQLITE_CONSTRAINT_PRIMARYKEY", "SQLITE_CONSTRAINT_UNIQUE", "1062"})
_MISSING_TABLE_CODES: Final = frozenset({"42P01", "1146"})


def is_contention(exc: Exception) -> bool:
    """Whether two statements were in each other's way, and the database gave up this one."""
    code = _code_of(exc)
    return code in _CONTENTION_CODES or code.startswith(("SQLITE_BUSY", "SQLITE_LOCKED"))


def is_duplicate(exc: Exception) -> bool:
    """Whether another statement has just made the same row or table."""
    return _code_of(exc) in _DUPLICATE_CODES


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
    reason = type(_driver_error(exc)).__name__ + (f", {code:.40}" if code else "")
    return StoreUnavailable(f"the {dialect} database failed ({reason}); its log may say more")


def _driver_error(exc: Exception) -> BaseException:
    """The driver's error where SQLAlchemy has wrapped one."""
    return exc.orig if isinstance(exc, DBAPIError) and exc.orig is not None else exc


def _code_of(exc: Exception) -> str:
    """The SQLSTATE, or what the driver has in its place."""
    error = _driver_error(exc)
    number = error.args[0] if error.args and isinstance(error.args[0], int) else ""
    return str(getattr(error, "sqlstate", None) or getattr(error, "sqlite_errorname", None) or number)
