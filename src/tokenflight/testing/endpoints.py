"""What the fake provider's endpoints do with a request. They await nothing: each request is atomic."""

import base64
import time
from collections.abc import Mapping
from urllib.parse import unquote_plus

from tokenflight.testing.asgi import Request
from tokenflight.testing.grants import Grants, RefreshTokenRules
from tokenflight.testing.replies import Reply, challenge, json_reply, token_error


def token_reply(
    request: Request,
    grants: Grants,
    *,
    client: tuple[str, str | None],
    lifetime: float | None,
    rules: RefreshTokenRules,
) -> Reply:
    """Answer a token request (RFC 6749 §4.4 and §6) of `client`, its identifier and its secret.

    New access tokens live for `lifetime` seconds, or without end if None.
    """
    form = request.form
    if form is None:
        return token_error("invalid_request", "POST a form that has each parameter once")
    if client != _client_of(request, form):
        return token_error("invalid_client", status=401)
    match form:
        case {"grant_type": "refresh_token", "refresh_token": refresh_token}:
            members = grants.refresh(refresh_token, now=time.time(), lifetime=lifetime, rules=rules)
        case {"grant_type": "client_credentials"}:
            user_id = form.get("sub", client[0])
            members = grants.start(user_id, now=time.time(), lifetime=lifetime, refreshable=False)
        case {"grant_type": grant_type} if grant_type != "refresh_token":
            return token_error("unsupported_grant_type")
        case _:
            return token_error("invalid_request", "a parameter is missing")
    if members is None:
        return token_error("invalid_grant", "the refresh token is unknown, spent or revoked")
    if "scope" in form:
        members["scope"] = form["scope"]
    return json_reply(members)


def api_reply(request: Request, grants: Grants) -> Reply:
    """Answer a request of the API (RFC 6750)."""
    access_token = request.credentials("bearer")
    if access_token is None:
        return challenge()
    if not grants.is_live(access_token, now=time.time()):
        return challenge("invalid_token")
    return json_reply({"user_id": request.user_id, "method": request.method, "body_bytes": len(request.body)})


def _client_of(request: Request, form: Mapping[str, str]) -> tuple[str | None, str | None]:
    """Return the client's identifier and secret, from Basic or from the form (RFC 6749 §2.3.1)."""
    credentials = request.credentials("basic")
    if credentials is None:
        return form.get("client_id"), form.get("client_secret")
    try:
        client_id, _, client_secret = base64.b64decode(credentials).decode().partition(":")
    except ValueError:
        return None, None
    return unquote_plus(client_id), unquote_plus(client_secret)
