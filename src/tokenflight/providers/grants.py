"""What an app presents to get tokens: the parameters of a token request, and nothing else (RFC 6749 §1.3)."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from tokenflight.errors import ReauthenticationRequired
from tokenflight.profiles import STANDARD, Profile
from tokenflight.tokens import TokenSet


@dataclass(frozen=True, slots=True)
class Grant:
    """A grant type and its parameters. `secrets` are those of their values that no error may show.

    `is_refresh` tells that it renews what an earlier grant brought.
    """

    grant_type: str
    parameters: Mapping[str, str] = field(repr=False)
    secrets: frozenset[str] = field(default=frozenset(), repr=False)
    is_refresh: bool = field(default=False, repr=False)


def refresh_token_grant(credential: str, *, scope: str | None = None, profile: Profile = STANDARD) -> Grant:
    """Return the refresh-token grant (RFC 6749 §6), or what the vendor has in its place.

    A `scope` asks for less than the user has granted; its parts are separated by spaces, whatever the vendor wants.
    """
    parameters = {profile.refresh_parameter: credential}
    if scope is not None:
        parameters["scope"] = scope.replace(" ", profile.scope_separator)
    parameters |= profile.refresh_parameters
    grant_type = parameters.pop("grant_type", "refresh_token")
    return Grant(grant_type, parameters, frozenset({credential}), is_refresh=True)


def refresh_credential_of(tokens: TokenSet | None, *, user_id: str, provider: str, profile: Profile = STANDARD) -> str:
    """Return the token in `tokens` that a renewal sends: the refresh token, unless the profile says otherwise.

    Raises `ReauthenticationRequired` if `tokens` holds none that can be sent.
    """
    if tokens is not None:
        is_access_token = profile.refresh_credential == "access_token"
        credential = tokens.access_token if is_access_token else tokens.refresh_token
        if credential and credential.isascii():
            return credential
    what = "no token set is stored" if tokens is None else "the stored token set has no refresh token"
    raise ReauthenticationRequired(
        f"{what} for user {user_id!r} at {provider}; send the user through login",
        code="no_tokens" if tokens is None else "no_refresh_token",
        user_id=user_id,
        provider=provider,
    )
