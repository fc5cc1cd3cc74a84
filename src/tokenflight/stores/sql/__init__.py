"""A store in a SQL database, shared by all processes and hosts that reach it. Needs ``tokenflight[sql]``."""

from tokenflight.stores import _failures

try:
    import sqlalchemy as _sqlalchemy  # noqa: F401 - asked for here, so that the error names the extra
except ModuleNotFoundError as _error:
    raise _failures.missing_extra(__name__, "sql", _error) from _error

from tokenflight.stores.sql._store import SQLTokenStore
from tokenflight.stores.sql._table import token_table

__all__ = ["SQLTokenStore", "token_table"]
