"""Records that an earlier version wrote to files, plain and encrypted."""

import asyncio
import time
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest

from kit.format1 import (
    DIRECTORY,
    ENCRYPTION_KEY,
    check_that_all_is_read_and_written_again,
    check_that_each_logout_ends_its_grant,
    copy_private,
    records_of,
)
from tokenflight import FileTokenStore, StoreConflict, StoredTokens
from tokenflight.stores.codec import JSONCodec, RecordCodec
from tokenflight.stores.encryption import EncryptedCodec


@pytest.mark.parametrize(
    ("name", "codec", "envelope_format"),
    [("file", JSONCodec(), 2), ("encrypted", EncryptedCodec([ENCRYPTION_KEY]), 1)],
    ids=["plain", "encrypted"],
)
async def test_system_d_records_of_format_1_are_read_and_written_in_format_2(
    directory: Path, name: str, codec: RecordCodec, envelope_format: int
) -> None:
    copy_private(DIRECTORY / name, directory)
    store = FileTokenStore(directory, codec=codec)
    stored = partial(asyncio.to_thread, records_in, directory)
    await check_that_all_is_read_and_written_again(store, name, stored, envelope_format=envelope_format)
    await store.aclose()


@pytest.mark.parametrize(
    ("name", "codec"),
    [("file", JSONCodec()), ("encrypted", EncryptedCodec([ENCRYPTION_KEY]))],
    ids=["plain", "encrypted"],
)
async def test_k5_a_logout_ends_the_grant_in_a_record_of_format_1(
    directory: Path, name: str, codec: RecordCodec
) -> None:
    copy_private(DIRECTORY / name, directory)
    store = FileTokenStore(directory, codec=codec)
    await check_that_each_logout_ends_its_grant(store, name)
    await store.aclose()


async def test_k5_a_logout_without_the_key_of_an_encrypted_record_keeps_older_token_sets_out(directory: Path) -> None:
    copy_private(DIRECTORY / "encrypted", directory)
    store = FileTokenStore(directory)  # with no codec that could decrypt
    for key, record in records_of("encrypted").items():
        assert await store.delete(key) is True
        with pytest.raises(StoreConflict) as caught:
            await store.replace(key, StoredTokens(replace(record.tokens, issued_at=time.time() - 3600)), expected=None)
        assert caught.value.code == "logged_out"
        new = StoredTokens(replace(record.tokens, issued_at=time.time()))
        await store.replace(key, new, expected=None)
        assert await store.load(key) == new
    await store.aclose()


def records_in(directory: Path) -> list[bytes]:
    return [path.read_bytes() for path in directory.rglob("*.json")]
