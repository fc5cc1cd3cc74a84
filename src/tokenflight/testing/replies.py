"""The fake provider's replies, as plain data."""

import json
import math
import time
from collections.abc import Mapping
from email.utils import formatdate
from http import HTTPStatus
from typing import NamedTuple, assert_never

from tokenflight.testing.faults import (
    CannedFault,
    Endpoint,
    GarbageReply,
    HTMLReply,
    HugeReply,
    OAuthError,
    RateLimited,
    Redirect,
    ServerError,
    VendorError,
)


class Reply(NamedTuple):
    """A whole HTTP reply, its headers as ASGI has them."""

    status: int
    headers: list[tuple[bytes, bytes]]
    body: bytes


def reply(status: int, content_type: str, body: bytes, headers: Mapping[str, str] | None = None) -> Reply:
    """A reply that no cache may keep (RFC 6749 §5.1)."""
    return Reply(
        status,
        [
            (b"content-type", content_type.encode()),
            (b"content-length", b"%d" % len(body)),
            (b"cache-control", b"no-store"),
            *((name.lower().encode(), value.encode()) for name, value in (headers or {}).items()),
        ],
        body,
    )


def text_reply(status: int, text: str, headers: Mapping[str, str] | None = None) -> Reply:
    """A reply for humans."""
    return reply(status, "text/plain; charset=utf-8", text.encode(), headers)


def json_reply(members: Mapping[str, object], *, status: int = 200, headers: Mapping[str, str] | None = None) -> Reply:
    """A JSON object."""
    return reply(status, "application/json", json.dumps(members).encode(), headers)


def token_error(error: str, description: str | None = None, *, status: int = 400) -> Reply:
    """The reply of a token endpoint to a bad request (RFC 6749 §5.2)."""
    members = {"error": error}
    if description is not None:
        members["error_description"] = description
    challenges = {"www-authenticate": 'Basic realm="fake provider"'} if status == HTTPStatus.UNAUTHORIZED else None
    return json_reply(members, status=status, headers=challenges)


def challenge(error: str | None = None, description: str | None = None, *, status: int = 401) -> Reply:
    """The reply of an API to a request without a good access token (RFC 6750 §3)."""
    attributes = {"error": error, "error_description": description}
    parameters = ", ".join(f'{name}="{value}"' for name, value in attributes.items() if value is not None)
    return text_reply(status, "No access", {"www-authenticate": f"Bearer {parameters}".rstrip()})


def discovery_document(issuer: str, token_endpoint: str, *, is_public: bool) -> Reply:
    """The members that OpenID Connect Discovery §3 requires; no endpoint answers at two of the URLs.

    `is_public` tells that the provider's one client has no secret.
    """
    base = issuer.rstrip("/")
    return json_reply(
        {
            "issuer": issuer,
            "authorization_endpoint": f"{base}/authorize",
            "token_endpoint": token_endpoint,
            "jwks_uri": f"{base}/jwks",
            "response_types_supported": ["code"],
            "grant_types_supported": ["refresh_token", "client_credentials"],
            "subject_types_supported": ["public"],
            "id_token_signing_alg_values_supported": ["RS256"],
            "token_endpoint_auth_methods_supported": (
                ["none"] if is_public else ["client_secret_basic", "client_secret_post"]
            ),
        }
    )


def with_issuer(document: Reply, issuer: str) -> Reply:
    """The discovery document `document` with another issuer."""
    return json_reply({**json.loads(document.body), "issuer": issuer})


def canned_reply(fault: CannedFault, endpoint: Endpoint) -> Reply:
    """The reply of `fault`."""
    match fault:
        case ServerError():
            answer = text_reply(fault.status, "Server error")
        case RateLimited():
            answer = _rate_limited(fault)
        case HTMLReply():
            answer = reply(200, "text/html; charset=utf-8", b"<!doctype html><title>Please sign in</title>")
        case GarbageReply():
            answer = reply(200, "application/json", fault.body)
        case HugeReply():
            padding = "x" * fault.size_bytes
            answer = json_reply({"access_token": "at_huge", "token_type": "Bearer", "padding": padding})
        case Redirect():
            answer = text_reply(307, "Elsewhere", {"location": fault.to})
        case OAuthError():
            make = challenge if endpoint == "api" else token_error
            answer = make(fault.error, fault.description, status=fault.status)
        case VendorError():
            answer = json_reply(fault.members, status=fault.status, headers=fault.headers)
        case _:
            assert_never(fault)
    return answer


def _rate_limited(fault: RateLimited) -> Reply:
    """A 429. If it states a moment, that is `fault.retry_after` seconds from now."""
    text = "Too many requests"
    pause, told_by = fault.retry_after, fault.told_by
    if pause is None:
        return text_reply(HTTPStatus.TOO_MANY_REQUESTS, text)
    if told_by == "body":
        return json_reply({"message": text, "retry_after": pause}, status=HTTPStatus.TOO_MANY_REQUESTS)
    if not isinstance(pause, str):
        match told_by:
            case "Retry-After date":
                pause = formatdate(math.ceil(time.time() + pause), usegmt=True)
            case "X-Rate-Limit-Reset":
                pause = math.ceil(time.time() + pause)
            case "RateLimit":
                pause = f'"default";r=0;t={math.ceil(pause)}'
    return text_reply(HTTPStatus.TOO_MANY_REQUESTS, text, {told_by.removesuffix(" date").lower(): str(pause)})
