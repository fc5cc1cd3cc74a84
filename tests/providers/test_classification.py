"""V2, V3, V6, V9: what a reply without tokens means, in whatever words and at whatever status."""

import json
from typing import Any, Final

import pytest

from kit.reply_cases import NOW
from tokenflight.profiles import STANDARD, ErrorReply, ErrorRule, Profile, Verdict
from tokenflight.providers._replies.classification import MAX_CLAIMS_LENGTH, Failure
from tokenflight.providers._replies.reading import read_token_reply


def fail(
    members: Any, status: int = 400, headers: dict[str, str] | None = None, profile: Profile = STANDARD, **options: Any
) -> Failure:
    body = members if isinstance(members, bytes) else json.dumps(members).encode()
    reading = read_token_reply(status, headers or {}, body, now=NOW, profile=profile, **options)
    assert isinstance(reading, Failure), reading
    return reading


def verdict(members: Any, status: int = 400, **options: Any) -> Verdict:
    return fail(members, status, **options).verdict


def described(error: str, description: str) -> dict[str, str]:
    return {"error": error, "error_description": description}


# V2: dead, in other words

DEAD: Final[dict[str, tuple[int, Any]]] = {
    # the code stands where RFC 6749 puts it
    "invalid_grant": (400, {"error": "invalid_grant"}),
    "with 401": (401, {"error": "invalid_grant", "error_description": "Bad Request"}),
    "with 403": (403, described("invalid_grant", "Unknown or invalid refresh token.")),
    "with 404": (404, {"error": "invalid_grant"}),
    "with 409": (409, {"error": "invalid_grant"}),
    "with 200": (200, described("invalid_grant", "Token has been expired or revoked.")),
    "interaction": (400, {"error": "interaction_required"}),
    "a second factor": (403, {"error": "mfa_required"}),
    # synonyms
    "bad_refresh_token": (200, {"error": "bad_refresh_token"}),
    "refresh_token_expired": (400, {"error": "refresh_token_expired"}),
    "expired_refresh_token": (401, {"error": "expired_refresh_token"}),
    "revoked_refresh_token": (400, {"error": "revoked_refresh_token"}),
    "REFRESH_TOKEN_REUSED": (400, {"error": "REFRESH_TOKEN_REUSED"}),
    "refresh_token_not_found": (400, {"code": 400, "error_code": "refresh_token_not_found", "msg": "Not found"}),
    "refresh_token_already_used": (400, {"error_code": "refresh_token_already_used"}),
    "InvalidRefreshToken": (401, {"error": "InvalidRefreshToken"}),
    "invalid-refresh-token": (400, {"error": "invalid-refresh-token"}),
    "invalid_refreshtoken": (400, {"error": "invalid_refreshtoken"}),
    "token_expired": (401, {"error": "token_expired"}),
    "token_revoked": (200, {"ok": False, "error": "token_revoked"}),
    "expired_token": (400, {"error": "expired_token"}),
    "token_not_valid": (401, {"detail": "Token is blacklisted", "code": "token_not_valid"}),
    "invalid_token": (401, {"error": "invalid_token"}),
    "InvalidGrantException": (400, {"__type": "InvalidGrantException"}),
    "ExpiredTokenException": (400, {"__type": "ExpiredTokenException", "message": "expired"}),
    "session_expired": (400, {"error": "session_expired"}),
    "grant_revoked": (400, {"error": "grant_revoked"}),
    "user_disabled": (400, {"error": {"code": 400, "message": "USER_DISABLED", "status": "INVALID_ARGUMENT"}}),
    "TOKEN_EXPIRED as a message": (400, {"error": {"code": 400, "message": "TOKEN_EXPIRED"}}),
    # nested
    "an error object": (400, {"error": {"code": "invalid_grant", "message": "expired"}}),
    "an error object with a type": (401, {"error": {"type": "invalid_request_error", "code": "refresh_token_invalid"}}),
    "an error object with words": (400, {"error": {"code": 401, "message": "Invalid refresh token"}}),
    "a fault": (401, {"fault": {"faultstring": "x", "detail": {"errorcode": "oauth.v2.InvalidRefreshToken"}}}),
    "inside data": (400, {"data": {"error": "invalid_grant"}}),
    "a list of errors": (400, {"errors": [{"errorType": "invalid_grant", "message": "m"}], "success": False}),
    "a list of codes": (400, {"errors": [{"code": "refresh_token_expired"}]}),
    "a list of fields": (400, {"errors": [{"resource": "RefreshToken", "field": "refresh_token", "code": "invalid"}]}),
    "a list of sentences": (400, {"errors": ["The refresh token is invalid."]}),
    "errors by field": (422, {"message": "m", "errors": {"refresh_token": ["The refresh token is invalid."]}}),
    "errors by field, shortly": (400, {"errors": {"refreshToken": "expired"}}),
    "an array": (400, [{"code": "invalid_grant"}]),
    # sentences
    "invalid_request": (400, described("invalid_request", "The refresh token is invalid.")),
    "unauthorized_client": (403, described("unauthorized_client", "refresh_token is invalid")),
    "invalid_request with a hint": (401, {"error": "invalid_request", "hint": "Cannot decrypt the refresh token"}),
    "access_denied": (403, described("access_denied", "The refresh token has been revoked by the user")),
    "access_denied for the user": (403, described("access_denied", "user is blocked")),
    "a problem document": (400, {"title": "Bad Request", "status": 400, "detail": "Refresh token has expired."}),
    "a message": (400, {"status": 400, "message": "Invalid refresh token"}),
    "a message with 404": (404, {"message": "refresh token not found"}),
    "a summary": (400, {"errorCode": "E0000021", "errorSummary": "The refresh token is invalid or expired."}),
    "in capitals": (400, {"ErrorCode": "invalid_request", "Error": "Refresh Token expired"}),
    "no longer valid": (400, {"message": "This refresh token is no longer valid"}),
    "used": (400, {"message": "Refresh token has already been used"}),
    "does not exist": (400, {"message": "The provided refresh token doesn't exist"}),
    "wanted": (401, described("invalid_request", "This request requires an active refresh_token")),
    "the token, and only one is sent": (400, described("invalid_request", "The token has been revoked")),
    "reuse": (400, described("access_denied", "Refresh token reuse detected")),
    "a mismatch": (400, {"message": "Refresh token mismatch"}),
    "not to be found": (400, {"message": "Could not find refresh token"}),
    "log in again": (401, {"code": "odd", "message": "Session ended. Please log in again."}),
    "re-authorize": (400, described("invalid_request", "The user must re-authorize the app")),
    "a session": (400, {"error": {"code": 1, "message": "The session has been invalidated because of a new password"}}),
    "error is true": (400, {"error": True, "message": "Expired refresh token"}),
    "a message in a 200": (200, {"status": 401, "message": "invalid refresh token"}),
    "plain text": (400, b"Refresh token expired"),
    "a JSON string": (400, b'"invalid refresh token"'),
    "a form": (400, b"error=invalid_grant&error_description=Token+revoked"),
    "one code as text": (400, b"invalid_grant"),
    "XML": (
        400,
        b"<?xml version='1.0'?><OAuth><error>invalid_grant</error><error_description>x</error_description></OAuth>",
    ),
}


@pytest.mark.parametrize(("status", "members"), DEAD.values(), ids=DEAD)
def test_v2_a_dead_refresh_token_is_refused_in_whatever_words(status: int, members: Any) -> None:
    failure = fail(members, status)
    assert (failure.verdict, failure.code, failure.retry_after) == (Verdict.REFUSED, "refused", None)


# V2: the deployment's fault, and never remembered as the user's

MISCONFIGURED: Final[dict[str, tuple[int, Any]]] = {
    "invalid_client": (401, {"error": "invalid_client"}),
    "invalid_client in a 200": (200, {"error": "invalid_client"}),
    "invalid_client about a token": (401, described("invalid_client", "The refresh token is invalid for this client")),
    "incorrect_client_credentials": (200, {"error": "incorrect_client_credentials"}),
    "bad_client_secret": (200, {"ok": False, "error": "bad_client_secret"}),
    "BAD_CLIENT_SECRET": (400, {"status": "BAD_CLIENT_SECRET", "message": "missing or invalid client secret"}),
    "invalid_client_id": (400, described("invalid_client_id", "client identifier invalid")),
    "a wrong secret called invalid_grant": (400, described("invalid_grant", "Client authentication failed")),
    "a grant type called invalid_grant": (400, described("invalid_grant", "Grant type refresh_token is not allowed")),
    "a parameter called invalid_grant": (400, described("invalid_grant", "Missing parameter: refresh_token")),
    "bad credentials": (401, described("unauthorized", "Bad credentials")),
    "no API key": (401, {"message": "No API key found in request"}),
    "a wrong secret in words": (401, {"message": "Invalid client secret"}),
    "a wrong secret nested": (401, {"error": {"code": "invalid_client", "message": "m"}}),
    "a wrong secret in a list": (401, {"errors": [{"errorType": "invalid_client", "message": "m"}]}),
    "a field of the client": (400, {"errors": [{"resource": "Application", "field": "client_id", "code": "invalid"}]}),
    "client or refresh token": (400, described("invalid_request", "Invalid client_id or refresh token")),
    "grant type": (400, {"error": "unsupported_grant_type"}),
    "grant type of the client": (400, described("unauthorized_client", "grant type not allowed for this client")),
    "grant type refresh_token": (400, described("unauthorized_client", "refresh_token grant type is not allowed")),
    "grant type invalid": (400, described("invalid_request", "Invalid grant_type: refresh_token")),
    "INVALID_GRANT_TYPE": (400, {"error": {"message": "INVALID_GRANT_TYPE"}}),
    "a parameter is missing": (400, described("invalid_request", "Missing required parameter: refresh_token")),
    "refresh_token is required": (400, described("invalid_request", "The refresh_token parameter is required")),
    "MISSING_REFRESH_TOKEN": (400, {"error": {"message": "MISSING_REFRESH_TOKEN"}}),
    "a field is missing": (400, {"errors": [{"field": "refresh_token", "code": "missing"}]}),
    "a field is blank": (422, {"code": "validation", "errors": {"refresh_token": ["This field may not be blank."]}}),
    "must be contained": (400, described("invalid_request", "The request body must contain: 'refresh_token'.")),
    "sent twice": (400, described("invalid_request", "Invalid request. The refresh_token parameter was sent twice")),
    "rotation": (400, described("unauthorized_client", "Refresh tokens are not enabled for this client")),
    "an unknown error": (400, described("invalid_request", "The refresh token request failed: unknown error")),
    "a token that is not expired": (400, described("odd", "The refresh token has not expired")),
    "scope": (400, {"error": "invalid_scope"}),
    "redirect_uri_mismatch": (400, {"error": "redirect_uri_mismatch"}),
    "application_suspended": (200, {"error": "application_suspended"}),
    "the client's assertion": (401, described("invalid_client", "Client assertion has expired")),
    "another token": (401, described("invalid_token", "The access token is missing")),
    "an API key": (401, {"message": "API key expired", "code": "api_key"}),
    "a code": (400, described("odd", "The authorization code has expired")),
    "an unknown error code": (400, {"error": "odd"}),
    "access_denied": (403, {"error": "access_denied"}),
    "401 without words": (401, b""),
    "401 as a web page": (401, b"<html>Unauthorized</html>"),
    "404 as a web page": (404, b"<!DOCTYPE html><h1>Not Found</h1>"),
    "403 that is no web page": (403, b"<h1>no</h1>"),
    "403 without words": (403, {"message": "Forbidden"}),
    "405": (405, {}),
    "a redirect": (302, {"error": "invalid_grant"}),
}


@pytest.mark.parametrize(("status", "members"), MISCONFIGURED.values(), ids=MISCONFIGURED)
def test_v2_t2_what_no_login_can_mend_is_never_refused(status: int, members: Any) -> None:
    assert verdict(members, status) is Verdict.MISCONFIGURED


@pytest.mark.parametrize("status", [400, 422])
@pytest.mark.parametrize("members", [{}, {"message": "Bad Request"}, {"status": "error"}, b"<h1>no</h1>", [], None, 7])
def test_r6_a_refusal_that_names_nothing_is_unknown(status: int, members: Any) -> None:
    assert (verdict(members, status), fail(members, status).code) == (Verdict.UNKNOWN, "invalid_response")


# V3: passing trouble

PASSING: Final[dict[str, tuple[int, dict[str, str], Any]]] = {
    "500": (500, {}, {"error": "invalid_grant"}),
    "503": (503, {}, b"<html>"),
    "529": (529, {}, {}),
    "408": (408, {}, {"error": "invalid_grant"}),
    "425": (425, {}, {}),
    "429": (429, {}, {"error": "invalid_grant"}),
    "420": (420, {}, {}),
    "409": (409, {}, {"message": "conflict"}),
    "423": (423, {}, {}),
    "server_error": (400, {}, {"error": "server_error"}),
    "temporarily_unavailable": (400, {}, {"error": "temporarily_unavailable"}),
    "slow_down": (400, {}, {"error": "slow_down"}),
    "internal_failure": (400, {}, {"error": "internal_failure"}),
    "ratelimited": (200, {}, {"ok": False, "error": "ratelimited"}),
    "rate_limit_exceeded": (403, {}, {"error": "rate_limit_exceeded"}),
    "rateLimitExceeded": (403, {}, {"error": {"errors": [{"reason": "rateLimitExceeded"}], "code": 403}}),
    "REQUEST_LIMIT_EXCEEDED": (403, {}, [{"errorCode": "REQUEST_LIMIT_EXCEEDED", "message": "m"}]),
    "over_request_rate_limit": (400, {}, {"error_code": "over_request_rate_limit"}),
    "TooManyRequestsException": (400, {}, {"__type": "TooManyRequestsException"}),
    "ThrottlingException": (400, {}, {"__type": "ThrottlingException"}),
    "UNAVAILABLE": (400, {}, {"error": {"status": "UNAVAILABLE"}}),
    "RESOURCE_EXHAUSTED": (400, {}, {"error": {"status": "RESOURCE_EXHAUSTED"}}),
    "quota": (403, {}, {"error": {"code": 403, "message": "Quota exceeded for this project"}}),
    "too many requests in words": (
        200,
        {},
        {"error": "Access Denied", "error_description": "You have made too many requests.", "status": "failure"},
    ),
    "try again later": (400, {}, described("access_denied", "Please try again later.")),
    "retry your request": (400, {}, described("unknown_error", "retry your request")),
    "being processed": (400, {}, described("invalid_grant", "token request is already being processed")),
    "invalid_grant with a rate limit": (400, {}, described("invalid_grant", "rate limit exceeded")),
    "invalid_grant of an outage": (400, {}, described("invalid_grant", "Service temporarily unavailable")),
    "invalid_grant of two at once": (400, {}, described("invalid_grant", "concurrent refresh, please retry later")),
    "a status inside": (200, {}, {"status": 503, "message": "m", "ok": False}),
    "a code inside": (200, {}, {"error": {"code": 429, "message": "m"}}),
    "Retry-After with 403": (403, {"Retry-After": "20"}, {"message": "m"}),
    "Retry-After with 400": (400, {"Retry-After": "20"}, {"error": "odd"}),
    "Retry-After with 401": (401, {"Retry-After": "20"}, {}),
    "nothing left": (403, {"X-RateLimit-Remaining": "0", "X-RateLimit-Reset": str(int(NOW) + 60)}, {"message": "m"}),
    "a guard's web page": (403, {"Content-Type": "text/html"}, b"<html>Just a moment...</html>"),
    "a guard's web page without a word": (403, {}, b"<!DOCTYPE html><title>Attention Required!</title>"),
    "a guard's web page with a comment": (403, {}, b"<!-- cdn --><html>Access denied</html>"),
    "a page's middle": (403, {"Content-Type": "text/html; charset=utf-8"}, b"<h1>Blocked</h1>"),
}


@pytest.mark.parametrize(("status", "headers", "members"), PASSING.values(), ids=PASSING)
def test_v3_t1_passing_trouble_logs_nobody_out(status: int, headers: dict[str, str], members: Any) -> None:
    assert verdict(members, status, headers=headers) is Verdict.PASSING


@pytest.mark.parametrize(
    ("status", "headers", "members"),
    [(400, {"Retry-After": "5"}, {"error": "invalid_grant"}), (401, {"Retry-After": "5"}, {"error": "invalid_client"})],
)
def test_v3_a_pause_is_asked_for_in_vain_where_the_error_is_clear(
    status: int, headers: dict[str, str], members: Any
) -> None:
    failure = fail(members, status, headers)
    assert failure.verdict is not Verdict.PASSING
    assert failure.retry_after is None


# V6: whom a pause is for


@pytest.mark.parametrize(
    ("status", "headers", "members", "holds"),
    [
        (429, {}, {}, True),
        (429, {"Retry-After": "1"}, {}, True),
        (403, {}, {"error": "rate_limit_exceeded"}, True),
        (200, {}, {"ok": False, "error": "ratelimited"}, True),
        (403, {"Retry-After": "20"}, {"message": "secondary rate limit"}, True),
        (503, {"Retry-After": "20"}, {}, True),
        (503, {}, {}, False),
        (400, {}, {"error": "server_error"}, False),
        (400, {}, {"error": "slow_down"}, False),
        (400, {}, described("invalid_grant", "token request is already being processed"), False),
        (409, {}, {}, False),
        (400, {}, {"error": "invalid_grant"}, False),
    ],
)
def test_v6_only_a_limit_or_a_wish_holds_the_provider(
    status: int, headers: dict[str, str], members: Any, holds: bool
) -> None:
    assert fail(members, status, headers).holds_provider is holds


@pytest.mark.parametrize(
    ("status", "members", "code"),
    [
        (429, {}, "rate_limited"),
        (403, {"error": "rate_limit_exceeded"}, "rate_limited"),
        (503, {}, "server_error"),
        (400, {"error": "server_error"}, "server_error"),
        (302, {}, "redirected"),
        (404, {}, "http_404"),
        (400, {"error": "odd"}, "odd"),
        (400, {"error": {"code": "odd"}}, "odd"),
        (401, {"error": "invalid_client"}, "invalid_client"),
    ],
)
def test_a_code_names_the_kind_of_failure(status: int, members: Any, code: str) -> None:
    assert fail(members, status).code == code


# V9: too early


@pytest.mark.parametrize(
    "description",
    [
        "Rate limit exceeded: access_token not expired",
        "The access token has not expired yet",
        "access token is not yet expired",
        "access token still valid",
        "The access_token hasn't expired",
        "Token has not expired",
        "The token is still valid",
        "It is too early to refresh",
        "Token refreshed too soon",
    ],
)
@pytest.mark.parametrize("error", ["access_denied", "invalid_grant", "invalid_request"])
def test_v9_too_early_is_neither_a_refusal_nor_trouble(error: str, description: str) -> None:
    failure = fail(described(error, description), 401)
    assert (failure.verdict, failure.code, failure.holds_provider) == (Verdict.NOT_YET, "not_yet", False)


# Profiles


def test_v2_a_profiles_rules_come_first_and_in_their_order() -> None:
    odd = Profile(
        name="odd",
        error_rules=(
            ErrorRule(Verdict.NOT_YET, error="invalid_grant", words="early"),
            ErrorRule(Verdict.PASSING, error="INVALID_GRANT"),
            ErrorRule(Verdict.REFUSED, status=500, words="Grant Is Dead"),
        ),
    )
    assert verdict(described("invalid_grant", "Too early"), profile=odd) is Verdict.NOT_YET
    assert verdict({"error": "invalid_grant"}, profile=odd) is Verdict.PASSING
    assert verdict({"message": "the grant is dead"}, 500, profile=odd) is Verdict.REFUSED
    assert verdict({"message": "the grant is dead"}, 503, profile=odd) is Verdict.PASSING


def test_v2_a_profiles_function_is_asked_after_its_rules_and_may_leave_it_to_the_rest() -> None:
    seen: list[ErrorReply] = []

    def classify(reply: ErrorReply) -> Verdict | None:
        seen.append(reply)
        return Verdict.REFUSED if reply.members.get("n") == 1 else None

    odd = Profile(name="odd", classify=classify, error_rules=(ErrorRule(Verdict.PASSING, error="ruled"),))
    assert verdict({"n": 1, "error": "ruled"}, profile=odd) is Verdict.PASSING
    assert verdict({"n": 1}, 503, profile=odd) is Verdict.REFUSED
    assert verdict({"n": 2, "error": "Invalid_Client", "message": "Why not"}, 401, profile=odd) is Verdict.MISCONFIGURED
    assert (seen[-1].status, seen[-1].codes, seen[-1].words) == (401, ("invalid_client",), "why not")


def test_v2_a_profiles_function_that_fails_hides_nothing(caplog: pytest.LogCaptureFixture) -> None:
    def classify(reply: ErrorReply) -> Verdict | None:
        raise KeyError("canary")

    assert verdict({"error": "invalid_grant"}, profile=Profile(name="odd", classify=classify)) is Verdict.REFUSED
    assert "KeyError" in caplog.text
    assert "canary" not in caplog.text


# Details


@pytest.mark.parametrize(
    ("members", "detail"),
    [
        ({"error": "invalid_grant", "suberror": "consent_required"}, "consent_required"),
        ({"error": "invalid_grant", "error_subtype": "invalid_rapt"}, "invalid_rapt"),
        ({"error": "invalid_grant", "reason": "Invalid Token!"}, "Invalid Token!"),
        ({"error": {"code": "invalid_grant"}}, "invalid_grant"),
        ({"error": "invalid_grant"}, None),
        ({"error": "invalid_grant", "suberror": 7}, None),
    ],
)
def test_v2_a_finer_code_is_kept_as_detail(members: Any, detail: str | None) -> None:
    assert fail(members).detail == detail


@pytest.mark.parametrize(
    "claims", ['{"access_token":{"acrs":{"essential":true,"value":"c1"}}}', '{"a": "é"}'[:8] + '"}']
)
def test_v2_claims_are_kept_as_they_are_for_the_next_login(claims: str) -> None:
    failure = fail({"error": "interaction_required", "claims": claims})
    assert failure.claims == claims
    assert claims not in repr(failure)


@pytest.mark.parametrize("claims", [7, {}, "", "x" * (MAX_CLAIMS_LENGTH + 1), "a\nb", '{"x":"rt-secret-0123"}'])
def test_v2_claims_that_no_request_should_carry_are_dropped(claims: object) -> None:
    assert fail({"error": "interaction_required", "claims": claims}, secrets=["rt-secret-0123"]).claims is None


@pytest.mark.parametrize(
    ("members", "description"),
    [
        (described("odd", "why"), "why"),
        ({"error": {"message": "why", "code": 7}}, "why"),
        ({"errors": [{"message": "why not", "errorType": "odd"}]}, "why not"),
        ({"errorCode": "odd", "errorSummary": "why not"}, "why not"),
        ({"error": "odd"}, None),
    ],
)
def test_the_best_sentence_is_shown(members: Any, description: str | None) -> None:
    assert fail(members).error_description == description


@pytest.mark.parametrize("value", [5, ["invalid_grant"], {"code": "invalid_grant"}, None, "", "\n"])
def test_an_error_that_is_no_text_is_not_shown_as_one(value: object) -> None:
    assert fail({"error": value, "error_description": value}).error is None
