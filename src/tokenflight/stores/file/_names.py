"""Texts of any content as file names: readable where they are plain, never colliding, never leaving the directory."""

import hashlib
import re
from typing import Final
from urllib.parse import unquote_to_bytes

MAX_NAME_LENGTH: Final = 200
"""In characters, all ASCII: with the longest suffix still below the 255 bytes that file systems allow."""

_KEPT_PREFIX_LENGTH: Final = 100
_NEEDS_ENCODING: Final = re.compile(rb"[^a-z0-9_\-@+.]")
_RESERVED_ON_WINDOWS: Final = re.compile(r"(con|prn|aux|nul|com[0-9]|lpt[0-9])(\.|$)")


def encode_name(text: str) -> str:
    """A file name for `text`, without suffix: `text` itself if it is plain, otherwise percent-encoded.

    Capital letters are encoded too, because some file systems do not tell them from small ones. A name that would be
    too long is cut and ends in ``~`` and a digest; `decode_name` can't read it back.
    """
    data = text.encode("utf-8", "surrogatepass")
    name = _NEEDS_ENCODING.sub(lambda found: b"%%%02x" % found[0][0], data).decode()
    if name.startswith(".") or _RESERVED_ON_WINDOWS.match(name):
        name = f"%{ord(name[0]):02x}{name[1:]}"
    if name.endswith("."):
        name = f"{name[:-1]}%2e"
    if len(name) > MAX_NAME_LENGTH:
        prefix = re.sub(r"%.?$", "", name[:_KEPT_PREFIX_LENGTH])
        name = f"{prefix}~{hashlib.sha256(data).hexdigest()}"
    return name


def decode_name(name: str) -> str | None:
    """The text that `encode_name` turned into `name`; None if the name was cut or is not of our making."""
    try:
        text = unquote_to_bytes(name).decode("utf-8", "surrogatepass")
    except UnicodeError:  # raised also for another program's file whose name is not Unicode text
        return None
    return text if text and encode_name(text) == name else None
