"""What an authorization server answers, and what that means for the caller: pure functions on plain data.

Whatever bytes a reply holds, parsing it gives a token set or raises inside the error tree.
"""

import json
import re
import time
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from datetime import UTC
from email.utils import parsedate_to_datetime
from typing import Any, Final, TypedDict
from urllib.parse import quote, quote_plus

from tokenflight._checks import printable
from tokenflight.errors import (
    InvalidProviderResponse,
    ProviderMisconfigured,
    ProviderUnavailable,
    ReauthenticationRequired,
    TokenRefreshError,
)
from tokenflight.providers.requests import Request
from tokenflight.tokens import TokenSet

MAX_RETRY_AFTER_SECONDS: Final = 3600.0
"""A provider's ``Retry-After`` is honoured up to this."""

_LOGIN_AGAIN: Final = frozenset(
    {
        "invalid_grant",
        "interaction_required",
        "login_required",
        "consent_required",
        "account_selection_required",
    }
)
_TRY_LATER: Final = frozenset({"server_error", "temporarily_unavailable", "slow_down"})
_BUSY_STATUSES: Final = frozenset({408, 425, 429})
_PERCENT_ESCAPE: Final = re.compile("%..")


@dataclass(frozen=True, slots=True)
class Reply:
    """A whole reply: header names in lower case, at most `_http.MAX_REPLY_BYTES` of body."""

    status: int
    headers: Mapping[str, str]
    body: bytes = field(repr=False)


def parse_token_reply(
    reply: Reply, *, request: Request, previous: TokenSet | None, sent_at: float, user_id: str, provider: str
) -> TokenSet:
    """Return the token set in the `reply` to `request`, completed from `previous` (RFC 6749 §5.1, §5.2, §6).

    ``expires_in`` counts from `sent_at`, when the request was sent, in POSIX seconds. An error shows neither the
    secrets of the request nor the tokens in `previous`, should the provider's words repeat them.
    """
    if not 200 <= reply.status < 300:
        # No local holds the secrets: tools that show the locals of a traceback would show them.
        raise _error_for(reply, secrets=request.secrets | _tokens_in(previous), user_id=user_id, provider=provider)
    try:
        return TokenSet.from_response(json_object(reply.body), received_at=sent_at).carrying_over(previous)
    except (InvalidProviderResponse, RecursionError) as exc:
        raise InvalidProviderResponse(
            f"{provider} answered the token request for user {user_id!r} with status {reply.status}, but "
            f"{exc if isinstance(exc, InvalidProviderResponse) else 'the reply is nested too deeply'}; "
            "what is stored is unchanged",
            user_id=user_id,
            provider=provider,
        ) from None


def json_object(body: bytes) -> dict[str, object]:
    """Return the JSON object in `body`, which is UTF-8 and has no name twice (RFC 8259 §4, §8.1).

    Raises `InvalidProviderResponse`, which shows nothing of the body.
    """
    try:
        value = json.loads(body.decode(), object_pairs_hook=_unique)
    except (ValueError, RecursionError):
        # Without the cause: a decoding error carries the body, and the body may carry a token.
        raise InvalidProviderResponse("the reply is not valid JSON") from None
    if not isinstance(value, dict):
        raise InvalidProviderResponse("the reply is not a JSON object")
    return value


def is_busy(status: int) -> bool:
    """Whether `status` says that the server can't answer now, whatever the body says."""
    return status in _BUSY_STATUSES or status >= 500


def retry_after(reply: Reply) -> float | None:
    """Return the ``Retry-After`` of `reply` in seconds from now (RFC 9110 §10.2.3), capped, or None."""
    value = reply.headers.get("retry-after", "").strip()
    if re.fullmatch(r"[0-9]+", value):
        seconds = float(value)
    else:
        try:
            moment = parsedate_to_datetime(value)
            seconds = (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp() - time.time()
        except (ValueError, OverflowError):
            return None
    return min(max(seconds, 0.0), MAX_RETRY_AFTER_SECONDS)


class _Details(TypedDict):
    user_id: str
    provider: str
    error: str | None
    error_description: str | None


def _error_for(reply: Reply, *, secrets: Collection[str], user_id: str, provider: str) -> TokenRefreshError:
    """Return what a reply that is not a success means for the caller."""
    status = reply.status
    try:
        members = json_object(reply.body)
    except InvalidProviderResponse:
        members = {}
    kind = printable(members.get("error"))  # classified before redaction, which may cut a secret out of it
    error = _safe_text(members.get("error"), secrets) or None
    description = _safe_text(members.get("error_description"), secrets) or None
    details = _Details(user_id=user_id, provider=provider, error=error, error_description=description)
    what = f"{provider} answered the token request for user {user_id!r} with status {status}"
    if error is not None:
        what += f" and the error {error}" + (f" ({description})" if description else "")

    # The status of a struggling server comes before its words: a 5xx is never a logout.
    if is_busy(status) or kind in _TRY_LATER:
        code = "rate_limited" if status == 429 else "server_error"
        return ProviderUnavailable(f"{what}; try again later", code=code, retry_after=retry_after(reply), **details)
    if 300 <= status < 400:
        advice = "a redirect of a token request is not followed: configure the endpoint it leads to"
        return ProviderMisconfigured(f"{what}; {advice}", code="redirected", **details)
    if kind in _LOGIN_AGAIN:
        return ReauthenticationRequired(f"{what}; send the user through login again", code="refused", **details)
    if error is not None:
        advice = "check the client's registration and this app's settings"
        return ProviderMisconfigured(f"{what}; {advice}", code=error, **details)
    if status in {400, 422}:
        advice = "the reply names no error; what is stored is unchanged"
        return InvalidProviderResponse(f"{what}; {advice}", **details)
    advice = "check the token endpoint and the client's credentials"
    return ProviderMisconfigured(f"{what}; {advice}", code=f"http_{status}", **details)


def _tokens_in(tokens: TokenSet | None) -> frozenset[str]:
    held = () if tokens is None else (tokens.access_token, tokens.refresh_token)
    return frozenset(token for token in held if token)


def _safe_text(value: object, secrets: Collection[str]) -> str:
    """Return a provider's text as an error may show it: printable, short, and without the `secrets` it repeats."""
    if not isinstance(value, str):
        return ""
    for secret in sorted(filter(None, secrets), key=len, reverse=True):  # one may be the beginning of another
        data = secret.encode("utf-8", "surrogatepass")
        for written in {secret, quote(data), quote(data, safe=""), quote_plus(data)}:
            value = value.replace(written, "***").replace(_PERCENT_ESCAPE.sub(_lower_case, written), "***")
    return printable(value)


def _lower_case(found: re.Match[str]) -> str:
    return found[0].lower()


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    members = dict(pairs)
    if len(members) != len(pairs):
        raise ValueError("a name is given twice")
    return members
