"""A provider's words, made safe to show: short, on one line, printable, and without a secret that they echo.

Servers echo secrets whole, cut short, percent-encoded, in a Basic header or in capitals. A text that shares ten
characters with a long secret, in any usual encoding, is dropped as a whole: a half-hidden secret is half shown. A short
secret (a client secret in a test, a numeric id) occurs in words by chance, so it is replaced only where it stands
alone, and no word is cut to pieces.
"""

import base64
import html
import re
from collections.abc import Iterable, Iterator
from typing import Final
from urllib.parse import quote, quote_plus, unquote, unquote_plus

MAX_SHOWN_LENGTH: Final = 200

_SHARED_LENGTH: Final = 10
"""A secret of at least this many characters is long, and sharing as many with it is an echo."""
_SHORTEST_HIDDEN_ANYWHERE: Final = 8
_CHECKED_LENGTH: Final = 4096
"""Of a very long secret, so many characters at its start and at its end: an echo has one of them."""
_CODE: Final = re.compile(r"[A-Za-z][A-Za-z0-9_.]*")
_HIDDEN: Final = "***"
_URL_SAFE: Final = str.maketrans("+/", "-_")

_STANDARD_CODES: Final = frozenset(
    {
        "access_denied",
        "account_selection_required",
        "consent_required",
        "interaction_required",
        "invalid_client",
        "invalid_dpop_proof",
        "invalid_grant",
        "invalid_request",
        "invalid_scope",
        "invalid_target",
        "login_required",
        "server_error",
        "slow_down",
        "temporarily_unavailable",
        "unauthorized_client",
        "unsupported_grant_type",
        "use_dpop_nonce",
    }
)
"""RFC 6749 §5.2, OpenID Connect Core §3.1.2.6, RFC 8628, 8707 and 9449: shown whatever a secret is like."""


class Redactor:
    """Knows the secrets of one exchange, and shows texts without them."""

    def __init__(self, secrets: Iterable[str] = ()) -> None:
        known = {secret for secret in secrets if secret}
        self._short = frozenset(secret for secret in known if len(secret) < _SHARED_LENGTH)
        self._long = [form for secret in known - self._short for form in _long_forms(secret)]
        self._pattern = _alone(form for secret in self._short for form in _short_forms(secret))
        self._glued = [secret.casefold() for secret in self._short if len(secret) >= _SHORTEST_HIDDEN_ANYWHERE]

    def shown(self, text: object) -> str | None:
        """`text` as an error may show it, None where nothing of it may be shown."""
        if not isinstance(text, str):
            return None
        text = text[:MAX_SHOWN_LENGTH]
        if self._echoes(text):
            return None
        text = self._pattern.sub(_HIDDEN, text) if self._pattern is not None else text
        return None if self._is_glued(text) else re.sub(r"[^ -~]+", " ", text).strip() or None

    def repeats_none(self, text: str) -> bool:
        """Whether no secret is repeated in `text`, which may be of any length."""
        has_short = self._pattern is not None and self._pattern.search(text) is not None
        return not (has_short or self._echoes(text) or self._is_glued(text))

    def shown_code(self, code: object) -> str | None:
        """`code` as an error may show it. One that is a word is kept whole unless it is a secret itself."""
        if not isinstance(code, str) or not _CODE.fullmatch(code) or len(code) > MAX_SHOWN_LENGTH:
            return self.shown(code)
        if code in self._short:
            return _HIDDEN
        return None if code not in _STANDARD_CODES and self._echoes(code) else code

    def _is_glued(self, text: str) -> bool:
        """Whether a secret that is not quite long is a part of a word."""
        return any(secret in reading for reading in _readings(text) for secret in self._glued)

    def _echoes(self, text: str) -> bool:
        """Whether `text`, in any reading, has `_SHARED_LENGTH` characters in a row in common with a long secret."""
        if not self._long:
            return False
        runs = {
            reading[start : start + _SHARED_LENGTH]
            for reading in _readings(text)
            for start in range(len(reading) - _SHARED_LENGTH + 1)
        }
        return any(run in form for form in self._long for run in runs)


def _readings(text: str) -> set[str]:
    """`text` and what it may stand for, without case."""
    readings = {text, unquote(text), unquote_plus(text), unquote(unquote(text)), html.unescape(text)}
    readings |= {reading.replace("\\", "") for reading in readings}
    return {reading.casefold() for reading in readings}


def _long_forms(secret: str) -> Iterator[str]:
    """Forms of a long secret, without case, in which an echo may have it whole or in part."""
    pieces = [secret]
    if len(secret) > 2 * _CHECKED_LENGTH:
        pieces = [secret[:_CHECKED_LENGTH], secret[-_CHECKED_LENGTH:]]
    for piece in pieces:
        data = piece.encode("utf-8", "surrogatepass")
        yield piece.casefold()
        yield data.hex()
        for shift in range(3):  # in base64, three characters have four, and anything may stand before
            encoded = base64.b64encode(b"\0" * shift + data)[4 if shift else 0 : -4].decode()
            yield encoded.casefold()
            yield encoded.translate(_URL_SAFE).casefold()


def _short_forms(secret: str) -> Iterator[str]:
    data = secret.encode("utf-8", "surrogatepass")
    encoded = base64.b64encode(data).decode()
    yield from (secret, quote(data), quote(data, safe=""), quote_plus(data), html.escape(secret), data.hex())
    yield from (encoded, encoded.rstrip("="), encoded.translate(_URL_SAFE))


def _alone(forms: Iterable[str]) -> re.Pattern[str] | None:
    """What finds one of `forms` where no letter, digit or underscore continues it."""
    alternatives = [
        (r"(?<!\w)" if form[0].isalnum() or form[0] == "_" else "")
        + re.escape(form)
        + (r"(?!\w)" if form[-1].isalnum() or form[-1] == "_" else "")
        for form in sorted({form for form in forms if form}, key=len, reverse=True)
    ]
    return re.compile("|".join(alternatives), re.IGNORECASE) if alternatives else None
