"""The parsers under fuzzing, and the promises that each must keep for any bytes.

A target takes bytes. It raises `AssertionError`, or lets a foreign exception through, if a promise is broken.
Hypothesis, atheris and the tests of growth all run the same targets.
"""

import json
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from tokenflight.bearer import means_invalid_token
from tokenflight.errors import (
    InvalidProviderResponse,
    ProviderMisconfigured,
    ProviderUnavailable,
    ReauthenticationRequired,
    StoreCorrupted,
    TokenRefreshError,
)
from tokenflight.providers._replies.pauses import MAX_RETRY_AFTER_SECONDS
from tokenflight.providers.base import PartialRenewal
from tokenflight.providers.metadata import parse_metadata_reply
from tokenflight.providers.replies import Reply, parse_token_reply
from tokenflight.providers.requests import Request
from tokenflight.stores.codec import decode_key, decode_record
from tokenflight.tokens import TokenKey, TokenSet

ISSUER: Final = "https://idp.example"
METADATA_URL: Final = f"{ISSUER}/.well-known/openid-configuration"
KEY: Final = TokenKey("idp", "alice")
SENT_AT: Final = 1_800_000_000.0

OLD_SECRETS: Final = ("at-old-canary-0123", "rt-old-canary-0123", "cs-canary-0123")
"""Secrets that the app held before: no error shows one, even if the provider's words repeat it."""

NEW_SECRETS: Final = ("at-new-canary-0123", "rt-new-canary-0123")
"""Secrets in a reply or a record: no error about it shows one."""

PREVIOUS: Final = TokenSet(OLD_SECRETS[0], refresh_token=OLD_SECRETS[1], scope="a b")
REQUEST: Final = Request("https://idp.example/token", {}, secrets=frozenset(OLD_SECRETS[1:]))


@dataclass(frozen=True, slots=True)
class Target:
    """A parser under test. `seeds` are good inputs; `words` are pieces that make sense inside one."""

    name: str
    run: Callable[[bytes], None]
    seeds: tuple[bytes, ...]
    words: tuple[bytes, ...]


def run_token_reply(data: bytes) -> None:
    """`data` is ``STATUS RETRY-AFTER``, a line feed, and the body."""
    reply = _reply(data)
    try:
        tokens = parse_token_reply(
            reply, request=REQUEST, previous=PREVIOUS, sent_at=SENT_AT, user_id="alice", provider="idp"
        )
    except (ReauthenticationRequired, ProviderUnavailable, ProviderMisconfigured, InvalidProviderResponse) as error:
        _check_token_error(error, reply)
    except PartialRenewal as partial:
        _check_partial_renewal(partial, reply)
    else:
        assert tokens.refresh_token
        assert TokenSet.from_dict(json.loads(json.dumps(tokens.to_dict()))) == tokens


def run_discovery_reply(data: bytes) -> None:
    """`data` as for `run_token_reply`."""
    try:
        metadata = parse_metadata_reply(_reply(data), issuer=ISSUER, url=METADATA_URL, provider="idp")
    except (ProviderUnavailable, ProviderMisconfigured, InvalidProviderResponse) as error:
        _check_discovery_error(error)
    else:
        assert metadata.issuer == ISSUER
        assert metadata.endpoint("token_endpoint", provider="idp").lower().startswith("https://")
        assert all(isinstance(scope, str) for scope in metadata.scopes_supported or ())
        assert all(isinstance(url, str) for url in (metadata.mtls_endpoint_aliases or {}).values())


def run_retry_after(data: bytes) -> None:
    """`data` is a ``Retry-After``, in whatever encoding."""
    run_token_reply(b"429 " + data.replace(b"\n", b" ") + b"\n{}")


def run_stored_tokens(data: bytes) -> None:
    """`data` is JSON; `run_record` covers bytes that are not."""
    try:
        stored = json.loads(data)
    except (ValueError, RecursionError):
        return
    try:
        tokens = TokenSet.from_dict(stored)
    except StoreCorrupted as error:
        _check_secrecy(error, NEW_SECRETS)
    else:
        assert TokenSet.from_dict(tokens.to_dict()) == tokens


def run_record(data: bytes) -> None:
    """`data` is the content of a file."""
    key = decode_key(data)
    assert key is None or (key.provider and key.user_id)
    try:
        record = decode_record(KEY, data)
    except StoreCorrupted as error:
        _check_secrecy(error, NEW_SECRETS)
    else:
        assert key in {None, KEY} or "tokens" not in json.loads(data)
        assert record.version


def run_challenge(data: bytes) -> None:
    """`data` is a ``WWW-Authenticate`` field."""
    assert means_invalid_token(data.decode("latin-1")) in {True, False}


def _reply(data: bytes) -> Reply:
    line, _, body = data.partition(b"\n")
    status, _, retry_after = line.partition(b" ")
    code = int(status) if len(status) == 3 and status.isdigit() else 200
    return Reply(code, {"retry-after": retry_after.decode("latin-1")}, body)


def _check_partial_renewal(partial: PartialRenewal, reply: Reply) -> None:
    assert 200 <= reply.status < 300
    assert partial.tokens.refresh_token
    _check_token_error(partial.error, reply)


def _check_token_error(error: TokenRefreshError, reply: Reply) -> None:
    is_broken = 200 <= reply.status < 300 and isinstance(error, InvalidProviderResponse) and error.error is None
    assert (error.user_id, error.provider) == ("alice", "idp")
    _check_pause(error)
    # A refusal may be explained with words that only look like new tokens, also in a 200. A broken reply is not quoted.
    _check_secrecy(error, OLD_SECRETS + NEW_SECRETS if is_broken else OLD_SECRETS)


def _check_discovery_error(error: TokenRefreshError) -> None:
    assert error.provider == "idp"
    assert len(str(error)) < 1000
    _check_pause(error)


def _check_pause(error: TokenRefreshError) -> None:
    if isinstance(error, ProviderUnavailable) and error.retry_after is not None:
        assert 0 <= error.retry_after <= MAX_RETRY_AFTER_SECONDS


def _check_secrecy(error: BaseException | None, secrets: tuple[str, ...]) -> None:
    while error is not None:
        shown = f"{error} {error!r} {vars(error)}"
        assert not any(secret in shown for secret in secrets)
        assert error.__cause__ is None
        error = None if error.__suppress_context__ else error.__context__


_JSON_WORDS: Final = (b"{", b"}", b"[", b"]", b'"', b":", b",", b"\\u0000", b"\\ud800", b"null", b"true", b"NaN")
_NUMBER_WORDS: Final = (b"1e308", b"-1e308", b"Infinity", b"0", b"9" * 400, b"1_0", b'"3600"', b"-0.0", b"1e999")
_DATE_WORDS: Final = (b'"2027-01-15T09:00:00Z"', b'"9999-12-31T23:59:59-23:59"', b'"0001-01-01T00:00:00+23:59"')
_MEMBERS: Final = tuple(
    b'"%s":' % name
    for name in (
        *(b"access_token", b"accessToken", b"token", b"refresh_token", b"refreshToken", b"id_token", b"idToken"),
        *(b"token_type", b"tokenType", b"scope", b"extra", b"format_version", b"tokens", b"token_endpoint"),
        *(b"expires_at", b"expiresAt", b"expires_in", b"expiresIn", b"token_expires_at", b"expiry"),
        *(b"issued_at", b"obtained_at", b"created_at", b"saved_at"),
        *(b"provider", b"user_id", b"version", b"issuer", b"refused", b"error", b"error_description"),
    )
)
_COMMON: Final = (*_JSON_WORDS, *_NUMBER_WORDS, *_DATE_WORDS, *_MEMBERS)

_NEW_SET: Final = b"""{"format_version": 1, "access_token": "at-new-canary-0123", "expires_in": 3600, "issued_at": 1e9,
 "refresh_token": "rt-new-canary-0123", "scope": ["a", "b"], "extra": {"x": [1, {"y": null}]}}"""
_RECORD: Final = (
    b'{"provider": "idp", "user_id": "alice", "version": "v1", "issuer": null, "refused": false, "tokens": %s}'
)

_METADATA: Final = b"""{"issuer": "https://idp.example", "token_endpoint": "https://idp.example/token",
 "scopes_supported": ["a", null], "mtls_endpoint_aliases": {"token_endpoint": 1, "a": "b"}, "extra": {}}"""

TARGETS: Final = {
    target.name: target
    for target in (
        Target(
            "token-reply",
            run_token_reply,
            (
                b"200 \n" + _NEW_SET,
                b'200 \n{"access_token": "at-new-canary-0123", "token_type": "bearer", "expires_at": "2027-01-15"}',
                b'400 \n{"error": "invalid_grant", "error_description": "rt-old-canary-0123 is spent"}',
                b'401 \n{"error": "invalid_client", "error_description": "cs-canary-0123"}',
                b"503 120\n<h1>later</h1>",
                b"302 \n",
            ),
            (*_COMMON, *(secret.encode() for secret in OLD_SECRETS + NEW_SECRETS), b'"invalid_grant"', b'"Bearer"'),
        ),
        Target(
            "discovery-reply",
            run_discovery_reply,
            (
                b'200 \n{"issuer": "https://idp.example", "token_endpoint": "https://idp.example/token"}',
                b'200 \n{"issuer": "https://idp.example", "token_endpoint": "http://[::1]:80/token"}',
                b"200 \n%s" % _METADATA,
                b"503 Fri, 15 Jan 2027 08:01:30 GMT\n",
            ),
            (
                *(*_COMMON, b'"https://idp.example"', b"https://", b"http://", b"localhost", b"127.0.0.1", b"@", b"#"),
                *(b'"scopes_supported":', b'"mtls_endpoint_aliases":', b'"require_pushed_authorization_requests":'),
            ),
        ),
        Target(
            "retry-after",
            run_retry_after,
            (b"120", b"Fri, 15 Jan 2027 08:01:30 GMT", b"Friday, 15-Jan-27 08:01:30 +0000 (comment)"),
            (b"Fri, ", b"Jan", b":", b"-0000", b"+9999", b"GMT", b"(", b")", b"9999", b"-", b"\xb2"),
        ),
        Target(
            "stored-tokens",
            run_stored_tokens,
            (_NEW_SET, b'{"accessToken": "at-new-canary-0123", "expiresAt": "2027-01-15T08:00:00Z"}', b"[]"),
            _COMMON,
        ),
        Target("record", run_record, (_RECORD % _NEW_SET, _NEW_SET), (*_COMMON, b'"idp"', b'"alice"')),
        Target(
            "challenge",
            run_challenge,
            (
                b'Basic realm="a", Bearer error="invalid_token", error_description="it \\"expired\\""',
                b"Bearer",
                b"a" + b" " * 700 + b'"',
            ),
            (
                b"Bearer",
                b"error",
                b"=",
                b'"',
                b"\\",
                b", " * 32,
                b" " * 64,
                b"insufficient_scope",
                b'error="invalid_token"',
            ),
        ),
    )
}
