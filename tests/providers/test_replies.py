"""What each reply of a token endpoint means."""

import json
import time
from collections.abc import Mapping
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime

import pytest
import time_machine
from hypothesis import example, given, settings
from hypothesis import strategies as st

from kit.strategies import json_values
from tokenflight import profiles
from tokenflight._checks import MAX_SHOWN_LENGTH
from tokenflight.errors import (
    InvalidProviderResponse,
    ProviderMisconfigured,
    ProviderUnavailable,
    ReauthenticationRequired,
    TokenRefreshError,
)
from tokenflight.providers._replies.pauses import MAX_RETRY_AFTER_SECONDS
from tokenflight.providers.base import PartialRenewal
from tokenflight.providers.client_auth import ClientAuthentication, ClientSecretBasic, ClientSecretPost
from tokenflight.providers.grants import refresh_token_grant
from tokenflight.providers.metadata import ServerMetadata
from tokenflight.providers.replies import Reply, parse_token_reply
from tokenflight.providers.requests import Request, build_token_request
from tokenflight.tokens import TokenSet

NOW = 1_800_000_000.0
ENDPOINT = "https://idp.example/token"
REFRESH_TOKEN = "1//0rt-canary+/=="
PREVIOUS = TokenSet(
    "at-canary", refresh_token=REFRESH_TOKEN, scope="a b", id_token="idt", expires_at=NOW, extra={"k": "v"}
)
REQUEST = build_token_request(ENDPOINT, refresh_token_grant(REFRESH_TOKEN))


def parse(reply: Reply, previous: TokenSet | None = PREVIOUS, *, request: Request = REQUEST) -> TokenSet:
    return parse_token_reply(reply, request=request, previous=previous, sent_at=NOW, user_id="alice", provider="idp")


def reply(members: object, status: int = 200, headers: Mapping[str, str] | None = None) -> Reply:
    return Reply(status, headers or {}, json.dumps(members).encode())


def error_in(
    given_reply: Reply, previous: TokenSet | None = PREVIOUS, *, request: Request = REQUEST
) -> TokenRefreshError:
    with pytest.raises(TokenRefreshError) as caught:
        parse(given_reply, previous, request=request)
    assert (caught.value.user_id, caught.value.provider) == ("alice", "idp")
    return caught.value


def test_l1_a_reply_shows_nothing_of_its_body() -> None:
    assert "at2" not in repr(reply({"access_token": "at2"}))


# Replies that succeed


def test_r2_the_lifetime_counts_from_when_the_request_was_sent() -> None:
    with time_machine.travel(NOW + 20, tick=False):
        tokens = parse(reply({"access_token": "at2", "expires_in": 60}))

    assert (tokens.issued_at, tokens.expires_at) == (NOW, NOW + 60)


def test_r1_what_a_reply_leaves_out_is_kept() -> None:
    tokens = parse(reply({"access_token": "at2"}))

    assert tokens == TokenSet(
        "at2", refresh_token=REFRESH_TOKEN, scope="a b", id_token="idt", issued_at=NOW, extra={"k": "v"}
    )


def test_r12_the_last_issued_refresh_token_is_the_one_kept() -> None:
    tokens = parse(reply({"access_token": "at2", "refresh_token": "rt2", "scope": "a", "id_token": "idt2", "k": "v2"}))

    assert tokens == TokenSet("at2", refresh_token="rt2", scope="a", id_token="idt2", issued_at=NOW, extra={"k": "v2"})


def test_r1_an_empty_refresh_token_does_not_erase_the_old_one() -> None:
    assert parse(reply({"access_token": "at2", "refresh_token": ""})).refresh_token == REFRESH_TOKEN
    assert parse(reply({"access_token": "at2", "refresh_token": None})).refresh_token == REFRESH_TOKEN


@pytest.mark.parametrize("expires_in", [None, "soon", -1, 0, 1e300, True, "NaN", []])
def test_r3_a_lifetime_that_makes_no_sense_is_unknown_and_not_the_old_one(expires_in: object) -> None:
    assert parse(reply({"access_token": "at2", "expires_in": expires_in})).expires_at is None


def test_r3_not_a_number_is_unknown() -> None:
    assert parse(Reply(200, {}, b'{"access_token": "at2", "expires_in": NaN}')).expires_at is None


@pytest.mark.parametrize("status", [200, 201, 299])
def test_any_success_status_will_do(status: int) -> None:
    assert parse(reply({"access_token": "at2"}, status), None).access_token == "at2"


# Replies that break the protocol

BROKEN_BODIES = {
    "empty": b"",
    "HTML": b"<!doctype html><title>Sign in</title>",
    "truncated": b'{"access_token": "at2", "expires_in": 36',
    "an array": b'[{"access_token": "at2"}]',
    "a string": b'"at2"',
    "null": b"null",
    "compressed": b"\x1f\x8b\x08\x00\x00\x00\x00\x00",
    "a hundred thousand arrays": b"[" * 100_000,
    "nested garbage": b'{"access_token": "at2", "x": ' + b"[" * 100_000 + b"]" * 100_000 + b"}",
    "nested objects": b'{"access_token": "at2", "x": ' + b'{"x":' * 100_000 + b"1" + b"}" * 100_001,
    "nested 900 deep": b'{"access_token": "at2", "x": ' + b"[" * 900 + b"]" * 900 + b"}",
    "two access tokens": b'{"access_token": "at2", "access_token": "at3"}',
    "two values deep down": b'{"access_token": "at2", "x": {"y": 1, "y": 2}}',
    "too long a number": b'{"access_token": "at2", "expires_in": ' + b"9" * 5_000 + b"}",
    "no access token": b"{}",
    "an empty access token": b'{"access_token": ""}',
    "an access token with a newline": b'{"access_token": "at2\\r\\nX-Admin: 1"}',
    "a numeric access token": b'{"access_token": 2}',
    "a MAC token": b'{"access_token": "at2", "token_type": "mac"}',
    "an odd token type": b'{"access_token": "at2", "token_type": ["Bearer"]}',
}


@pytest.mark.parametrize("body", BROKEN_BODIES.values(), ids=BROKEN_BODIES)
def test_r6_a_success_that_is_none_is_an_invalid_response(body: bytes) -> None:
    error = error_in(Reply(200, {}, body))

    assert type(error) is InvalidProviderResponse
    assert error.code == "outcome_unknown"
    assert "status 200" in str(error)
    assert "the stored one may be spent" in str(error)
    assert "unchanged" not in str(error)


@pytest.mark.parametrize("body", BROKEN_BODIES.values(), ids=BROKEN_BODIES)
def test_l1_an_invalid_response_shows_nothing_of_the_body_and_has_no_cause_that_does(body: bytes) -> None:
    error = error_in(Reply(200, {}, body))

    assert "at2" not in str(error)
    assert error.__cause__ is None
    assert error.__context__ is None


def test_r6_a_reply_of_a_million_nested_arrays_is_refused_in_a_moment() -> None:
    before = time.perf_counter()
    error = error_in(Reply(200, {}, b'{"access_token":"at2","x":' + b"[" * 1_000_000))

    assert type(error) is InvalidProviderResponse
    assert time.perf_counter() - before < 5


ODD_SUCCESSES = {
    "a form": b"access_token=at2&token_type=Bearer&refresh_token=rt2",
    "UTF-16": '{"access_token": "at2", "refresh_token": "rt2"}'.encode("utf-16"),
    "Latin-1": '{"access_token": "at2", "refresh_token": "rt2", "user": "é"}'.encode("latin-1"),
    "a byte order mark": b'\xef\xbb\xbf{"access_token": "at2", "refresh_token": "rt2"}',
    "a refresh token with a newline": b'{"access_token": "at2", "refresh_token": "rt2\\n"}',
}


@pytest.mark.parametrize("body", ODD_SUCCESSES.values(), ids=ODD_SUCCESSES)
def test_v1_a_success_in_an_odd_form_is_a_renewal(body: bytes) -> None:
    tokens = parse(Reply(200, {}, body))

    assert (tokens.access_token, tokens.refresh_token, tokens.id_token) == ("at2", "rt2", "idt")


UNUSABLE_BODIES = {
    "no access token": b'{"refresh_token": "rt2-canary"}',
    "truncated": b'{"refresh_token": "rt2-canary", "access_token": "at2',
    "a MAC token": b'{"refresh_token": "rt2-canary", "access_token": "at2", "token_type": "mac"}',
    "two access tokens": b'{"refresh_token": "rt2-canary", "access_token": "at2", "access_token": "at3"}',
}


@pytest.mark.parametrize("body", UNUSABLE_BODIES.values(), ids=UNUSABLE_BODIES)
def test_v1_a_success_that_will_not_do_gives_its_refresh_token_beside_the_old_access_token(body: bytes) -> None:
    with pytest.raises(PartialRenewal) as caught:
        parse(Reply(200, {}, body), replace(PREVIOUS, refresh_token_expires_at=NOW + 60))

    assert caught.value.tokens == replace(PREVIOUS, refresh_token="rt2-canary")
    error = caught.value.error
    assert type(error) is InvalidProviderResponse
    assert (error.code, error.user_id, error.provider) == ("invalid_response", "alice", "idp")
    assert "unchanged" not in str(error)
    assert "canary" not in f"{error} {caught.value}"


def test_v1_a_refresh_token_is_kept_even_where_nothing_was_known_before() -> None:
    with pytest.raises(PartialRenewal) as caught:
        parse(reply({"refresh_token": "rt2"}), None)

    assert caught.value.tokens == TokenSet("", refresh_token="rt2")


def test_v8_v11_members_live_on_and_the_life_of_the_refresh_token_is_kept() -> None:
    tokens = parse(reply({"access_token": "at2", "refresh_token_expires_in": 90, "refresh_in": 30, "realmId": "1"}))

    assert tokens.extra == {"k": "v", "realmId": "1"}
    assert (tokens.refresh_token_expires_at, tokens.refresh_at) == (NOW + 90, NOW + 30)


# Replies that refuse


def test_v2_an_error_in_a_success_is_a_refusal() -> None:
    refused = error_in(reply({"error": "invalid_grant", "error_subtype": "invalid_rapt", "claims": '{"a":{}}'}))

    assert isinstance(refused, ReauthenticationRequired)
    assert (refused.reason, refused.detail, refused.claims) == ("refused", "invalid_rapt", '{"a":{}}')


@pytest.mark.parametrize(("expires_at", "seconds"), [(NOW + 150, 120), (NOW + 10, None), (None, None)])
def test_v9_too_early_says_when_the_vendor_allows_a_renewal(expires_at: float | None, seconds: float | None) -> None:
    with time_machine.travel(NOW, tick=False), pytest.raises(ProviderUnavailable) as caught:
        parse_token_reply(
            reply({"error_description": "access_token not expired"}, 401),
            request=REQUEST,
            previous=replace(PREVIOUS, expires_at=expires_at),
            sent_at=NOW,
            user_id="alice",
            provider="idp",
            profile=profiles.EXACT_ONLINE,
        )

    assert (caught.value.code, caught.value.retry_after) == ("not_yet", seconds)


@pytest.mark.parametrize(
    "error",
    ["invalid_grant", "interaction_required", "login_required", "consent_required", "account_selection_required"],
)
@pytest.mark.parametrize("status", [400, 401, 403])
def test_a_refused_refresh_token_sends_the_user_through_login(error: str, status: int) -> None:
    refused = error_in(reply({"error": error, "error_description": "expired"}, status))

    assert isinstance(refused, ReauthenticationRequired)
    assert (refused.reason, refused.error, refused.error_description) == ("refused", error, "expired")
    assert "log" in str(refused)


@pytest.mark.parametrize(
    "error", ["invalid_client", "unauthorized_client", "unsupported_grant_type", "invalid_scope", "odd"]
)
@pytest.mark.parametrize("status", [400, 401, 403])
def test_t2_an_error_that_login_cannot_mend_is_a_misconfiguration(error: str, status: int) -> None:
    wrong = error_in(reply({"error": error, "error_description": "why"}, status))

    assert type(wrong) is ProviderMisconfigured
    assert (wrong.code, wrong.error, wrong.error_description) == (error, error, "why")


@pytest.mark.parametrize("status", [500, 501, 502, 503, 504, 599])
@pytest.mark.parametrize("error", ["invalid_grant", "invalid_client", "server_error", None])
def test_t1_a_failing_server_is_transient_whatever_it_says(status: int, error: str | None) -> None:
    failing = error_in(reply({"error": error}, status))

    assert type(failing) is ProviderUnavailable
    assert (failing.code, failing.error, failing.retry_after) == ("server_error", error, None)


@pytest.mark.parametrize("body", [b"", b"<h1>502 Bad Gateway</h1>", b"[" * 100_000])
def test_t1_a_failing_server_is_transient_whatever_its_body(body: bytes) -> None:
    assert type(error_in(Reply(502, {}, body))) is ProviderUnavailable


@pytest.mark.parametrize("error", ["server_error", "temporarily_unavailable", "slow_down"])
def test_t1_an_error_that_passes_is_transient_whatever_its_status(error: str) -> None:
    assert type(error_in(reply({"error": error}, 400))) is ProviderUnavailable


@pytest.mark.parametrize(("status", "code"), [(429, "rate_limited"), (408, "server_error"), (425, "server_error")])
def test_t5_a_busy_server_is_transient_even_with_words_of_refusal(status: int, code: str) -> None:
    busy = error_in(reply({"error": "invalid_grant"}, status))

    assert type(busy) is ProviderUnavailable
    assert busy.code == code


@pytest.mark.parametrize("status", [300, 301, 302, 303, 307, 308, 399])
def test_r7_a_redirect_is_an_error(status: int) -> None:
    redirected = error_in(reply({"error": "invalid_grant"}, status, {"location": "https://evil.example/token"}))

    assert type(redirected) is ProviderMisconfigured
    assert redirected.code == "redirected"


@pytest.mark.parametrize("status", [400, 422])
def test_r6_a_refusal_without_an_error_is_an_invalid_response(status: int) -> None:
    assert type(error_in(Reply(status, {}, b"<h1>no</h1>"))) is InvalidProviderResponse


@pytest.mark.parametrize("status", [100, 199, 401, 403, 404, 405, 415, 499])
def test_any_other_status_points_at_the_configuration(status: int) -> None:
    wrong = error_in(Reply(status, {}, b"<h1>no</h1>"))

    assert type(wrong) is ProviderMisconfigured
    assert (wrong.code, wrong.error) == (f"http_{status}", None)


# How long to wait


@pytest.mark.parametrize(
    ("value", "seconds"),
    [
        ("0", 0),
        ("120", 120),
        ("1.5", 1.5),
        (" 120 ", 120),
        ("3600", 3600),
        ("3601", MAX_RETRY_AFTER_SECONDS),
        ("9999999999", MAX_RETRY_AFTER_SECONDS),
        ("9" * 30, MAX_RETRY_AFTER_SECONDS),
        (format_datetime(datetime.fromtimestamp(NOW + 90, UTC), usegmt=True), 90),
        (format_datetime(datetime.fromtimestamp(NOW + 90, UTC).replace(tzinfo=None)), 90),
        (format_datetime(datetime.fromtimestamp(NOW - 90, UTC), usegmt=True), 0),
        (format_datetime(datetime.fromtimestamp(NOW, UTC) + timedelta(days=9), usegmt=True), MAX_RETRY_AFTER_SECONDS),
    ],
)
@pytest.mark.parametrize("status", [429, 503])
def test_t5_retry_after_is_read_in_seconds_or_as_a_date_and_capped(value: str, seconds: float, status: int) -> None:
    with time_machine.travel(NOW, tick=False):
        busy = error_in(reply({}, status, {"retry-after": value}))

    assert isinstance(busy, ProviderUnavailable)
    assert busy.retry_after == seconds


@pytest.mark.parametrize("value", ["", "soon", "-1", "1e3", "0x10", "²", "Fri, 99 Jan 2027 08:00:00 GMT", "120, 120"])
def test_t5_a_retry_after_that_makes_no_sense_is_ignored(value: str) -> None:
    busy = error_in(reply({}, 429, {"retry-after": value}))

    assert isinstance(busy, ProviderUnavailable)
    assert busy.retry_after is None


# The provider's words


def test_l1_an_error_description_is_shortened_and_its_control_characters_go() -> None:
    error = error_in(reply({"error": "odd\x1b[31m", "error_description": "one\r\ntwo\x00\u202e" + "x" * 10_000}, 400))

    assert error.error == "odd [31m"
    assert error.error_description is not None
    assert error.error_description.startswith("one two x")
    assert len(error.error_description) <= MAX_SHOWN_LENGTH
    assert "x" * MAX_SHOWN_LENGTH not in str(error)


@pytest.mark.parametrize("value", [5, ["invalid_grant"], {"code": "invalid_grant"}, None, "", "\n"])
def test_an_error_that_is_no_text_is_no_error(value: object) -> None:
    assert error_in(reply({"error": value, "error_description": value}, 400)).error is None


@pytest.mark.parametrize("status", [200, 302, 400, 401, 429, 503])
@pytest.mark.parametrize("echo", [REFRESH_TOKEN, "at-canary", "1%2F%2F0rt-canary%2B%2F%3D%3D"])
def test_l1_no_error_echoes_a_token_however_the_provider_wrote_it(status: int, echo: str) -> None:
    said = f"the token {echo} is no good, {echo}!"
    error = error_in(reply({"error": said, "error_description": said}, status))

    shown = f"{error} {error.code} {error.error} {error.error_description} {error.args} {vars(error)}"
    assert "canary" not in shown


@given(
    st.text("abc123_-", min_size=8, max_size=20),
    st.text("abc123_-", min_size=8, max_size=20),
    st.text(max_size=300),
    st.text(max_size=300),
)
@example("abcabcab", "abcabcabc123", "x" * 195, "")
def test_l1_no_surroundings_make_an_error_echo_a_token(refresh: str, access: str, before: str, after: str) -> None:
    said = f"{before}{refresh} {access}{after}"
    error = error_in(reply({"error_description": said}, 401), TokenSet(access, refresh_token=refresh))

    assert refresh not in f"{error} {error.error_description}"
    assert access not in f"{error} {error.error_description}"


# Whatever arrives

bodies = (
    st.binary(max_size=200)
    | json_values.map(lambda value: json.dumps(value).encode())
    | st.dictionaries(
        st.sampled_from(["access_token", "refresh_token", "token_type", "expires_in", "error", "error_description"]),
        json_values | st.sampled_from(["at", "Bearer", "invalid_grant", "server_error", 3600]),
    ).map(lambda members: json.dumps(members).encode())
)
statuses = st.sampled_from([200, 400, 401, 429, 503]) | st.integers(100, 599)
headers = st.dictionaries(
    st.sampled_from(["retry-after", "location", "content-type"]),
    st.text()
    | st.lists(st.sampled_from(["Fri,", "15", "Jan", "2027", "08:00:00", "GMT", "+9999", "1e9"])).map(" ".join),
)


@settings(max_examples=300)
@given(status=statuses, headers=headers, body=bodies, previous=st.sampled_from([None, PREVIOUS]))
def test_r6_whatever_arrives_is_a_token_set_or_an_error_of_the_tree(
    status: int, headers: dict[str, str], body: bytes, previous: TokenSet | None
) -> None:
    outcome: TokenSet | TokenRefreshError
    try:
        outcome = parse(Reply(status, headers, body), previous)
    except TokenRefreshError as error:
        outcome = error
    except PartialRenewal as partial:
        outcome = partial.error

    assert isinstance(outcome, TokenRefreshError) or 200 <= status < 300
    assert isinstance(outcome, TokenRefreshError) or outcome.refresh_token or previous is None
    assert REFRESH_TOKEN not in f"{outcome} {outcome!r}"


@pytest.mark.parametrize("client", [ClientSecretBasic("app", "s3 cr&t+"), ClientSecretPost("app", "s3 cr&t+")])
@pytest.mark.parametrize("echoed", ["s3 cr&t+", "s3+cr%26t%2B", "s3%20cr%26t%2B", "s3+cr%26t%2b"])
async def test_l1_a_client_secret_that_the_provider_echoes_is_not_shown(
    client: ClientAuthentication, echoed: str
) -> None:
    request = await client.authenticate(REQUEST, ServerMetadata(token_endpoint=ENDPOINT))
    answer = reply({"error": "invalid_client", "error_description": f"wrong secret {echoed}!"}, 401)
    error = error_in(answer, None, request=request)

    assert type(error) is ProviderMisconfigured
    assert error.error_description in {"wrong secret ***!", None}
    assert "s3" not in f"{error} {vars(error)}"


def test_an_error_that_contains_a_secret_is_still_understood() -> None:
    request = Request(ENDPOINT, {}, secrets=frozenset({"grant"}))
    error = error_in(reply({"error": "invalid_grant"}, 400), None, request=request)

    assert type(error) is ReauthenticationRequired
    assert error.error == "invalid_grant"


def test_l1_a_secret_that_another_one_begins_with_leaves_no_rest_of_the_longer_one() -> None:
    request = Request(ENDPOINT, {}, secrets=frozenset({"canary", "canary-0123", ""}))
    error = error_in(reply({"error": "odd", "error_description": "no canary-0123"}, 400), None, request=request)

    assert error.error_description is None


@pytest.mark.parametrize("year", ["99999999999999999999", "2024 00:00:00 +99999999999999"])
def test_t5_a_retry_after_that_is_no_moment_says_nothing(year: str) -> None:
    busy = error_in(Reply(503, {"retry-after": f"Mon, 1 Jan {year} 00:00:00 GMT"}, b""))

    assert isinstance(busy, ProviderUnavailable)
    assert busy.retry_after is None
