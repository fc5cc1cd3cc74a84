"""Encrypted records: what stays readable, which records are refused, and how a store with plain ones changes over."""
# Tests look at files as they please:
# ruff: noqa: ASYNC240

import base64
import io
import json
from collections.abc import AsyncIterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from hashlib import shake_128
from pathlib import Path
from typing import Any, Final

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from kit.stores import KEY, keys_of
from kit.strategies import json_values, records
from stores.test_codec import OLDER_SHAPES
from tokenflight import (
    ConfigurationError,
    FileTokenStore,
    StoreConflict,
    StoreCorrupted,
    StoredTokens,
    StoreError,
    TokenKey,
    TokenSet,
    TokenStore,
    Version,
)
from tokenflight.stores.codec import MAX_RECORD_BYTES, decode_key, decode_record, encode_record
from tokenflight.stores.encryption import EncryptedCodec, _EncryptionKey, new_key
from tokenflight.testing.conformance import StoreConformance

CANARY: Final = "canary-7f3a"
RECORD: Final = StoredTokens(
    TokenSet(f"access-{CANARY}", refresh_token=f"refresh-{CANARY}", id_token=f"id-{CANARY}", extra={"x": CANARY}),
    Version(f"version-{CANARY}"),
    f"https://{CANARY}.example",
)
PLAIN: Final = encode_record(KEY, RECORD)
OLD_KEY: Final = new_key()
CODEC: Final = EncryptedCodec([OLD_KEY])
SEALED: Final = CODEC.encode(KEY, RECORD)

names = st.text(min_size=1)


class TestEncryptedFileTokenStore(StoreConformance):
    @pytest.fixture(autouse=True)
    def empty_directory(self, tmp_path: Path) -> None:
        self.directory = tmp_path / "tokens"

    @asynccontextmanager
    async def open_store(self) -> AsyncIterator[TokenStore]:
        store = FileTokenStore(self.directory, codec=CODEC)
        yield store
        await store.aclose()


@pytest.fixture
async def store(directory: Path) -> AsyncIterator[FileTokenStore]:
    """A file store of encrypted records in an empty directory."""
    store = FileTokenStore(directory, codec=CODEC)
    yield store
    await store.aclose()


def read(data: bytes, key: TokenKey = KEY, codec: EncryptedCodec = CODEC) -> StoredTokens | StoreCorrupted:
    """What `data` holds; any other error than the one promised goes through."""
    try:
        return codec.decode(key, data)
    except StoreCorrupted as error:
        return error


def code_of(data: bytes, key: TokenKey = KEY, codec: EncryptedCodec = CODEC) -> str:
    """The code of the error with which `data` is refused."""
    error = read(data, key, codec)
    assert isinstance(error, StoreCorrupted)
    return error.code


def changed(**changes: Any) -> bytes:
    """The sealed record with other members in its envelope."""
    return json.dumps(json.loads(SEALED) | changes).encode()


# What a record looks like


@given(st.builds(TokenKey, names, names), records)
def test_p2_a_record_reads_back_as_it_was_written(key: TokenKey, record: StoredTokens) -> None:
    data = CODEC.encode(key, record)
    assert CODEC.decode(key, data) == record
    assert decode_key(data) == key


def test_l1_the_owner_of_a_record_can_be_read_and_nothing_else() -> None:
    envelope = json.loads(SEALED)
    sealed = base64.b64decode(envelope.pop("sealed"))
    assert envelope == {
        "format_version": 1,
        "provider": "idp",
        "user_id": "alice",
        "encryption": "XAES-256-GCM",
        "key_id": envelope["key_id"],
    }
    assert len(envelope["key_id"]) == 8
    assert CANARY.encode() not in SEALED + sealed


def test_the_same_record_is_never_written_twice_alike() -> None:
    sealed = {json.loads(CODEC.encode(KEY, RECORD))["sealed"] for _ in range(1000)}
    assert len(sealed) == 1000


@pytest.mark.parametrize(
    ("key", "associated_data", "expected"),
    [
        (b"\1" * 32, b"", "ce546ef63c9cc60765923609b33a9a1974e96e52daf2fcf7075e2271"),
        (b"\3" * 32, b"c2sp.org/XAES-256-GCM", "986ec1832593df5443a179437fd083bf3fdb41abd740a21f71eb769d"),
    ],
)
def test_the_cipher_gives_what_its_specification_says(key: bytes, associated_data: bytes, expected: str) -> None:
    nonce = b"ABCDEFGHIJKLMNOPQRSTUVWX"
    sealed = nonce + bytes.fromhex(expected)
    assert _EncryptionKey(key)._cipher(nonce).encrypt(nonce[12:], b"XAES-256-GCM", associated_data) == sealed[24:]
    assert _EncryptionKey(key).open(sealed, associated_data) == b"XAES-256-GCM"


def test_the_cipher_passes_the_accumulated_test_of_its_specification() -> None:
    stream, total = io.BytesIO(shake_128(b"").digest(10_000 * (32 + 24 + 2 * 256))), shake_128()
    for _ in range(10_000):
        key, nonce = stream.read(32), stream.read(24)
        plain = stream.read(stream.read(1)[0])
        associated_data = stream.read(stream.read(1)[0])
        total.update(_EncryptionKey(key)._cipher(nonce).encrypt(nonce[12:], plain, associated_data))
    assert total.hexdigest(32) == "e6b9edf2df6cec60c8cbd864e2211b597fb69a529160cd040d56c0c210081939"


def test_a_codec_serves_many_threads_at_once() -> None:
    def there_and_back(number: int) -> bool:
        key = TokenKey("idp", f"user-{number}")
        record = StoredTokens(TokenSet(f"access-{number}" * number))
        return all(CODEC.decode(key, CODEC.encode(key, record)) == record for _ in range(20))

    with ThreadPoolExecutor(16) as threads:
        assert all(threads.map(there_and_back, range(1, 65)))


# What is refused


@pytest.mark.parametrize("other", [TokenKey("idp", "mallory"), TokenKey("other", "alice")], ids=str)
def test_p6_a_record_in_another_ones_place_is_refused(other: TokenKey) -> None:
    assert "belongs to another user or provider" in str(read(SEALED, other))
    assert code_of(changed(provider=other.provider, user_id=other.user_id), other) == "not_authentic"


def test_a_record_is_bound_to_where_the_provider_ends_and_the_user_begins() -> None:
    data = CODEC.encode(TokenKey("id", "palice"), RECORD)
    envelope = json.loads(data) | {"provider": KEY.provider, "user_id": KEY.user_id}
    assert code_of(json.dumps(envelope).encode()) == "not_authentic"


def test_n14_a_record_is_bound_to_its_context() -> None:
    production, staging = (EncryptedCodec([OLD_KEY], context=f"{name}/tenant-a") for name in ("prod", "staging"))
    sealed = production.encode(KEY, RECORD)
    assert read(sealed, codec=production) == RECORD
    assert code_of(sealed, codec=staging) == "not_authentic"
    assert code_of(sealed) == "not_authentic"
    assert code_of(CODEC.encode(KEY, RECORD), codec=production) == "not_authentic"
    assert b"tenant" not in sealed


def test_n14_no_user_and_context_together_give_those_of_another_record() -> None:
    sealed = EncryptedCodec([OLD_KEY], context="c").encode(TokenKey("a", "b"), RECORD)
    moved = json.dumps(json.loads(sealed) | {"user_id": 'b", "c'}).encode()
    assert code_of(moved, TokenKey("a", 'b", "c')) == "not_authentic"


def test_n14_without_a_context_a_record_is_what_it_was_before_there_were_any() -> None:
    sealed = json.loads(EncryptedCodec([OLD_KEY], context="").encode(KEY, RECORD))["sealed"]
    bound_to = json.dumps(["XAES-256-GCM", 1, KEY.provider, KEY.user_id]).encode()
    plain = _EncryptionKey(base64.urlsafe_b64decode(OLD_KEY)).open(base64.b64decode(sealed), bound_to)
    assert decode_record(KEY, plain) == RECORD


def test_n14_a_context_is_text() -> None:
    with pytest.raises(ConfigurationError, match="context must be a str"):
        EncryptedCodec([OLD_KEY], context=None)  # type: ignore[arg-type]


async def test_p6_two_users_whose_files_were_swapped_are_both_refused(store: FileTokenStore, path: Path) -> None:
    await store.save(KEY, StoredTokens(TokenSet("access of alice")))
    await store.save(TokenKey("idp", "bob"), StoredTokens(TokenSet("access of bob")))
    other, aside = path.with_name("bob.json"), path.with_name("aside")
    alices, bobs = path.read_bytes(), other.read_bytes()
    path.rename(aside)
    other.rename(path)
    aside.rename(other)
    for user_id in ("alice", "bob"):
        with pytest.raises(StoreCorrupted, match="another user"):
            await store.load(TokenKey("idp", user_id))
        with pytest.raises(StoreCorrupted):
            await store.replace(TokenKey("idp", user_id), StoredTokens(TokenSet("new")), expected=Version("any"))
    assert (path.read_bytes(), other.read_bytes()) == (bobs, alices)


@given(st.integers(0, len(SEALED) - 1), st.integers(0, 7))
def test_p4_a_record_with_any_bit_flipped_is_refused_or_still_the_same(position: int, bit: int) -> None:
    data = bytearray(SEALED)
    data[position] ^= 1 << bit
    found = read(bytes(data))
    assert isinstance(found, StoreCorrupted) or found == RECORD  # JSON and base64 have two spellings of a few things


@given(st.data())
def test_p4_what_is_sealed_is_refused_with_any_bit_flipped(data: st.DataObject) -> None:
    sealed = bytearray(base64.b64decode(json.loads(SEALED)["sealed"]))
    sealed[data.draw(st.integers(0, len(sealed) - 1))] ^= 1 << data.draw(st.integers(0, 7))
    assert code_of(changed(sealed=base64.b64encode(sealed).decode())) == "not_authentic"


@given(st.integers(0, len(SEALED) - 1))
def test_p4_a_record_cut_off_anywhere_is_refused(length: int) -> None:
    assert isinstance(read(SEALED[:length]), StoreCorrupted)


@given(st.integers(0, len(base64.b64decode(json.loads(SEALED)["sealed"])) - 1))
@example(0)
@example(23)
@example(24)
@example(39)
def test_p4_what_is_sealed_is_refused_when_cut_off_anywhere(length: int) -> None:
    sealed = base64.b64decode(json.loads(SEALED)["sealed"])[:length]
    assert code_of(changed(sealed=base64.b64encode(sealed).decode())) == "not_authentic"


@given(st.binary())
@example(b"")
@example(b"\xff\xfe")
@example(b"[" * 100_000)
@example(b" " * (MAX_RECORD_BYTES + 1))
def test_p4_any_bytes_are_refused(data: bytes) -> None:
    assert isinstance(read(data), StoreCorrupted)


@given(st.sampled_from(sorted(json.loads(SEALED))), json_values)
@example("key_id", [])
@example("sealed", "é")
@example("sealed", "A")
@example("encryption", None)
@example("tokens", {"access_token": "planted"})
def test_p4_a_record_with_any_one_member_changed_is_refused_or_still_the_same(name: str, value: object) -> None:
    found = read(changed(**{name: value}))
    assert isinstance(found, StoreCorrupted) or found == RECORD


@pytest.mark.parametrize(
    "later", [{"format_version": 2}, {"format_version": 3}, {"encryption": "XYZ"}, {"key_id": None}], ids=str
)
def test_a_record_of_a_later_format_is_refused_as_one(later: dict[str, Any]) -> None:
    assert code_of(changed(**later)) == "unsupported_format"


@pytest.mark.parametrize("damage", [{"sealed": "AAAA" * 40}, {"key_id": "00000000"}, {"user_id": "bob"}], ids=str)
async def test_p4_a_refused_record_is_left_as_it_is_until_a_login_overwrites_it(
    store: FileTokenStore, path: Path, damage: dict[str, str]
) -> None:
    await store.save(KEY, StoredTokens(RECORD.tokens))
    path.write_bytes(changed(**damage))
    before = path.stat()
    with pytest.raises(StoreCorrupted, match="a new login overwrites it"):
        await store.load(KEY)
    with pytest.raises(StoreCorrupted):
        await store.replace(KEY, StoredTokens(RECORD.tokens), expected=RECORD.version)
    assert path.read_bytes() == changed(**damage)
    assert path.stat().st_mtime_ns == before.st_mtime_ns
    await store.save(KEY, StoredTokens(TokenSet("later")))
    assert await access_token_in(store) == "later"


async def access_token_in(store: TokenStore, key: TokenKey = KEY) -> str | None:
    record = await store.load(key)
    return None if record is None else str(record.tokens.access_token)


# Files


async def test_l1_no_token_is_on_the_disk_in_plain_text(store: FileTokenStore, directory: Path) -> None:
    await store.save(KEY, record := StoredTokens(RECORD.tokens, issuer=RECORD.issuer))
    await store.replace(KEY, StoredTokens(RECORD.tokens, issuer=RECORD.issuer, refused=True), expected=record.version)
    files = [file for file in directory.rglob("*") if file.is_file()]
    assert {file.name for file in files} == {"alice.json", "alice.write-lock"}
    for file in files:
        assert CANARY.encode() not in file.read_bytes()


async def test_keys_are_found_also_where_the_name_of_the_file_was_cut(store: FileTokenStore) -> None:
    long = TokenKey("idp", "y" * 300)
    for key in (KEY, long):
        await store.save(key, StoredTokens(RECORD.tokens))
    assert set(await keys_of(store)) == {KEY, long}


async def test_a_record_too_large_to_be_read_back_is_not_written(store: FileTokenStore) -> None:
    await store.save(KEY, StoredTokens(RECORD.tokens))
    large = TokenSet("access", extra={"filling": "x" * (MAX_RECORD_BYTES * 3 // 4)})
    decode_record(KEY, encode_record(KEY, StoredTokens(large)))  # only its encryption is too large
    with pytest.raises(StoreError, match="nothing was written") as raised:
        await store.save(KEY, StoredTokens(large))
    assert raised.value.code == "too_large"
    assert await access_token_in(store) == RECORD.tokens.access_token
    almost = TokenSet("access", extra={"filling": "x" * (MAX_RECORD_BYTES * 3 // 4 - 1000)})
    await store.save(KEY, StoredTokens(almost))
    assert await access_token_in(store) == "access"


# Plain records


async def test_a_store_without_the_codec_says_that_a_record_is_encrypted(store: FileTokenStore, path: Path) -> None:
    await store.save(KEY, StoredTokens(RECORD.tokens))
    before = path.read_bytes()
    plain_store = FileTokenStore(path.parents[1])
    with pytest.raises(StoreCorrupted, match="it is encrypted: give the store an EncryptedCodec") as raised:
        await plain_store.load(KEY)
    assert raised.value.code == "encrypted"
    assert await keys_of(plain_store) == [KEY]
    assert path.read_bytes() == before
    await plain_store.aclose()


def test_a_sealed_record_with_plain_tokens_added_is_refused_by_a_plain_reader() -> None:
    with pytest.raises(StoreCorrupted) as raised:
        decode_record(KEY, changed(tokens={"access_token": "planted"}, access_token="planted"))
    assert raised.value.code == "encrypted"


def test_a_plain_record_is_refused_by_default() -> None:
    error = read(PLAIN)
    assert isinstance(error, StoreCorrupted)
    assert error.code == "not_encrypted"
    assert "accept_plain" in str(error)


@pytest.mark.parametrize("shape", OLDER_SHAPES)
def test_system_d_an_older_token_format_loads_only_if_plain_records_are_accepted(shape: str) -> None:
    older, expected = OLDER_SHAPES[shape]
    data = json.dumps(older).encode()
    assert code_of(data) == "not_encrypted"
    assert EncryptedCodec([OLD_KEY], accept_plain=True).decode(KEY, data).tokens == expected


async def test_a_plain_store_becomes_an_encrypted_one_record_by_record(directory: Path, path: Path) -> None:
    plain_store = FileTokenStore(directory)
    await plain_store.save(KEY, record := StoredTokens(RECORD.tokens))
    await plain_store.aclose()
    store = FileTokenStore(directory, codec=EncryptedCodec([OLD_KEY], accept_plain=True))
    assert await access_token_in(store) == RECORD.tokens.access_token
    with pytest.raises(StoreConflict):
        await store.replace(KEY, StoredTokens(TokenSet("later")), expected=Version("other"))
    await store.replace(KEY, StoredTokens(TokenSet("later")), expected=record.version)
    assert CODEC.decode(KEY, path.read_bytes()).tokens.access_token == "later"
    await store.aclose()


def test_plain_records_of_others_and_damaged_ones_are_refused_even_where_plain_ones_are_accepted() -> None:
    accepting = EncryptedCodec([OLD_KEY], accept_plain=True)
    assert read(PLAIN, codec=accepting) == RECORD
    assert isinstance(read(PLAIN, TokenKey("idp", "bob"), accepting), StoreCorrupted)
    assert isinstance(read(PLAIN[:-1], codec=accepting), StoreCorrupted)
    assert isinstance(read(b"{}", codec=accepting), StoreCorrupted)
    assert code_of(changed(sealed="AAAA"), codec=accepting) == "not_authentic"
