"""The grants of a provider: rotation, reuse, revocation. It is state alone, without I/O and without a clock."""

import math
import secrets
from collections import Counter
from dataclasses import dataclass, field
from typing import Any, Final, Literal, TypeAlias, get_args

from tokenflight._checks import checked_seconds
from tokenflight.errors import ConfigurationError

TOKEN_ENTROPY_BYTES: Final = 24
LOGIN_SCOPE: Final = "openid offline_access"

Rotation: TypeAlias = Literal["always", "never", "sometimes", "keeps_previous"]
"""When a provider replaces a used refresh token, and whether that spends the old one; see `FakeProvider`."""


@dataclass(frozen=True, slots=True)
class RefreshTokenRules:
    """How a provider treats a refresh token that is used, and a spent one. `grace` is in seconds."""

    rotation: Rotation = "always"
    grace: float = 0.0
    strict: bool = True

    def __post_init__(self) -> None:
        if self.rotation not in get_args(Rotation):
            raise ConfigurationError(f"rotation must be one of {get_args(Rotation)}, not {self.rotation!r:.40}")
        checked_seconds("grace", self.grace)

    def rotates(self, refreshes: int) -> bool:
        """Whether a grant that was refreshed `refreshes` times before gets a new refresh token this time."""
        return self.rotation in {"always", "keeps_previous"} or (self.rotation == "sometimes" and refreshes % 2 == 1)

    def forgives(self, seconds: float) -> bool:
        """Whether the provider still accepts the previous refresh token, which it replaced `seconds` ago."""
        return self.rotation == "keeps_previous" or seconds < self.grace


@dataclass(eq=False, slots=True)
class Grant:
    """The result of one login: the refresh token accepted now, and each access token with its expiry.

    An expiry is in POSIX seconds. A grant of client credentials has no refresh token. `previous` is the refresh token
    that the current one replaced, at `rotated_at` in POSIX seconds. `refreshes` does not count the late ones.
    """

    user_id: str
    refresh_token: str | None = field(default=None, repr=False)
    previous: str | None = field(default=None, repr=False)
    rotated_at: float = -math.inf
    refreshes: int = 0
    access_tokens: dict[str, float] = field(default_factory=dict, repr=False)
    revoked: bool = False


class Grants:
    """All grants. Methods that take a user act on the latest grant of that user.

    Every token ever issued stays known with its grant, so that a spent token differs from an unknown one.
    """

    def __init__(self) -> None:
        self.refreshes: Counter[str] = Counter()
        self.reuses: Counter[str] = Counter()
        self._latest: dict[str, Grant] = {}
        self._by_refresh_token: dict[str, Grant] = {}
        self._by_access_token: dict[str, Grant] = {}

    def start(self, user_id: str, *, now: float, lifetime: float | None, refreshable: bool = True) -> dict[str, Any]:
        """Open a new grant; return the token reply (RFC 6749 §5.1). `lifetime` is in seconds, None for endless."""
        grant = self._latest[user_id] = Grant(user_id)
        reply = self._issue(grant, now, lifetime)
        if refreshable:
            reply |= {"refresh_token": self._rotate(grant), "scope": LOGIN_SCOPE}
        return reply

    def refresh(
        self, refresh_token: str, *, now: float, lifetime: float | None, rules: RefreshTokenRules
    ) -> dict[str, Any] | None:
        """Return the token reply to `refresh_token`, or None if it is refused.

        If the provider rotates, the reply has the successor of `refresh_token`. For a previous refresh token whose use
        the `rules` forgive, the reply has the successor that exists already. Under strict rules, any other spent one
        revokes its grant (RFC 9700 §4.14.2).
        """
        grant = self._by_refresh_token.get(refresh_token)
        if grant is None:
            return None
        is_late = refresh_token == grant.previous and rules.forgives(now - grant.rotated_at)
        if refresh_token != grant.refresh_token and not is_late:
            self.reuses[grant.user_id] += 1
            grant.revoked |= rules.strict
            return None
        if grant.revoked:
            return None
        self.refreshes[grant.user_id] += 1
        reply = self._issue(grant, now, lifetime)
        if is_late:
            reply["refresh_token"] = grant.refresh_token
            return reply
        if rules.rotates(grant.refreshes):
            grant.previous, grant.rotated_at = refresh_token, now
            reply["refresh_token"] = self._rotate(grant)
        grant.refreshes += 1
        return reply

    def is_live(self, access_token: str, *, now: float) -> bool:
        """Whether an API should accept `access_token`."""
        grant = self._by_access_token.get(access_token)
        return grant is not None and not grant.revoked and now < grant.access_tokens.get(access_token, 0)

    def user_of_refresh_token(self, refresh_token: str) -> str | None:
        """The user it was issued for, or None if it was never issued."""
        grant = self._by_refresh_token.get(refresh_token)
        return None if grant is None else grant.user_id

    def user_of_access_token(self, access_token: str) -> str | None:
        """The user it was issued for, or None if it was never issued."""
        grant = self._by_access_token.get(access_token)
        return None if grant is None else grant.user_id

    def latest(self, user_id: str) -> Grant:
        """The latest grant of `user_id`; `ConfigurationError` if there never was one."""
        try:
            return self._latest[user_id]
        except KeyError:
            raise ConfigurationError(f"user {user_id!r} has no grant here; call login first") from None

    def _issue(self, grant: Grant, now: float, lifetime: float | None) -> dict[str, Any]:
        access_token = f"at_{secrets.token_urlsafe(TOKEN_ENTROPY_BYTES)}"
        grant.access_tokens[access_token] = math.inf if lifetime is None else now + lifetime
        self._by_access_token[access_token] = grant
        reply: dict[str, Any] = {"access_token": access_token, "token_type": "Bearer"}
        if lifetime is not None:
            reply["expires_in"] = lifetime
        return reply

    def _rotate(self, grant: Grant) -> str:
        refresh_token = grant.refresh_token = f"rt_{secrets.token_urlsafe(TOKEN_ENTROPY_BYTES)}"
        self._by_refresh_token[refresh_token] = grant
        return refresh_token
