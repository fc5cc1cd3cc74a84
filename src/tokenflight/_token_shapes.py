"""The shapes in which providers reply and other programs store tokens: which of a mapping's members means what.

A member is known by the letters of its name: ``expires_at``, ``expiresAt``, ``Expires-At`` and ``.expiresat`` are one
name. Where several members say the same thing, the one counts whose name comes first in the tables here, and of several
spellings the one in lower case.
"""

import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from itertools import product
from typing import Final, NamedTuple, TypeAlias, TypeVar

from tokenflight._redaction import redacted
from tokenflight._token_times import (
    MAX_CLOCK_SKEW_SECONDS,
    MAX_LIFETIME_SECONDS,
    is_in_milliseconds,
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
_SEPARATORS: Final = re.compile(r"[\W_]+")


def _names(*parts: Iterable[str]) -> tuple[str, ...]:
    return tuple(dict.fromkeys("".join(words) for words in product(*parts)))


_OF_ACCESS_TOKEN: Final = ("accesstoken", "token", "access", "")
_OF_REFRESH_TOKEN: Final = ("refreshtoken", "refresh", "xrefreshtoken", "xrefreshtokenhard")
_MILLISECONDS: Final = ("ms", "millis", "milliseconds")
_AT: Final = (
    *("expiresat", "expireson", "expiry", "expirydate", "expiration", "expirationdate", "expirationtime"),
    *_names(
        ("expires", "expiry", "expiration", "expire", "expired"),
        ("at", "on", "date", "time", "datetime", "timestamp", "ontimestamp", "epoch"),
        ("", *_MILLISECONDS, "utc"),
    ),
    *("expiresutc", "exp", "validuntil", "validtill", "validto", "notafter"),
)
_IN: Final = (
    # First those that tell the unit.
    *_names(("expiresin", "expirein", "expiryin", "expirationin"), ("sec", "secs", "seconds", *_MILLISECONDS, "")),
    *("lifetime", "ttl", "validity", "validfor"),
)
_AT_OR_IN: Final = ("expires", "expire")
_BEGAN_AT: Final = (
    *_names(
        ("issued", "obtained", "created", "saved", "acquired", "fetched", "received", "cached"),
        ("at", "on", "time", "date"),
    ),
    *_names(("stored", "retrieved", "requested", "granted", "generated", "refreshed", "lastrefreshed"), ("at", "on")),
    *("issued", "obtained", "created", "iat", "issuetime", "issuedate", "createtime", "creationtime", "creationdate"),
    *("lastrefresh", "lastrefreshed", "timestamp", "authtime"),
)

_REPLY_NAMES: Final[Mapping[str, tuple[str, ...]]] = {
    "access_token": ("accesstoken",),
    "refresh_token": ("refreshtoken",),
    "token_type": ("tokentype",),
    "id_token": ("idtoken",),
    "scope": ("scope", "scopes"),
    "expires_at": _names(_OF_ACCESS_TOKEN, _AT),
    "expires_in": _names(_OF_ACCESS_TOKEN, _IN),
    "expires": _names(_OF_ACCESS_TOKEN, _AT_OR_IN),
    "refresh_in": ("refreshin",),
    "refresh_token_expires_at": _names(_OF_REFRESH_TOKEN, _AT),
    "refresh_token_expires_in": _names(_OF_REFRESH_TOKEN, _IN),
    "refresh_token_expires": _names(_OF_REFRESH_TOKEN, _AT_OR_IN),
}
"""What a reply says that a token set has fields for. When it was issued is not among them: the provider's clock tells
that, and Salesforce signs it."""

_FILE_NAMES: Final[Mapping[str, tuple[str, ...]]] = {
    **_REPLY_NAMES,
    "access_token": ("accesstoken", "oauthaccesstoken"),
    "token": ("token",),
    "token_secret": ("tokensecret",),
    "oauth_token": ("oauthtoken",),
    "oauth_token_secret": ("oauthtokensecret",),
    "refresh_token": ("refreshtoken", "oauthrefreshtoken"),
    "issued_at": _names(("", "token", "accesstoken"), _BEGAN_AT),
    "refresh_at": ("refreshat", "refreshon", "refreshafter", "refreshaftertimestamp"),
    "refresh_token_issued_at": _names(("refreshtoken",), _BEGAN_AT),
    "extra": ("extra",),
    "client_secret": ("clientsecret",),
}
"""The same for files. A client's secret belongs to the deployment: it is not copied into the record of each user."""

Meanings: TypeAlias = Mapping[str, tuple[str, int]]
"""What a folded name means, and its place among the names that mean it."""


def _meanings(tables: Mapping[str, tuple[str, ...]]) -> Meanings:
    return {name: (meaning, place) for meaning, names in tables.items() for place, name in enumerate(names)}


REPLY: Final = _meanings(_REPLY_NAMES)
FILE: Final = _meanings(_FILE_NAMES)


def folded(name: str) -> str:
    """A member's name without case and separators: ``access_token``, ``accessToken`` and ``Access-Token`` are one."""
    return _SEPARATORS.sub("", name.lower())


def sorted_out(data: Mapping[str, object], meanings: Meanings) -> tuple[dict[str, list[object]], dict[str, object]]:
    """The values in `data` for each of the `meanings`, the one that counts first; and the members that have none."""
    placed: dict[str, list[tuple[tuple[int, bool], object]]] = {}
    others: dict[str, object] = {}
    for name, value in data.items():
        key = folded(name) if isinstance(name, str) and len(name) <= _MAX_NAME_CHARACTERS else ""
        if (known := meanings.get(key)) is None:
            others[str(name)] = value
            continue
        meaning, place = known
        is_milliseconds = meaning.endswith("_in") and key.endswith(_MILLISECONDS)
        rank = (place, not name.islower())
        placed.setdefault(meaning, []).append((rank, _thousandth(value) if is_milliseconds else value))
    found = {meaning: sorted(values, key=lambda item: item[0]) for meaning, values in placed.items()}
    return {meaning: [value for _, value in values] for meaning, values in found.items()}, others


class TokenTimes(NamedTuple):
    """The times of a token set, in POSIX seconds, None where unknown."""

    issued_at: float | None
    expires_at: float | None
    refresh_at: float | None
    refresh_token_expires_at: float | None


class Members:
    """The members of a mapping by their `meanings`, and `others` under their own names."""

    def __init__(self, data: Mapping[str, object], meanings: Meanings) -> None:
        self._found, self.others = sorted_out(data, meanings)

    def all(self, meanings: Iterable[str], read: Callable[[object], T | None]) -> Iterator[T]:
        """What `read` makes of each member with one of these `meanings` that it can read, in their order."""
        values = (value for meaning in meanings for value in self._found.get(meaning, ()))
        return (found for value in values if (found := read(value)) is not None)

    def first(self, meaning: str, read: Callable[[object], T | None]) -> T | None:
        """The first of what `all` gives."""
        return next(self.all((meaning,), read), None)

    @property
    def tokens(self) -> tuple[str | None, str | None]:
        """The access token and the refresh token.

        Google's libraries and django-allauth call the former "token", and the latter then calls the refresh token the
        "token_secret". An "oauth_token" with a secret is one of OAuth 1, which is signed with it and can't be sent.
        """
        access_token, refresh_token = self.first("access_token", token), self.first("refresh_token", token)
        if access_token is None and (access_token := self.first("token", token)) is not None:
            refresh_token = refresh_token or self.first("token_secret", token)
        if access_token is None and self.first("oauth_token_secret", token) is None:
            access_token = self.first("oauth_token", token)
        return access_token, refresh_token

    @property
    def scope(self) -> str | None:
        """The scope, in the form of RFC 6749 §3.3."""
        return self.first("scope", scope)

    @property
    def extra(self) -> dict[str, object]:
        """What can be stored of the members that mean nothing here, and of those that were set apart already."""
        apart = self.first("extra", lambda value: value if isinstance(value, Mapping) else None)
        return _storable(self.others) | dict(apart or {})

    def reply_times(self, sent_at: float) -> TokenTimes:
        """The times in a reply to a request that was sent at `sent_at`, in POSIX seconds.

        A token that ends before it was asked for makes no sense: then its end is unknown.
        """

        def read_lifetime(value: object) -> float | None:
            seconds = lifetime(value, issued_at=sent_at)
            return None if seconds is None or seconds <= 0 else seconds

        stated_at = self._stated_expiry(sent_at)
        seconds = next(self.all(("expires_in", "expires"), read_lifetime), None)
        if seconds is not None and stated_at is not None and is_in_milliseconds(seconds, stated_at - sent_at):
            seconds /= 1000
        expires_at = plausible(stated_at if seconds is None else sent_at + seconds, sent_at)
        return TokenTimes(
            sent_at,
            None if expires_at is None or expires_at <= sent_at else expires_at,
            self._earliest("refresh", sent_at, sent_at),
            self._earliest("refresh_token_expires", sent_at, sent_at),
        )

    def stored_times(self, now: float) -> TokenTimes:
        """The times in another program's file that is read at `now`, in POSIX seconds.

        A clock that was wrong wrote a moment of issue in the future, or leaves more life than the token ever had. That
        moment is unknown then, and whatever lies after it is by the same clock: the access token counts as expired.
        """
        issued_at = self.first("issued_at", moment)
        expires_at = self._stored_expiry(issued_at, now)
        if issued_at is not None and issued_at > now + MAX_CLOCK_SKEW_SECONDS:
            is_by_this_clock = expires_at is not None and expires_at > issued_at
            return TokenTimes(None, 0.0 if is_by_this_clock else plausible(expires_at, now), None, None)
        refresh_token_issued_at = next(self.all(("refresh_token_issued_at", "issued_at"), moment), None)
        return TokenTimes(
            issued_at,
            plausible(expires_at, now if issued_at is None else issued_at),
            self._earliest("refresh", issued_at, now),
            self._earliest("refresh_token_expires", refresh_token_issued_at, now),
        )

    def _stored_expiry(self, issued_at: float | None, now: float) -> float | None:
        stated_at = self._stated_expiry(now)
        began_at = now if issued_at is None else issued_at
        seconds = next(self.all(("expires_in", "expires"), lambda value: lifetime(value, issued_at=began_at)), None)
        if stated_at is not None:
            is_by_wrong_clock = (
                issued_at is None
                and seconds is not None
                and 0 < seconds < stated_at - now - MAX_CLOCK_SKEW_SECONDS
                and not is_in_milliseconds(seconds, stated_at - now)
            )
            return 0.0 if is_by_wrong_clock else stated_at
        if seconds is None or (seconds == 0 and self.tokens[1] is None):
            return None  # Mailchimp says 0 of a token that never expires
        return 0.0 if issued_at is None else issued_at + seconds  # began at an unknown moment: over

    def _stated_expiry(self, now: float) -> float | None:
        """The moment that a member states; some programs write it where others have a lifetime."""
        stated_at = self.first("expires_at", moment)
        if stated_at is not None:
            return stated_at
        return next(self.all(("expires", "expires_in"), lambda value: _moment_near(value, now)), None)

    def _earliest(self, what: str, issued_at: float | None, now: float) -> float | None:
        """The earliest of the stated ends that makes sense. A lifetime of zero means "never" (Keycloak)."""
        ends = list(self.all((f"{what}_at", what, f"{what}_in"), lambda value: _moment_near(value, now)))
        if issued_at is not None:
            lifetimes = self.all((f"{what}_in", what), lambda value: lifetime(value, issued_at=issued_at))
            ends += [issued_at + seconds for seconds in lifetimes if seconds > 0]
        sensible = (end for end in ends if plausible(end, now) is not None and (issued_at is None or end > issued_at))
        return min(sensible, default=None)


def token(value: object) -> str | None:
    """A token: a text with something in it, without the white space that a file may have around it."""
    return text(value.strip()) if isinstance(value, str) else None


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


def _moment_near(value: object, now: float) -> float | None:
    """A moment within the years around `now`. A small number is none, but a lifetime, or zero for "never"."""
    amount = number(value)
    posix = moment(value) if amount is None or amount > MAX_LIFETIME_SECONDS else None
    return None if posix is None or abs(posix - now) > MAX_LIFETIME_SECONDS else posix


def _thousandth(value: object) -> float | None:
    return None if (amount := number(value)) is None else amount / 1000


def _storable(members: Mapping[str, object]) -> dict[str, object]:
    return {name: value for name, value in members.items() if _is_storable(value)}


def _is_storable(value: object) -> bool:
    try:
        redacted(value)
    except ConfigurationError:
        return False
    return True
