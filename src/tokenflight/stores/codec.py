"""A record as bytes: one JSON object with the token set, its version, its issuer and whether it was refused."""

import hashlib
import json
import secrets
from collections.abc import Mapping
from typing import Any, Final, Protocol

from tokenflight.errors import StoreCorrupted, StoreError
from tokenflight.stores import _failures
from tokenflight.stores.base import StoredTokens, Version
from tokenflight.tokens import FORMAT_VERSION, TokenKey, TokenSet

MAX_RECORD_BYTES: Final = 4 * 1024 * 1024

SEALED: Final = "sealed"
"""The member that only an encrypted record has."""


def new_version() -> Version:
    """A version that no other write has: a counter would repeat itself after a delete."""
    return Version(secrets.token_hex(8))


class RecordCodec(Protocol):
    """How a store turns records into bytes and back. `JSONCodec` is the plain one."""

    def encode(self, key: TokenKey, record: StoredTokens) -> bytes:
        """`record` as bytes that only `decode` with the same `key` takes.

        Raises `StoreError` if they would be too many for `decode`.
        """
        ...

    def decode(self, key: TokenKey, data: bytes) -> StoredTokens:
        """The record in `data`; raises `StoreCorrupted` where there is none of `key`."""
        ...


class JSONCodec:
    """Records as readable JSON; see `encode_record` and `decode_record`."""

    def encode(self, key: TokenKey, record: StoredTokens) -> bytes:
        """See `RecordCodec.encode`."""
        return encode_record(key, record)

    def decode(self, key: TokenKey, data: bytes) -> StoredTokens:
        """See `RecordCodec.decode`."""
        return decode_record(key, data)


def encode_record(key: TokenKey, record: StoredTokens) -> bytes:
    """`record` as JSON, UTF-8, with `key` in it so that it can't be taken for another user's.

    Raises `StoreError` if that is larger than `MAX_RECORD_BYTES`.
    """
    return json_bytes(
        key,
        {
            "format_version": FORMAT_VERSION,
            "provider": key.provider,
            "user_id": key.user_id,
            "version": record.version,
            "issuer": record.issuer,
            "refused": record.refused,
            "tokens": record.tokens.to_dict(),
        },
    )


def decode_record(key: TokenKey, data: bytes) -> StoredTokens:
    """Read what `encode_record` wrote, or a token set in one of the older shapes of `TokenSet.from_dict`.

    Raises `StoreCorrupted` for anything else, for a record of another key, for a format of a later version, and with
    the code ``encrypted`` for a record that `EncryptedCodec` wrote.
    """
    try:
        return _decode(key, data)
    except StoreCorrupted as exc:
        raise _failures.unreadable(key, exc) from None


def decode_key(data: bytes) -> TokenKey | None:
    """The key in a record, or None if it does not tell."""
    try:
        record = json_object(data)
    except StoreCorrupted:
        return None
    provider, user_id = record.get("provider"), record.get("user_id")
    if isinstance(provider, str) and provider and isinstance(user_id, str) and user_id:
        return TokenKey(provider, user_id)
    return None


def json_bytes(key: TokenKey, record: dict[str, Any]) -> bytes:
    """The record of `key` as JSON, UTF-8; raises `StoreError` if it is too large to be read back."""
    data = json.dumps(record).encode()
    if len(data) > MAX_RECORD_BYTES:
        raise StoreError(
            f"the record of user {key.user_id!r} at {key.provider} would be {len(data)} bytes large, and "
            f"{MAX_RECORD_BYTES} is the most that is read back; nothing was written",
            code="too_large",
        )
    return data


def json_object(data: bytes) -> dict[str, Any]:
    """The JSON object in `data`; raises `StoreCorrupted` if there is none."""
    if len(data) > MAX_RECORD_BYTES:
        raise StoreCorrupted(f"it is larger than {MAX_RECORD_BYTES} bytes")
    try:
        value = json.loads(data.decode())
    except (ValueError, RecursionError):
        value = None  # not raised from here: a decoding error carries the record, and the record carries tokens
    if not isinstance(value, dict):
        raise StoreCorrupted("it is not a JSON object")
    return value


def require_known_format(record: dict[str, Any]) -> None:
    """Raise `StoreCorrupted` if a later version wrote `record`. Before all else: it may have moved any other member."""
    if record.get("format_version", FORMAT_VERSION) != FORMAT_VERSION:
        raise StoreCorrupted(
            f"it has a format version other than this tokenflight knows, which is {FORMAT_VERSION}: upgrade it",
            code="unsupported_format",
        )


def require_names(key: TokenKey, record: dict[str, Any]) -> None:
    """Raise `StoreCorrupted` unless `record` says that it is the one of `key`."""
    if (record.get("provider"), record.get("user_id")) != (key.provider, key.user_id):
        raise StoreCorrupted("it belongs to another user or provider")


def _decode(key: TokenKey, data: bytes) -> StoredTokens:
    record = json_object(data)
    require_known_format(record)
    if isinstance(record.get(SEALED), str):
        raise StoreCorrupted("it is encrypted: give the store an EncryptedCodec with its key", code="encrypted")
    tokens = record.get("tokens")
    if not isinstance(tokens, Mapping):
        # An older program's file has no version; what it holds is one.
        digest = hashlib.blake2b(data, digest_size=8).hexdigest()
        return StoredTokens(TokenSet.from_dict(record), Version(f"content-{digest}"))
    require_names(key, record)
    version, issuer, refused = record.get("version"), record.get("issuer"), record.get("refused", False)
    if not isinstance(version, str) or not isinstance(issuer, str | None) or not isinstance(refused, bool):
        raise StoreCorrupted("its version, issuer or refused member is missing or of the wrong type")
    return StoredTokens(TokenSet.from_dict(tokens), Version(version), issuer, refused)
