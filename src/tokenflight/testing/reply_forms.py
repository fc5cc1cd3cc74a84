"""The odd forms in which providers write a successful token reply.

A form is a value. `dressed` writes a plain reply in it, in four steps: the members, the text with them, its bytes, and
the headers.
"""

import gzip
import json
import time
import zlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields
from datetime import UTC, datetime
from types import EllipsisType
from typing import Final, Literal, TypeAlias
from urllib.parse import urlencode
from xml.sax.saxutils import escape

from tokenflight.errors import ConfigurationError
from tokenflight.testing.replies import Reply, reply

Expiry: TypeAlias = Literal["seconds", "text", "milliseconds", "expires_on", "expires_at"]
"""The form in which a reply states the lifetime of the access token.

``"seconds"`` is the standard's ``expires_in``, and ``"text"`` the same in quotes. ``"milliseconds"`` has them in
``expires_in`` and the seconds in ``expires_in_sec``. ``"expires_on"`` has the moment in POSIX seconds, in quotes;
``"expires_at"`` has it in ISO 8601.
"""

_Members: TypeAlias = Mapping[str, object]
_Pairs: TypeAlias = list[tuple[str, object]]


@dataclass(frozen=True, slots=True, kw_only=True, repr=False)
class ReplyForm:
    """The form of a token endpoint's successful reply; by default that of RFC 6749 §5.1.

    `tokenflight.testing.dialects` has the forms that vendors use. A form of your own states its oddities alone::

        FakeProvider(reply_form=ReplyForm(inside=("data",), names={"refresh_token": "refreshToken"}))

    `members` are written with the tokens, and in place of those with the same names. `names` gives a member another
    name, or leaves it out if that is None. `after_tokens` follows each token. `expiry` is the form of the lifetime.

    `inside` is the path to the object that holds the tokens, and `outer` are the members of the outermost object.
    `repeated` are members that stand a second time at the beginning, with these values, or with their own for ``...``.
    The body ends after the last of the members named `cut_after`, if there is one.

    `syntax` is the syntax of the members, `charset` the Python codec for the text, and `compression` the method for the
    bytes, which ``Content-Encoding`` names. `headers` come last and replace those with the same names.
    """

    members: Mapping[str, object] = field(default_factory=dict)
    names: Mapping[str, str | None] = field(default_factory=dict)
    after_tokens: str = ""
    expiry: Expiry = "seconds"
    inside: tuple[str, ...] = ()
    outer: Mapping[str, object] = field(default_factory=dict)
    repeated: Mapping[str, object | EllipsisType] = field(default_factory=dict)
    cut_after: str | None = None
    syntax: Literal["json", "form", "xml"] = "json"
    charset: str = "utf-8"
    compression: Literal["gzip", "deflate", "raw deflate"] | None = None
    headers: Mapping[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.syntax == "form" and self.inside:
            raise ConfigurationError("a form-encoded reply has no objects in it: leave inside out")

    def __repr__(self) -> str:
        values = {each.name: getattr(self, each.name) for each in fields(self)}
        odd = (f"{name}={value!r}" for name, value in values.items() if value and value != _DEFAULTS.get(name))
        return f"ReplyForm({', '.join(odd)})"


_DEFAULTS: Final = {each.name: each.default for each in fields(ReplyForm)}


def dressed(plain: Reply, form: ReplyForm) -> Reply:
    """The token reply `plain`, written in `form`."""
    pair, text_of, content_type = _SYNTAXES[form.syntax]
    pairs = _pairs(json.loads(plain.body), form)
    text = text_of(pairs, form)
    last = dict(pairs)
    if form.cut_after in last:
        written = pair(form.cut_after, last[form.cut_after])
        text = text[: text.rindex(written) + len(written)]
    body = text.encode(form.charset, "replace")
    headers = {name.lower(): value for name, value in form.headers.items()}
    if form.compression is not None:
        body = _COMPRESSIONS[form.compression](body)
        headers.setdefault("content-encoding", form.compression.removeprefix("raw "))
    return reply(plain.status, headers.pop("content-type", content_type), body, headers)


def _pairs(members: dict[str, object], form: ReplyForm) -> _Pairs:
    """The members that stand with the tokens, in the order in which they are written."""
    lifetime = members.get("expires_in")
    if isinstance(lifetime, int | float):
        members |= _EXPIRIES[form.expiry](lifetime)
        if form.expiry in {"expires_on", "expires_at"}:
            del members["expires_in"]
    for name in ("access_token", "refresh_token"):
        if name in members:
            members[name] = f"{members[name]}{form.after_tokens}"
    members |= form.members
    twice = {name: members.get(name) if value is ... else value for name, value in form.repeated.items()}
    pairs = [*twice.items(), *members.items()]
    return [(new, value) for name, value in pairs if (new := form.names.get(name, name)) is not None]


def _json_pair(name: str, value: object) -> str:
    return f"{json.dumps(name, ensure_ascii=False)}: {json.dumps(value, ensure_ascii=False)}"


def _json_text(pairs: _Pairs, form: ReplyForm) -> str:
    outer = [_json_pair(name, value) for name, value in form.outer.items()]
    written = [_json_pair(name, value) for name, value in pairs]
    for name in reversed(form.inside):
        written = [f"{json.dumps(name)}: {{{', '.join(written)}}}"]
    return f"{{{', '.join([*outer, *written])}}}"


def _form_pair(name: str, value: object) -> str:
    return urlencode({name: value})


def _form_text(pairs: _Pairs, form: ReplyForm) -> str:
    return urlencode([*form.outer.items(), *pairs])


def _xml_pair(name: str, value: object) -> str:
    return f"<{name}>{escape(str(value))}</{name}>"


def _xml_text(pairs: _Pairs, form: ReplyForm) -> str:
    outer = [_xml_pair(name, value) for name, value in form.outer.items()]
    written = [_xml_pair(name, value) for name, value in pairs]
    for name in reversed(form.inside):
        written = [f"<{name}>{''.join(written)}</{name}>"]
    return f'<?xml version="1.0"?><OAuth>{"".join([*outer, *written])}</OAuth>'


def _raw_deflate(data: bytes) -> bytes:
    """Compress `data` without the header of the zlib format (RFC 9110 §8.4.1.2)."""
    compressor = zlib.compressobj(wbits=-zlib.MAX_WBITS)
    return compressor.compress(data) + compressor.flush()


_EXPIRIES: Final[Mapping[Expiry, Callable[[float], _Members]]] = {
    "seconds": lambda lifetime: {"expires_in": lifetime},
    "text": lambda lifetime: {"expires_in": str(lifetime)},
    "milliseconds": lambda lifetime: {"expires_in": lifetime * 1000, "expires_in_sec": lifetime},
    "expires_on": lambda lifetime: {"expires_on": str(int(time.time() + lifetime))},
    "expires_at": lambda lifetime: {"expires_at": datetime.fromtimestamp(time.time() + lifetime, UTC).isoformat()},
}
_SYNTAXES: Final[Mapping[str, tuple[Callable[[str, object], str], Callable[[_Pairs, ReplyForm], str], str]]] = {
    "json": (_json_pair, _json_text, "application/json"),
    "form": (_form_pair, _form_text, "application/x-www-form-urlencoded"),
    "xml": (_xml_pair, _xml_text, "application/xml"),
}
_COMPRESSIONS: Final[Mapping[str, Callable[[bytes], bytes]]] = {
    "gzip": gzip.compress,
    "deflate": zlib.compress,
    "raw deflate": _raw_deflate,
}
