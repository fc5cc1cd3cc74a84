"""Records that an earlier version wrote to files, plain and encrypted."""

import asyncio
from functools import partial
from pathlib import Path

import pytest

from kit.format1 import DIRECTORY, ENCRYPTION_KEY, check_that_all_is_read_and_written_again, copy_private
from tokenflight import FileTokenStore
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


def records_in(directory: Path) -> list[bytes]:
    return [path.read_bytes() for path in directory.rglob("*.json")]
