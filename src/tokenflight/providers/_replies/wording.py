"""What the words of a reply mean at all vendors alike.

RFC 6749 §5.2 names six codes. Servers add codes of their own, nest them, put them into lists, or write a sentence and
no code. This module collects the codes and the sentences of a reply, and gives a verdict where they leave no doubt.

Two rules keep the verdicts honest. A refresh request carries one token, so a token that is "expired" is the refresh
token unless another one is named. And a fault of the client or of the request is never the user's: a sentence about a
secret, a grant type or a missing parameter refuses nobody.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final

from tokenflight.profiles import Verdict
from tokenflight.providers._replies.decoding import walk
from tokenflight.providers._replies.vocabulary import (
    ABOUT_CLIENT,
    ABOUT_USER,
    AT_FAULT_IS_THE_REQUEST,
    CLIENT_AT_FAULT,
    CLIENT_SECRET,
    CODE_NAMES,
    DEAD_REFRESH_TOKEN,
    DEAD_USER,
    GRANT_TYPE,
    HINT_OF_PASSING,
    LIST_NAMES,
    LOGIN_AGAIN,
    MISCONFIGURED_CODES,
    MISSING_PARAMETER,
    NOT_YET,
    OTHER_PARAMETER,
    OTHER_TOKEN,
    OVER,
    PASSING,
    PASSING_CODES,
    RATE_LIMIT,
    REFUSED_CODES,
    SENTENCE_NAMES,
    TIMED_OUT,
    TOKEN_CODES,
)

_MAX_TEXT_LENGTH: Final = 1000
_MAX_TEXTS: Final = 20
"""Of codes, and of sentences: each is matched with each pattern, and what counts stands among the first."""

_LAST: Final = 100
"""The level of a sentence that was put together: understood like any, shown last."""

_WORD: Final = re.compile(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+|\d+")
_CODE: Final = re.compile(r"[\w.:/#-]+")
_NAMESPACE_END: Final = re.compile(r"[.:/#]")
"""What stands before a code in a URI (RFC 9457), a URN or the name of a class."""
_CLAUSE_END: Final = re.compile(r"[.!?;]\s+|\n")
_COMPOUNDS: Final = {"refreshtoken": "refresh token", "accesstoken": "access token", "ratelimited": "rate limited"}
_SUFFIXES: Final = (" exception", " error")


@dataclass(frozen=True, slots=True)
class Wording:
    """What a reply says: codes as they are, the most telling first, and sentences, the best to show first."""

    codes: tuple[str, ...] = field(default=(), repr=False)
    sentences: tuple[str, ...] = field(default=(), repr=False)
    is_transient: bool = False
    """Whether a flag says that the trouble will pass."""


def words_of(text: str) -> str:
    """`text` as lower-case words with a space between: ``oauth.v2.InvalidRefreshToken`` has five."""
    return " ".join(_COMPOUNDS.get(word := found.lower(), word) for found in _WORD.findall(text[:_MAX_TEXT_LENGTH]))


def collect_wording(members: Mapping[str, object]) -> Wording:
    """The codes and the sentences in `members` and in what is nested in it."""
    codes: list[tuple[int, int, str]] = []
    sentences: list[tuple[int, int, str]] = []
    is_flagged = False
    for level, owner, name, value in walk(members):
        if owner in LIST_NAMES and (entry := _entry(name, value).strip()):
            sentences.append((_LAST, 0, entry[:_MAX_TEXT_LENGTH]))
        is_flagged = is_flagged or (name == "istransient" and value is True)
        text = f"{value}" if isinstance(value, int) and not isinstance(value, bool) else value
        if not isinstance(text, str) or not (text := text.strip()[:_MAX_TEXT_LENGTH]):
            continue
        is_code = _CODE.fullmatch(text) is not None
        if is_code and name in CODE_NAMES:
            codes.append((level, CODE_NAMES.index(name), text))
        elif is_code and name in SENTENCE_NAMES and isinstance(value, str):
            codes.append((level, len(CODE_NAMES), text))  # a code where a sentence is usual
            sentences.append((level, SENTENCE_NAMES.index(name), text))
        elif name in SENTENCE_NAMES:
            sentences.append((level, SENTENCE_NAMES.index(name), text))
    return Wording(_in_order(codes), _in_order(sentences), is_flagged)


def verdict_of(wording: Wording) -> Verdict | None:
    """What `wording` means wherever it comes from; None where that is in doubt."""
    clauses = _clauses_of(wording)
    for code in wording.codes:
        for text in (code, _NAMESPACE_END.split(code)[-1]):
            if (verdict := _verdict_of_code(words_of(text), clauses)) is not None:
                return verdict
    return _verdict_of_clauses(clauses)


def has_rate_limit_code(wording: Wording) -> bool:
    """Whether a code says that the client asks too often."""
    return any(RATE_LIMIT.search(words_of(code)) for code in wording.codes)


def has_rate_limit_words(wording: Wording) -> bool:
    """Whether a sentence says that the client asks too often."""
    return any(RATE_LIMIT.search(clause) for clause in _clauses_of(wording))


def blames_request(wording: Wording) -> bool:
    """Whether a sentence names the client or a parameter as the fault."""
    return any(_lacks_basics(clause) or _names_other_fault(clause) for clause in _clauses_of(wording))


def _clauses_of(wording: Wording) -> list[str]:
    return [words_of(clause) for sentence in wording.sentences for clause in _CLAUSE_END.split(sentence)]


def _verdict_of_code(code: str, clauses: list[str]) -> Verdict | None:
    is_passing = PASSING.search(code) is not None and not TIMED_OUT.search(code)
    for suffix in _SUFFIXES:
        code = code.removesuffix(suffix)
    if code in MISCONFIGURED_CODES or ABOUT_CLIENT.search(code):
        return Verdict.MISCONFIGURED
    if NOT_YET.search(code):
        return Verdict.NOT_YET
    if is_passing or code in PASSING_CODES:
        return Verdict.PASSING
    if code in REFUSED_CODES or (_is_dead(code) and not any(map(_is_of_other_token, clauses))):
        return _correction(clauses) or Verdict.REFUSED
    if code in TOKEN_CODES and not any(OTHER_TOKEN.search(clause) for clause in clauses):
        return Verdict.REFUSED
    return None


def _correction(clauses: list[str]) -> Verdict | None:
    """What the sentences say beside a code of refusal: some servers have one code for all that fails."""
    for clause in clauses:
        if NOT_YET.search(clause):
            return Verdict.NOT_YET
        if PASSING.search(clause) and not TIMED_OUT.search(clause):
            return Verdict.PASSING
        if _lacks_basics(clause):
            return Verdict.MISCONFIGURED
    if any(map(_is_dead, clauses)):
        return None
    if any(map(_names_other_fault, clauses)):
        return Verdict.MISCONFIGURED
    is_hint = any(map(HINT_OF_PASSING.search, clauses)) and not any(map(ABOUT_USER.search, clauses))
    return Verdict.PASSING if is_hint else None


def _lacks_basics(clause: str) -> bool:
    """Whether a clause misses a parameter, the right grant type, or the client's authentication."""
    if CLIENT_SECRET.search(clause) and "token" not in clause.split():
        return True
    return bool(GRANT_TYPE.search(clause) or MISSING_PARAMETER.search(clause))


def _names_other_fault(clause: str) -> bool:
    """Whether a clause finds fault with the client or a parameter alone: RFC 6749 §5.2 lists all causes at once."""
    if DEAD_REFRESH_TOKEN.search(clause) or OVER.search(clause):
        return False
    return bool(CLIENT_AT_FAULT.search(clause) or OTHER_PARAMETER.search(clause))


def _verdict_of_clauses(clauses: list[str]) -> Verdict | None:
    if any(NOT_YET.search(clause) for clause in clauses):
        return Verdict.NOT_YET
    if any(CLIENT_SECRET.search(clause) for clause in clauses):
        return Verdict.MISCONFIGURED
    for clause in clauses:
        if clause in REFUSED_CODES:
            return _correction(clauses) or Verdict.REFUSED
        if _is_dead(clause) or DEAD_USER.search(clause) or LOGIN_AGAIN.search(clause):
            return Verdict.REFUSED
        if PASSING.search(clause):
            return Verdict.PASSING
    return None


def _is_dead(text: str) -> bool:
    """Whether words say that the refresh token, or the token of the request, is no good any more."""
    if AT_FAULT_IS_THE_REQUEST.search(text):
        return False
    if DEAD_REFRESH_TOKEN.search(text):
        return True
    return bool(OVER.search(text)) and not OTHER_TOKEN.search(text)


def _is_of_other_token(clause: str) -> bool:
    """Whether a clause says that a token is over which is not the refresh token."""
    return bool(OVER.search(clause) and OTHER_TOKEN.search(clause)) and not DEAD_REFRESH_TOKEN.search(clause)


def _in_order(found: list[tuple[int, int, str]]) -> tuple[str, ...]:
    return tuple(dict.fromkeys(text for _, _, text in sorted(found, key=lambda item: item[:2])))[:_MAX_TEXTS]


def _entry(name: str, value: object) -> str:
    """One entry of a list of faults as one sentence: the names and the texts in it, in their order."""
    if isinstance(value, Mapping):
        texts = [item for pair in value.items() for item in pair if isinstance(item, str)]
    elif isinstance(value, list):
        texts = [name, *(item for item in value if isinstance(item, str))]
    else:
        texts = [name, value] if isinstance(value, str) else []
    return " ".join(text[:_MAX_TEXT_LENGTH] for text in texts[:20])
