"""What an app presents to get tokens: the parameters of a token request, and nothing else (RFC 6749 §1.3)."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from tokenflight.errors import ReauthenticationRequired
from tokenflight.tokens import TokenSet


@dataclass(frozen=True, slots=True)
class Grant:
    """A grant type and its parameters. `secrets` are those of their values that no error may show."""

    grant_type: str
    parameters: Mapping[str, str] = field(repr=False)
    secrets: frozenset[str] = field(default=frozenset(), repr=False)


def refresh_token_grant(refresh_token: str, *, scope: str | None = None) -> Grant:
    """Return the refresh-token grant (RFC 6749 §6). A `scope` asks for less than the user has granted."""
    parameters = {"refresh_token": refresh_token}
    if scope is not None:
        parameters["scope"] = scope
    return Grant("refresh_token", parameters, frozenset({refresh_token}))


def refresh_token_of(tokens: TokenSet | None, *, user_id: str, provider: str) -> str:
    """Return the refresh token in `tokens`; raise `ReauthenticationRequired` if it holds none that can be sent."""
    if tokens is not None and tokens.refresh_token is not None and tokens.refresh_token.isascii():
        return tokens.refresh_token
    what = "no token set is stored" if tokens is None else "the stored token set has no refresh token"
    raise ReauthenticationRequired(
        f"{what} for user {user_id!r} at {provider}; send the user through login",
        code="no_tokens" if tokens is None else "no_refresh_token",
        user_id=user_id,
        provider=provider,
    )
