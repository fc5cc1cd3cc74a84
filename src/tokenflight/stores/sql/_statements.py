"""The statements of a SQL store: built once, because building one takes as long as running it.

A row holds a record, a lease, or both. A row whose `record` is null is no record; its `version` may be the marker of a
logout. A lease whose `lease_until` has passed by the database's clock is free.

`lease_owner` begins with the name of the owner. After it may come a trace: a bar, and when the database last heard of a
former owner that never gave the lease back, in milliseconds. A trace alone stands for a lease that is free.
"""

from collections.abc import Callable, Mapping
from typing import Any, Final

from sqlalchemy import (
    BigInteger,
    ColumnElement,
    Double,
    Executable,
    String,
    Table,
    Text,
    and_,
    bindparam,
    case,
    cast,
    delete,
    func,
    insert,
    literal_column,
    null,
    or_,
    select,
    type_coerce,
    update,
)
from sqlalchemy.dialects import postgresql, sqlite

from tokenflight.stores.sql._logouts import PREFIX
from tokenflight.stores.sql._table import MYSQL_DIALECTS, HexRecord, Record
from tokenflight.stores.sql._tickets import SEPARATOR, TICKET_DIGITS

# Not unix_timestamp(now(6)), which is an hour off while the session's time zone ends its summer time. The number is how
# many seconds there are from the year 0 to 1970.
_MYSQL_SECONDS_NOW: Final = "(to_seconds(utc_timestamp(6)) - 62167219200 + microsecond(utc_timestamp(6)) / 1e6)"

SECONDS_NOW: Final[Mapping[str, str]] = {
    # Not PostgreSQL's now(), which stands still while a statement waits for the row of another one.
    "postgresql": "cast(extract(epoch from clock_timestamp()) as double precision)",
    "sqlite": "((julianday('now') - 2440587.5) * 86400.0)",
    "mysql": _MYSQL_SECONDS_NOW,
    "mariadb": _MYSQL_SECONDS_NOW,
}
"""POSIX seconds by the one clock that all users of the database share: its own."""

UPSERTS: Final[Mapping[str, Callable[[Table], postgresql.Insert | sqlite.Insert]]] = {
    "postgresql": postgresql.insert,
    "sqlite": sqlite.insert,
}
"""How the dialects that can do so insert a row or, if there is one, update it under a condition.

MySQL can't: its ``on duplicate key update`` has no condition, and with ``FOUND_ROWS``, which the other statements need
to recognize a row that is as they want it, a row that was left as it is counts like one that was inserted.
"""

# No parameter has the name of a column: SQLAlchemy would take it for a value of that column.
_ID: Final = bindparam("given_id", type_=String(64))
_PROVIDER: Final = bindparam("given_provider", type_=Text())
_USER_ID: Final = bindparam("given_user_id", type_=Text())
_VERSION: Final = bindparam("given_version", type_=String(64))
_EXPECTED: Final = bindparam("given_expected", type_=String(64))
_RECORD: Final = bindparam("given_record", type_=Record())
_HEX_RECORD: Final = bindparam("given_record", type_=HexRecord())
_OWNER: Final = bindparam("given_owner", type_=String(64))
_SAVED: Final = bindparam("given_saved", type_=String(64))
_SEEN: Final = bindparam("given_seen", type_=String(64))
_LAST_ID: Final = bindparam("given_last_id", type_=String(64))

OWNER_CHARACTERS: Final = 32
TRACE: Final = "|"

Upsert = tuple[Executable, ...]
"""Statements that set columns of a row and make the row if need be. They run in turn until one has changed a row."""


class Statements:
    """What runs on `table`. The parameters are those above; a statement ignores one that it does not have."""

    def __init__(self, table: Table, dialect: str, *, lease_duration: float, keys_per_read: int) -> None:
        self._table = table
        self._dialect = dialect
        columns = table.c
        now: ColumnElement[float] = literal_column(SECONDS_NOW[dialect], Double)
        is_row, has_record = columns.id == _ID, columns.record.is_not(None)
        written: dict[str, object] = {
            "version": _VERSION,
            "record": func.unhex(_HEX_RECORD) if dialect in MYSQL_DIALECTS else _RECORD,
        }
        saved = {**written, "saved": _SAVED}
        # With a record, the holders before the present one are forgotten, and so is one whose lease has lapsed.
        present = func.substr(columns.lease_owner, 1, OWNER_CHARACTERS)
        settled = {"lease_owner": case((columns.lease_until < now, null()), else_=present)}

        self.load = select(columns.version, type_coerce(columns.record, Record())).where(is_row, has_record)
        self.look = self.load.add_columns(columns.saved, now)
        self.clock = select(select(columns.saved).where(is_row).scalar_subquery(), now)
        self.state = select(columns.version, columns.saved, has_record).where(is_row)

        # `saved` tells a save that runs again after a lost connection from a new one, and one that a later login or
        # logout has overtaken: neither must undo what followed it.
        has_ticket = func.substr(columns.saved, TICKET_DIGITS + 1, 1) == SEPARATOR
        is_latest = or_(columns.saved.is_(None), ~has_ticket, columns.saved < _SAVED)
        self.save = self._upsert(saved, is_latest, on_update=settled)
        # A creation has no ticket of its own. It keeps the one that a logout has left.
        of_creation = func.substr(_SAVED, TICKET_DIGITS + 2)
        kept = case((has_ticket, func.substr(columns.saved, 1, TICKET_DIGITS + 1).concat(of_creation)), else_=_SAVED)
        is_new = or_(columns.saved.is_(None), func.substr(columns.saved, TICKET_DIGITS + 2) != of_creation)
        is_open = or_(columns.version == "", columns.version == _SEEN)  # no logout, or one that the caller has seen
        self.create = self._upsert(saved, and_(is_new, ~has_record, is_open), on_update={**settled, "saved": kept})
        # A replacement that runs again after a lost connection may find its own version.
        is_expected = or_(columns.version == _EXPECTED, columns.version == _VERSION)
        row = update(table).where(is_row)
        self.replace = row.where(has_record, is_expected).values({**written, **settled})
        self.log_out = row.where(has_record, columns.version == _EXPECTED, is_latest).values(
            {"version": _VERSION, "record": None, "saved": _SAVED, **settled}
        )
        # Of a logout without a record, the ticket stays, and the marker of one before it.
        left = case((columns.version.like(f"{PREFIX}%"), columns.version), else_=_VERSION)
        self.log_out_without_record = self._upsert(
            {"version": _VERSION, "saved": _SAVED}, and_(~has_record, is_latest), on_update={"version": left}
        )
        self.forget_logouts = delete(table).where(
            ~has_record, columns.lease_owner.is_(None), columns.version.like(f"{PREFIX}%"), columns.version < _VERSION
        )

        is_ours = present == _OWNER
        ours = update(table).where(is_row, is_ours)
        is_free = or_(columns.lease_owner.is_(None), columns.lease_until < now)
        lease_until = now + lease_duration
        heard_of = cast(cast((columns.lease_until - lease_duration) * 1000, BigInteger), String(20))
        owner = case(
            (columns.lease_owner.is_(None), _OWNER),
            (is_ours, columns.lease_owner),  # the same statement once more
            (columns.lease_owner.startswith(TRACE), _OWNER.concat(columns.lease_owner)),
            else_=_OWNER.concat(TRACE).concat(heard_of),
        )
        # The owner first: MySQL sees in each expression what the ones before it have set.
        self.acquire = self._upsert(
            {"lease_owner": _OWNER, "lease_until": lease_until},
            or_(is_free, is_ours),
            on_update={"lease_owner": owner},
            returning=(columns.lease_owner, now),
        )
        self.lease = select(columns.lease_owner, now).where(is_row)
        self.extend = ours.values(lease_until=lease_until)
        has_trace = func.length(columns.lease_owner) > OWNER_CHARACTERS
        self.release = ours.ordered_values(
            (columns.lease_until, case((has_trace, 0.0), else_=null())),
            (
                columns.lease_owner,
                case((has_trace, func.substr(columns.lease_owner, OWNER_CHARACTERS + 1)), else_=null()),
            ),
        )
        self.release_with_record = self.release.where(has_record)
        self.delete_released = delete(table).where(is_row, is_ours, ~has_record, columns.version == "")

        keys = select(columns.id, columns.provider, columns.user_id).where(has_record, columns.id > _LAST_ID)
        self.keys = keys.order_by(columns.id).limit(keys_per_read)
        self.keys_of_provider = self.keys.where(columns.provider == _PROVIDER)

    def _upsert(
        self,
        columns: Mapping[str, object],
        only_where: ColumnElement[bool],
        *,
        on_update: Mapping[str, object],
        returning: tuple[ColumnElement[Any], ...] = (),
    ) -> Upsert:
        """Set `columns` of the row, or make the row. One that is there is changed if `only_where` holds of it.

        `on_update` is what to set of a row that is there, in place of or beside `columns`. `returning` is what the
        statement returns where the dialect can do so.
        """
        row = {"id": _ID, "provider": _PROVIDER, "user_id": _USER_ID, **columns}
        changed = {**columns, **on_update}
        if (insert_or_update := UPSERTS.get(self._dialect)) is not None:
            statement = insert_or_update(self._table).values(row)
            upsert = statement.on_conflict_do_update(index_elements=["id"], set_=changed, where=only_where)
            return (upsert.returning(*returning) if returning else upsert,)
        change = update(self._table).where(self._table.c.id == _ID, only_where).values(changed)
        return change, insert(self._table).values(row)
