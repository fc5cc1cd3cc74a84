"""The token set: what a token endpoint returned for one user, as plain, frozen, redacted data."""

import math
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, Final, Self, SupportsIndex

from tokenflight._read_only import ReadOnlyDict
from tokenflight.errors import ConfigurationError, InvalidProviderResponse, StoreCorrupted

FORMAT_VERSION: Final = 1
"""Version of what `TokenSet.to_dict` writes."""

MAX_LIFETIME_SECONDS: Final = 10 * 365 * 86_400
"""A longer lifetime than this is a provider's way of saying "unknown"."""

MAX_NESTING: Final = 50
"""Levels of objects and arrays in a reply or a stored token set."""


class _Secret(str):
    """A string that `repr` hides, so that dataclass helpers, debuggers and rich tracebacks do not show it."""

    __slots__ = ()

    def __repr__(self) -> str:
        return "'***'"

    def __getitem__(self, index: SupportsIndex | slice) -> "_Secret":
        # A part too: tools cut long strings before they show them.
        return _Secret(super().__getitem__(index))


_NO_EXTRA: Final = ReadOnlyDict[str, object]()


@dataclass(frozen=True, slots=True)
class TokenKey:
    """Whose token set, at which provider. Both are non-empty strings of any length and content."""

    provider: str
    user_id: str

    def __post_init__(self) -> None:
        for name in ("provider", "user_id"):
            value = getattr(self, name)
            if not isinstance(value, str) or not value:
                raise ConfigurationError(f"{name} must be a non-empty string, not {type(value).__name__} {value!r:.40}")


@dataclass(frozen=True, slots=True)
class Target:
    """What an access token is for. Targets with equal members are equal; each member is None or a non-empty string.

    `scope` is the scope to ask for (RFC 6749 §3.3), `resource` the URI of the API (RFC 8707), and `audience` the name
    of the API at providers that have their own parameter for it.
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
    """What a token endpoint returned for a user (RFC 6749 §5.1).

    `expires_at` and `issued_at` are POSIX seconds, or None where unknown; `issued_at` is the moment the token
    request was sent. `extra` holds the reply's other members, read-only. No secret shows in `repr`,
    in a formatted string, or in what `dataclasses.asdict` prints.
    """

    access_token: str
    token_type: str = "Bearer"  # noqa: S105 - the name of a token type
    expires_at: float | None = None
    refresh_token: str | None = None
    scope: str | None = None
    id_token: str | None = None
    issued_at: float | None = None
    extra: Mapping[str, object] = field(default_factory=ReadOnlyDict, hash=False)

    def __post_init__(self) -> None:
        if not isinstance(self.access_token, str) or not self.access_token:
            raise ConfigurationError("access_token must be a non-empty string")
        if not isinstance(self.token_type, str) or not self.token_type:
            raise ConfigurationError("token_type must be a non-empty string")
        if not isinstance(self.extra, Mapping):
            raise ConfigurationError(f"extra must be a mapping, not {type(self.extra).__name__}")
        for name in ("refresh_token", "scope", "id_token"):
            if not isinstance(value := getattr(self, name), str | None):
                raise ConfigurationError(f"{name} must be a string or None, not {type(value).__name__}")
        for name in ("expires_at", "issued_at"):
            if (value := getattr(self, name)) is not None and (isinstance(value, str) or _seconds(value) is None):
                raise ConfigurationError(f"{name} must be finite POSIX seconds or None, not a {type(value).__name__}")
        set_field = object.__setattr__  # the way a frozen dataclass sets its own fields
        for name in ("access_token", "refresh_token", "id_token"):
            set_field(self, name, _strings_as(_Secret, getattr(self, name)))
        set_field(self, "extra", ReadOnlyDict(_hidden(self.extra)) if self.extra else _NO_EXTRA)

    def __repr__(self) -> str:
        held = [name for name in ("refresh_token", "id_token") if getattr(self, name) is not None]
        return (
            f"<TokenSet {self.token_type} expires_at={self.expires_at} scope={self.scope!r}"
            f"{''.join(f' +{name}' for name in held)}>"
        )

    @property
    def lifetime(self) -> float | None:
        """How many seconds the access token lived when it was issued, or None where unknown."""
        if self.expires_at is None or self.issued_at is None or self.expires_at <= self.issued_at:
            return None
        return self.expires_at - self.issued_at

    @classmethod
    def from_response(cls, response: Mapping[str, Any], *, received_at: float | None = None) -> Self:
        """Read a token endpoint's reply, a decoded JSON object (RFC 6749 §5.1).

        `received_at` is what ``expires_in`` is counted from, in POSIX seconds: now if not given. Pass the moment
        the request was *sent* where it is known, so that a slow reply never looks fresher than it is. A lifetime
        that makes no sense (missing, negative, zero, not a number, over ten years) becomes an unknown expiry.

        Raises `InvalidProviderResponse` if there is no usable access token or the token type is neither Bearer
        nor DPoP.
        """
        if not isinstance(response, Mapping):
            raise InvalidProviderResponse(f"the token reply is not a JSON object but {type(response).__name__}")
        issued_at = time.time() if received_at is None else _seconds(received_at)
        if issued_at is None or isinstance(received_at, str):
            raise ConfigurationError(f"received_at must be POSIX seconds, not a {type(received_at).__name__}")
        if _is_nested_too_deeply(response):
            raise InvalidProviderResponse("the token reply is nested too deeply")
        access_token = _member(response, "access_token")
        if access_token is None:
            raise InvalidProviderResponse("the token reply has no usable access_token")
        token_type = response.get("token_type") or "Bearer"
        if not isinstance(token_type, str) or token_type.lower() not in {"bearer", "dpop"}:
            raise InvalidProviderResponse("the token reply has a token_type other than Bearer or DPoP")
        lifetime = _seconds(response.get("expires_in"))
        if lifetime is not None and lifetime > 0:
            expires_at = _plausible(issued_at + lifetime, issued_at)
        else:
            expires_at = _plausible(_timestamp(response.get("expires_at")), issued_at)
        return cls(
            access_token=access_token,
            token_type=token_type,
            expires_at=expires_at,
            refresh_token=_member(response, "refresh_token", required=False),
            scope=_scope(response.get("scope")),
            id_token=_text(response.get("id_token")),
            issued_at=issued_at,
            extra={str(key): value for key, value in response.items() if key not in _RESPONSE_MEMBERS},
        )

    def to_dict(self) -> dict[str, Any]:
        """A JSON-ready dict with the secrets in it, in the shape `from_dict` reads back."""
        return {
            "format_version": FORMAT_VERSION,
            "access_token": str(self.access_token),  # plain strings: not every driver takes a subclass
            "token_type": self.token_type,
            "expires_at": self.expires_at,
            "refresh_token": None if self.refresh_token is None else str(self.refresh_token),
            "scope": self.scope,
            "id_token": None if self.id_token is None else str(self.id_token),
            "issued_at": self.issued_at,
            "extra": _strings_as(str, self.extra),
        }

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Self:
        """Read what `to_dict` wrote, or one of the older shapes other programs leave behind.

        Those are: ``expires_at`` as a number, a numeric string, ISO 8601 or a `datetime`; ``expires_in`` beside
        ``issued_at``, ``obtained_at``, ``created_at`` or ``saved_at`` (without one of them: already expired);
        camelCase names; ``token_expires_at``; Google's ``token`` and ``expiry``. A malformed expiry reads as unknown.

        Raises `StoreCorrupted` if there is no access token, or if a later version of the library wrote it.
        """
        if not isinstance(data, Mapping):
            raise StoreCorrupted(f"a stored token set must be a JSON object, not {type(data).__name__}")
        version = data.get("format_version", FORMAT_VERSION)
        if isinstance(version, bool) or not isinstance(version, int) or not 1 <= version <= FORMAT_VERSION:
            raise StoreCorrupted(
                "the stored token set has a format version other than this tokenflight knows, which is "
                f"{FORMAT_VERSION}: upgrade it",
                code="unsupported_format",
            )
        if "format_version" in data:
            fields, issued_at, expires_at = data, _seconds(data.get("issued_at")), _seconds(data.get("expires_at"))
        else:  # another program's
            fields = {_FIELD_NAMES[key]: value for key, value in data.items() if key in _FIELD_NAMES} | dict(data)
            issued_at, expires_at = _stored_times(fields)
            expires_at = _plausible(expires_at, time.time() if issued_at is None else issued_at)
        access_token = fields.get("access_token")
        if not isinstance(access_token, str) or not access_token:
            raise StoreCorrupted("the stored token set has no access_token")
        extra = fields.get("extra")
        if _is_nested_too_deeply(extra):
            raise StoreCorrupted("the stored token set is nested too deeply")
        return cls(
            access_token=access_token,
            token_type=_text(fields.get("token_type")) or "Bearer",
            expires_at=expires_at,
            refresh_token=_text(fields.get("refresh_token")),
            scope=_scope(fields.get("scope")),
            id_token=_text(fields.get("id_token")),
            issued_at=issued_at,
            extra={str(key): value for key, value in extra.items()} if isinstance(extra, Mapping) else {},
        )

    def carrying_over(self, previous: "TokenSet | None") -> "TokenSet":
        """This renewed set, with what its reply left out taken from the set it replaces (RFC 6749 §6)."""
        if previous is None:
            return self
        return TokenSet(
            access_token=self.access_token,
            token_type=self.token_type,
            expires_at=self.expires_at,
            refresh_token=self.refresh_token or previous.refresh_token,
            scope=self.scope or previous.scope,
            id_token=self.id_token or previous.id_token,
            issued_at=self.issued_at,
            extra={**previous.extra, **self.extra},
        )

    def supersedes(self, other: "TokenSet", *, spent: str | None = None) -> bool:
        """Whether this set is `other` itself or came after it, as far as the two tell.

        `spent` is the refresh token that this set was renewed with, None where unknown.
        """
        if self.access_token == other.access_token or (spent is not None and other.refresh_token == spent):
            return True
        for mine, theirs in ((self.issued_at, other.issued_at), (self.expires_at, other.expires_at)):
            if mine is not None and theirs is not None and mine != theirs:
                return mine > theirs
        return self.refresh_token == other.refresh_token


@dataclass(frozen=True, slots=True)
class TokenResult:
    """A valid token set for a caller who keeps token sets itself.

    `should_update` is true exactly when what the caller holds is out of date: then it stores `tokens`.
    """

    tokens: TokenSet
    should_update: bool

    @property
    def access_token(self) -> str:
        """The access token."""
        return self.tokens.access_token

    @property
    def expires_at(self) -> float | None:
        """When the access token expires, in POSIX seconds, or None where unknown."""
        return self.tokens.expires_at


_RESPONSE_MEMBERS: Final = frozenset(
    {"access_token", "token_type", "expires_in", "expires_at", "refresh_token", "scope", "id_token"}
)

_FIELD_NAMES: Final = {
    "accessToken": "access_token",
    "refreshToken": "refresh_token",
    "expiresAt": "expires_at",
    "expiresIn": "expires_in",
    "idToken": "id_token",
    "tokenType": "token_type",
    "token_expires_at": "expires_at",
    "token": "access_token",
    "expiry": "expires_at",
}
"""Older names of a field, and the field."""

_ISSUED_AT_NAMES: Final = ("issued_at", "obtained_at", "created_at", "saved_at")


def _hidden(value: Any, levels: int = MAX_NESTING) -> Any:
    """A copy of `value` with each string in it hidden. Raises `ConfigurationError` unless it is JSON, of few levels."""
    match value:
        case str():
            return _Secret(value)
        case Mapping() if levels and all(isinstance(key, str) for key in value):
            return {key: _hidden(item, levels - 1) for key, item in value.items()}
        case list() | tuple() if levels:
            return [_hidden(item, levels - 1) for item in value]
        case None | int() | float():
            return value
    raise ConfigurationError(f"extra must be JSON, nested {MAX_NESTING} levels at most: stores write it so")


def _strings_as(kind: Callable[[str], str], value: Any) -> Any:
    """`value`, a JSON value, with each string in it made a `kind`."""
    match value:
        case str():
            return kind(value)
        case Mapping():
            return {key: _strings_as(kind, item) for key, item in value.items()}
        case list() | tuple():
            return [_strings_as(kind, item) for item in value]
        case _:
            return value


def _text(value: object) -> str | None:
    """`value` if it is a string with something in it."""
    return value if isinstance(value, str) and value else None


def _member(response: Mapping[str, Any], name: str, *, required: bool = True) -> str | None:
    """A token in a reply: visible ASCII (RFC 6749 Appendix A), so that it can't break out of a header."""
    value = response.get(name)
    if value is None or (value == "" and not required):
        return None
    if isinstance(value, str) and value and value.isascii() and value.isprintable():
        return value
    raise InvalidProviderResponse(f"the token reply has no usable {name}")


def _scope(value: object) -> str | None:
    """A scope as RFC 6749 §3.3 writes it; some providers send a list."""
    if isinstance(value, list) and all(isinstance(item, str) for item in value):
        value = " ".join(value)
    return value if isinstance(value, str) and value else None


def _seconds(value: object) -> float | None:
    """A finite number of seconds from a number or a numeric string, or None."""
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        return None
    try:
        seconds = float(value)
    except (ValueError, OverflowError):
        return None
    if not math.isfinite(seconds):
        return None
    return value if isinstance(value, int) else seconds


def _timestamp(value: object) -> float | None:
    """POSIX seconds from a number, a numeric string, ISO 8601 or a datetime (UTC where it has no zone), or None."""
    seconds = _seconds(value)
    if seconds is not None or not isinstance(value, str | datetime):
        return seconds
    try:
        moment = datetime.fromisoformat(value.strip()) if isinstance(value, str) else value
        return (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp()
    except (ValueError, OverflowError):
        return None


def _plausible(expires_at: float | None, issued_at: float) -> float | None:
    """`expires_at` unless it is too far away to be meant, as where it is in milliseconds."""
    if expires_at is None or expires_at - issued_at > MAX_LIFETIME_SECONDS:
        return None
    return expires_at


def _stored_times(fields: Mapping[str, Any]) -> tuple[float | None, float | None]:
    """``(issued_at, expires_at)`` of a stored token set, in POSIX seconds."""
    times_issued = (at for name in _ISSUED_AT_NAMES if (at := _timestamp(fields.get(name))) is not None)
    issued_at = next(times_issued, None)
    if fields.get("expires_at") is not None:
        expires_at = _timestamp(fields["expires_at"])
    elif (lifetime := _seconds(fields.get("expires_in"))) is None:
        expires_at = None
    else:
        expires_at = 0.0 if issued_at is None else issued_at + lifetime
    return issued_at, _seconds(expires_at)  # a sum of two large numbers may be infinite


def _is_nested_too_deeply(value: object, levels: int = MAX_NESTING) -> bool:
    """Whether `value` has more than `levels` levels of objects and arrays: no provider's reply has."""
    items: Iterable[object]
    match value:
        case Mapping():
            items = value.values()
        case list() | tuple():
            items = value
        case _:
            return False
    return not levels or any(_is_nested_too_deeply(item, levels - 1) for item in items)
