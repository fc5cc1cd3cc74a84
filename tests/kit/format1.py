"""Records that tokenflight wrote in record format 1, one set for each store.

The data lies in ``tests/stores/format1``. ``expected.json`` names the records and what they hold; versions differ from
store to store. The data is frozen: no present code writes this format.
"""

import json
import shutil
from base64 import b64decode
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

import pytest

from tokenflight import StoreConflict, StoredTokens, Target, TokenKey, TokenSet, TokenStore, Version
from tokenflight.stores.codec import decode_key

DIRECTORY: Final = Path(__file__).parent.parent / "stores" / "format1"
BILLING: Final = {Target(resource="https://billing.example"): TokenSet("billing")}


def _expected() -> dict[str, Any]:
    loaded: dict[str, Any] = json.loads((DIRECTORY / "expected.json").read_bytes())
    return loaded


ENCRYPTION_KEY: Final = str(_expected()["encryption_key"])


def records_of(store: str) -> dict[TokenKey, StoredTokens]:
    """What `store`, named as its data is, was given to keep."""
    return {
        TokenKey(each["provider"], each["user_id"]): StoredTokens(
            TokenSet.from_dict(each["tokens"]), Version(each["versions"][store]), each["issuer"], each["refused"]
        )
        for each in _expected()["records"]
    }


def copy_private(source: Path, target: Path) -> None:
    """Copy a file or a directory with permissions for its owner alone, which version control does not keep."""
    if source.is_file():
        shutil.copyfile(source, target)
        target.chmod(0o600)
        return
    target.mkdir(mode=0o700)
    for each in source.iterdir():
        copy_private(each, target / each.name)


def redis_hashes() -> dict[str, dict[str, bytes]]:
    """The fields of each hash, by its key."""
    hashes: dict[str, dict[str, str]] = json.loads((DIRECTORY / "redis.json").read_bytes())
    return {name: {field: b64decode(value) for field, value in fields.items()} for name, fields in hashes.items()}


def postgresql_table() -> tuple[str, str, list[dict[str, object]]]:
    """The name of the table, the statement that made it, and its rows."""
    dump: dict[str, Any] = json.loads((DIRECTORY / "postgresql.json").read_bytes())
    rows = [dict(zip(dump["columns"], row, strict=True)) for row in dump["rows"]]
    return dump["table"], dump["create_table"], [row | {"record": b64decode(row["record"])} for row in rows]


async def check_that_all_is_read_and_written_again(
    store: TokenStore, name: str, stored: Callable[[], Awaitable[Sequence[bytes]]], *, envelope_format: int = 2
) -> None:
    """Each record of format 1 loads, can be replaced by one of format 2, and then loads again.

    `stored` gives all records as `store` keeps them; `envelope_format` is the format that shows from outside.
    """
    expected = records_of(name)
    assert [json.loads(data)["format_version"] for data in await stored()] == [1] * len(expected)
    assert {key async for key in store.keys(None)} == set(expected)
    for key, record in expected.items():
        assert await store.load(key) == record, key
        again = StoredTokens(record.tokens, issuer=record.issuer, refused=record.refused, access_tokens=BILLING)
        await store.replace(key, again, expected=record.version)
        assert await store.load(key) == again, key
        await store.save(key, login := replace(again, version=Version(f"{again.version}-login")))
        assert await store.load(key) == login, key
    formats = {decode_key(data): json.loads(data)["format_version"] for data in await stored()}
    assert formats == dict.fromkeys(expected, envelope_format)


async def check_that_each_logout_ends_its_grant(store: TokenStore, name: str) -> None:
    """Each record of format 1 can be logged out, and its grant is then not created again, only logged in with."""
    told_by_nothing = []
    for key, record in records_of(name).items():
        assert await store.delete(key) is True, key
        assert await store.load(key) is None, key
        again = StoredTokens(replace(record.tokens, issued_at=None))  # so that the refresh token alone tells
        if again.tokens.refresh_token is None:
            told_by_nothing.append(key.user_id)
            continue
        with pytest.raises(StoreConflict) as caught:
            await store.replace(key, again, expected=None)
        assert caught.value.code == "logged_out", key
        await store.save(key, again)
        assert await store.load(key) == again, key
    assert told_by_nothing == ["bare"]
