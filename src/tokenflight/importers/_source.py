"""What the importers share: reading a file or taking what was read, and making token sets of its entries."""

import json
import os
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias

from tokenflight._jwt import unverified_claims
from tokenflight.errors import StoreCorrupted, StoreUnavailable
from tokenflight.tokens import TokenSet

StrPath: TypeAlias = str | os.PathLike[str]
Source: TypeAlias = StrPath | Mapping[str, object]
Rows: TypeAlias = Source | Iterable[Mapping[str, object]]


@dataclass(frozen=True, slots=True)
class ImportedTokens:
    """A user's token set, and whose it is.

    `user_id` and `provider` are in the other program's words, None where it does not tell. `access_tokens` are those
    of several targets on one grant, each a token set with its scope and without a refresh token; then that in `tokens`
    is empty, because nothing says which of them the app means.
    """

    tokens: TokenSet
    user_id: str | None = None
    provider: str | None = None
    access_tokens: tuple[TokenSet, ...] = ()


def path_of(source: object) -> Path | None:
    """`source` as a path, if it is one."""
    return Path(source).expanduser() if isinstance(source, str | os.PathLike) else None


def read_text(path: Path) -> str:
    """What the file says; raises `StoreUnavailable` if it can't be read, and `StoreCorrupted` if it is no text."""
    try:
        data = path.read_bytes()
    except OSError as exc:
        raise StoreUnavailable(f"{path} can't be read: {exc.strerror}") from exc
    try:
        return data.decode(json.detect_encoding(data))  # PowerShell writes UTF-16
    except ValueError:
        del data  # and not raised from here: a decoding error carries the bytes, and the bytes carry tokens
    raise StoreCorrupted(f"{path} is not UTF-8 text")


def parsed(text: str) -> object:
    """The JSON value in `text`, None if there is none."""
    try:
        value: object = json.loads(text)
    except (ValueError, RecursionError):
        return None
    return value


def read_json(source: object) -> object:
    """The JSON value in the file, or `source` itself if it is no path."""
    path = path_of(source)
    return source if path is None else parsed(read_text(path))


def mapping_in(source: object, program: str) -> Mapping[str, object]:
    """The JSON object in `source`; raises `StoreCorrupted` if it is none."""
    value = read_json(source)
    if isinstance(value, Mapping):
        return value
    del value  # some tools show the local variables of a traceback
    raise wrong_shape(source, program)


def rows_in(source: object, program: str) -> list[Mapping[str, object]]:
    """The rows in `source`, which may be a single one; raises `StoreCorrupted` if it holds anything else."""
    value = read_json(source)
    items = [value] if isinstance(value, Mapping) else list(value) if isinstance(value, Iterable) else [None]
    rows = [item for item in items if isinstance(item, Mapping)]
    if len(rows) == len(items):
        return rows
    del value, items, rows  # as above
    raise wrong_shape(source, program)


def wrong_shape(source: object, program: str) -> StoreCorrupted:
    """The error for what another program has written."""
    path = path_of(source)
    what = f"a {type(source).__name__}" if path is None else str(path)
    return StoreCorrupted(f"{what} does not have the shape in which {program} stores tokens")


def entry(value: object) -> Mapping[str, object]:
    """`value` if it is a mapping, and an empty one for anything else."""
    return value if isinstance(value, Mapping) else {}


def name(value: object) -> str | None:
    """A user or provider as text: databases have numbers and UUIDs, and Django's natural keys are lists."""
    if isinstance(value, list | tuple) and len(value) == 1:
        value = value[0]
    return None if value is None or value == "" else str(value)


def imported(
    fields: Mapping[str, object], *, user: object = None, provider: object = None, without: Collection[str] = ()
) -> list[ImportedTokens]:
    """The token set in `fields`, none if there is no token; members named in `without` do not live on."""
    fields = {member: value for member, value in fields.items() if member not in without}
    try:
        tokens = TokenSet.from_dict(fields)
    except StoreCorrupted:
        return []  # an API key, or a user who has logged out
    return [ImportedTokens(tokens, name(user), name(provider))]


def user_named_in(id_token: object) -> str | None:
    """The user whom an ID token names: by the e-mail address, which is what people look for, or else the subject."""
    claims = unverified_claims(id_token) if isinstance(id_token, str) else {}
    return name(claims.get("email")) or name(claims.get("sub"))
