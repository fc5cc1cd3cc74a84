"""The errors a refresher itself raises, worded in one place: what happened, for whom, and what to do next."""

from typing import Final

from tokenflight.errors import (
    ConfigurationError,
    InvalidProviderResponse,
    ProviderUnavailable,
    ReauthenticationRequired,
    StoreUnavailable,
    TokenflightError,
    TokenRefreshError,
)
from tokenflight.tokens import TokenKey, TokenSet

FLIGHT_DEADLINE_SECONDS: Final = 120.0
"""How long a flight waits for its turn, and then, anew, for the provider's answer."""


def closed() -> ConfigurationError:
    """A refresher is used after its `aclose`."""
    return ConfigurationError("this TokenRefresher is closed", code="closed")


def wrong_event_loop() -> ConfigurationError:
    """A refresher is used on two event loops."""
    return ConfigurationError(
        "this TokenRefresher is bound to another event loop, the one it was first used on; make one for each",
        code="wrong_event_loop",
    )


def reentered(key: TokenKey) -> ConfigurationError:
    """A flight waits for itself."""
    return ConfigurationError(
        f"the renewal for user {key.user_id!r} at {key.provider} asks for the very token it renews; give the provider "
        "an HTTP client that does not use this refresher",
        code="reentered",
    )


def cooling_down(key: TokenKey, seconds: float) -> ProviderUnavailable:
    """A renewal failed a moment ago."""
    return ProviderUnavailable(
        f"renewing the token set of user {key.user_id!r} at {key.provider} is paused after a failure; "
        f"it is tried again in {seconds:.1f} s at the earliest",
        code="cooling_down",
        user_id=key.user_id,
        provider=key.provider,
        retry_after=seconds,
    )


def deadline_exceeded(key: TokenKey, *, asked: bool) -> ProviderUnavailable:
    """A flight ended without the provider's answer, or did not even come to ask."""
    outcome = "whether the provider acted is unknown" if asked else "nothing was sent, as others were waiting too"
    return ProviderUnavailable(
        f"the renewal for user {key.user_id!r} at {key.provider} took longer than {FLIGHT_DEADLINE_SECONDS:.0f} s; "
        f"{outcome}; try again later",
        code="deadline_exceeded" if asked else "overloaded",
        user_id=key.user_id,
        provider=key.provider,
    )


def refused_before(key: TokenKey) -> ReauthenticationRequired:
    """The record says that its refresh token is dead."""
    return ReauthenticationRequired(
        f"{key.provider} has refused the refresh token of user {key.user_id!r} before; send the user through "
        "login again",
        code="refused",
        user_id=key.user_id,
        provider=key.provider,
    )


def logged_out(key: TokenKey) -> ReauthenticationRequired:
    """The record is gone."""
    return ReauthenticationRequired(
        f"user {key.user_id!r} was logged out at {key.provider} during the renewal; send the user through login again",
        code="no_tokens",
        user_id=key.user_id,
        provider=key.provider,
    )


def still_unsaved(key: TokenKey) -> StoreUnavailable:
    """The store holds a spent refresh token, and the token set in memory has expired."""
    return StoreUnavailable(
        f"the renewed token set of user {key.user_id!r} at {key.provider} can't be stored, so it can't be renewed "
        "again; see to the store",
        code="unsaved",
    )


def no_token_set(key: TokenKey, returned: object) -> InvalidProviderResponse:
    """Somebody's own provider broke its contract."""
    what = "one without" if isinstance(returned, TokenSet) else f"a {type(returned).__name__}"
    return InvalidProviderResponse(
        f"the provider {key.provider} must return a TokenSet with an access token from renew, not {what}",
        user_id=key.user_id,
        provider=key.provider,
    )


def in_the_tree(exc: BaseException, key: TokenKey) -> TokenflightError:
    """`exc` itself, or what stands for an exception that somebody's own provider let through."""
    if isinstance(exc, TokenflightError):
        return exc
    unexpected = TokenRefreshError(
        f"the renewal for user {key.user_id!r} at {key.provider} met an unexpected {type(exc).__name__}; see the cause",
        code="unexpected",
        user_id=key.user_id,
        provider=key.provider,
    )
    unexpected.__cause__ = exc
    return unexpected
