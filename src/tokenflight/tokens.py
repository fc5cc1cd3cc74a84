"""The token set: what a token endpoint returned for one user, as plain, frozen, redacted data."""

import time
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Final, Self

from tokenflight._jwt import unverified_claims
from tokenflight._redaction import ReadOnlyDict, Secret, is_nested_too_deeply, map_strings, redacted
from tokenflight._token_shapes import (
    FILE,
    PROOF_TOKEN_TYPES,
    REPLY,
    Members,
    scope,
    text,
    token_type,
)
from tokenflight._token_times import MAX_LIFETIME_SECONDS, number
from tokenflight.errors import ConfigurationError, InvalidProviderResponse, StoreCorrupted

__all__ = [
    "DEFAULT_TARGET",
    "FORMAT_VERSION",
    "MAX_LIFETIME_SECONDS",
    "Target",
    "TokenKey",
    "TokenResult",
    "TokenSet",
]

FORMAT_VERSION: Final = 1
"""The version of the format that `TokenSet.to_dict` writes."""

_NO_EXTRA: Final = ReadOnlyDict[str, object]()
_TIMES: Final = ("expires_at", "issued_at", "refresh_token_expires_at", "refresh_at")


@dataclass(frozen=True, slots=True)
class TokenKey:
    """The key of a record: a user at a provider. Both are non-empty strings of any length and content.

    Raises `ConfigurationError` for anything else.
    """

    provider: str
    user_id: str

    def __post_init__(self) -> None:
        for name in ("provider", "user_id"):
            value = getattr(self, name)
            if not isinstance(value, str) or not value:
                raise ConfigurationError(f"{name} must be a non-empty string, not {type(value).__name__} {value!r:.40}")


@dataclass(frozen=True, slots=True)
class Target:
    """The purpose of an access token. Each member is None or a non-empty string; targets with equal members are equal.

    `scope` is the scope to request (RFC 6749 §3.3), `resource` the URI of the API (RFC 8707 §2), and `audience` the
    name of the API at providers that have their own parameter for it. Raises `ConfigurationError` for other values.
    """

    scope: str | None = None
    resource: str | None = None
    audience: str | None = None

    def __post_init__(self) -> None:
        for name in ("scope", "resource", "audience"):
            value = getattr(self, name)
            if value is not None and (not isinstance(value, str) or not value):
                raise ConfigurationError(
                    f"{name} must be a non-empty string or None, not {type(value).__name__} {value!r:.40}"
                )


DEFAULT_TARGET: Final = Target()
"""The target of the access token that comes with the grant itself."""


@dataclass(frozen=True, slots=True, repr=False)
class TokenSet:
    """A token endpoint's reply for a user, as frozen data (RFC 6749 §5.1).

    `expires_at`, `issued_at`, `refresh_token_expires_at` and `refresh_at` are POSIX seconds, or None where unknown.
    `issued_at` is the moment the token request was sent, and `refresh_at` the moment from which on the provider wants
    the access token renewed ahead of time. `extra` holds the reply's other members, read-only. No secret shows in
    `repr`, in a formatted string, or in what `dataclasses.asdict` prints.

    A program that has a refresh token and no access token yet leaves `access_token` empty. Such a set only says how to
    get an access token: it is never valid, so a refresher renews it before it hands anything out. It needs a
    `refresh_token`, and `from_response` never makes one.

    Raises `ConfigurationError` if a member has another type, or if there is neither of the two tokens.
    """

    access_token: str
    token_type: str = "Bearer"  # noqa: S105 - the name of a token type
    expires_at: float | None = None
    refresh_token: str | None = None
    scope: str | None = None
    id_token: str | None = None
    issued_at: float | None = None
    extra: Mapping[str, object] = field(default_factory=ReadOnlyDict, hash=False)
    refresh_token_expires_at: float | None = None
    refresh_at: float | None = None

    def __post_init__(self) -> None:
        if not isinstance(self.access_token, str) or not (self.access_token or self.refresh_token):
            raise ConfigurationError("access_token must be a non-empty string, or empty beside a refresh_token")
        if not isinstance(self.token_type, str) or not self.token_type:
            raise ConfigurationError("token_type must be a non-empty string")
        if not isinstance(self.extra, Mapping):
            raise ConfigurationError(f"extra must be a mapping, not {type(self.extra).__name__}")
        for name in ("refresh_token", "scope", "id_token"):
            if not isinstance(value := getattr(self, name), str | None):
                raise ConfigurationError(f"{name} must be a string or None, not {type(value).__name__}")
        for name in _TIMES:
            value = getattr(self, name)
            if value is not None and (not isinstance(value, int | float) or number(value) is None):
                raise ConfigurationError(f"{name} must be finite POSIX seconds or None, not a {type(value).__name__}")
        set_field = object.__setattr__  # the way a frozen dataclass sets its own fields
        for name in ("access_token", "refresh_token", "id_token"):
            set_field(self, name, map_strings(Secret, getattr(self, name)))
        set_field(self, "extra", ReadOnlyDict(redacted(self.extra)) if self.extra else _NO_EXTRA)

    def __repr__(self) -> str:
        times = [name for name in ("refresh_at", "refresh_token_expires_at") if getattr(self, name) is not None]
        held = [name for name in ("refresh_token", "id_token") if getattr(self, name) is not None]
        return (
            f"<TokenSet {self.token_type} expires_at={self.expires_at}"
            f"{''.join(f' {name}={getattr(self, name)}' for name in times)} scope={self.scope!r}"
            f"{''.join(f' +{name}' for name in held)}{'' if self.access_token else ' -access_token'}>"
        )

    @property
    def lifetime(self) -> float | None:
        """The seconds from the issue of the access token to its expiry, or None where unknown."""
        if self.expires_at is None or self.issued_at is None or self.expires_at <= self.issued_at:
            return None
        return self.expires_at - self.issued_at

    @classmethod
    def from_response(cls, response: Mapping[str, Any], *, received_at: float | None = None) -> Self:
        """Read a token endpoint's reply, a decoded JSON object (RFC 6749 §5.1).

        ``expires_in`` counts from `received_at`, in POSIX seconds: now if not given. Pass the moment at which the
        request was *sent* if you know it, so that a slow reply never looks fresher than it is. A lifetime that makes
        no sense (missing, negative, zero, not a number, over ten years) becomes an unknown expiry.

        An unknown token type reads as a bearer token. Raises `InvalidProviderResponse` if there is no usable access
        token, or if its type demands a proof of possession other than DPoP (RFC 9449 §5), and `ConfigurationError` if
        `received_at` is not a number.
        """
        if not isinstance(response, Mapping):
            raise InvalidProviderResponse(f"the token reply is not a JSON object but {type(response).__name__}")
        sent_at = time.time() if received_at is None else number(received_at)
        if sent_at is None or isinstance(received_at, str):
            raise ConfigurationError(f"received_at must be POSIX seconds, not a {type(received_at).__name__}")
        if is_nested_too_deeply(response):
            raise InvalidProviderResponse("the token reply is nested too deeply")
        access_token = _member(response, "access_token")
        if access_token is None:
            raise InvalidProviderResponse("the token reply has no usable access_token")
        stated_type = response.get("token_type") or ""
        kind = token_type(stated_type)
        if not isinstance(stated_type, str) or kind.lower() in PROOF_TOKEN_TYPES:
            raise InvalidProviderResponse(
                "the token reply has a token_type that is no text, or that demands a proof other than DPoP"
            )
        members = Members(response, REPLY)
        times = members.reply_times(sent_at)
        return cls(
            access_token=access_token,
            token_type=kind,
            expires_at=times.expires_at,
            refresh_token=_member(response, "refresh_token", required=False),
            scope=scope(response.get("scope")),
            id_token=text(response.get("id_token")),
            issued_at=times.issued_at,
            extra=members.extra,
            refresh_token_expires_at=times.refresh_token_expires_at,
            refresh_at=times.refresh_at,
        )

    def to_dict(self) -> dict[str, Any]:
        """Return a JSON-ready dict with the secrets in it. `from_dict` reads it back."""
        return {
            "format_version": FORMAT_VERSION,
            "access_token": str(self.access_token),  # plain strings: not every driver takes a subclass
            "token_type": self.token_type,
            "expires_at": self.expires_at,
            "refresh_token": None if self.refresh_token is None else str(self.refresh_token),
            "scope": self.scope,
            "id_token": None if self.id_token is None else str(self.id_token),
            "issued_at": self.issued_at,
            "refresh_token_expires_at": self.refresh_token_expires_at,
            "refresh_at": self.refresh_at,
            "extra": map_strings(str, self.extra),
        }

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Self:
        """Read the output of `to_dict`, or the token set of one user that another program wrote.

        A foreign token set may have names in camelCase. Its times may be `datetime`, POSIX seconds or fractions of
        them, also as text, or dates in one of the usual notations; a malformed time reads as unknown. ``expires_in``
        counts from ``issued_at`` or a member like it; without one, the token reads as expired, unless its expiry is
        stated, too, and leaves no more life than that. This method knows Google's ``token`` and ``expiry``,
        django-allauth's ``token_secret``, ``oauth_token``, and lists of ``scopes``. It keeps other members in `extra`,
        except for a client's secret. Files of several users are for `tokenflight.importers`.

        Raises `StoreCorrupted` if there is neither an access token nor a refresh token, or if a later version of the
        library wrote it.
        """
        if not isinstance(data, Mapping):
            raise StoreCorrupted(f"a stored token set must be a JSON object, not {type(data).__name__}")
        if is_nested_too_deeply(data):
            raise StoreCorrupted("the stored token set is nested too deeply")
        if "format_version" not in data:
            return cls._from_others_dict(data)
        version = data["format_version"]
        if isinstance(version, bool) or not isinstance(version, int) or not 1 <= version <= FORMAT_VERSION:
            raise StoreCorrupted(
                "the stored token set has a format version other than this tokenflight knows, which is "
                f"{FORMAT_VERSION}: upgrade it",
                code="unsupported_format",
            )
        access_token, refresh_token, extra = (
            data.get("access_token"),
            text(data.get("refresh_token")),
            data.get("extra"),
        )
        if not isinstance(access_token, str) or not (access_token or refresh_token):
            raise StoreCorrupted("the stored token set has no access_token")
        return cls(
            access_token=access_token,
            token_type=text(data.get("token_type")) or "Bearer",
            refresh_token=refresh_token,
            scope=scope(data.get("scope")),
            id_token=text(data.get("id_token")),
            extra=extra if isinstance(extra, Mapping) else _NO_EXTRA,
            **{name: number(data.get(name)) for name in _TIMES},
        )

    @classmethod
    def _from_others_dict(cls, data: Mapping[str, Any]) -> Self:
        members = Members(data, FILE)
        access_token, refresh_token = members.tokens
        if access_token is None and refresh_token is None:
            raise StoreCorrupted("the stored token set has no access_token, and no refresh_token to get one with")
        times = members.stored_times(time.time())
        return cls(
            access_token=access_token or "",
            token_type=token_type(members.first("token_type", text)),
            expires_at=times.expires_at,
            refresh_token=refresh_token,
            scope=members.scope,
            id_token=members.first("id_token", text),
            issued_at=times.issued_at,
            extra=members.extra,
            refresh_token_expires_at=times.refresh_token_expires_at,
            refresh_at=times.refresh_at,
        )

    def carrying_over(self, previous: "TokenSet | None") -> "TokenSet":
        """Return this renewed set, with the members that its reply left out taken from `previous` (RFC 6749 §6).

        How long the refresh token lives is carried over only while it stays the same.
        """
        if previous is None:
            return self
        refresh_token_expires_at = self.refresh_token_expires_at
        if refresh_token_expires_at is None and self.refresh_token in {None, previous.refresh_token}:
            refresh_token_expires_at = previous.refresh_token_expires_at
        return replace(
            self,
            refresh_token=self.refresh_token or previous.refresh_token,
            scope=self.scope or previous.scope,
            id_token=self.id_token or previous.id_token,
            extra={**previous.extra, **self.extra},
            refresh_token_expires_at=refresh_token_expires_at,
        )

    def after_login(self, previous: "TokenSet | None") -> "TokenSet":
        """Return this set of a new login, with the refresh token of `previous` if the login brought none.

        Google sends a refresh token at a user's first login only. It stays good, so a second login must not erase it.
        The result keeps nothing of `previous` if the login brought a refresh token, or if the ``sub`` claims of the
        two ID tokens differ. Pass None as `previous` if the provider refused its refresh token.
        """
        if previous is None or previous.refresh_token is None or self.refresh_token is not None:
            return self
        subjects = {_subject(tokens) for tokens in (self, previous)} - {None}
        if len(subjects) > 1:
            return self
        return replace(self.carrying_over(previous), scope=self.scope)  # another login may ask for another scope

    def has_same_access(self, other: "TokenSet") -> bool:
        """Whether the access token is that of `other`, with the same life; the refresh tokens may differ."""
        mine = (self.access_token, self.issued_at, self.expires_at)
        return mine == (other.access_token, other.issued_at, other.expires_at)

    def supersedes(self, other: "TokenSet", *, spent: str | None = None) -> bool:
        """Whether this set is `other` itself or newer, as far as their members tell.

        `spent` is the refresh token that the renewal of this set used up, None where unknown.
        """
        is_same = self.access_token == other.access_token != ""
        if is_same or (spent is not None and other.refresh_token == spent):
            return True
        for mine, theirs in ((self.issued_at, other.issued_at), (self.expires_at, other.expires_at)):
            if mine is not None and theirs is not None and mine != theirs:
                return mine > theirs
        return self.refresh_token == other.refresh_token


@dataclass(frozen=True, slots=True)
class TokenResult:
    """A valid token set for a caller that keeps token sets itself.

    `should_update` is true exactly when the token set of the caller is out of date: then the caller stores `tokens`.
    """

    tokens: TokenSet
    should_update: bool

    @property
    def access_token(self) -> str:
        """The access token."""
        return self.tokens.access_token

    @property
    def expires_at(self) -> float | None:
        """The expiry of the access token in POSIX seconds, or None where unknown."""
        return self.tokens.expires_at


def _member(response: Mapping[str, Any], name: str, *, required: bool = True) -> str | None:
    """Return a token in a reply: visible ASCII (RFC 6749 Appendix A), so that it can't break out of a header."""
    value = response.get(name)
    if value is None or (value == "" and not required):
        return None
    if isinstance(value, str) and value and value.isascii() and value.isprintable():
        return value
    raise InvalidProviderResponse(f"the token reply has no usable {name}")


def _subject(tokens: TokenSet) -> str | None:
    """The ``sub`` claim of the ID token in `tokens` (OpenID Connect Core §2), or None without one."""
    return None if tokens.id_token is None else text(unverified_claims(tokens.id_token).get("sub"))
