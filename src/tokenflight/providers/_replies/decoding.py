"""From the bytes of a reply to the members in it.

A provider, or a gateway in front of it, compresses a reply unasked, names the wrong charset, sends a form instead of
JSON, or stops in the middle. The refresh token in such a reply may be the only one that still works. So nothing here
raises: each function returns what it could read, together with a flaw that says what is wrong. Each step takes time in
proportion to the bytes, and decompression stops at a bound.
"""

import codecs
import html
import json
import re
import zlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Final
from urllib.parse import parse_qsl

from tokenflight._token_shapes import folded

MAX_DECODED_BYTES: Final = 1024 * 1024
MAX_NESTING: Final = 50
"""Levels of objects and arrays in a body: no provider's reply has more."""

_MAX_WALKED: Final = 300
_MAX_WALKED_LEVELS: Final = 5
_MAX_NAME_LENGTH: Final = 1000
_MAX_CODINGS: Final = 3
_MAX_GZIP_MEMBERS: Final = 16
_MAX_FORM_FIELDS: Final = 1000
_CHUNK_BYTES: Final = 16 * 1024
_GZIP_MAGIC: Final = b"\x1f\x8b"
_ZLIB_MAGICS: Final = (b"x\x01", b"x^", b"x\x9c", b"x\xda")
_GZIP_WINDOW: Final = 31  # as zlib wants it: the size of the window, and which header to expect
_ZLIB_WINDOW: Final = 15
_RAW_WINDOW: Final = -15

_BYTE_ORDER_MARKS: Final = (  # UTF-32 first: its little-endian mark begins with that of UTF-16
    (codecs.BOM_UTF32_LE, "utf-32"),
    (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF8, "utf-8-sig"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
)
_CHARSET: Final = re.compile(r"charset\s*=\s*[\"']?([\w.:-]{1,40})", re.IGNORECASE)
_TEXT_CHARSET: Final = re.compile(
    r"utf-?(8|16|32)([-_]?[lb]e)?|(us-)?ascii|iso[-_]?8859[-_]\d+|latin-?\d+|windows-?\d+|cp\d+"
    r"|shift[-_]?jis|euc[-_](jp|kr)|gb(k|2312|18030)|big5|koi8-[ru]|macintosh",
    re.IGNORECASE,
)
"""Charsets of texts. Python also has codecs that are no charsets, and some that take more than linear time."""

_PLAIN_JSON: Final = re.compile(rb"(\xef\xbb\xbf)?\s*[{\[].*[}\]]\s*", re.DOTALL)
_GUARD: Final = re.compile(r"\)\]\}'?,?|while\s?\(1\);|for\s?\(;;\);")
"""What some servers put before JSON so that no page can run it as a script."""
_PAGE: Final = re.compile(r"(<!--[^>]{0,500}-->\s*)?<(!doctype\s+html|html|head|body)\b", re.IGNORECASE)
_SWAPPED_QUOTES: Final = str.maketrans("'\"", "\"'")
_FORM: Final = re.compile(r"[?#&]*[\w.%~\[\]-]+=[^\s<>{}\"]*")
_TELLING_FORM: Final = re.compile(r"(^|[?#&;])(access_token|refresh_token|error)=")
_JSON_TOKEN: Final = re.compile(
    r"\"(?P<string>[^\"\\]*+(?:\\.[^\"\\]*+)*+)(?P<closed>\"?)|(?P<mark>[{}\[\]:,])|[^\s\"{}\[\]:,]++", re.DOTALL
)
"""One token of JSON. A string that is not closed extends to the end, so that no character is scanned twice."""
_DEPTH_STEP: Final = {"{": 1, "[": 1, "}": -1, "]": -1}
_ELEMENT: Final = re.compile(r"<([\w.-]{1,40})>([^<>]{1,2000})</\1>")


@dataclass(frozen=True, slots=True)
class StrayMember:
    """A name and a string that stood beside each other in a body that could not be read as a whole."""

    depth: int
    name: str
    value: str = field(repr=False)


@dataclass(frozen=True, slots=True)
class Body:
    """What the bytes of a reply say. `members` is the object in them, empty if there is none.

    `flaw` says what is wrong with them, as in "the reply …", or is None. `value` is the JSON value in them. For a text
    that is no JSON, `strays` are the members found in it, and `text` is the text itself unless it is a web page.
    """

    members: Mapping[str, object] = field(repr=False)
    flaw: str | None = None
    value: object = field(default=None, repr=False)
    strays: tuple[StrayMember, ...] = field(default=(), repr=False)
    text: str = field(default="", repr=False)
    is_form: bool = False
    is_page: bool = False


def decode_body(headers: Mapping[str, str], body: bytes, *, max_bytes: int = MAX_DECODED_BYTES) -> Body:
    """Read `body`. `headers` have names in lower case; decompression stops after `max_bytes`."""
    data, flaw = decompress(body, headers.get("content-encoding", ""), max_bytes=max_bytes)
    content_type = headers.get("content-type", "").lower()
    text = _text(data, content_type).strip("\x00\ufeff \t\r\n\f")
    if guard := _GUARD.match(text):
        text = text[guard.end() :].lstrip()
    if _PAGE.match(text) or ("html" in content_type and text.startswith("<")):
        return Body({}, flaw or "is a web page", is_page=True)
    if (form := _form(text, content_type)) is not None:
        members, conflict = form
        return Body(members, flaw or conflict, value=members, is_form=True)
    try:
        value, fault = _json(text)
    except (ValueError, RecursionError):
        if text.startswith("{'"):
            text = text.translate(_SWAPPED_QUOTES)  # Python's notation
        strays = tuple(_stray_members(text)) or tuple(_elements(text))
        return Body({}, flaw or ("is not valid JSON" if text else "is empty"), strays=strays, text=text)
    if not isinstance(value, dict):
        return Body({}, flaw or "is not a JSON object", value=value)
    return Body(value, flaw or fault, value=value)


def decompress(body: bytes, content_encoding: str, *, max_bytes: int) -> tuple[bytes, str | None]:
    """`body` without its content codings (RFC 9110 §8.4), and what is wrong with it, if anything.

    What `body` begins with counts more than the header. If that is wrong, an uncompressed `body` comes back as it is.
    """
    codings = [
        coding for part in content_encoding.lower().split(",") if (coding := part.strip()) not in {"", "identity"}
    ]
    for count, coding in enumerate(reversed(codings or ["identity"])):
        if _PLAIN_JSON.fullmatch(body):
            break
        if count == _MAX_CODINGS:
            return b"", "is compressed too many times"
        inflate = _inflater_for(body) or _INFLATERS.get(coding.removeprefix("x-"))
        is_form = _FORM.match(body[:_CHUNK_BYTES].decode("latin-1")) is not None
        if inflate is None and (is_form or coding == "identity"):
            continue  # a header that names no compression, such as ``UTF-8``
        if inflate is None:
            return b"", "is compressed in an unknown way"
        inflated, flaw = inflate(body, max_bytes)
        if flaw is not None and not inflated and is_form:
            continue
        body = inflated
        if flaw is not None:
            return body, flaw
    return body, None


def walk(members: Mapping[str, object]) -> Iterator[tuple[int, str, str, object]]:
    """``(level, folded name of the container, folded name, value)`` of what is in `members`, level by level.

    An item of a list has the list's name. The walk ends after some hundred members: no error has more.
    """
    seen = 0
    outer: list[tuple[str, object]] = [("", members)]
    for level in range(_MAX_WALKED_LEVELS):
        inner: list[tuple[str, object]] = []
        for owner, container in outer:
            for name, value in _members_of(owner, container):
                seen += 1
                if seen > _MAX_WALKED:
                    return
                yield level, owner, name, value
                if isinstance(value, Mapping | list):
                    inner.append((name, value))
        outer = inner


def decoded_again(value: object) -> object:
    """`value`, or the object in it, if it is a text that holds a refresh token: some gateways encode a reply twice."""
    if not isinstance(value, str) or not value.startswith("{") or "refresh" not in value.lower():
        return value
    try:
        inner, _ = _json(value)
    except (ValueError, RecursionError):
        return value
    return inner


def is_nested_too_deeply(value: object) -> bool:
    """Whether `value` has more than `MAX_NESTING` levels of objects and arrays."""
    level = [value]
    for _ in range(MAX_NESTING):
        level = [
            item
            for outer in level
            if isinstance(outer, dict | list)
            for item in (outer.values() if isinstance(outer, dict) else outer)
        ]
        if not level:
            return False
    return any(isinstance(item, dict | list) for item in level)


def _members_of(owner: str, container: object) -> Iterator[tuple[str, object]]:
    if isinstance(container, Mapping):
        for name, value in container.items():
            yield folded(str(name)[:_MAX_NAME_LENGTH]), value
    elif isinstance(container, list):
        for value in container:
            yield owner, value


def _gunzip(data: bytes, max_bytes: int) -> tuple[bytes, str | None]:
    inflated = bytearray()
    for _ in range(_MAX_GZIP_MEMBERS):
        member, flaw, rest = _inflate(data, _GZIP_WINDOW, max_bytes - len(inflated))
        inflated += member
        if flaw is not None or not rest.startswith(_GZIP_MAGIC):
            return bytes(inflated), flaw
        data = rest
    return bytes(inflated), "is compressed in too many pieces"


def _inflate_deflate(data: bytes, max_bytes: int) -> tuple[bytes, str | None]:
    """``deflate`` means the zlib format (RFC 9110 §8.4.1.2), and some servers send it without zlib's header."""
    inflated, flaw, _ = _inflate(data, _ZLIB_WINDOW, max_bytes)
    if flaw is not None and not inflated:
        inflated, flaw, _ = _inflate(data, _RAW_WINDOW, max_bytes)
    return inflated, flaw


def _inflate(data: bytes, window_bits: int, max_bytes: int) -> tuple[bytes, str | None, bytes]:
    """``(inflated, flaw, rest)``: at most `max_bytes`, and what came before the place where `data` is broken."""
    decompressor = zlib.decompressobj(window_bits)
    inflated = bytearray()
    for start in range(0, len(data), _CHUNK_BYTES):
        chunk, before = data[start : start + _CHUNK_BYTES], decompressor.copy()
        try:
            inflated += decompressor.decompress(chunk, max_bytes + 1 - len(inflated))
        except zlib.error:
            return bytes(inflated + _salvaged(before, chunk, max_bytes - len(inflated))), "is damaged", b""
        if len(inflated) > max_bytes:
            return bytes(inflated[:max_bytes]), f"has more than {max_bytes} bytes", b""
        if decompressor.eof:
            return bytes(inflated), None, decompressor.unused_data + data[start + _CHUNK_BYTES :]
    return bytes(inflated), "is cut off", b""


def _salvaged(decompressor: "zlib._Decompress", chunk: bytes, max_bytes: int) -> bytes:
    """Inflate `chunk` up to the byte that is wrong: often that is in the checksum, after all of the content."""
    inflated = bytearray()
    try:
        for byte in chunk:
            if len(inflated) >= max_bytes:
                break
            inflated += decompressor.decompress(bytes([byte]), max_bytes - len(inflated))
    except zlib.error:
        pass
    return bytes(inflated)


_INFLATERS: Final[Mapping[str, Callable[[bytes, int], tuple[bytes, str | None]]]] = {
    "gzip": _gunzip,
    "deflate": _inflate_deflate,
}


def _inflater_for(body: bytes) -> Callable[[bytes, int], tuple[bytes, str | None]] | None:
    """The inflater for what `body` begins with, whatever its header says."""
    if body.startswith(_GZIP_MAGIC):
        return _gunzip
    return _inflate_deflate if body.startswith(_ZLIB_MAGICS) else None


def _text(data: bytes, content_type: str) -> str:
    """The text in `data`. Tokens are ASCII, so a wrong guess between charsets spoils none of them."""
    for mark, charset in _BYTE_ORDER_MARKS:
        if data.startswith(mark):
            return data.decode(charset, "replace")
    if b"\x00" in data[:4]:
        return data.decode(json.detect_encoding(data), "replace")
    charsets = ["utf-8"]
    if (declared := _CHARSET.search(content_type)) and _TEXT_CHARSET.fullmatch(declared[1]):
        charsets.append(declared[1])
    for charset in charsets:
        try:
            return data.decode(charset)
        except (UnicodeDecodeError, LookupError):
            continue
    return data.decode("latin-1")


def _form(text: str, content_type: str) -> tuple[dict[str, object], str | None] | None:
    """The members of a form-encoded body, or None if it is none."""
    if not _FORM.match(text) or not ("form-urlencoded" in content_type or _TELLING_FORM.search(text)):
        return None
    try:
        pairs = parse_qsl(
            text.lstrip("?#&").replace("&amp;", "&"), keep_blank_values=True, max_num_fields=_MAX_FORM_FIELDS
        )
    except ValueError:
        return None
    conflicts: list[str] = []
    members = _merged(list(pairs), conflicts)
    return members, "gives a name twice with different values" if conflicts else None


def _json(text: str) -> tuple[object, str | None]:
    """The value in a JSON text and what is wrong with it."""
    conflicts: list[str] = []

    def parse(source: str) -> object:
        # Control characters in a string are wrong (RFC 8259 §7) and harmless.
        return json.loads(source, object_pairs_hook=lambda pairs: _merged(pairs, conflicts), strict=False)

    value = parse(text)
    if isinstance(value, str) and value.lstrip().startswith("{"):
        value = parse(value)  # encoded twice
    if is_nested_too_deeply(value):
        return value, "is nested too deeply"
    return value, "gives a name twice with different values" if conflicts else None


def _merged(pairs: list[tuple[str, object]] | list[tuple[str, str]], conflicts: list[str]) -> dict[str, object]:
    """The members of one object, the last of each name, as most readers of JSON have it (RFC 8259 §4)."""
    members: dict[str, object] = dict(pairs)
    if len(members) != len(pairs):
        conflicts += [name for name, value in pairs if members[name] != value]
    return members


def _stray_members(text: str) -> Iterator[StrayMember]:
    """The members with whole strings for values in a text that is JSON as far as it goes."""
    depth = 0
    name: str | None = None  # the last string, if the next token is a colon or the value after it
    has_colon = False
    for token in _JSON_TOKEN.finditer(text):
        mark, string = token["mark"], token["string"]
        if mark == ":" and name is not None:
            has_colon = True
            continue
        if string is not None and token["closed"]:
            value = _unescaped(string)
            if name is not None and has_colon:
                yield StrayMember(depth, name, value)
                name = None
            else:
                name = value
        else:
            name = None
        has_colon = False
        depth += _DEPTH_STEP.get(mark or "", 0)


def _elements(text: str) -> Iterator[StrayMember]:
    """The elements with nothing but text in them, in a text that is XML or looks like it."""
    for element in _ELEMENT.finditer(text):
        yield StrayMember(0, element[1], html.unescape(element[2]))


def _unescaped(string: str) -> str:
    if "\\" not in string:
        return string
    try:
        return str(json.loads(f'"{string}"', strict=False))
    except ValueError:
        return string
