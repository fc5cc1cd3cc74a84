"""How a flight ends."""

from dataclasses import dataclass
from typing import Final

from tokenflight.errors import TokenflightError
from tokenflight.stores.base import StoredTokens


@dataclass(frozen=True, slots=True)
class Outcome:
    """A record, or an error beside the last record known.

    `renewed` tells that the record was written after the flight had been asked for, by it or by another process.
    """

    record: StoredTokens | None
    error: TokenflightError | None = None
    renewed: bool = False


SUPERSEDED: Final = Outcome(None)
"""A login or logout came. All who waited look again."""
