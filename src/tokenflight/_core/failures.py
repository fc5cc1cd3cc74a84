"""The errors that a refresher itself raises, worded in one place: what happened, for whom, and what to do next."""

from collections.abc import Mapping
from copy import copy
from typing import Final

from tokenflight._core.limits import Limits
from tokenflight.errors import (
    ConfigurationError,
    InvalidProviderResponse,
    ProviderMisconfigured,
    ProviderUnavailable,
    ReauthenticationRequired,
    StoreUnavailable,
    TokenflightError,
    TokenRefreshError,
)
from tokenflight.stores.base import RenewalFailure
from tokenflight.tokens import TokenKey, TokenSet

_KINDS: Final[Mapping[str, type[TokenRefreshError]]] = {
    kind.__name__: kind for kind in (ProviderUnavailable, ProviderMisconfigured, InvalidProviderResponse)
}


def closed() -> ConfigurationError:
    """A refresher is used after its `aclose`."""
    return ConfigurationError("this TokenRefresher is closed", code="closed")


def wrong_event_loop() -> ConfigurationError:
    """A refresher is used on two event loops."""
    return ConfigurationError(
        "this TokenRefresher belongs to another event loop, the one it was first used on; run all that uses it on one "
        "event loop, instead of an asyncio.run for each task, or make a refresher for each event loop",
        code="wrong_event_loop",
    )


def reentered(key: TokenKey) -> ConfigurationError:
    """A flight waits for itself."""
    return ConfigurationError(
        f"the renewal for user {key.user_id!r} at {key.provider} asks for the very token it renews; give the provider "
        "an HTTP client that does not use this refresher",
        code="reentered",
    )


def paused(key: TokenKey, cause: TokenflightError, seconds: float) -> TokenflightError:
    """The failure that began a pause, once more: for a caller who comes while `seconds` of the pause are left.

    It has the class, the code and the cause of that failure, which may have been another user's.
    """
    error = copy(cause)
    is_of_this_user = isinstance(cause, TokenRefreshError) and cause.user_id == key.user_id
    reason = str(cause) if is_of_this_user else cause.code
    message = (
        f"renewing the token set of user {key.user_id!r} at {key.provider} is paused after a failure ({reason}); "
        f"nothing was sent: it is tried again in {seconds:.1f} s at the earliest"
    )
    error.args = (message,)
    if isinstance(error, TokenRefreshError):
        error.user_id, error.provider = key.user_id, key.provider
        if not is_of_this_user:
            error.error_description = None  # it may be about the other user
    if isinstance(error, ProviderUnavailable):
        error.retry_after = seconds
    return error


def without_frames(error: TokenflightError) -> TokenflightError:
    """A copy of `error` to remember, without the tracebacks, which would keep alive what their frames hold."""
    kept, cause = copy(error), error.__cause__
    try:
        kept.__cause__ = copy(cause)
    except Exception:  # noqa: BLE001 - a foreign exception may refuse to be copied
        kept.__cause__ = None
    return kept


def concerns_all_processes(error: TokenRefreshError) -> bool:
    """Whether a renewal failed at the provider, so that the same request from another process would do harm.

    A wrong secret or a network without a way out is the matter of one process: others may well be in order.
    """
    was_reached = isinstance(error, ProviderUnavailable) and error.code not in {"unreachable", "discovery_failed"}
    return was_reached or isinstance(error, InvalidProviderResponse)


def failed_elsewhere(key: TokenKey, failure: RenewalFailure) -> TokenRefreshError:
    """The failure of a renewal in another process, which that noted in the record."""
    kind = _KINDS.get(failure.kind, TokenRefreshError)
    return kind(
        f"another process could not renew the token set of user {key.user_id!r} at {key.provider}: {failure.code}",
        code=failure.code,
        user_id=key.user_id,
        provider=key.provider,
        error=failure.error,
    )


def unfinished_elsewhere(key: TokenKey, seconds: float) -> ProviderUnavailable:
    """Another process took the lease, and was cut off before it gave it back."""
    return ProviderUnavailable(
        f"another process was cut off while it renewed the token set of user {key.user_id!r} at {key.provider}, and "
        f"may yet store what it got; nothing was sent: it is tried again in {seconds:.0f} s at the latest",
        code="unfinished_elsewhere",
        user_id=key.user_id,
        provider=key.provider,
        retry_after=seconds,
    )


def overloaded(key: TokenKey, seconds: float) -> ProviderUnavailable:
    """A flight did not get its turn."""
    return ProviderUnavailable(
        f"the renewal for user {key.user_id!r} at {key.provider} did not get its turn within {seconds:.0f} s; "
        "nothing was sent: many renewals are under way, another process holds the lease, or the store is slow; try "
        "again later",
        code="overloaded",
        user_id=key.user_id,
        provider=key.provider,
    )


def deadline_exceeded(key: TokenKey, seconds: float) -> ProviderUnavailable:
    """A flight ended without the provider's answer."""
    return ProviderUnavailable(
        f"the renewal for user {key.user_id!r} at {key.provider} took longer than {seconds:.0f} s; "
        "whether the provider acted is unknown; try again later",
        code="deadline_exceeded",
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
    """A caller's own token set is older than a logout."""
    return ReauthenticationRequired(
        f"user {key.user_id!r} has logged out at {key.provider} since the offered token set was issued; nothing was "
        "sent: drop it, and send the user through login again",
        code="logged_out",
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


def store_timed_out(seconds: float) -> StoreUnavailable:
    """An operation of the store has reached its time limit."""
    return StoreUnavailable(f"the store took longer than {seconds:.0f} s", code="timeout")


def no_token_set(key: TokenKey, returned: object) -> InvalidProviderResponse:
    """A third party's provider broke its contract."""
    what = "one without" if isinstance(returned, TokenSet) else f"a {type(returned).__name__}"
    return InvalidProviderResponse(
        f"the provider {key.provider} must return a TokenSet with an access token from renew, not {what}",
        user_id=key.user_id,
        provider=key.provider,
    )


def pause_asked_for(error: TokenflightError, limits: Limits) -> float:
    """How many seconds the provider asks to wait, capped; a default where it says no more than "too many requests"."""
    if not isinstance(error, ProviderUnavailable):
        return 0.0
    asked = error.retry_after or (limits.provider_pause if error.code == "rate_limited" else 0.0)
    return min(asked, limits.longest_provider_pause)


def as_tokenflight_error(exc: BaseException, key: TokenKey) -> TokenflightError:
    """`exc` itself, or an error of the tree in place of an exception that a third party's provider let through."""
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
