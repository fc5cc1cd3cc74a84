"""What a flight looks for."""

from dataclasses import replace

from tokenflight._core.requirement import Requirement
from tokenflight._core.state import RefresherState
from tokenflight.stores.base import StoredTokens
from tokenflight.tokens import TokenSet


class Goal:
    """The requirement of the caller that started a flight, and the token set from which the flight starts.

    The starting point is the token set to be renewed. A record with another access token was written after the flight
    began.
    """

    def __init__(self, state: RefresherState, user_id: str, requirement: Requirement) -> None:
        self._state = state
        self._user_id = user_id
        self._starting_point: TokenSet | None = None
        self.requirement = requirement

    @property
    def held(self) -> TokenSet | None:
        """The token set that the caller keeps itself."""
        return self.requirement.held

    def tokens_in(self, record: StoredTokens | None) -> TokenSet | None:
        """The token set in `record` for the target that the flight is about."""
        return None if record is None else record.tokens_for(self.requirement.target)

    def start_from(self, record: StoredTokens | None) -> None:
        """Note what is to be renewed.

        Until now a forced refresh had nothing to compare with. From now on it means: any access token but that one.
        """
        self._starting_point = self.requirement.replacing or self.tokens_in(record)
        if self.requirement.renewal:
            self.requirement = replace(self.requirement, renewal=False, replacing=self._starting_point)

    def start_from_held(self) -> None:
        """Note that what the caller keeps itself is to be renewed."""
        self._starting_point = self.requirement.held

    def is_met_by(self, record: StoredTokens) -> bool:
        """Whether `record` makes a renewal unnecessary."""
        return self._state.judge(self._user_id, self.tokens_in(record), self.requirement).is_good

    def is_newer(self, record: StoredTokens) -> bool:
        """Whether the access token in `record` is newer than the flight."""
        tokens = self.tokens_in(record)
        return tokens is None or self._starting_point is None or not tokens.has_same_access(self._starting_point)

    def is_older_than_held(self, record: StoredTokens) -> bool:
        """Whether `record` is older than the token set that the caller keeps itself."""
        return self._state.is_older_than_held(self._user_id, record.tokens, self.requirement)
