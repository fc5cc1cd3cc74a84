"""The words in which authorization servers say that something failed, and what they mean at all vendors alike.

RFC 6749 §5.2 names six codes. Servers add codes of their own, nest them, put them into lists, or say it in a sentence
alone. This module collects the codes and the sentences of a reply and gives a verdict where they leave no doubt.
Everything rests on one fact: a refresh request carries one token, the refresh token. What is missing, not allowed, or
about the client is never the user's fault, however the sentence goes on.
"""

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Final

from tokenflight.profiles import Verdict
from tokenflight.providers._decoding import folded

_MAX_MEMBERS: Final = 300
_MAX_LEVELS: Final = 5
_MAX_TEXT_LENGTH: Final = 1000

_CODE_NAMES: Final = (
    "error",
    "errorcode",
    "code",
    "errortype",
    "errcode",
    "err",
    "status",
    "category",
    "type",
    "reason",
    "errorkey",
    "suberror",
    "errorsubtype",
)
"""Members whose values are codes, the most telling first."""
_SENTENCE_NAMES: Final = (
    "errordescription",
    "message",
    "errormessage",
    "errmsg",
    "msg",
    "errorsummary",
    "detail",
    "details",
    "description",
    "faultstring",
    "hint",
    "title",
    "developermessage",
    "usermessage",
    "reason",
    "error",
)
"""Members whose values are sentences, the best to show first."""
_LIST_NAMES: Final = frozenset({"errors", "fields", "invalidparams", "fielderrors", "validationerrors"})
"""Members that hold one entry a fault; each entry is a sentence of its own."""

_WORD: Final = re.compile(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+|\d+")
_CODE: Final = re.compile(r"[\w.:/-]+")
_CLAUSE_END: Final = re.compile(r"[.!?;]\s+|\n")
_COMPOUNDS: Final = {"refreshtoken": "refresh token", "accesstoken": "access token", "ratelimited": "rate limited"}
_SUFFIXES: Final = (" exception", " error")


@dataclass(frozen=True, slots=True)
class Wording:
    """What a reply says: codes as they are, the most telling first, and sentences, the best to show first."""

    codes: tuple[str, ...] = field(default=(), repr=False)
    sentences: tuple[str, ...] = field(default=(), repr=False)


def words_of(text: str) -> str:
    """`text` as lower-case words with a space between: ``oauth.v2.InvalidRefreshToken`` has five."""
    return " ".join(_COMPOUNDS.get(word := found.lower(), word) for found in _WORD.findall(text[:_MAX_TEXT_LENGTH]))


def collect_wording(members: Mapping[str, object]) -> Wording:
    """The codes and the sentences in `members` and in what is nested in it."""
    codes: list[tuple[int, int, str]] = []
    sentences: list[tuple[int, int, str]] = []
    for level, name, value in _walk(members):
        text = f"{value}" if isinstance(value, int) and not isinstance(value, bool) else value
        if not isinstance(text, str) or not (text := text.strip()[:_MAX_TEXT_LENGTH]):
            continue
        is_code = _CODE.fullmatch(text) is not None
        if is_code and name in _CODE_NAMES:
            codes.append((level, _CODE_NAMES.index(name), text))
        elif is_code and name in _SENTENCE_NAMES and isinstance(value, str):
            codes.append((level, len(_CODE_NAMES), text))  # a code where a sentence is usual
            sentences.append((level, _SENTENCE_NAMES.index(name), text))
        elif name in _SENTENCE_NAMES:
            sentences.append((level, _SENTENCE_NAMES.index(name), text))
        elif name == _ENTRY:
            sentences.append((_MAX_LEVELS, 0, text))  # names and texts mixed: understood like any, shown last
    return Wording(_in_order(codes), _in_order(sentences))


def verdict_of(wording: Wording) -> Verdict | None:
    """What `wording` means wherever it comes from; None where that is in doubt."""
    clauses = [words_of(clause) for sentence in wording.sentences for clause in _CLAUSE_END.split(sentence)]
    for code in wording.codes:
        if (verdict := _verdict_of_code(words_of(code), clauses)) is not None:
            return verdict
    return _verdict_of_clauses(clauses)


def is_rate_limit(code: str) -> bool:
    """Whether a code says that the client asks too often."""
    return bool(_RATE_LIMIT.search(words_of(code)))


def _verdict_of_code(code: str, clauses: list[str]) -> Verdict | None:
    for suffix in _SUFFIXES:
        code = code.removesuffix(suffix)
    if code in _MISCONFIGURED_CODES or _ABOUT_CLIENT.search(code):
        return Verdict.MISCONFIGURED
    if code in _PASSING_CODES or _RATE_LIMIT.search(code):
        return Verdict.PASSING
    if code in _REFUSED_CODES or _is_dead(code):
        return _correction(clauses) or Verdict.REFUSED
    if code in _TOKEN_CODES and not any(_OTHER_TOKEN.search(clause) for clause in clauses):
        return Verdict.REFUSED
    return None


def _correction(clauses: list[str]) -> Verdict | None:
    """What the sentences say beside a code of refusal: some servers have one code for all that fails."""
    for clause in clauses:
        if _NOT_YET.search(clause):
            return Verdict.NOT_YET
        if _PASSING.search(clause):
            return Verdict.PASSING
        if _CLIENT_SECRET.search(clause) and "token" not in clause.split():
            return Verdict.MISCONFIGURED
    return None


def _verdict_of_clauses(clauses: list[str]) -> Verdict | None:
    if any(_NOT_YET.search(clause) for clause in clauses):
        return Verdict.NOT_YET
    if any(_CLIENT_SECRET.search(clause) for clause in clauses):
        return Verdict.MISCONFIGURED
    for clause in clauses:
        if _is_dead(clause) or _DEAD_USER.search(clause):
            return Verdict.REFUSED
        if _PASSING.search(clause):
            return Verdict.PASSING
    return None


def _is_dead(text: str) -> bool:
    """Whether words say that the refresh token, or the token of the request, is no good any more."""
    if _AT_FAULT_IS_THE_REQUEST.search(text):
        return False
    if _DEAD_REFRESH_TOKEN.search(text):
        return True
    return bool(_OVER.search(text)) and not _OTHER_TOKEN.search(text)


def _in_order(found: list[tuple[int, int, str]]) -> tuple[str, ...]:
    return tuple(dict.fromkeys(text for _, _, text in sorted(found, key=lambda item: item[:2])))


_ENTRY: Final = "(entry)"


def _walk(members: Mapping[str, object]) -> Iterator[tuple[int, str, object]]:
    """``(level, folded name, value)`` of each member, level by level; an entry of a list of faults is one sentence."""
    seen = 0
    outer: list[tuple[str, object]] = [("", members)]
    for level in range(_MAX_LEVELS):
        inner: list[tuple[str, object]] = []
        for owner, container in outer:
            for name, value in _members_of(owner, container):
                seen += 1
                if seen > _MAX_MEMBERS:
                    return
                if isinstance(value, Mapping | list):
                    inner.append((name, value))
                else:
                    yield level, name, value
                if owner in _LIST_NAMES and (entry := _entry(name, value)):
                    yield level, _ENTRY, entry
        outer = inner


def _members_of(owner: str, container: object) -> Iterator[tuple[str, object]]:
    """The members of an object by their folded names; the items of a list by the name of the list."""
    if isinstance(container, Mapping):
        for name, value in container.items():
            yield folded(str(name)[:_MAX_TEXT_LENGTH]), value
    elif isinstance(container, list):
        for value in container:
            yield owner, value


def _entry(name: str, value: object) -> str:
    """One entry of a list of faults as one sentence: the names and the texts in it, in their order."""
    if isinstance(value, Mapping):
        texts = [item for pair in value.items() for item in pair if isinstance(item, str)]
    elif isinstance(value, list):
        texts = [name, *(item for item in value if isinstance(item, str))]
    else:
        texts = [name, value] if isinstance(value, str) else []
    return " ".join(text[:_MAX_TEXT_LENGTH] for text in texts[:20])


_PASSING_CODES: Final = frozenset(
    {
        "server",  # server_error, without its suffix
        "temporarily unavailable",
        "slow down",
        "internal",
        "internal server",
        "internal failure",
        "internal service",
        "backend",
        "service unavailable",
        "service temporarily unavailable",
        "service timeout",
        "request timeout",
        "gateway timeout",
        "timeout",
        "unavailable",
        "overloaded",
        "deadline exceeded",
        "resource exhausted",
        "quota exceeded",
        "try again later",
        "concurrent request",
        "concurrent requests",
        "request in progress",
        "already in progress",
    }
)
_REFUSED_CODES: Final = frozenset(
    {
        "invalid grant",
        "expired grant",
        "revoked grant",
        "interaction required",
        "login required",
        "consent required",
        "account selection required",
        "mfa required",
        "reauth required",
        "reauthentication required",
        "relogin required",
        "invalid rapt",
        "account inactive",
        "account disabled",
        "account deactivated",
        "inactive user",
        "user inactive",
        "user disabled",
        "user deactivated",
        "user blocked",
        "user suspended",
        "user not found",
        "session not found",
        "invalid session",
    }
)
_TOKEN_CODES: Final = frozenset(
    {"invalid token", "bad token", "token invalid", "token not valid", "inactive token", "token inactive"}
)
"""Of the refresh token, unless a sentence is about another one."""
_MISCONFIGURED_CODES: Final = frozenset(
    {
        "invalid scope",
        "invalid target",
        "unsupported grant type",
        "unauthorized grant type",
        "invalid grant type",
        "redirect uri mismatch",
        "invalid redirect uri",
        "unsupported response type",
        "invalid dpop proof",
        "use dpop nonce",
        "invalid issuer",
    }
)

_RATE_LIMIT: Final = re.compile(r"\brate limit|\bratelimit|\btoo many requests\b|\brequest limit exceeded\b|\bthrottl")
_ABOUT_CLIENT: Final = re.compile(
    r"^(?=.*\b(invalid|bad|incorrect|unknown|wrong|expired|deleted|disabled|suspended|missing|not)\b)"
    r"(?=.*\b(client|app|application|consumer)\b)(?!.*\brefresh token\b)"
)
_CLIENT_SECRET: Final = re.compile(
    r"\bclient (id|secret|credentials?|authentication|assertion)\b|\bapp(lication)? (id|secret)\b"
)
_DEAD: Final = (
    r"(?:invalid|expired|revoked|reused|inactive|consumed|rotated|blacklisted|malformed|stale|rejected|unrecogni[sz]ed"
    r"|superseded|incorrect|nonexistent|deleted|replayed|invalidated|terminated)"
)
_ADJECTIVE: Final = rf"(?:{_DEAD}|bad|unknown|wrong)"
_DEAD_REFRESH_TOKEN: Final = re.compile(
    rf"\b{_ADJECTIVE}(?: (?:or|and|the|a|this|your|oauth|{_ADJECTIVE}))* refresh token\b"
    r"|\bcannot decrypt (?:the )?refresh token\b|\brequires an active refresh token\b"
    r"|\brefresh token(?: (?!(?:not|never|t)\b)\w+){0,5}? "
    rf"(?:{_DEAD}|no longer|already used|been used|was used|used already|(?:doesn|don) t exist|isn t (?:valid|active)"
    r"|not (?:found|valid|active|recogni[sz]ed|exist|be found|be decrypted))\b"
    r"|^refresh token used$"
)
_GRANT: Final = r"(?:token|grant|authori[sz]ation|consent|session)"
_OVER: Final = re.compile(
    rf"\b{_GRANT}(?: (?!(?:not|never|t)\b)\w+){{0,8}}? (?:expired|revoked|blacklisted|invalidated)\b"
    rf"|\b(?:expired|revoked|blacklisted|invalidated)(?: \w+)? {_GRANT}\b"
)
_OTHER_TOKEN: Final = re.compile(
    r"\b(?:access|bearer|csrf|api|id|registration|code|assertion|client|certificate|key|secret|licen[cs]e|app"
    r"|application|subscription|trial|header)\b"
)
_AT_FAULT_IS_THE_REQUEST: Final = re.compile(
    r"\b(?:missing|unsupported|grant type|blank|empty|too many|rate limit)\b"
    r"|\brefresh token (?:request|flow|policy|support|endpoint|scope)\b"
    r"|\b(?:is|are|token|parameters?|field|value) required\b|\brequired (?:parameter|field|argument)\b"
    r"|\bmust (?:be|have|contain|include|provide|specify|not)\b"
    r"|\bnot (?:supported|allowed|enabled|permitted|issued|provided|authori[sz]ed|present|specified)\b"
    r"|\bclient (?:id|secret|credentials?|authentication)\b"
)
_DEAD_USER: Final = re.compile(
    r"\buser (account )?(is |was |has been )?(inactive|deactivated|disabled|blocked|suspended|deleted|not found)\b"
    r"|\b(inactive|deactivated|disabled|blocked|suspended|deleted) user\b"
)
_NOT_YET: Final = re.compile(
    r"\baccess token (is |has )?(not|n t) (yet )?(expired|due)|\baccess token (is )?still valid\b"
    r"|\baccess token (hasn|isn) t (yet )?expired\b"
)
_PASSING: Final = re.compile(
    r"\brate limit|\btoo many (requests|attempts)\b|\brate exceeded\b|\bthrottl|\bquota exceeded\b"
    r"|\btry again (later|after|in)\b|\bretry (your request|later|after)\b|\btemporarily unavailable\b"
    r"|\b(already|still|currently) being processed\b|\bservice (is )?unavailable\b|\binternal (server )?error\b"
    r"|\btimed out\b|\bconcurrent (refresh|request|token)\b|\bin progress\b|\bunder maintenance\b"
)
