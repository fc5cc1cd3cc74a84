"""What a token endpoint's reply means for the caller: a token set, or an error that says what to do next.

Reading the reply is the work of `_replies`. This module only completes what was read, and words what went wrong.
"""

import time
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import TypedDict, assert_never

from tokenflight.errors import (
    InvalidProviderResponse,
    ProviderMisconfigured,
    ProviderUnavailable,
    ReauthenticationRequired,
    TokenRefreshError,
)
from tokenflight.profiles import STANDARD, Profile, Verdict
from tokenflight.providers._replies.classification import Failure
from tokenflight.providers._replies.reading import Tokens, Unusable, read_token_reply
from tokenflight.providers.base import PartialRenewal
from tokenflight.providers.requests import Request
from tokenflight.tokens import TokenSet


@dataclass(frozen=True, slots=True)
class Reply:
    """A whole reply: header names in lower case, at most `_http.MAX_REPLY_BYTES` of body, as compressed as it came."""

    status: int
    headers: Mapping[str, str]
    body: bytes = field(repr=False)


def parse_token_reply(
    reply: Reply,
    *,
    request: Request,
    previous: TokenSet | None,
    sent_at: float,
    user_id: str,
    provider: str,
    profile: Profile = STANDARD,
) -> TokenSet:
    """Return the token set in the `reply` to `request`, completed from `previous` (RFC 6749 §5.1, §5.2, §6).

    ``expires_in`` counts from `sent_at`, when the request was sent, in POSIX seconds. An error shows neither the
    secrets of the request nor the tokens in `previous`, should the provider's words repeat them.

    Raises a `TokenRefreshError`, or `PartialRenewal` if the reply will not do and holds a new refresh token.
    """
    reading = read_token_reply(
        reply.status,
        reply.headers,
        reply.body,
        now=time.time(),
        profile=profile,
        # No local holds the secrets: tools that show the locals of a traceback would show them.
        secrets=request.secrets | _tokens_in(previous),
        is_refresh=request.is_refresh,
    )
    what = f"{provider} answered the token request for user {user_id!r} with status {reply.status}"
    match reading:
        case Tokens(members):
            return TokenSet.from_response(members, received_at=sent_at).carrying_over(previous)
        case Unusable():
            raise _error_for_unusable(reading, what, previous, user_id=user_id, provider=provider)
        case Failure():
            allowed_in = _seconds_until_allowed(profile, previous)
            raise _error_for_failure(reading, what, allowed_in, user_id=user_id, provider=provider)
    assert_never(reading)


class _Details(TypedDict):
    user_id: str
    provider: str
    error: str | None
    error_description: str | None


def _error_for_unusable(
    reading: Unusable, what: str, previous: TokenSet | None, *, user_id: str, provider: str
) -> InvalidProviderResponse | PartialRenewal:
    what = f"{what}, but the reply {reading.problem}"
    if reading.refresh_token is None:
        return InvalidProviderResponse(
            f"{what}, and no refresh token can be found in it; the stored one may be spent",
            code="outcome_unknown",
            user_id=user_id,
            provider=provider,
        )
    error = InvalidProviderResponse(
        f"{what}; the refresh token in it is kept for the next renewal", user_id=user_id, provider=provider
    )
    if previous is None:
        return PartialRenewal(TokenSet("", refresh_token=reading.refresh_token), error)
    kept = replace(previous, refresh_token=reading.refresh_token, refresh_token_expires_at=None)
    return PartialRenewal(kept, error)


def _error_for_failure(
    failure: Failure, what: str, allowed_in: float | None, *, user_id: str, provider: str
) -> TokenRefreshError:
    if failure.error is not None:
        what += f" and the error {failure.error}"
    if failure.error_description is not None:
        what += f" ({failure.error_description})"
    details = _Details(
        user_id=user_id, provider=provider, error=failure.error, error_description=failure.error_description
    )
    match failure.verdict:
        case Verdict.REFUSED:
            return ReauthenticationRequired(
                f"{what}; send the user through login again",
                code="refused",
                claims=failure.claims,
                detail=failure.detail,
                **details,
            )
        case Verdict.PASSING | Verdict.RATE_LIMITED:
            return ProviderUnavailable(
                f"{what}; try again later", code=failure.code, retry_after=failure.retry_after, **details
            )
        case Verdict.NOT_YET:
            retry_after = allowed_in if failure.retry_after is None else failure.retry_after
            return ProviderUnavailable(
                f"{what}; it is too early to renew", code="not_yet", retry_after=retry_after, **details
            )
        case Verdict.MISCONFIGURED:
            return ProviderMisconfigured(f"{what}; {_advice(failure)}", code=failure.code, **details)
        case Verdict.UNKNOWN:
            return InvalidProviderResponse(f"{what}; the reply does not say what is wrong", **details)


def _advice(failure: Failure) -> str:
    if failure.code == "redirected":
        return "a redirect of a token request is not followed: configure the endpoint it leads to"
    if failure.error is None:
        return "check the token endpoint and the client's credentials"
    return "check the client's registration and this app's settings"


def _seconds_until_allowed(profile: Profile, previous: TokenSet | None) -> float | None:
    """How long until `profile` allows a renewal of `previous`, None where that is unknown."""
    if profile.earliest_renewal is None or previous is None or previous.expires_at is None:
        return None
    return max(previous.expires_at - profile.earliest_renewal - time.time(), 0.0) or None


def _tokens_in(tokens: TokenSet | None) -> frozenset[str]:
    held = () if tokens is None else (tokens.access_token, tokens.refresh_token)
    return frozenset(token for token in held if token)
