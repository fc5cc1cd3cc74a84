"""A record as bytes: one JSON object with the grant, the access tokens of other targets, version, issuer and state."""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, fields
from typing import Any, Final, Protocol

from tokenflight._token_times import number
from tokenflight.errors import ConfigurationError, StoreCorrupted, StoreError
from tokenflight.stores import _failures
from tokenflight.stores.base import RenewalFailure, StoredTokens, Version
from tokenflight.tokens import DEFAULT_TARGET, Target, TokenKey, TokenSet

RECORD_FORMAT_VERSION: Final = 2
"""Version of what `encode_record` writes. Format 1, which has no access tokens of other targets, is read too."""

MAX_RECORD_BYTES: Final = 4 * 1024 * 1024

SEALED: Final = "sealed"
"""The member that only an encrypted record has."""

_ACCESS_TOKEN_MEMBERS: Final = (
    "format_version",
    "access_token",
    "token_type",
    "expires_at",
    "scope",
    "issued_at",
    "refresh_at",
)
_TARGET_MEMBERS: Final = frozenset(field.name for field in fields(Target))


class RecordCodec(Protocol):
    """Turns records into bytes and back, for a store. `JSONCodec` is the plain one."""

    def encode(self, key: TokenKey, record: StoredTokens) -> bytes:
        """`record` as bytes, which `decode` takes with the same `key` only.

        Raises `StoreError` if they are more than `decode` takes.
        """
        ...

    def decode(self, key: TokenKey, data: bytes) -> StoredTokens:
        """The record in `data`. Raises `StoreCorrupted` unless it is a record of `key`."""
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
    """`record` as JSON in UTF-8. It names `key`, so that it can't be taken for the record of another user.

    Raises `StoreError` if that is larger than `MAX_RECORD_BYTES`.
    """
    failure = {} if record.failure is None else {"failure": _without_nulls(asdict(record.failure))}
    return json_bytes(
        key,
        {
            "format_version": RECORD_FORMAT_VERSION,
            "provider": key.provider,
            "user_id": key.user_id,
            "version": record.version,
            "issuer": record.issuer,
            "refused": record.refused,
            "tokens": record.tokens.to_dict(),
            "access_tokens": [_access_token(*item) for item in record.access_tokens.items()],
            **failure,
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
    """The key in a record, or None if the record does not name one."""
    try:
        record = json_object(data)
    except StoreCorrupted:
        return None
    provider, user_id = record.get("provider"), record.get("user_id")
    if isinstance(provider, str) and provider and isinstance(user_id, str) and user_id:
        return TokenKey(provider, user_id)
    return None


def json_bytes(key: TokenKey, record: dict[str, Any]) -> bytes:
    """The record of `key` as JSON in UTF-8. Raises `StoreError` if it is too large to be read back."""
    data = json.dumps(record).encode()
    if len(data) > MAX_RECORD_BYTES:
        raise StoreError(
            f"the record of user {key.user_id!r} at {key.provider} would be {len(data)} bytes large, and "
            f"{MAX_RECORD_BYTES} is the most that is read back; nothing was written",
            code="too_large",
        )
    return data


def json_object(data: bytes) -> dict[str, Any]:
    """The JSON object in `data`. Raises `StoreCorrupted` if there is none."""
    if len(data) > MAX_RECORD_BYTES:
        raise StoreCorrupted(f"it is larger than {MAX_RECORD_BYTES} bytes")
    try:
        value = json.loads(data.decode())
    except (ValueError, RecursionError):
        value = None  # raised below: a decoding error holds the record with its tokens, and would become the context
    if not isinstance(value, dict):
        raise StoreCorrupted("it is not a JSON object")
    return value


def require_known_format(record: dict[str, Any], newest: int) -> None:
    """Raise `StoreCorrupted` if `record` has a format later than `newest`.

    Callers check this before they read any other member: a later version may have moved it.
    """
    version = record.get("format_version", 1)
    if isinstance(version, bool) or not isinstance(version, int) or not 1 <= version <= newest:
        raise StoreCorrupted(
            f"it has a format version that this tokenflight does not know, which reads up to {newest}: upgrade it",
            code="unsupported_format",
        )


def require_names(key: TokenKey, record: dict[str, Any]) -> None:
    """Raise `StoreCorrupted` unless `record` names `key`."""
    if (record.get("provider"), record.get("user_id")) != (key.provider, key.user_id):
        raise StoreCorrupted("it belongs to another user or provider")


def _decode(key: TokenKey, data: bytes) -> StoredTokens:
    record = json_object(data)
    require_known_format(record, RECORD_FORMAT_VERSION)
    if isinstance(record.get(SEALED), str):
        raise StoreCorrupted("it is encrypted: give the store an EncryptedCodec with its key", code="encrypted")
    tokens = record.get("tokens")
    if not isinstance(tokens, Mapping):
        if record.get("format_version") == RECORD_FORMAT_VERSION:
            raise StoreCorrupted("it has no token set")
        # The file of an older program has no version, so its content stands for one.
        digest = hashlib.blake2b(data, digest_size=8).hexdigest()
        return StoredTokens(TokenSet.from_dict(record), Version(f"content-{digest}"))
    require_names(key, record)
    version, issuer, refused = record.get("version"), record.get("issuer"), record.get("refused", False)
    if (
        not isinstance(version, str)
        or not version
        or not isinstance(issuer, str | None)
        or not isinstance(refused, bool)
    ):
        raise StoreCorrupted("its version, issuer or refused member is missing or of the wrong type")
    access_tokens = _decode_access_tokens(record.get("access_tokens", []))
    failure = _decode_failure(record.get("failure"))
    return StoredTokens(TokenSet.from_dict(tokens), Version(version), issuer, refused, access_tokens, failure)


def _access_token(target: Target, tokens: TokenSet) -> dict[str, Any]:
    """The access token of `target` as a JSON object."""
    members = tokens.to_dict()
    return {"target": _without_nulls(asdict(target))} | {name: members[name] for name in _ACCESS_TOKEN_MEMBERS}


def _decode_access_tokens(items: object) -> dict[Target, TokenSet]:
    """Read what `_access_token` wrote. Raises `StoreCorrupted` for anything else."""
    if not isinstance(items, list) or not all(isinstance(item, dict) for item in items):
        raise StoreCorrupted("its access_tokens member is not an array of objects")
    access_tokens = {}
    for item in items:
        target = _decode_target(item.get("target"))
        if target is not None:
            members = {name: item[name] for name in _ACCESS_TOKEN_MEMBERS if name in item}
            access_tokens[target] = TokenSet.from_dict(members)
    return access_tokens


def _decode_failure(members: object) -> RenewalFailure | None:
    """Read how the last renewal failed; None if it did not, or if this version can't read it.

    It is advice on when to ask the provider again: no reason to lose the record over.
    """
    if not isinstance(members, dict):
        return None
    kind, code, error = (members.get(name) for name in ("kind", "code", "error"))
    at, until, count = (number(members.get(name)) for name in ("at", "until", "count"))
    if not isinstance(kind, str) or not isinstance(code, str) or not isinstance(error, str | None):
        return None
    if at is None or until is None or count is None or count < 1:
        return None
    return RenewalFailure(kind, code, at, until, int(count), error)


def _decode_target(members: object) -> Target | None:
    """The target of an access token; None if it has a member that only a later version knows.

    The access token is then passed over rather than taken for one of a wider target: it can be requested again.
    """
    if not isinstance(members, dict):
        raise StoreCorrupted("an access token has no target")
    if not members.keys() <= _TARGET_MEMBERS:
        return None
    try:
        target = Target(**members)
    except ConfigurationError as exc:
        raise StoreCorrupted(f"the target of an access token can't be understood: {exc}") from None
    if target == DEFAULT_TARGET:
        raise StoreCorrupted("an access token has no target")
    return target


def _without_nulls(members: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in members.items() if value is not None}
