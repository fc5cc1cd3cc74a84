"""How a flight ends."""

from dataclasses import dataclass
from typing import Final

from tokenflight._core.requirement import Requirement
from tokenflight.errors import TokenflightError
from tokenflight.stores.base import StoredTokens
from tokenflight.tokens import TokenSet


@dataclass(frozen=True, slots=True)
class Outcome:
    """A record, or an error beside the last record known.

    `renewed` tells that the record was written after the flight had been asked for, by it or by another process.
    """

    record: StoredTokens | None
    error: TokenflightError | None = None
    renewed: bool = False

    def tokens_for(self, requirement: Requirement) -> TokenSet | None:
        """The token set for the target that `requirement` is about; None without a record or a token for it."""
        return None if self.record is None else self.record.tokens_for(requirement.target)


SUPERSEDED: Final = Outcome(None)
"""Another writer won: a login or logout, or, after a lapsed lease, another renewal. All waiters look again."""
