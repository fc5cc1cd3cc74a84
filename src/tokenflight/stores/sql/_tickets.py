"""Tickets: which of two logins or logouts came later, whenever their statements arrive.

A login or logout takes a ticket first: a number larger than that of every login or logout which has landed on the row.
It lands only while that is so. One that was late in the network, and that a later one has overtaken, changes nothing.
The column ``saved`` holds the ticket of the last one, a colon, and the version of a login.
"""

from typing import Final

TICKET_DIGITS: Final = 20
"""Of one length for all, so that the order of the text is that of the numbers."""

SEPARATOR: Final = ":"

_VERSION_CHARACTERS: Final = 43
"""So much of a version fits beside a ticket."""


def saved_text(ticket: int, version: str) -> str:
    """What the column holds of a login or creation with `ticket`, of a record with `version`; of a logout, ``""``."""
    return f"{ticket:0{TICKET_DIGITS}d}{SEPARATOR}{version[:_VERSION_CHARACTERS]}"


def ticket_after(saved: str | None, now: float) -> int:
    """A ticket taken at `now`, by the database's clock, of the row that has `saved`."""
    return max(round(now * 1_000_000), ticket_in(saved) + 1)


def ticket_in(saved: str | None) -> int:
    """The ticket in the column; 0 without one, as in a row that an older version of tokenflight has written."""
    digits, separator, _ = (saved or "").partition(SEPARATOR)
    return int(digits) if separator and len(digits) == TICKET_DIGITS and digits.isdecimal() else 0


def is_of(saved: str | None, version: str) -> bool:
    """Whether the record with `version` was saved or created last."""
    if saved is None:
        return False
    return saved == version or saved[TICKET_DIGITS + 1 :] == version[:_VERSION_CHARACTERS] != ""
