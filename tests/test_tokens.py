"""The token set: reading a reply, carrying over, comparing. Storing and redacting are tested beside this."""

import copy
import dataclasses
import math
import pickle
import time
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

import pytest
import time_machine
from hypothesis import given
from hypothesis import strategies as st

from kit.strategies import json_values, nested, token_sets
from tokenflight.errors import ConfigurationError, InvalidProviderResponse
from tokenflight.tokens import MAX_LIFETIME_SECONDS, TokenKey, TokenResult, TokenSet

NOW = 1_800_000_000
HOUR = 3600.0
ELEVEN_YEARS = 11 * 365 * 86_400
DEEPER_THAN_THE_STACK = 5_000
UNPRINTABLE = 10**5_000
"""More digits than Python is willing to print."""

FIELDS = [field.name for field in dataclasses.fields(TokenSet)]


def read(**members: Any) -> TokenSet:
    """What a reply with `members`, sent for at `NOW`, is read as."""
    return TokenSet.from_response({"access_token": "at", "token_type": "Bearer", **members}, received_at=NOW)


# What a token endpoint replies


def test_a_complete_reply_is_read_member_by_member() -> None:
    tokens = read(expires_in=3600, refresh_token="rt", scope="a b", id_token="idt", tenant="t1")

    assert tokens == TokenSet(
        access_token="at",
        token_type="Bearer",
        expires_at=NOW + HOUR,
        refresh_token="rt",
        scope="a b",
        id_token="idt",
        issued_at=NOW,
        extra={"tenant": "t1"},
    )


def test_r2_the_expiry_is_absolute_and_counted_from_when_the_request_was_sent() -> None:
    with time_machine.travel(NOW + 10, tick=False):
        tokens = TokenSet.from_response({"access_token": "at", "expires_in": 60}, received_at=NOW)

    assert (tokens.issued_at, tokens.expires_at) == (NOW, NOW + 60)


def test_r2_without_the_moment_of_sending_the_expiry_is_counted_from_now() -> None:
    with time_machine.travel(NOW, tick=False):
        tokens = TokenSet.from_response({"access_token": "at", "expires_in": 60})

    assert (tokens.issued_at, tokens.expires_at) == (NOW, NOW + 60)


@pytest.mark.parametrize("expires_in", [3600, 3600.0, "3600", "3600.0", " 3600 ", "3.6e3"])
def test_r3_a_lifetime_in_any_notation_of_a_number_is_parsed(expires_in: object) -> None:
    assert read(expires_in=expires_in).expires_at == NOW + HOUR


@pytest.mark.parametrize("expires_in", [0.5, MAX_LIFETIME_SECONDS])
def test_r3_the_shortest_and_the_longest_sensible_lifetimes_are_taken(expires_in: float) -> None:
    assert read(expires_in=expires_in).expires_at == NOW + expires_in


NO_LIFETIME: list[object] = [
    None,
    "",
    "soon",
    "1h",
    -1,
    "-1",
    0,
    "0",
    0.0,
    math.nan,
    "NaN",
    math.inf,
    "inf",
    -math.inf,
    True,
    False,
]
NO_LIFETIME += [[3600], {"seconds": 3600}, ELEVEN_YEARS, str(ELEVEN_YEARS), 10**400, "1" * 400, "\ud800"]


@pytest.mark.parametrize("expires_in", NO_LIFETIME, ids=lambda value: repr(value)[:20])
def test_r3_a_lifetime_that_makes_no_sense_is_unknown(expires_in: object) -> None:
    assert read(expires_in=expires_in).expires_at is None


def test_r3_a_missing_lifetime_is_unknown() -> None:
    assert read().expires_at is None
    assert read().lifetime is None


@pytest.mark.parametrize("expires_at", [NOW + HOUR, str(NOW + 3600), "2027-01-15T09:00:00Z"])
def test_r3_an_absolute_expiry_stands_in_for_a_missing_lifetime(expires_at: object) -> None:
    assert read(expires_at=expires_at).expires_at == NOW + HOUR


def test_r3_a_lifetime_comes_before_an_absolute_expiry() -> None:
    assert read(expires_in=60, expires_at=NOW + HOUR).expires_at == NOW + 60


@pytest.mark.parametrize("expires_at", [NOW + ELEVEN_YEARS, NOW * 1000, 1e300, "9999-12-31T00:00:00Z"])
def test_r3_an_absolute_expiry_too_far_away_is_unknown_and_not_cached_for_ever(expires_at: object) -> None:
    assert read(expires_at=expires_at).expires_at is None


@given(st.dictionaries(st.sampled_from(["expires_in", "expires_at", "scope", "id_token", "x"]), json_values))
def test_r3_r6_no_value_beside_the_tokens_makes_a_reply_unreadable(members: dict[str, Any]) -> None:
    assert read(**members).access_token == "at"


@given(st.dictionaries(st.sampled_from(["access_token", "refresh_token", "token_type", "expires_in"]), json_values))
def test_r6_whatever_a_reply_holds_it_is_read_or_refused_within_the_error_tree(members: dict[str, Any]) -> None:
    try:
        tokens = read(**members)
    except InvalidProviderResponse:
        return
    assert tokens.expires_at is None or NOW <= tokens.expires_at <= NOW + MAX_LIFETIME_SECONDS


@pytest.mark.parametrize("token", [None, "", 5, ["at"], "a\nb", "a\r\nX-Admin: 1", "a\x00", "a\x7f", "tök", "\ud800"])
def test_r6_a_reply_without_a_usable_access_token_is_refused(token: object) -> None:
    with pytest.raises(InvalidProviderResponse, match="no usable access_token"):
        read(access_token=token)


@pytest.mark.parametrize("token", [5, ["rt"], "a\nb", "tök", "\ud800"])
def test_r6_a_refresh_token_that_could_never_be_sent_is_refused(token: object) -> None:
    with pytest.raises(InvalidProviderResponse, match="no usable refresh_token"):
        read(refresh_token=token)


@pytest.mark.parametrize("token_type", ["mac", "MAC", "pop", "hok", 5, ["Bearer"], {"is": "Bearer"}])
def test_r6_a_token_type_that_is_no_text_or_demands_a_proof_other_than_dpop_is_refused(token_type: object) -> None:
    with pytest.raises(InvalidProviderResponse, match="token_type"):
        read(token_type=token_type)


@pytest.mark.parametrize("token_type", ["bot", "User Access Token", "N_A", "urn:x"])
def test_v1_a_token_type_that_is_unknown_is_that_of_a_bearer_token(token_type: object) -> None:
    assert read(token_type=token_type).token_type == "Bearer"


@pytest.mark.parametrize("token_type", ["Bearer", "bearer", "BEARER", "DPoP", "dpop"])
def test_the_token_type_is_read_whatever_its_case(token_type: str) -> None:
    assert read(token_type=token_type).token_type == token_type


@pytest.mark.parametrize("token_type", [None, ""])
def test_a_missing_token_type_means_bearer(token_type: object) -> None:
    assert read(token_type=token_type).token_type == "Bearer"


@pytest.mark.parametrize("response", [None, [], "at", 5, [("access_token", "at")]])
def test_r6_a_reply_that_is_no_object_is_refused(response: Any) -> None:
    with pytest.raises(InvalidProviderResponse, match="not a JSON object"):
        TokenSet.from_response(response)


def test_a_reply_nested_as_deep_as_any_provider_does_is_read() -> None:
    assert read(details=nested(20)).extra == {"details": nested(20)}


def test_r6_a_reply_nested_too_deeply_is_refused() -> None:
    with pytest.raises(InvalidProviderResponse):
        read(details=nested(DEEPER_THAN_THE_STACK))


@pytest.mark.parametrize(
    ("scope", "expected"), [("a b", "a b"), (["a", "b"], "a b"), ("", None), ([], None), (5, None)]
)
def test_the_scope_is_read_from_a_string_or_a_list(scope: object, expected: str | None) -> None:
    assert read(scope=scope).scope == expected


@pytest.mark.parametrize("value", [None, "", 5, ["x"]])
def test_optional_members_that_make_no_sense_are_left_out(value: object) -> None:
    assert read(id_token=value).id_token is None
    assert read(refresh_token="").refresh_token is None


# Renewing


def test_r1_a_reply_without_them_keeps_the_old_refresh_token_scope_and_id_token() -> None:
    previous = read(refresh_token="rt", scope="a b", id_token="idt")

    renewed = TokenSet("at2", expires_at=NOW + HOUR, issued_at=NOW).carrying_over(previous)

    assert renewed == TokenSet("at2", "Bearer", NOW + HOUR, "rt", "a b", "idt", NOW)


def test_r12_what_the_reply_brings_replaces_what_was_held() -> None:
    previous = read(refresh_token="rt", scope="a b", id_token="idt", tenant="t1", region="eu")
    newer = read(access_token="at2", refresh_token="rt2", scope="a", id_token="idt2", tenant="t2")

    assert newer.carrying_over(previous) == dataclasses.replace(newer, extra={"tenant": "t2", "region": "eu"})


def test_r1_with_nothing_to_carry_over_a_reply_stays_as_it_is() -> None:
    assert TokenSet("at").carrying_over(None) == TokenSet("at")


@given(token_sets, token_sets)
def test_r1_carrying_over_never_loses_a_refresh_token_and_never_keeps_an_old_expiry(
    new: TokenSet, old: TokenSet
) -> None:
    renewed = new.carrying_over(old)

    assert renewed.refresh_token == (new.refresh_token or old.refresh_token)
    assert (renewed.access_token, renewed.expires_at, renewed.issued_at) == (
        new.access_token,
        new.expires_at,
        new.issued_at,
    )


HELD = TokenSet("at", expires_at=NOW + 60, issued_at=NOW, refresh_token="rt")


@pytest.mark.parametrize(
    ("other", "supersedes"),
    [
        (dataclasses.replace(HELD, issued_at=NOW + 1, scope="the same access token"), True),
        (dataclasses.replace(HELD, access_token="at2", issued_at=NOW - 1), True),
        (dataclasses.replace(HELD, access_token="at2", issued_at=NOW + 1), False),
        (dataclasses.replace(HELD, access_token="at2", expires_at=NOW + 59), True),
        (dataclasses.replace(HELD, access_token="at2", expires_at=NOW + 61), False),
        (TokenSet("at2", refresh_token="rt"), True),
        (TokenSet("at2", refresh_token="rt2"), False),
    ],
)
def test_a_set_supersedes_what_came_before_it_as_far_as_the_two_tell(other: TokenSet, supersedes: bool) -> None:
    assert HELD.supersedes(other) is supersedes


def test_a_set_supersedes_the_one_whose_refresh_token_it_was_renewed_with() -> None:
    spent = dataclasses.replace(HELD, access_token="at0", refresh_token="rt0", issued_at=NOW + 1)

    assert HELD.supersedes(spent, spent="rt0")
    assert not HELD.supersedes(spent, spent="rt1")


@pytest.mark.parametrize(
    ("issued_at", "expires_at", "lifetime"),
    [(NOW, NOW + 60, 60), (None, NOW, None), (NOW, None, None), (NOW, NOW, None), (NOW, NOW - 1, None)],
)
def test_the_lifetime_is_known_only_where_both_its_ends_are(
    issued_at: float | None, expires_at: float | None, lifetime: float | None
) -> None:
    assert TokenSet("at", issued_at=issued_at, expires_at=expires_at).lifetime == lifetime


# The objects themselves


def test_a_result_gives_the_tokens_what_the_caller_needs_at_hand() -> None:
    result = TokenResult(HELD, should_update=True)

    assert (result.access_token, result.expires_at) == ("at", NOW + 60)


WRONG_SECONDS: list[object] = ["3600", "soon", math.nan, math.inf, True, 10**400, UNPRINTABLE, [], b"1"]
WRONG_TEXTS: list[object] = [5, b"x", ["x"], True]
WRONG_VALUES: dict[str, list[object]] = {
    "access_token": ["", None, *WRONG_TEXTS],
    "token_type": ["", None, *WRONG_TEXTS],
    "refresh_token": WRONG_TEXTS,
    "scope": WRONG_TEXTS,
    "id_token": WRONG_TEXTS,
    "expires_at": WRONG_SECONDS,
    "issued_at": WRONG_SECONDS,
    "refresh_token_expires_at": WRONG_SECONDS,
    "refresh_at": WRONG_SECONDS,
    "extra": [None, ["x"], "text", 5],
}


@pytest.mark.parametrize(
    ("field", "value"),
    [(field, value) for field, values in WRONG_VALUES.items() for value in values],
    ids=lambda value: value if isinstance(value, str) else type(value).__name__,
)
def test_a_wrong_constructor_argument_is_named(field: str, value: object) -> None:
    arguments: dict[str, Any] = {"access_token": "at", field: value}

    with pytest.raises(ConfigurationError, match=field):
        TokenSet(**arguments)


def test_a_moment_of_sending_that_is_no_number_is_a_configuration_error() -> None:
    with pytest.raises(ConfigurationError):
        TokenSet.from_response({"access_token": "at", "expires_in": 60}, received_at="now")  # type: ignore[arg-type] # the point


def test_a_token_set_cannot_be_changed() -> None:
    with pytest.raises(dataclasses.FrozenInstanceError):
        HELD.access_token = "at2"  # type: ignore[misc] # the point
    with pytest.raises((TypeError, AttributeError)):
        HELD.note = "x"  # type: ignore[attr-defined] # the point


def test_a_token_set_does_not_change_with_the_mapping_it_was_made_from() -> None:
    response = {"access_token": "at", "details": {"tenant": "t1"}}
    tokens = TokenSet.from_response(response, received_at=NOW)
    response["details"]["tenant"] = "t2"  # type: ignore[index] # a dict

    assert tokens.extra == {"details": {"tenant": "t1"}}


@given(token_sets)
def test_equal_token_sets_have_equal_hashes(tokens: TokenSet) -> None:
    again = TokenSet.from_dict(tokens.to_dict())

    assert (again, hash(again)) == (tokens, hash(tokens))


@pytest.mark.parametrize("field", FIELDS)
def test_token_sets_that_differ_in_one_field_are_not_equal(field: str) -> None:
    times = {"expires_at": 5, "issued_at": 5, "refresh_token_expires_at": 5, "refresh_at": 5}
    changed: Any = {**times, "extra": {"k": "v"}, "token_type": "DPoP"}.get(field, "other")

    assert dataclasses.replace(HELD, **{field: changed}) != HELD


@pytest.mark.parametrize("field", ["provider", "user_id"])
@pytest.mark.parametrize("value", ["", None, 5, b"alice"])
def test_a_key_of_anything_but_two_non_empty_strings_is_refused_by_name(field: str, value: object) -> None:
    arguments: dict[str, Any] = {"provider": "idp", "user_id": "alice", field: value}

    with pytest.raises(ConfigurationError, match=field):
        TokenKey(**arguments)


def test_keys_are_equal_when_provider_and_user_are() -> None:
    assert {TokenKey("idp", "alice"), TokenKey("idp", "alice")} == {TokenKey("idp", "alice")}
    assert TokenKey("idp", "alice") != TokenKey("alice", "idp")


@pytest.mark.parametrize(
    "write",
    [
        lambda extra: extra.__setitem__("tenant", "t2"),
        lambda extra: extra.__delitem__("tenant"),
        lambda extra: extra.update(tenant="t2"),
        lambda extra: extra.setdefault("region", "eu"),
        lambda extra: extra.pop("tenant"),
        lambda extra: extra.popitem(),
        lambda extra: extra.clear(),
        lambda extra: extra.__ior__({"tenant": "t2"}),
    ],
)
@pytest.mark.parametrize("members", [{}, {"tenant": "t1"}])
def test_s9_nobody_writes_to_the_extra_members_that_token_sets_may_share(
    members: dict[str, object], write: Callable[[Any], object]
) -> None:
    tokens = TokenSet("access", extra=members)
    with pytest.raises(TypeError, match="read-only"):
        write(tokens.extra)
    assert tokens.extra == members


@pytest.mark.parametrize("members", [{}, {"tenant": "t1", "nested": [{"a": 1}]}])
def test_a_token_set_with_extra_members_survives_copies_and_pickles(members: dict[str, object]) -> None:
    tokens = TokenSet("access", extra=members)
    for again in (copy.copy(tokens), copy.deepcopy(tokens), pickle.loads(pickle.dumps(tokens))):
        assert again == tokens
        assert dataclasses.asdict(again)["extra"] == members


@pytest.mark.parametrize(
    "extra", [{"granted": datetime.now(UTC)}, {"by": {7: "number"}}, {"raw": [b"bytes"]}, {"deep": nested(60)}]
)
def test_further_members_that_no_store_could_write_and_read_are_refused(extra: dict[str, object]) -> None:
    with pytest.raises(ConfigurationError, match="extra"):
        TokenSet("access", extra=extra)


def test_the_later_issued_set_supersedes_the_other_though_it_expires_earlier() -> None:
    earlier = TokenSet("one", refresh_token="first", issued_at=NOW, expires_at=NOW + 7200)
    later = TokenSet("two", refresh_token="second", issued_at=NOW + 60, expires_at=NOW + 3660)
    assert later.supersedes(earlier)
    assert not earlier.supersedes(later)


def test_a_set_of_unknown_origin_does_not_supersede_whatever_has_no_refresh_token() -> None:
    older = TokenSet("one", refresh_token="first", issued_at=NOW)
    assert not older.supersedes(TokenSet("two", issued_at=NOW + 60))


def test_a_pickled_sets_further_members_stay_read_only() -> None:
    unpickled = pickle.loads(pickle.dumps(TokenSet("access", extra={"tenant": "t1"})))
    with pytest.raises(TypeError, match="read-only"):
        unpickled.extra["tenant"] = "t2"


@pytest.mark.skipif(not hasattr(time, "tzset"), reason="no time zone can be set here")
def test_a_stored_moment_without_zone_is_utc_wherever_the_process_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TZ", "America/New_York")
    time.tzset()
    try:
        tokens = TokenSet.from_dict({"access_token": "access", "expires_at": "2027-01-15T08:00:00"})
    finally:
        monkeypatch.undo()
        time.tzset()
    assert tokens.expires_at == NOW


def test_r3_stored_times_whose_sum_is_no_number_are_an_unknown_expiry() -> None:
    tokens = TokenSet.from_dict({"access_token": "access", "issued_at": -1e308, "expires_in": -1e308})
    assert tokens.expires_at is None
