"""The shapes in which providers reply and other programs store tokens: which of a mapping's members means what.

A member is known by the words of its name, however they are joined: ``expires_at``, ``expiresAt`` and ``ExpiresAt`` are
one name. Where several members say the same thing, the one counts whose name comes first in the tables here, and of
several spellings the one with underscores.
"""

import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from itertools import chain, product
from typing import Final, NamedTuple, TypeVar

from tokenflight._redaction import redacted
from tokenflight._token_times import (
    MAX_CLOCK_SKEW_SECONDS,
    MAX_LIFETIME_SECONDS,
    lifetime,
    moment,
    number,
    plausible,
)
from tokenflight.errors import ConfigurationError

T = TypeVar("T")

PROOF_TOKEN_TYPES: Final = frozenset({"mac", "pop", "hok"})
"""Types of access tokens that an API takes only with a proof of possession, which this library can't give."""

_MAX_NAME_CHARACTERS: Final = 64
_WORD_BREAK: Final = re.compile(r"(?<=[a-z0-9])(?=[A-Z])|[-\s]")


def _names(prefixes: Iterable[str], endings: Iterable[str]) -> tuple[str, ...]:
    return tuple(prefix + ending for ending, prefix in product(endings, prefixes))


_OF_ACCESS_TOKEN: Final = ("", "token_", "access_token_")
_OF_REFRESH_TOKEN: Final = ("refresh_token_", "refresh_", "x_refresh_token_", "x_refresh_token_hard_")
_AT: Final = (
    *("expires_at", "expires_on", "expiry", "expiry_date", "expiration", "expiration_date", "expiration_time"),
    *("expiration_time_milliseconds", "expire_time", "expires_at_ms", "expires_utc", "valid_until"),
)
_IN: Final = ("expires_in_sec", "expires_in_seconds", "expires_in", "expire_in")  # first the names that tell the unit
_AT_OR_IN: Final = ("expires",)

_ISSUED_AT: Final = (
    *("issued_at", "obtained_at", "created_at", "saved_at", "acquired_at", "fetched_at", "received_at", "cached_at"),
    *("token_issued_at", "token_created_at", "last_refresh"),
)
_EXPIRES_AT: Final = _names(_OF_ACCESS_TOKEN, _AT)
_EXPIRES_IN: Final = _names(_OF_ACCESS_TOKEN, (*_IN, *_AT_OR_IN))
_EXPIRES: Final = _names(_OF_ACCESS_TOKEN, _AT_OR_IN)
_REFRESH_AT: Final = ("refresh_at", "refresh_on")
_REFRESH_IN: Final = ("refresh_in",)
_REFRESH_TOKEN_ISSUED_AT: Final = ("refresh_token_issued_at", *_ISSUED_AT)
_REFRESH_TOKEN_EXPIRES_AT: Final = _names(_OF_REFRESH_TOKEN, (*_AT, *_AT_OR_IN))
_REFRESH_TOKEN_EXPIRES_IN: Final = _names(_OF_REFRESH_TOKEN, (*_IN, *_AT_OR_IN))

REPLY_MEMBERS: Final = frozenset(
    chain(
        ("access_token", "token_type", "refresh_token", "scope", "id_token"),
        chain(_EXPIRES_AT, _EXPIRES_IN, _REFRESH_IN, _REFRESH_TOKEN_EXPIRES_AT, _REFRESH_TOKEN_EXPIRES_IN),
    )
)
"""What a reply says that a token set has fields for. When it was issued is not among them: the provider's clock tells
that, and Salesforce signs it."""

STORED_MEMBERS: Final = REPLY_MEMBERS.union(
    ("token", "token_secret", "scopes", "extra"), _REFRESH_AT, _REFRESH_TOKEN_ISSUED_AT, ("client_secret",)
)
"""The same for files. A client's secret belongs to the deployment: it is not copied into the record of each user."""


class TokenTimes(NamedTuple):
    """The times of a token set, in POSIX seconds, None where unknown."""

    issued_at: float | None
    expires_at: float | None
    refresh_at: float | None
    refresh_token_expires_at: float | None


class Members:
    """The members of a mapping, by name."""

    def __init__(self, data: Mapping[str, object]) -> None:
        self._values = {known_name(key): value for key, value in data.items()} | dict(data)

    def all(self, names: Iterable[str], read: Callable[[object], T | None]) -> Iterator[T]:
        """What `read` makes of each member of these `names` that it can read, in the order of the names."""
        values = (self._values.get(name) for name in names)
        return (found for value in values if (found := read(value)) is not None)

    def first(self, names: Iterable[str], read: Callable[[object], T | None]) -> T | None:
        """The first of what `all` gives."""
        return next(self.all(names, read), None)

    @property
    def access_token(self) -> str | None:
        """The access token; Google's libraries and django-allauth call it "token"."""
        return self.first(("access_token", "token"), text)

    @property
    def refresh_token(self) -> str | None:
        """The refresh token; django-allauth calls it the "token_secret" of its "token"."""
        is_allauth = text(self._values.get("access_token")) is None and text(self._values.get("token")) is not None
        return self.first(("refresh_token", "token_secret") if is_allauth else ("refresh_token",), text)

    @property
    def scope(self) -> str | None:
        """The scope, in the form of RFC 6749 §3.3."""
        return self.first(("scope", "scopes"), scope)

    def reply_times(self, sent_at: float) -> TokenTimes:
        """The times in a reply to a request that was sent at `sent_at`, in POSIX seconds.

        A token that ends before it was asked for makes no sense: then its end is unknown.
        """

        def read_lifetime(value: object) -> float | None:
            seconds = lifetime(value, issued_at=sent_at)
            return None if seconds is None or seconds <= 0 else seconds

        stated_at = self._stated_expiry()
        seconds = self.first(_EXPIRES_IN, read_lifetime)
        if seconds is not None and stated_at is not None and _is_in_milliseconds(seconds, stated_at - sent_at):
            seconds /= 1000
        expires_at = plausible(stated_at if seconds is None else sent_at + seconds, sent_at)
        return TokenTimes(
            sent_at,
            None if expires_at is None or expires_at <= sent_at else expires_at,
            self._earliest(sent_at, sent_at, (), _REFRESH_IN),
            self._earliest(sent_at, sent_at, _REFRESH_TOKEN_EXPIRES_AT, _REFRESH_TOKEN_EXPIRES_IN),
        )

    def stored_times(self, now: float) -> TokenTimes:
        """The times in another program's file that is read at `now`, in POSIX seconds.

        A clock that was wrong wrote a moment of issue in the future. That moment is unknown then, and whatever lies
        after it is by the same clock: the access token counts as expired.
        """
        issued_at = self.first(_ISSUED_AT, moment)
        expires_at = self._stored_expiry(issued_at, now)
        if issued_at is not None and issued_at > now + MAX_CLOCK_SKEW_SECONDS:
            is_by_this_clock = expires_at is not None and expires_at > issued_at
            return TokenTimes(None, 0.0 if is_by_this_clock else plausible(expires_at, now), None, None)
        refresh_token_issued_at = self.first(_REFRESH_TOKEN_ISSUED_AT, moment)
        return TokenTimes(
            issued_at,
            plausible(expires_at, now if issued_at is None else issued_at),
            self._earliest(issued_at, now, _REFRESH_AT, _REFRESH_IN),
            self._earliest(refresh_token_issued_at, now, _REFRESH_TOKEN_EXPIRES_AT, _REFRESH_TOKEN_EXPIRES_IN),
        )

    def _stored_expiry(self, issued_at: float | None, now: float) -> float | None:
        stated_at = self._stated_expiry()
        if stated_at is not None:
            return stated_at
        began_at = now if issued_at is None else issued_at
        seconds = self.first(_EXPIRES_IN, lambda value: lifetime(value, issued_at=began_at))
        if seconds is None or (seconds == 0 and self.refresh_token is None):
            return None  # Mailchimp says 0 of a token that never expires
        return 0.0 if issued_at is None else issued_at + seconds  # began at an unknown moment: over

    def _stated_expiry(self) -> float | None:
        stated_at = self.first(_EXPIRES_AT, moment)
        return self.first(_EXPIRES, _moment_only) if stated_at is None else stated_at

    def _earliest(
        self, issued_at: float | None, now: float, at_names: Iterable[str], in_names: Iterable[str]
    ) -> float | None:
        """The earliest of the stated ends that makes sense. A lifetime of zero means "never" (Keycloak)."""
        ends = list(self.all(at_names, _moment_only))
        if issued_at is not None:
            lifetimes = self.all(in_names, lambda value: lifetime(value, issued_at=issued_at))
            ends += [issued_at + seconds for seconds in lifetimes if seconds > 0]
        sensible = (end for end in ends if plausible(end, now) is not None and (issued_at is None or end > issued_at))
        return min(sensible, default=None)


def known_name(name: object) -> str:
    """The spelling of a member's name in the tables here, if it is there in any."""
    if not isinstance(name, str) or len(name) > _MAX_NAME_CHARACTERS:
        return ""
    return name if name.islower() and name.isidentifier() else _WORD_BREAK.sub("_", name).lower()


def other_members(data: Mapping[str, object], known: frozenset[str]) -> dict[str, object]:
    """The members of `data` that are none of the `known`. What is not JSON, and so can't be stored, is left out."""
    return {str(key): value for key, value in data.items() if known_name(key) not in known and _is_storable(value)}


def text(value: object) -> str | None:
    """`value` if it is a string with something in it."""
    return value if isinstance(value, str) and value else None


def scope(value: object) -> str | None:
    """A scope as RFC 6749 §3.3 writes it; some providers and programs write a list."""
    if isinstance(value, list | tuple | set | frozenset) and all(isinstance(item, str) for item in value):
        value = " ".join(sorted(value) if isinstance(value, set | frozenset) else value)
    return text(value)


def token_type(value: object) -> str:
    """`value` where it names the type of a bearer token or of one with other rules, and Bearer for any other.

    Providers write what they like there, such as "bot" or "User Access Token", of what are bearer tokens.
    """
    if isinstance(value, str) and value.lower() in PROOF_TOKEN_TYPES | {"bearer", "dpop"}:
        return value
    return "Bearer"


def _moment_only(value: object) -> float | None:
    """A moment. A small number is none, but a lifetime, or zero for "never"."""
    amount = number(value)
    return moment(value) if amount is None or amount > MAX_LIFETIME_SECONDS else None


def _is_in_milliseconds(amount: float, seconds: float) -> bool:
    """Whether `amount` is milliseconds, because a second member tells the same lifetime in `seconds`."""
    return amount > 1000 * MAX_CLOCK_SKEW_SECONDS and abs(amount / 1000 - seconds) <= MAX_CLOCK_SKEW_SECONDS


def _is_storable(value: object) -> bool:
    try:
        redacted(value)
    except ConfigurationError:
        return False
    return True
