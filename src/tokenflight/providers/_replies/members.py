"""The members of a token reply by their standard names (RFC 6749 §5.1), read from each vendor's names and forms."""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final, TypeGuard

from tokenflight._token_shapes import REPLY, sorted_out
from tokenflight._token_times import (
    EARLIEST_MOMENT,
    MAX_LIFETIME_SECONDS,
    duration,
    is_in_milliseconds,
    lifetime,
    moment,
    number,
)

_ACCESS_TOKEN: Final = "access_token"  # noqa: S105 - the name of a member
_REFRESH_TOKEN: Final = "refresh_token"  # noqa: S105 - the name of a member
_NOTHING: Final = frozenset({"", "null", "none", "nil", "undefined"})
_PROOF_TYPES: Final = re.compile(r"(?<![a-z0-9])(mac|pop|hok|hmac|ssh-cert)(?![a-z0-9])", re.IGNORECASE)
"""Token types that need more in a request than the token itself."""


@dataclass(frozen=True, slots=True)
class StandardMembers:
    """The members of one object: the values found for each standard name, and all `others` under their own."""

    found: Mapping[str, list[object]] = field(repr=False)
    others: Mapping[str, object] = field(repr=False)

    @property
    def has_access_token(self) -> bool:
        """Whether there is an access token that can be sent in a header."""
        return is_token(self._first(_ACCESS_TOKEN))

    @property
    def refresh_token(self) -> str | None:
        """The refresh token, if there is one that can be sent."""
        value = self._first(_REFRESH_TOKEN)
        return value.strip() if is_token(value) else None

    @property
    def problem(self) -> str | None:
        """Why these members will not do, as in "the reply …", or None if they will."""
        token_type = self._first("token_type")
        refresh_token = self._first(_REFRESH_TOKEN)
        if not self.has_access_token:
            return "has no usable access_token"
        if not isinstance(token_type, str | None):
            return "has a token_type that is no text"
        if token_type is not None and _PROOF_TYPES.search(token_type):
            return "has a token_type that demands a proof"
        if self.refresh_token is None and not _is_absent(refresh_token):
            return "has no usable refresh_token"
        return None

    def values(self, now: float) -> dict[str, object]:
        """The standard members that make sense, tokens without white space around them, times as numbers."""
        token_type = self._first("token_type")
        is_dpop = isinstance(token_type, str) and token_type.strip().lower() == "dpop"
        values: dict[str, object] = {"token_type": "DPoP" if is_dpop else "Bearer"}
        for name in (_ACCESS_TOKEN, _REFRESH_TOKEN, "id_token"):
            if is_token(value := self._first(name)):
                values[name] = value.strip()
        if (scope := self._first("scope")) is not None:
            values["scope"] = scope
        for what in ("expires", "refresh_token_expires"):
            values |= self._end(what, now)
        for value in self.found.get("refresh_in", ()):
            if (time := _time(value, now)) is not None and not time.is_moment:
                values["refresh_in"] = time.seconds
        return values

    def _first(self, name: str) -> object:
        return next(iter(self.found.get(name, ())), None)

    def _end(self, what: str, now: float) -> dict[str, object]:
        """The time from members that tell a lifetime or else a moment; of a refresh token, the earliest."""
        stated = [value for name in (f"{what}_in", f"{what}_at", what) for value in self.found.get(name, ())]
        times = [
            time
            for value in stated
            if (time := _time(value, now)) is not None and time.seconds_left(now) <= MAX_LIFETIME_SECONDS
        ]
        if not times:
            return {}
        first = times[0] if what == "expires" else min(times, key=lambda time: time.seconds_left(now))
        if first.is_moment:
            return {f"{what}_at": first.seconds}
        is_thousandfold = any(is_in_milliseconds(first.seconds, time.seconds_left(now)) for time in times)
        return {f"{what}_in": first.seconds / 1000 if is_thousandfold else first.seconds}


def standard_members(holder: Mapping[str, object], *, is_form: bool = False) -> StandardMembers:
    """The members of `holder`, an object in a reply or, with `is_form`, a form-encoded one."""
    found, others = sorted_out(holder, REPLY)
    if is_form:
        for name in (_ACCESS_TOKEN, _REFRESH_TOKEN):
            # A space in a form's token is a plus sign that the server did not encode.
            found[name] = [str(value).strip().replace(" ", "+") for value in found.get(name, ())]
    return StandardMembers(found, others)


def is_token(value: object) -> TypeGuard[str]:
    """Whether `value`, without white space around it, is a token: printable ASCII (RFC 6749 Appendix A)."""
    return isinstance(value, str) and not _is_absent(value) and (text := value.strip()).isascii() and text.isprintable()


def _is_absent(value: object) -> bool:
    """Whether a member says that there is none: some servers write an empty one, false, or "null" as text."""
    return value.strip().lower() in _NOTHING if isinstance(value, str) else not value


@dataclass(frozen=True, slots=True)
class _Time:
    seconds: float
    is_moment: bool

    def seconds_left(self, now: float) -> float:
        return self.seconds - now if self.is_moment else self.seconds


def _time(value: object, now: float) -> _Time | None:
    """A positive duration, or a moment; a large number is one too, in seconds or in a fraction of them."""
    seconds = duration(value) if (amount := number(value)) is None else amount
    if seconds is not None and seconds > MAX_LIFETIME_SECONDS:
        in_milliseconds = lifetime(seconds, issued_at=now)
        seconds = seconds if in_milliseconds is None else in_milliseconds
    if seconds is None or seconds > EARLIEST_MOMENT:
        posix = moment(value if seconds is None else seconds)
        return None if posix is None else _Time(posix, is_moment=True)
    return _Time(int(seconds) if seconds == int(seconds) else seconds, is_moment=False) if seconds > 0 else None
