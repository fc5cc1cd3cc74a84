"""V2, V3, V9: one code for several causes, and the words that tell them apart."""

import json
import time
from dataclasses import replace
from typing import Any, Final

import pytest

from kit.reply_cases import NOW
from tokenflight import profiles
from tokenflight.profiles import STANDARD, ErrorRule, Profile, Verdict
from tokenflight.providers._replies.classification import Failure
from tokenflight.providers._replies.reading import read_token_reply


def fail(members: Any, status: int, headers: dict[str, str] | None = None, profile: Profile = STANDARD) -> Failure:
    body = members if isinstance(members, bytes) else json.dumps(members).encode()
    reading = read_token_reply(status, headers or {}, body, now=NOW, profile=profile)
    assert isinstance(reading, Failure), reading
    return reading


def described(error: str, description: str) -> dict[str, str]:
    return {"error": error, "error_description": description}


INVALID_GRANT: Final = {
    Verdict.MISCONFIGURED: (
        "redirect_uri mismatch",
        "Redirect URI mismatch.",
        "unknown client",
        "Invalid client",
        "client disabled",
        "The client is not allowed to use refresh tokens",
        "Missing parameters: refresh_token",
        "Required parameters are missing",
        "invalid scope",
        "Refresh tokens are not enabled for this client",
    ),
    Verdict.PASSING: (
        "Session doesn't have required client",
        "A transient error has occurred. Please try again.",
        "Server busy, please retry",
        "Please try again",
        "A database error occurred",
        "server overloaded",
        "Too many concurrent requests",
        "temporary",
        "The request timed out",
        "Too many refresh token requests",
        "API calls quota exceeded! maximum admitted 60 per minute",
        "Maximum number of requests exceeded",
        "Database connection failed",
        "Connection reset",
        "could not acquire lock",
        "deadlock detected",
        "The upstream server is timing out",
        "We are experiencing technical difficulties",
        "Unable to process the request at this time",
    ),
    Verdict.REFUSED: (
        "Session timed out",
        "Your session has timed out. Please login again.",
        "the refresh token timed out",
        "The refresh token is invalid, expired, revoked, does not match the redirect URI, or belongs to another client",
        "The provided grant is expired, revoked or does not match the redirect_uri",
        "The refresh token is invalid for this client",
        "The client is not allowed to use this refresh token",
        "Invalid refresh token. Please try again",
        "Please sign in and try again",
        "Wrong password, try again",
        "User is inactive. Try again",
        "Temporary access revoked",
        "Invalid refresh token; check the redirect_uri",
        "Maximum allowed refresh token reuse exceeded",
        "refresh token limit exceeded",
        "Refresh tokens are not reusable",
        "max number of refresh tokens exceeded",
        "The session is no longer active",
    ),
}


@pytest.mark.parametrize(
    ("description", "verdict"), [(text, verdict) for verdict, texts in INVALID_GRANT.items() for text in texts]
)
def test_v2_the_words_beside_invalid_grant_decide(description: str, verdict: Verdict) -> None:
    assert fail(described("invalid_grant", description), 400).verdict is verdict


@pytest.mark.parametrize(
    "members",
    [
        described("invalid_request", "Parameter refresh_token has invalid format"),
        described("invalid_request", "refresh_token: invalid type"),
        described("invalid_request", "Refresh token rotation is invalid for public clients"),
        described("invalid_request", "refresh_token grant is rejected for this app"),
        described("invalid_request", "The refresh token's client has been deleted"),
        described("invalid_request", "Reauthenticate the client"),
        described("invalid_request", "Please reauthorize your developer application"),
        described("invalid_request", "Your developer token is expired"),
        described("invalid_request", "The partner token has expired"),
        described("invalid_request", "The software token is revoked"),
        described("invalid_request", "The cookie token has expired"),
        described("invalid_request", "DPoP proof token expired"),
        described("invalid_request", "The access token is not active"),
        described("invalid_request", "Client session not active"),
        described("invalid_request", "The refresh_token grant is not active"),
        described("invalid_request", "Incorrect refresh token format"),
        described("invalid_request", "missing access or refresh token"),
        {"type": "https://x.example/problems/invalid_client", "status": 400},
        {"error": "urn:x:errors:invalid_client", "error_description": "Refresh token expired"},
        {"__type": "ExpiredTokenException", "message": "The security token included in the request is expired"},
        {"status": 400, "message": "invalid client"},
        {"message": "missing refresh token"},
        {"message": "invalid grant type"},
        {"errors": {"refresh_token": ["This field is required."]}},
    ],
)
def test_v2_t2_a_fault_of_the_request_or_of_another_token_logs_nobody_out(members: Any) -> None:
    assert fail(members, 400).verdict is Verdict.MISCONFIGURED


@pytest.mark.parametrize(
    ("headers", "members", "profile"),
    [
        ({"X-RateLimit-Remaining": "0"}, {"message": "API rate limit exceeded"}, STANDARD),
        ({}, {"message": "Too Many Requests"}, STANDARD),
        ({}, {"message": "Application request limit reached"}, STANDARD),
        ({}, {"message": "limit exceeded"}, STANDARD),
        ({}, {"error": {"errors": [{"reason": "dailyLimitExceeded"}]}}, STANDARD),
        ({}, {"__type": "LimitExceededException"}, STANDARD),
        ({}, {"error": "over_query_limit"}, STANDARD),
        ({}, {"error": "quota_exceeded"}, STANDARD),
        ({}, {"error": "ProvisionedThroughputExceededException"}, STANDARD),
        ({}, {"errmsg": "reach max api daily quota limit", "errcode": 45009}, STANDARD),
        ({}, {"message": "slow down, please", "status": 429}, STANDARD),
        ({}, {"error": {"code": "429", "message": "m"}}, STANDARD),
        *(({}, {"error": {"message": "m", "code": code}}, profiles.FACEBOOK) for code in (4, 17, 32, 341, 613, 80_004)),
        ({}, {"status": 601}, profiles.WITHINGS),
        ({}, {"error": {"message": "Application request limit reached", "code": 4}}, profiles.FACEBOOK),
        ({}, {"error": {"message": "User request limit reached", "code": 17}}, profiles.FACEBOOK),
        ({}, {"status": 601, "error": "Too Many Requests"}, profiles.WITHINGS),
    ],
)
def test_v6_a_limit_told_by_words_is_a_limit(headers: dict[str, str], members: Any, profile: Profile) -> None:
    failure = fail(members, 403, {**headers, "X-RateLimit-Reset": str(int(NOW) + 60)}, profile)
    assert (failure.verdict, failure.code, failure.retry_after) == (Verdict.PASSING, "rate_limited", 60)


@pytest.mark.parametrize(
    ("members", "profile"),
    [
        ({"error": {"message": "m", "code": 1}}, profiles.FACEBOOK),
        ({"error": {"message": "m", "code": 2}}, profiles.INSTAGRAM),
        ({"status": 522}, profiles.WITHINGS),
    ],
)
def test_v6_an_outage_told_by_a_number_holds_no_other_user(members: Any, profile: Profile) -> None:
    failure = fail(members, 400, profile=profile)
    assert (failure.verdict, failure.code, failure.holds_provider) == (Verdict.PASSING, "server_error", False)


def test_v6_a_rule_of_ones_own_can_tell_a_limit() -> None:
    profile = replace(STANDARD, error_rules=(ErrorRule(Verdict.RATE_LIMITED, error="e-17"),))
    failure = fail({"error": "E-17"}, 400, {"X-RateLimit-Reset": "60"}, profile)
    assert (failure.verdict, failure.code, failure.retry_after) == (Verdict.PASSING, "rate_limited", 60)
    assert failure.holds_provider


def test_v2_facebooks_number_of_a_dead_token_may_be_a_text() -> None:
    assert fail({"error": {"message": "m", "code": "190"}}, 400, profile=profiles.FACEBOOK).verdict is Verdict.REFUSED


@pytest.mark.parametrize(
    ("headers", "members"),
    [
        ({}, {"error": {"message": "m", "code": 101, "is_transient": True}}),
        ({}, {"errors": [{"message": "m", "is_transient": True}]}),
        ({}, {"error": "server_unavailable"}),
        ({}, {"error": "fatal_error"}),
        ({}, {"error": "busy"}),
        ({}, {"error": "try_again"}),
        ({}, {"error": "retry_later"}),
        ({}, {"error": "transient"}),
        ({}, {"error": "temporary"}),
        ({}, {"error": "maintenance"}),
        ({}, {"error": "under_maintenance"}),
        ({}, {"error": "bad_gateway"}),
        ({}, {"error": "upstream_error"}),
        ({}, {"error": "system_error"}),
        ({}, {"error": "database_error"}),
        ({}, {"error": "server_overloaded"}),
        ({}, {"error": "lock_timeout"}),
        ({}, {"errcode": -1, "errmsg": "system error"}),
        ({}, {"error": "token_refresh_in_progress"}),
        ({}, {"error": "TOO_MANY_ATTEMPTS_TRY_LATER"}),
        ({}, {"type": "https://x.example/problems/temporarily-unavailable"}),
        ({"Content-Type": "text/plain"}, b"error code: 1020"),
        ({"Content-Type": "text/html"}, b""),
    ],
)
def test_v3_a_server_or_a_guard_in_trouble_logs_nobody_out(headers: dict[str, str], members: Any) -> None:
    assert fail(members, 403, headers).verdict is Verdict.PASSING


REFUSED_CODES: Final = (
    "token_already_used token_reused token_not_found unknown_token account_suspended account_deleted account_locked "
    "account_disabled user_deleted session_terminated session_invalid reauthorization_required bad_grant"
)


@pytest.mark.parametrize(
    "members",
    [
        *({"error": code} for code in REFUSED_CODES.split()),
        described("invalid_request", "Value passed for the token was invalid."),
        described("access_denied", "The user has revoked access to the application"),
        {"errors": ["invalid_grant"]},
        ["invalid_grant"],
        {"error": "invalid grant"},
        {"error": "invalid_request", "error_hint": "The refresh token is malformed or expired"},
        {"error": "urn:ietf:params:oauth:error:invalid_grant"},
        {"type": "https://x.example/problems#invalid_grant", "status": 400},
        {"type": "https://x.example/problems/refresh-token-expired", "status": 400},
        {"name": "InvalidGrantError", "message": "m"},
        {"messages": ["Refresh token expired"]},
        {"non_field_errors": ["Refresh token is invalid or expired"]},
        {"message": "Expired access/refresh token"},
        {"message": "The refresh token is unknown"},
        described("invalid_request", "Offline session not active"),
        described("invalid_request", "Token is not active"),
        {"error": "access_revoked"},
    ],
)
def test_v2_more_words_for_a_dead_grant(members: Any) -> None:
    assert fail(members, 400).verdict is Verdict.REFUSED


@pytest.mark.parametrize(
    "members",
    [
        {"error": "token_still_valid"},
        {"error": "access_token_not_expired"},
        described("invalid_request", "The token must be at least 24 hours old"),
    ],
)
def test_v9_too_early_in_a_code_or_in_hours(members: Any) -> None:
    assert fail(members, 400).verdict is Verdict.NOT_YET


@pytest.mark.parametrize(
    "members",
    [
        {"status": 401, "error": "XRequestID: Not provided invalid_token: The refresh token provided is invalid"},
        {"status": 503, "error": "Invalid Params: invalid refresh token"},
    ],
)
def test_v2_withings_writes_the_name_of_the_token_in_two_ways(members: Any) -> None:
    assert fail(members, 200, profile=profiles.WITHINGS).verdict is Verdict.REFUSED


def test_v3_keycloaks_race_of_two_sessions_passes() -> None:
    members = described("invalid_grant", "Session doesn't have required client")
    assert fail(members, 400, profile=profiles.KEYCLOAK).verdict is Verdict.PASSING


@pytest.mark.parametrize("word", ["bad", "token", "unable to process a", "too many a b c"])
def test_r6_an_error_of_many_long_sentences_takes_little_time(word: str) -> None:
    sentences = [{"code": f"a.b/{number}", "message": f"{f'{word} ' * 1000:.990}{number}"} for number in range(150)]
    began = time.process_time()
    fail({"error": "odd", "errors": sentences}, 400)
    assert time.process_time() - began < 0.3
