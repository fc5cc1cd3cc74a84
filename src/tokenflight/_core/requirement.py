"""What a caller asks for beyond a token set that is not due."""

from dataclasses import dataclass
from typing import Final, Self

from tokenflight.tokens import DEFAULT_TARGET, Target, TokenSet


@dataclass(frozen=True, slots=True)
class Requirement:
    """What a token set has to be besides not due.

    It is for `target`. It has `min_validity` seconds of life left, unless new ones live shorter. With `renewal`, it is
    newer than every token set known so far. Its access token is another one than that of `replacing`. It is not older
    than `held`, which the caller keeps itself.
    """

    target: Target = DEFAULT_TARGET
    min_validity: float = 0.0
    renewal: bool = False
    replacing: TokenSet | None = None
    held: TokenSet | None = None

    def excludes(self, tokens: TokenSet, *, held_is_past: bool) -> bool:
        """Whether `tokens` will not do, however long it is still valid; see `excludes_as_older`."""
        is_replaced = self.replacing is not None and tokens.has_same_access(self.replacing)
        return self.renewal or is_replaced or self.excludes_as_older(tokens, held_is_past=held_is_past)

    def excludes_as_older(self, tokens: TokenSet, *, held_is_past: bool) -> bool:
        """Whether `tokens` is older than what the caller holds.

        `held_is_past` says that the refresh token which the caller holds is known to be used up or replaced. Any token
        set is better then: sent again, that one would cost the user the grant.
        """
        if self.held is None or held_is_past:
            return False
        return not tokens.supersedes(self.held)

    def after_login(self) -> Self:
        """What is left of it once a login or logout has had the last word on what the user's grant is."""
        return type(self)(self.target, self.min_validity)

    def after_possible_login(self) -> Self:
        """What is left of it when a login or logout failed, but may have been stored."""
        return type(self)(self.target, self.min_validity, held=self.held)


NO_REQUIREMENT: Final = Requirement()
"""What most callers have: any token set that is not due."""
