"""The protocol as pure functions on plain data: build a token request, parse a reply.

No I/O here. Whatever bytes a reply holds, parsing it returns a token set or raises inside the error tree.
"""

import base64
import json
import re
import time
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from datetime import UTC
from email.utils import parsedate_to_datetime
from typing import Any, Final, TypedDict
from urllib.parse import quote, quote_plus, unquote_plus, urlencode

from tokenflight._checks import printable
from tokenflight._urls import require_secure_url
from tokenflight.errors import (
    ConfigurationError,
    InvalidProviderResponse,
    ProviderMisconfigured,
    ProviderUnavailable,
    ReauthenticationRequired,
    TokenRefreshError,
)
from tokenflight.providers.client_auth import ClientAuthentication
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
_PUBLIC_PARAMETERS: Final = frozenset({"grant_type", "client_id", "scope"})
_PERCENT: Final = re.compile("%..")
_BUSY_STATUSES: Final = frozenset({408, 425, 429})


@dataclass(frozen=True, slots=True)
class Request:
    """What to send: a POST of a form if there are `parameters`, otherwise a GET."""

    url: str
    headers: Mapping[str, str] = field(repr=False)
    parameters: Mapping[str, str] | None = field(default=None, repr=False)

    @property
    def secrets(self) -> list[str]:
        """What no error may show: parameters, and the password in a Basic header."""
        secrets = [value for name, value in (self.parameters or {}).items() if name not in _PUBLIC_PARAMETERS]
        scheme, _, credentials = self.headers.get("Authorization", "").partition(" ")
        if scheme == "Basic":
            _, _, password = base64.b64decode(credentials).decode().partition(":")
            secrets += [credentials, password, unquote_plus(password)]
        return [secret for secret in secrets if secret]

    @property
    def content(self) -> bytes:
        """The body, form-encoded (RFC 6749 Appendix B)."""
        return urlencode(self.parameters or {}).encode()


@dataclass(frozen=True, slots=True)
class Reply:
    """What came back: at most `providers.http.MAX_REPLY_BYTES` of body, header names in lower case."""

    status: int
    headers: Mapping[str, str]
    body: bytes = field(repr=False)


@dataclass(frozen=True, slots=True)
class DiscoveryDocument:
    """The part of the provider's metadata that a renewal needs (OpenID Connect Discovery §3)."""

    issuer: str
    token_endpoint: str


def build_refresh_request(
    token_endpoint: str, refresh_token: str, client: ClientAuthentication, *, scope: str | None = None
) -> Request:
    """The request that renews a token set (RFC 6749 §6)."""
    parameters = {"grant_type": "refresh_token", "refresh_token": refresh_token}
    if scope is not None:
        parameters["scope"] = scope
    return Request(
        url=token_endpoint,
        headers={
            "Accept": "application/json",
            "Content-Type": "application/x-www-form-urlencoded",
            **client.headers(),
        },
        parameters={**parameters, **client.parameters()},
    )


def parse_token_reply(
    reply: Reply,
    *,
    previous: TokenSet | None,
    sent_at: float,
    user_id: str,
    provider: str,
    secrets: Collection[str] = (),
) -> TokenSet:
    """The renewed token set in `reply`, completed from `previous` (RFC 6749 §5.1, §5.2, §6).

    `sent_at` is when the request was sent, in POSIX seconds: ``expires_in`` counts from there. Errors show neither
    the tokens in `previous` nor any of `secrets`, should the provider's words repeat them.
    """
    if not 200 <= reply.status < 300:
        tokens = (previous.refresh_token, previous.access_token) if previous is not None else ()
        raise _error_for(
            reply, secrets=[*secrets, *(token for token in tokens if token)], user_id=user_id, provider=provider
        )
    try:
        return TokenSet.from_response(_json_object(reply.body), received_at=sent_at).carrying_over(previous)
    except (InvalidProviderResponse, RecursionError) as exc:
        raise InvalidProviderResponse(
            f"{provider} answered the refresh for user {user_id!r} with status {reply.status}, but "
            f"{exc if isinstance(exc, InvalidProviderResponse) else 'the reply is nested too deeply'}; "
            "what is stored is unchanged",
            user_id=user_id,
            provider=provider,
        ) from None


def parse_discovery_reply(reply: Reply, *, issuer: str, provider: str) -> DiscoveryDocument:
    """The metadata in `reply`, if it is that of `issuer` (OpenID Connect Discovery §4.3)."""
    if reply.status in _BUSY_STATUSES or reply.status >= 500:
        raise ProviderUnavailable(
            f"discovery of {issuer} failed with status {reply.status}; try again later",
            code="discovery_failed",
            provider=provider,
            retry_after=_retry_after(reply),
        )
    if reply.status != 200:
        raise ProviderMisconfigured(
            f"discovery of {issuer} failed with status {reply.status}; check the issuer",
            code="discovery_failed",
            provider=provider,
        )
    try:
        metadata = _json_object(reply.body)
    except InvalidProviderResponse as exc:
        raise InvalidProviderResponse(f"discovery of {issuer}: {exc}", provider=provider) from None
    if metadata.get("issuer") != issuer:
        raise ProviderMisconfigured(
            f"discovery of {issuer} returned the metadata of another issuer, {_words(metadata.get('issuer'))!r}; "
            "the two must be the same string",
            code="issuer_mismatch",
            provider=provider,
        )
    token_endpoint = metadata.get("token_endpoint")
    try:
        require_secure_url("token_endpoint", token_endpoint)
    except ConfigurationError as exc:
        raise ProviderMisconfigured(
            f"discovery of {issuer}: {exc}", code="insecure_endpoint", provider=provider
        ) from None
    return DiscoveryDocument(issuer=issuer, token_endpoint=str(token_endpoint))


class _Details(TypedDict):
    user_id: str
    provider: str
    error: str | None
    error_description: str | None


def _error_for(reply: Reply, *, secrets: Collection[str], user_id: str, provider: str) -> TokenRefreshError:
    """What a reply that is not a success means for the caller."""
    status = reply.status
    try:
        members = _json_object(reply.body)
    except InvalidProviderResponse:
        members = {}
    kind = _words(members.get("error"))  # classified as it is, and shown without what it may echo
    error = _words(members.get("error"), secrets) or None
    description = _words(members.get("error_description"), secrets) or None
    details = _Details(user_id=user_id, provider=provider, error=error, error_description=description)
    what = f"{provider} answered the refresh for user {user_id!r} with status {status}"
    if error is not None:
        what += f" and the error {error}" + (f" ({description})" if description else "")

    # The status of a struggling server comes before its words: a 5xx is never a logout.
    if status in _BUSY_STATUSES or status >= 500 or kind in _TRY_LATER:
        code = "rate_limited" if status == 429 else "server_error"
        return ProviderUnavailable(f"{what}; try again later", code=code, retry_after=_retry_after(reply), **details)
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


def _json_object(body: bytes) -> dict[str, Any]:
    """The JSON object in `body`, UTF-8 (RFC 8259 §8.1), no name given twice."""
    try:
        value = json.loads(body.decode(), object_pairs_hook=_unique)
    except (ValueError, RecursionError):
        # Without the cause: a decoding error carries the body, and the body may carry a token.
        raise InvalidProviderResponse("the reply is not valid JSON") from None
    if not isinstance(value, dict):
        raise InvalidProviderResponse("the reply is not a JSON object")
    return value


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    members = dict(pairs)
    if len(members) != len(pairs):
        raise ValueError("a name is given twice")
    return members


def _words(value: object, secrets: Collection[str] = ()) -> str:
    """A provider's text made safe to show: bounded, one line, printable, and no secret that it echoes."""
    if not isinstance(value, str):
        return ""
    for secret in secrets:
        data = secret.encode("utf-8", "surrogatepass")
        for written in {secret, quote(data), quote(data, safe=""), quote_plus(data)}:
            value = value.replace(written, "***").replace(_PERCENT.sub(_lower_case, written), "***")
    return printable(value)


def _lower_case(found: re.Match[str]) -> str:
    return found[0].lower()


def _retry_after(reply: Reply) -> float | None:
    """The ``Retry-After`` of `reply` in seconds from now, from either form (RFC 9110 §10.2.3), capped."""
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
