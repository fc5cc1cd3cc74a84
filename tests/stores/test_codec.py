"""A record as bytes."""

import json
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from kit.stores import KEY
from kit.strategies import json_values, records
from tokenflight import StoreCorrupted, Target, TokenKey, TokenSet
from tokenflight.stores.base import StoredTokens, Version
from tokenflight.stores.codec import MAX_RECORD_BYTES, decode_key, decode_record, encode_record

CANARY = "canary-7f3a"
RECORD: dict[str, Any] = {
    "format_version": 2,
    "provider": "idp",
    "user_id": "alice",
    "version": "v1",
    "issuer": "https://idp.example",
    "refused": False,
    "tokens": {"format_version": 1, "access_token": f"access-{CANARY}", "refresh_token": f"refresh-{CANARY}"},
    "access_tokens": [{"target": {"resource": "https://billing.example"}, "access_token": f"billing-{CANARY}"}],
}
BILLING = Target(resource="https://billing.example")

names = st.text(min_size=1)


def read(data: bytes, key: TokenKey = KEY) -> StoredTokens | StoreCorrupted:
    """What `data` holds; any other error than the one promised goes through."""
    try:
        return decode_record(key, data)
    except StoreCorrupted as error:
        return error


@given(st.builds(TokenKey, names, names), records)
def test_p2_a_record_reads_back_as_it_was_written_in_one_piece(key: TokenKey, record: StoredTokens) -> None:
    data = encode_record(key, record)
    assert decode_record(key, data) == record
    assert decode_key(data) == key
    assert isinstance(json.loads(data), dict)


def test_a_record_shows_its_readers_all_it_says() -> None:
    billing = TokenSet("billing", expires_at=1_800_000_000, scope="invoices:read", issued_at=1_799_996_400)
    record = StoredTokens(
        TokenSet("access", refresh_token="refresh"),
        Version("v1"),
        "https://idp.example",
        access_tokens={BILLING: billing},
    )
    assert json.loads(encode_record(KEY, record)) == RECORD | {
        "tokens": record.tokens.to_dict(),
        "access_tokens": [
            {
                "target": {"resource": "https://billing.example"},
                "format_version": 1,
                "access_token": "billing",
                "token_type": "Bearer",
                "expires_at": 1_800_000_000,
                "scope": "invoices:read",
                "issued_at": 1_799_996_400,
                "refresh_at": None,
            }
        ],
    }


@given(st.binary())
@example(b"")
@example(b"\xff\xfe")
@example(b"\xef\xbb\xbf{}")
@example(b"[" * 100_000)
@example(b'{"tokens":' * 20_000)
@example(b"9" * 5_000)
@example(b'{"access_token": "x", "expires_at": ' + b"9" * 5_000 + b"}")
@example(b" " * (MAX_RECORD_BYTES + 1))
def test_p4_any_bytes_read_as_a_record_or_as_corrupted(data: bytes) -> None:
    read(data)
    decode_key(data)


@given(json_values)
@example({"access_token": "x", "issued_at": 1e308, "expires_in": 1e308})
@example({"access_token": "x", "issued_at": 10**308, "expires_in": 10**308})
@example({"access_token": "x", "expires_at": 10**400})
@example({"access_token": "x", "expires_at": "9999-12-31T23:59:59-23:59"})
@example({"access_token": ["x"]})
def test_p4_any_json_reads_as_a_record_or_as_corrupted(value: object) -> None:
    read(json.dumps(value).encode())


@given(st.sampled_from(sorted({*RECORD, *TokenSet("x").to_dict()})), json_values)
@example("provider", None)
@example("tokens", [])
def test_p4_a_record_with_any_one_member_changed_reads_as_a_record_or_as_corrupted(name: str, value: object) -> None:
    read(json.dumps(RECORD | {name: value}).encode())
    read(json.dumps(RECORD | {"tokens": RECORD["tokens"] | {name: value}}).encode())
    read(json.dumps(RECORD | {"access_tokens": [RECORD["access_tokens"][0] | {name: value}]}).encode())


@given(st.integers(0, len(json.dumps(RECORD)) - 1))
def test_p4_a_record_cut_off_anywhere_is_corrupted(length: int) -> None:
    assert isinstance(read(json.dumps(RECORD).encode()[:length]), StoreCorrupted)


@pytest.mark.parametrize("levels", [100, 300, 480, 900, 5_000, 100_000])
def test_p4_a_record_nested_to_any_depth_reads_as_a_record_or_as_corrupted(levels: int) -> None:
    nested = b'{"a":' * levels + b"1" + b"}" * levels
    read(b'{"access_token": "x", "extra": ' + nested + b"}")


@pytest.mark.parametrize(
    "changes",
    [
        {"version": None},
        {"version": 1},
        {"issuer": 1},
        {"refused": None},
        {"refused": "no"},
        {"provider": "other"},
        {"provider": None},
        {"user_id": "mallory"},
        {"user_id": ["alice"]},
        {"tokens": {}},
        {"tokens": {"format_version": 1, "refresh_token": CANARY}},
        {"tokens": None},
        {"tokens": {"access_token": 1}},
        {"access_tokens": None},
        {"access_tokens": {}},
        {"access_tokens": [CANARY]},
        {"access_tokens": [{"access_token": CANARY}]},
        {"access_tokens": [{"target": {}, "access_token": CANARY}]},
        {"access_tokens": [{"target": {"scope": None}, "access_token": CANARY}]},
        {"access_tokens": [{"target": {"scope": ""}, "access_token": CANARY}]},
        {"access_tokens": [{"target": {"scope": ["a"]}, "access_token": CANARY}]},
        {"access_tokens": [{"target": {"scope": "a"}, "refresh_token": CANARY}]},
    ],
    ids=repr,
)
def test_p4_a_record_with_a_wrong_member_is_corrupted_and_the_error_shows_no_secret(changes: dict[str, Any]) -> None:
    error = read(json.dumps(RECORD | changes).encode())
    assert isinstance(error, StoreCorrupted)
    assert error.code == "store_corrupted"
    assert CANARY not in f"{error!r} {error.__cause__!r} {error.__context__!r}"
    assert str(error).startswith("the record of user 'alice' at idp can't be understood: ")


@pytest.mark.parametrize("damage", [b"", b"}", b'"', b"\xff", b"{"])
def test_l1_no_error_holds_what_the_damaged_record_held(damage: bytes) -> None:
    error = read(json.dumps(RECORD).encode()[:-1] + damage)
    if isinstance(error, StoredTokens):
        assert damage == b"}"
        return
    while error is not None:
        assert CANARY not in f"{error!r} {vars(error)}"
        assert not isinstance(error, ValueError)
        error = error.__context__  # type: ignore[assignment]


def test_p6_a_record_of_another_user_is_refused_even_under_this_users_name() -> None:
    data = encode_record(TokenKey("idp", "mallory"), StoredTokens(TokenSet("access")))
    error = read(data)
    assert isinstance(error, StoreCorrupted)
    assert "belongs to another user or provider" in str(error)


@pytest.mark.parametrize(
    "later",
    [
        RECORD | {"format_version": 3},
        RECORD | {"tokens": RECORD["tokens"] | {"format_version": 2}},
        {"format_version": 3, "sealed": "AAAA"},
        {"format_version": 3, "key": {"provider": "idp", "user": "alice"}, "tokens": {"access": CANARY}},
        {"format_version": 3, "provider": "idp", "user_id": "alice", "tokens": "AAAA"},
        {"format_version": 3, "access_token": CANARY},
    ],
    ids=["record", "tokens", "sealed", "other members", "sealed tokens", "token set"],
)
def test_a_record_of_a_later_format_says_to_upgrade(later: dict[str, Any]) -> None:
    error = read(json.dumps(later).encode())
    assert isinstance(error, StoreCorrupted)
    assert error.code == "unsupported_format"
    assert "upgrade" in str(error)
    assert CANARY not in str(error)


def test_what_a_later_version_adds_to_a_record_of_this_format_is_passed_over() -> None:
    [billing] = RECORD["access_tokens"]
    later = RECORD | {
        "generation": 7,
        "tokens": RECORD["tokens"] | {"key": "k"},
        "access_tokens": [
            billing | {"refresh_token": CANARY, "extra": {"a": 1}, "key": "k"},
            {"target": {"resource": "https://billing.example", "purpose": "audit"}, "access_token": CANARY},
        ],
    }
    assert read(json.dumps(later).encode()) == read(json.dumps(RECORD).encode())


def test_an_access_token_is_found_by_its_target() -> None:
    record = decode_record(KEY, json.dumps(RECORD).encode())
    assert record.access_tokens == {BILLING: TokenSet(f"billing-{CANARY}")}
    assert record.tokens_for() is record.tokens_for(Target()) is record.tokens
    assert record.tokens_for(BILLING) is record.access_tokens[BILLING]
    assert record.tokens_for(Target(scope="orders:read")) is None


def test_a_record_of_format_1_has_no_access_tokens_of_other_targets() -> None:
    older = {name: value for name, value in RECORD.items() if name != "access_tokens"} | {"format_version": 1}
    record = decode_record(KEY, json.dumps(older).encode())
    assert record == StoredTokens(TokenSet.from_dict(RECORD["tokens"]), Version("v1"), "https://idp.example")
    assert json.loads(encode_record(KEY, record))["format_version"] == 2


OLDER_SHAPES: dict[str, tuple[dict[str, Any], TokenSet]] = {
    "a number": (
        {"access_token": "a", "refresh_token": "r", "expires_at": 1_800_000_000},
        TokenSet("a", expires_at=1_800_000_000, refresh_token="r"),
    ),
    "a numeric string": (
        {"access_token": "a", "refresh_token": "r", "expires_at": "1800000000.5"},
        TokenSet("a", expires_at=1_800_000_000.5, refresh_token="r"),
    ),
    "ISO 8601": (
        {"access_token": "a", "expires_at": "2027-01-15T08:00:00Z"},
        TokenSet("a", expires_at=1_800_000_000.0),
    ),
    "expires_in and obtained_at": (
        {"access_token": "a", "expires_in": 3600, "obtained_at": 1_700_000_000},
        TokenSet("a", expires_at=1_700_003_600, issued_at=1_700_000_000),
    ),
    "expires_in alone": ({"access_token": "a", "expires_in": 3600}, TokenSet("a", expires_at=0.0)),
    "camelCase": (
        {"accessToken": "a", "refreshToken": "r", "expiresAt": 1_800_000_000, "idToken": "i", "tokenType": "DPoP"},
        TokenSet("a", "DPoP", 1_800_000_000, "r", id_token="i"),
    ),
    "token_expires_at": (
        {"access_token": "a", "token_expires_at": 1_800_000_000},
        TokenSet("a", expires_at=1_800_000_000),
    ),
    "Google's": (
        {"token": "a", "refresh_token": "r", "expiry": "2027-01-15T08:00:00"},
        TokenSet("a", expires_at=1_800_000_000.0, refresh_token="r"),
    ),
    "no expiry": ({"access_token": "a"}, TokenSet("a")),
    "a malformed expiry": ({"access_token": "a", "expires_at": "soon"}, TokenSet("a")),
}


@pytest.mark.parametrize("shape", OLDER_SHAPES)
def test_system_d_an_older_token_format_still_loads(shape: str) -> None:
    older, expected = OLDER_SHAPES[shape]
    data = json.dumps(older).encode()
    record = decode_record(KEY, data)
    assert record.tokens == expected
    assert (record.issuer, record.refused) == (None, False)
    assert record == decode_record(KEY, data)
    assert record.version != decode_record(KEY, data + b" ").version
    assert decode_key(data) is None


def test_a_record_larger_than_any_that_is_written_is_corrupted() -> None:
    data = encode_record(KEY, StoredTokens(TokenSet("access"), Version("1")))
    assert decode_record(KEY, data.ljust(MAX_RECORD_BYTES)).tokens == TokenSet("access")
    with pytest.raises(StoreCorrupted, match="larger"):
        decode_record(KEY, data.ljust(MAX_RECORD_BYTES + 1))
