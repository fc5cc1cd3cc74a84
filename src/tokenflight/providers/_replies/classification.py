"""What a reply without tokens means for the caller: log in again, try later, mend the deployment, or too early.

The first of these that applies decides:

1. The vendor's own rules and function (`Profile.error_rules`, `Profile.classify`): they may overrule everything below.
2. A status of a busy or failing server: such a server logs no user out, whatever words it adds.
3. A redirect: the client never follows one with a refresh token in the request.
4. The flag ``is_transient``, then codes and sentences that mean the same at every vendor (`wording`).
5. Signs of a limit, or of a guard in front of the server: ``Retry-After``, a used-up window, a page or code with a 403.
6. Whatever remains. An error with a name is the deployment's fault; one without a name is unknown.
"""

import logging
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Final

from tokenflight._log import log
from tokenflight._token_times import number
from tokenflight.profiles import STANDARD, ErrorReply, Profile, Verdict
from tokenflight.providers._replies.decoding import Body
from tokenflight.providers._replies.pauses import is_used_up, retry_after_seconds
from tokenflight.providers._replies.redaction import Redactor
from tokenflight.providers._replies.wording import (
    Wording,
    blames_request,
    collect_wording,
    has_rate_limit_code,
    has_rate_limit_words,
    verdict_of,
)

MAX_CLAIMS_LENGTH: Final = 4096

_RETRY_AFTER: Final = "retry-after"
_OK: Final = 200
_REDIRECTION: Final = 300
_CLIENT_ERROR: Final = 400
_FORBIDDEN: Final = 403
_SERVER_ERROR: Final = 500
_UNSPECIFIC_STATUSES: Final = frozenset({400, 422})
_TOO_MANY_REQUESTS: Final = 429
_RATE_LIMITED_STATUSES: Final = frozenset({420, _TOO_MANY_REQUESTS, 430})
_BUSY_STATUSES: Final = frozenset({408, 425}) | _RATE_LIMITED_STATUSES
_PASSING_STATUSES: Final = frozenset({409, 423})
"""Another request is at the same grant."""
_EMPTY_CODES: Final = frozenset({"error", "fail", "failed", "failure", "unauthorized", "forbidden", "bad_request"})
_MAX_PLAIN_TEXT_LENGTH: Final = 300
_GUARDS_WORDS: Final = re.compile(r"error code: \d{4}", re.ASCII)
"""What a guard answers to a client that takes no web page."""


@dataclass(frozen=True, slots=True)
class Failure:
    """A reply that refuses tokens. Every text is safe to show: short, printable, without a secret of the exchange.

    `code` is stable and finer than the verdict, which is PASSING for a limit, too. `error` and `error_description` are
    the server's own (RFC 6749 §5.2). `detail` is a finer code where the server gives one (``suberror``,
    ``error_subtype``). `claims` belongs into the next login request (OpenID Connect Core §5.5). `retry_after` is in
    seconds. `holds_provider` tells that the limit is the client's, so that requests for other users meet it too.
    """

    verdict: Verdict
    code: str
    error: str | None = None
    error_description: str | None = None
    detail: str | None = None
    claims: str | None = field(default=None, repr=False)
    retry_after: float | None = None
    holds_provider: bool = False


def classify_failure(
    status: int,
    headers: Mapping[str, str],
    body: Body,
    *,
    profile: Profile = STANDARD,
    secrets: Iterable[str] = (),
    now: float,
) -> Failure:
    """What a reply that holds no tokens means. `headers` have names in lower case; `now` is POSIX time.

    `secrets` are the parameters that were sent and the tokens that are stored. No text of the result shows one of them,
    even if the server repeats it.
    """
    members = _error_members(body)
    wording = collect_wording(members)
    reply = ErrorReply(
        status,
        headers,
        members,
        codes=tuple(code.lower() for code in wording.codes),
        words="\n".join(wording.sentences).lower(),
    )
    effective = _effective_status(status, members)
    is_rate_limited = effective in _RATE_LIMITED_STATUSES or has_rate_limit_code(wording)
    verdict = _verdict_by_vendor(reply, profile) or _verdict_by_status(effective)
    if verdict is Verdict.RATE_LIMITED:
        verdict, is_rate_limited = Verdict.PASSING, True
    if verdict is None:
        verdict = Verdict.PASSING if wording.is_transient else verdict_of(wording)
    # A header alone makes no failure of a success that reports none: such a reply may have spent the refresh token.
    is_error = not _OK <= effective < _REDIRECTION or says_error(members)
    asks_for_pause = _RETRY_AFTER in headers or (effective == _FORBIDDEN and is_used_up(headers))
    if verdict is None and is_error and asks_for_pause:
        verdict, is_rate_limited = Verdict.PASSING, True
    if verdict is None:
        is_guard = effective == _FORBIDDEN and _is_guards(headers, body)
        verdict = Verdict.PASSING if is_guard else _verdict_by_default(effective, wording, members)
    if verdict is Verdict.PASSING and not is_busy(effective):
        is_rate_limited = is_rate_limited or has_rate_limit_words(wording)
    texts = _Texts(members, wording, Redactor(secrets))
    retry_after = None
    if verdict in {Verdict.PASSING, Verdict.NOT_YET}:
        retry_after = retry_after_seconds(headers, members, is_rate_limited=is_rate_limited, now=now)
    return Failure(
        verdict,
        code=_code(verdict, effective, is_rate_limited=is_rate_limited, named=texts.code),
        error=texts.error,
        error_description=texts.description,
        detail=texts.detail,
        claims=texts.claims,
        retry_after=retry_after,
        holds_provider=verdict is Verdict.PASSING and (is_rate_limited or _RETRY_AFTER in headers),
    )


def is_busy(status: int) -> bool:
    """Whether `status` says that the server can't answer now, whatever the body says."""
    return status in _BUSY_STATUSES or status >= _SERVER_ERROR


def says_error(members: Mapping[str, object]) -> bool:
    """Whether an object reports a failure, which some servers do with status 200."""
    error = members.get("error")
    if isinstance(error, str):
        return error.strip().lower() not in {"", "0", "none", "null", "false", "ok", "success"}
    return bool(error) or members.get("ok") is False or members.get("success") is False


def leaves_no_doubt(failure: Failure) -> bool:
    """Whether the words of a reply are those of an error, although the reply does not report one."""
    return failure.verdict in {Verdict.REFUSED, Verdict.PASSING, Verdict.NOT_YET}


def _error_members(body: Body) -> Mapping[str, object]:
    """The object in `body`; for a body that is no object, one made of the members or the sentence in it."""
    if isinstance(body.value, dict):
        return body.members
    if body.strays:
        return {stray.name: stray.value for stray in reversed(body.strays) if stray.depth == body.strays[0].depth}
    if isinstance(body.value, list):
        return {"errors": body.value}
    sentence = body.value if isinstance(body.value, str) else body.text
    return {"message": sentence} if sentence and len(sentence) <= _MAX_PLAIN_TEXT_LENGTH else {}


def _effective_status(status: int, members: Mapping[str, object]) -> int:
    """`status`, or the error status that the body names: of a success any, of a client's error that of too many."""
    if not (_OK <= status < _REDIRECTION or _CLIENT_ERROR <= status < _SERVER_ERROR):
        return status
    error = members.get("error")
    for holder in (members, error if isinstance(error, Mapping) else {}):
        for name in ("status", "statusCode", "status_code", "code", "error_code"):
            stated = number(holder.get(name))
            is_error = stated is not None and _CLIENT_ERROR <= stated < _SERVER_ERROR + 100 and stated == int(stated)
            if stated is not None and is_error and (status < _REDIRECTION or stated == _TOO_MANY_REQUESTS):
                return int(stated)
    return status


def _verdict_by_vendor(reply: ErrorReply, profile: Profile) -> Verdict | None:
    for rule in profile.error_rules:
        if rule.matches(reply):
            return rule.verdict
    if profile.classify is None:
        return None
    try:
        return profile.classify(reply)
    except Exception as exc:  # noqa: BLE001 - the server's words count, even if an app's function fails
        log(logging.ERROR, "classify of the profile %s failed: %s", profile.name, type(exc).__name__)
        return None


def _verdict_by_status(status: int) -> Verdict | None:
    if is_busy(status):
        return Verdict.PASSING
    return Verdict.MISCONFIGURED if _REDIRECTION <= status < _CLIENT_ERROR else None


def _is_guards(headers: Mapping[str, str], body: Body) -> bool:
    """Whether a guard in front of the server wrote `body`: a web page, an empty one, or its own code as text."""
    is_empty_page = "html" in headers.get("content-type", "").lower() and not body.text and body.value is None
    return body.is_page or is_empty_page or _GUARDS_WORDS.fullmatch(body.text.strip().lower()) is not None


def _verdict_by_default(status: int, wording: Wording, members: Mapping[str, object]) -> Verdict:
    if status in _PASSING_STATUSES:
        return Verdict.PASSING
    if isinstance(members.get("error"), str) and members["error"]:
        return Verdict.MISCONFIGURED
    if any(not code.isdigit() and code.lower() not in _EMPTY_CODES for code in wording.codes):
        return Verdict.MISCONFIGURED
    if blames_request(wording):
        return Verdict.MISCONFIGURED
    is_vague = status in _UNSPECIFIC_STATUSES or _OK <= status < _REDIRECTION
    return Verdict.UNKNOWN if is_vague else Verdict.MISCONFIGURED


def _code(verdict: Verdict, status: int, *, is_rate_limited: bool, named: str | None) -> str:
    match verdict:
        case Verdict.REFUSED | Verdict.NOT_YET | Verdict.RATE_LIMITED:
            return str(verdict.value)
        case Verdict.UNKNOWN:
            return "invalid_response"
        case Verdict.PASSING:
            return "rate_limited" if is_rate_limited else "server_error"
        case Verdict.MISCONFIGURED if _REDIRECTION <= status < _CLIENT_ERROR:
            return "redirected"
        case Verdict.MISCONFIGURED:
            return named or f"http_{status}"


class _Texts:
    """The server's words as an error may show them."""

    def __init__(self, members: Mapping[str, object], wording: Wording, redactor: Redactor) -> None:
        error = members.get("error")
        nested = next(iter(wording.codes), None)
        self.error = redactor.shown_code(error if "error" in members else nested)
        self.code = self.error or redactor.shown_code(nested)
        self.description = next(filter(None, map(redactor.shown, wording.sentences)), None)
        self.detail = next(
            filter(None, (redactor.shown_code(members.get(name)) for name in ("suberror", "error_subtype", "reason"))),
            None if self.error else redactor.shown_code(nested),
        )
        self.claims = _claims(members.get("claims"), redactor)


def _claims(value: object, redactor: Redactor) -> str | None:
    """``claims`` unchanged, because a login sends them back. None if they are too long or repeat a secret."""
    if not isinstance(value, str) or not 0 < len(value) <= MAX_CLAIMS_LENGTH or not value.isprintable():
        return None
    return value if redactor.repeats_none(value) else None
