"""A token endpoint's reply: what it says, and whether it will do (RFC 6749 §5).

Rotation is why the two are kept apart. A provider that has answered may have spent the refresh token of the request.
From then on, only the refresh token in the reply works, whatever is wrong with the rest of the reply. So this module
reads leniently first and judges second, and the verdict "unusable" still carries the refresh token.

Finding a refresh token is stricter than reading a reply. It must be whole, it must be the only candidate at its depth,
and the reply must report no error, because servers repeat the parameters of a request in their errors.
"""

import logging
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Final

from tokenflight._log import log
from tokenflight._token_shapes import folded
from tokenflight.profiles import STANDARD, Profile
from tokenflight.providers._replies.classification import Failure, classify_failure, leaves_no_doubt, says_error
from tokenflight.providers._replies.decoding import MAX_DECODED_BYTES, Body, decode_body, decoded_again
from tokenflight.providers._replies.members import StandardMembers, is_token, standard_members

_OK: Final = 200
_REDIRECTION: Final = 300
_MAX_LEVELS: Final = 6
_MAX_CONTAINERS: Final = 1000


@dataclass(frozen=True, slots=True)
class Tokens:
    """A reply that will do: its members by their standard names, ready for `TokenSet.from_response`.

    There is an ``access_token``; ``token_type`` is Bearer or DPoP; ``expires_in``, ``refresh_in`` and
    ``refresh_token_expires_in`` are seconds from the request, ``expires_at`` and ``refresh_token_expires_at`` POSIX
    seconds, each only where the reply gives one. All else is as it was sent.
    """

    members: Mapping[str, object] = field(repr=False)


@dataclass(frozen=True, slots=True)
class Unusable:
    """A reply that is no error and will not do. `problem` says why, as in "the reply …".

    Store `refresh_token` before raising the error. If it is None, the refresh token of the request may be spent.
    """

    problem: str
    refresh_token: str | None = field(default=None, repr=False)


Reading = Tokens | Unusable | Failure


def read_token_reply(
    status: int,
    headers: Mapping[str, str],
    body: bytes,
    *,
    now: float,
    profile: Profile = STANDARD,
    is_refresh: bool = True,
    secrets: Iterable[str] = (),
    max_bytes: int = MAX_DECODED_BYTES,
) -> Reading:
    """Read a token endpoint's reply. Takes time in proportion to `body`, and to `max_bytes` of decompressed content.

    `body` is the content as it arrived, before decompression. `now` is in POSIX seconds. `secrets` are the parameters
    of the request and the stored tokens: no text of a `Failure` shows one of them. `is_refresh` is false for the reply
    to a login.
    """
    headers = {name.lower(): value for name, value in headers.items()}
    content = decode_body(headers, body, max_bytes=max_bytes)

    def failure() -> Failure:
        return classify_failure(status, headers, content, profile=profile, secrets=secrets, now=now)

    if not _OK <= status < _REDIRECTION:
        return failure()
    holder = _holder(content.members, profile)
    members = standard_members(holder, is_form=content.is_form)
    is_error = says_error(content.members)
    if is_error and not members.has_access_token:
        return failure()
    problem = content.flaw or members.problem or ("holds tokens and an error" if is_error else None)
    if problem is None:
        return Tokens(_completed(members, content.members, holder, profile, now=now, is_refresh=is_refresh))
    found = _refresh_token_in(content, members, profile)
    if found is None and not members.has_access_token and leaves_no_doubt(refusal := failure()):
        return refusal
    return Unusable(problem, found)


def _holder(members: Mapping[str, object], profile: Profile) -> Mapping[str, object]:
    """The object in a reply that holds the tokens."""
    if profile.read_reply is not None:
        try:
            return profile.read_reply(members)
        except Exception as exc:  # noqa: BLE001 - the grant must survive a fault in an app's function
            log(logging.ERROR, "read_reply of the profile %s failed: %s", profile.name, type(exc).__name__)
            return {}
    holder: object = members
    for name in profile.tokens_at:
        holder = holder.get(name) if isinstance(holder, Mapping) else None
    return holder if isinstance(holder, Mapping) else members


def _completed(
    found: StandardMembers,
    outer: Mapping[str, object],
    holder: Mapping[str, object],
    profile: Profile,
    *,
    now: float,
    is_refresh: bool,
) -> dict[str, object]:
    """The members of a usable reply: those beside the tokens, then those with them, then the standard ones."""
    members: dict[str, object] = {}
    if holder is not outer:  # another grant's tokens stand there too, and must not be taken for this one's
        beside = {name: value for name, value in outer.items() if value is not holder}
        members |= standard_members(beside).others
    members |= {**found.others, **found.values(now)}
    if profile.assumed_lifetime is not None and members.keys().isdisjoint({"expires_in", "expires_at"}):
        members["expires_in"] = profile.assumed_lifetime
    if is_refresh and profile.keeps_login_refresh_token:
        members.pop("refresh_token", None)
    return members


def _refresh_token_in(content: Body, members: StandardMembers, profile: Profile) -> str | None:
    """The refresh token in a reply that will not do, if there is no doubt which one it is."""
    if members.refresh_token is not None:
        return _only({members.refresh_token})
    if profile.read_reply is not None:
        return None  # only that function knows whose tokens stand where
    if content.strays:
        depths: dict[int, set[str]] = {}
        for stray in content.strays:
            name = folded(stray.name)
            if name in {"error", "errorcode"}:
                return None
            if name == "refreshtoken" and is_token(stray.value):
                depths.setdefault(stray.depth, set()).add(stray.value.strip())
        return _only(depths[min(depths)]) if depths else None
    level: list[object] = [content.value]
    for _ in range(_MAX_LEVELS):
        candidates = {token for item in level if isinstance(item, Mapping) for token in _refresh_tokens(item)}
        if candidates:
            return _only(candidates)
        level = [
            decoded
            for outer in level[:_MAX_CONTAINERS]
            for item in (outer.values() if isinstance(outer, Mapping) else outer if isinstance(outer, list) else ())
            if isinstance(decoded := decoded_again(item), Mapping | list)
        ]
    return None


def _refresh_tokens(holder: Mapping[str, object]) -> set[str]:
    """The refresh tokens in one object, under the standard's name or a usual other one."""
    names = {folded(name): value for name, value in holder.items()}
    value = names.get("refreshtoken", names.get("refresh") if "access" in names else None)
    if isinstance(value, Mapping):
        value = value.get("token", value.get("value"))
    return {value.strip()} if is_token(value) else set()


def _only(candidates: set[str]) -> str | None:
    """The one candidate. None for several, and for a sentence: it is about a refresh token."""
    only = candidates.pop() if len(candidates) == 1 else ""
    return only if only and " " not in only else None
