"""The grants of a provider: rotation, reuse, revocation. State only: no I/O, no clock."""

import math
import secrets
from collections import Counter
from dataclasses import dataclass, field
from typing import Any, Final

from tokenflight.errors import ConfigurationError

TOKEN_ENTROPY_BYTES: Final = 24
LOGIN_SCOPE: Final = "openid offline_access"


@dataclass(eq=False, slots=True)
class Grant:
    """What one login gave the app: the refresh token accepted now, and each access token with its expiry.

    An expiry is in POSIX seconds. A grant of client credentials has no refresh token.
    """

    user_id: str
    refresh_token: str | None = field(default=None, repr=False)
    access_tokens: dict[str, float] = field(default_factory=dict, repr=False)
    revoked: bool = False


class Grants:
    """All grants. Methods that take a user are about the latest grant of that user.

    Every token ever issued stays known with its grant, so that a spent one is told from an unknown one.
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
        self, refresh_token: str, *, now: float, lifetime: float | None, rotate: bool, strict: bool
    ) -> dict[str, Any] | None:
        """The token reply to `refresh_token`, or None if it is refused.

        `rotate` spends the refresh token and puts its successor into the reply; otherwise the reply has none.
        With `strict`, a spent one that comes back revokes its grant (RFC 9700 §4.14.2).
        """
        grant = self._by_refresh_token.get(refresh_token)
        if grant is None:
            return None
        if refresh_token != grant.refresh_token:
            self.reuses[grant.user_id] += 1
            grant.revoked |= strict
            return None
        if grant.revoked:
            return None
        self.refreshes[grant.user_id] += 1
        reply = self._issue(grant, now, lifetime)
        if rotate:
            reply["refresh_token"] = self._rotate(grant)
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
