"""Encrypted records, for any store that takes a codec. Needs ``tokenflight[crypto]``.

A record is sealed with XAES-256-GCM (c2sp.org/XAES-256-GCM): AES-256-GCM under a key derived, for each record anew,
from the given key and half of a random 192-bit nonce. Plain AES-GCM and ChaCha20-Poly1305 have nonces of 96 bits,
which may be random for no more than 2^32 records under one key (NIST SP 800-38D §8.3). A million users whose tokens are
renewed every hour reach that bound in half a year, and no program would notice. Here the bound is 2^80.
"""

import base64
import json
import secrets
from collections.abc import AsyncGenerator, Sequence
from dataclasses import replace
from hashlib import blake2b
from typing import Final

from tokenflight.stores import _failures

try:
    from cryptography.exceptions import InvalidTag
    from cryptography.hazmat.primitives.ciphers.aead import AESGCM
    from cryptography.hazmat.primitives.ciphers.algorithms import AES
    from cryptography.hazmat.primitives.cmac import CMAC
except ModuleNotFoundError as _error:
    raise _failures.missing_extra(__name__, "crypto", _error) from _error

from tokenflight._checks import checked_seconds, require_kind
from tokenflight.errors import ConfigurationError, LeaseTimeout, StoreConflict, StoreCorrupted, StoreError
from tokenflight.stores.base import StoredTokens, TokenStore, new_version
from tokenflight.stores.codec import (
    RECORD_FORMAT_VERSION,
    SEALED,
    decode_record,
    encode_record,
    json_bytes,
    json_object,
    require_known_format,
    require_names,
)
from tokenflight.tokens import TokenKey

__all__ = ["EncryptedCodec", "new_key", "reencrypt"]

ENVELOPE_FORMAT_VERSION: Final = 1
"""Version of what stays readable around an encrypted record. The record inside has a format version of its own."""

ALGORITHM: Final = "XAES-256-GCM"
KEY_BYTES: Final = 32
MAX_DISTINCT_BYTES_OF_A_WEAK_KEY: Final = 16
"""A random key has about thirty."""

NONCE_BYTES: Final = 24
KEY_ID_BYTES: Final = 4
_KEY_ID_PURPOSE: Final = b"tokenflight key"
_DERIVATION_BYTES: Final = 12
"""How much of the nonce derives the key of a record; the rest is the nonce of AES-GCM."""


def new_key() -> str:
    """A random key as `EncryptedCodec` takes it: 32 bytes as URL-safe base64 text, 44 characters."""
    return base64.urlsafe_b64encode(secrets.token_bytes(KEY_BYTES)).decode()


class EncryptedCodec:
    """Records that only the holders of a key can read or make; a `RecordCodec`.

    `keys` are as `new_key` makes them: the first one writes, all read. From an environment variable that holds one
    key, or several with spaces between them::

        FileTokenStore(directory, codec=EncryptedCodec(os.environ["TOKEN_KEYS"].split()))

    To change the key, give the new one to all processes as the second, then as the first, run `reencrypt`, and drop
    the old one.

    The provider, the user id and the id of the key, a digest, stay readable. Everything else is encrypted and
    authentic, and bound to the provider, the user and the `context`: a record of another user, of another context or a
    changed one is refused.

    The context is a text that names where the records belong, such as ``"prod/tenant-a"``, for a key that several
    deployments or tenants share: no record of one is taken for a record of the same user in another. It is stored
    nowhere. Records from before there was one have the empty context; to change it, load and save each record.

    An attacker who can write to the store but has no key can still put an older record of the same user back, also
    after a logout, and delete records. Only the permissions of the store prevent that.

    Plain records are refused unless `accept_plain` is on, for a store that has some from before. As long as it is on,
    an attacker who can write to the store can plant plain ones: run `reencrypt`, then turn it off.

    Decoding raises `StoreCorrupted`, with the code ``unknown_key`` for a record under a key that was not given,
    ``not_authentic`` for a damaged, changed or misplaced one, and ``not_encrypted`` for a plain one.
    """

    def __init__(self, keys: Sequence[str], *, context: str = "", accept_plain: bool = False) -> None:
        require_kind("accept_plain", accept_plain, bool)  # a text such as "no" would turn it on
        require_kind("context", context, str)
        if isinstance(keys, str) or not keys:
            raise ConfigurationError("keys must be a list of keys, the one to write with first, and not empty")
        ring = [_EncryptionKey(_decode_key(text, position)) for position, text in enumerate(keys, 1)]
        self._first = ring[0]
        self._keys = {key.id: key for key in ring}
        self._context = context
        self._accept_plain = accept_plain
        if len(self._keys) < len(ring):
            raise ConfigurationError("two of the keys are the same, or have the same id by chance: make a new one")

    def __repr__(self) -> str:
        return f"<EncryptedCodec writing with the key {self._first.id}, reading with {self._key_ids()}>"

    def encode(self, key: TokenKey, record: StoredTokens) -> bytes:
        """See `RecordCodec.encode`. Under base64 a record is a third larger than the plain one."""
        sealed = self._first.seal(encode_record(key, record), self._associated_data(key))
        return json_bytes(
            key,
            {
                "format_version": ENVELOPE_FORMAT_VERSION,
                "provider": key.provider,
                "user_id": key.user_id,
                "encryption": ALGORITHM,
                "key_id": self._first.id,
                SEALED: base64.b64encode(sealed).decode(),
            },
        )

    def decode(self, key: TokenKey, data: bytes) -> StoredTokens:
        """See `RecordCodec.decode`."""
        try:
            plain = self._open(key, data)
        except StoreCorrupted as exc:
            raise _failures.unreadable(key, exc) from None
        return decode_record(key, plain)

    def _open(self, key: TokenKey, data: bytes) -> bytes:
        """What `encode_record` wrote."""
        envelope = json_object(data)
        require_known_format(envelope, RECORD_FORMAT_VERSION)
        sealed, key_id = envelope.get(SEALED), envelope.get("key_id")
        if not isinstance(sealed, str):
            if self._accept_plain:
                return data
            raise StoreCorrupted(
                "it is not encrypted: if it is from before encryption was turned on, and no attacker can have put it "
                "there, use accept_plain=True until reencrypt has run",
                code="not_encrypted",
            )
        require_known_format(envelope, ENVELOPE_FORMAT_VERSION)
        require_names(key, envelope)
        if envelope.get("encryption") != ALGORITHM or not isinstance(key_id, str):
            raise StoreCorrupted(f"it is encrypted in another way than {ALGORITHM}", code="unsupported_format")
        if key_id not in self._keys:
            raise StoreCorrupted(
                f"it is encrypted with the key {key_id!r:.20}, and the keys given are {self._key_ids()}: give that one "
                "too",
                code="unknown_key",
            )
        try:
            return self._keys[key_id].open(_decode_base64(sealed), self._associated_data(key))
        except InvalidTag:
            raise StoreCorrupted(
                f"it is not what was written with the key {key_id} in this context: it was damaged, changed, or put in "
                "another record's place",
                code="not_authentic",
            ) from None

    def _associated_data(self, key: TokenKey) -> bytes:
        """What a record is bound to. It is JSON, so that two different keys or contexts never give the same bytes."""
        context = [self._context] if self._context else []  # records from before there were contexts have none
        return json.dumps([ALGORITHM, ENVELOPE_FORMAT_VERSION, key.provider, key.user_id, *context]).encode()

    def _key_ids(self) -> str:
        return ", ".join(self._keys)


async def reencrypt(
    store: TokenStore, provider: str | None = None, *, lease_timeout: float = 90.0
) -> AsyncGenerator[tuple[TokenKey, StoreError | None], None]:
    """Write all records of `store`, or those of one `provider`, again, encrypted with the first key.

    Yields the key of each record when it is done, with None or with the error that left the record as it was::

        failed = [(key, error) async for key, error in reencrypt(store) if error is not None]

    It may run while the store is in use, and again after it was stopped. `lease_timeout` is how many seconds it waits
    for a renewal under way; if that takes longer, the record stays as it is and its error is a `LeaseTimeout`.

    Raises a `StoreError` only if the records can't be listed.
    """
    checked_seconds("lease_timeout", lease_timeout)
    # All are listed first: a listing that goes on while records are written could yield a record again.
    for key in [key async for key in store.keys(provider)]:
        yield key, await _reencrypt_one(store, key, lease_timeout)


async def _reencrypt_one(store: TokenStore, key: TokenKey, lease_timeout: float) -> StoreError | None:
    try:
        # Without the lease, this write could come between the load and the write of a flight. The flight would take
        # the new version for a login and drop the rotated refresh token.
        async with store.lease(key, timeout=lease_timeout) as lease:
            record = await store.load(key)
            if record is None:
                return None
            if not lease.is_held():
                raise LeaseTimeout(f"the lease on user {key.user_id!r} at {key.provider} lapsed; run this again")
            await store.replace(key, replace(record, version=new_version()), expected=record.version)
    except StoreConflict:
        return None  # a login has written the record with the first key, or a logout has deleted it
    except StoreError as exc:
        return exc
    return None


class _EncryptionKey:
    """A key that can be used but not seen: neither its attributes nor a pickle hold it."""

    __slots__ = ("_mac", "id")

    def __init__(self, secret: bytes) -> None:
        self.id = blake2b(secret, digest_size=KEY_ID_BYTES, person=_KEY_ID_PURPOSE).hexdigest()
        self._mac = CMAC(AES(secret))

    def seal(self, plain: bytes, associated_data: bytes) -> bytes:
        """A nonce, and under it `plain` encrypted and authenticated together with `associated_data`."""
        nonce = secrets.token_bytes(NONCE_BYTES)
        return nonce + self._cipher(nonce).encrypt(nonce[_DERIVATION_BYTES:], plain, associated_data)

    def open(self, sealed: bytes, associated_data: bytes) -> bytes:
        """What was sealed with the same `associated_data`; raises `InvalidTag` for anything else."""
        nonce, encrypted = sealed[:NONCE_BYTES], sealed[NONCE_BYTES:]
        if len(nonce) < NONCE_BYTES:
            raise InvalidTag
        return self._cipher(nonce).decrypt(nonce[_DERIVATION_BYTES:], encrypted, associated_data)

    def _cipher(self, nonce: bytes) -> AESGCM:
        """The cipher of one record: its key is derived as in NIST SP 800-108 §4.1, counter mode with CMAC."""
        derived = b""
        for counter in (b"\0\1", b"\0\2"):
            mac = self._mac.copy()
            mac.update(counter + b"X\0" + nonce[:_DERIVATION_BYTES])
            derived += mac.finalize()
        return AESGCM(derived)


def _decode_key(text: str, position: int) -> bytes:
    """The bytes of the key in `text`. An error names the position of the key and shows nothing of it."""
    try:
        secret = base64.b64decode(text, altchars=b"-_", validate=True) if isinstance(text, str) else b""
    except ValueError:
        secret = b""
    if len(secret) != KEY_BYTES or _is_weak(secret):
        raise ConfigurationError(
            f"key {position} must be text as new_key() makes it: {KEY_BYTES} random bytes as URL-safe base64, "
            "44 characters"
        )
    return secret


def _is_weak(secret: bytes) -> bool:
    """Whether the key repeats a byte or a word, or is a short text that was padded; a random one does once in 10^14."""
    return len(set(secret)) <= MAX_DISTINCT_BYTES_OF_A_WEAK_KEY


def _decode_base64(sealed: str) -> bytes:
    try:
        return base64.b64decode(sealed, validate=True)
    except ValueError:
        return b""
