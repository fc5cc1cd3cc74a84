"""The table of a SQL store: its columns, and how names and records go into them."""

import hashlib
import re
from typing import Final
from urllib.parse import unquote_to_bytes

from sqlalchemy import Column, Dialect, Double, LargeBinary, MetaData, String, Table, Text, TypeDecorator
from sqlalchemy.dialects import mysql

from tokenflight.stores.codec import MAX_RECORD_BYTES
from tokenflight.tokens import TokenKey

MYSQL_DIALECTS: Final = frozenset({"mysql", "mariadb"})
"""The names of MySQL's dialect: the second is for URLs that accept MariaDB alone."""

TABLE_NAME: Final = "tokenflight_tokens"
_NEEDS_ESCAPE: Final = re.compile("[%\x00\ud800-\udfff]")

# MySQL would use its database's character set, which may be narrow, and collation, which most likely ignores case.
_COLLATION: Final = {"charset": "utf8mb4", "collation": "utf8mb4_bin"}
_SHORT_TEXT: Final = String(64).with_variant(mysql.VARCHAR(64, **_COLLATION), *MYSQL_DIALECTS)
_LONG_TEXT: Final = Text().with_variant(mysql.MEDIUMTEXT(**_COLLATION), *MYSQL_DIALECTS)


def token_table(metadata: MetaData, name: str = TABLE_NAME, *, schema: str | None = None) -> Table:
    """The table of a `SQLTokenStore`, for an app that has it in its own metadata and makes it in its migrations."""
    return Table(
        name,
        metadata,
        Column("id", _SHORT_TEXT, primary_key=True, comment="SHA-256 of provider and user id, in hex"),
        Column("provider", _LONG_TEXT, nullable=False, comment="percent-encoded where no database could hold it"),
        Column("user_id", _LONG_TEXT, nullable=False, comment="percent-encoded where no database could hold it"),
        Column("version", _SHORT_TEXT, nullable=False, server_default="", comment="or what a logout has left"),
        Column("saved", _SHORT_TEXT, comment="ticket and version of the last login or logout"),
        Column("record", LargeBinary(MAX_RECORD_BYTES), comment="null while there is only a lease or a logout"),
        Column("lease_owner", _SHORT_TEXT, comment="and when a former owner was last heard of"),
        Column("lease_until", Double, comment="POSIX seconds by the database's clock"),
        schema=schema,
    )


class _HiddenBytes(bytes):
    """Bytes that `repr` hides: an engine that logs shows its parameters and its rows."""

    __slots__ = ()

    def __repr__(self) -> str:
        return "<record>"


class Record(TypeDecorator[bytes]):
    """A record on its way in or out. Not the type of the column, so that migrations name only SQLAlchemy's own."""

    impl = LargeBinary
    cache_ok = True

    def process_bind_param(self, value: bytes | None, dialect: Dialect) -> bytes | None:  # noqa: ARG002 - SQLAlchemy passes it
        """Hide `value` from what an engine logs of a statement."""
        return None if value is None else _HiddenBytes(value)

    def process_result_value(self, value: bytes | None, dialect: Dialect) -> bytes | None:  # noqa: ARG002 - SQLAlchemy passes it
        """Hide `value` from what an engine logs of its rows."""
        return None if value is None else _HiddenBytes(value)


class HexRecord(TypeDecorator[bytes]):
    """A record on its way into MySQL, whose drivers escape no subclass of bytes, and with some versions no bytes."""

    impl = Text
    cache_ok = True

    def process_bind_param(self, value: bytes | None, dialect: Dialect) -> str | None:  # noqa: ARG002 - SQLAlchemy passes it
        """Write `value` in hex. Engines for MySQL hide all parameters from their logs."""
        return None if value is None else value.hex()


def row_id(key: TokenKey) -> str:
    """The primary key of the row of `key`, of one length whatever the names are."""
    names = (name.encode("utf-8", "surrogatepass") for name in (key.provider, key.user_id))
    return hashlib.sha256(b"\xff".join(names)).hexdigest()  # 0xff occurs in no UTF-8, so no two keys run together


def escape(text: str) -> str:
    """`text`, percent-encoded where some database can't hold it."""
    return _NEEDS_ESCAPE.sub(
        lambda found: "".join(f"%{byte:02x}" for byte in found[0].encode("utf-8", "surrogatepass")), text
    )


def key_of(stored_provider: object, stored_user_id: object) -> TokenKey | None:
    """The key whose row has these columns; None if this library does not write them so. SQLite keeps any type."""
    if not isinstance(stored_provider, str) or not isinstance(stored_user_id, str):
        return None
    key = TokenKey(unescape(stored_provider), unescape(stored_user_id))
    return key if (escape(key.provider), escape(key.user_id)) == (stored_provider, stored_user_id) else None


def unescape(stored: str) -> str:
    """The text that `escape` turned into `stored`."""
    return unquote_to_bytes(stored).decode("utf-8", "surrogatepass")
