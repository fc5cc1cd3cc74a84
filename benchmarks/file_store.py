"""What a record on disk costs, beside the system calls that a durable write needs."""

import asyncio
import os
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from benchmarks.comparison import Comparison, Effort, Rival, compare
from benchmarks.subjects import USER, token_set
from tokenflight import FileTokenStore, TokenKey


async def file_store(effort: Effort) -> list[Comparison]:
    """Compare `FileTokenStore` with bare blocking file I/O of the same bytes, and with the same in a thread."""
    key, tokens = TokenKey("prompt", USER), token_set(issued_at=time.time())

    async def save(count: int) -> None:
        for _ in range(count):
            await store.save(key, tokens)

    async def load(count: int) -> None:
        for _ in range(count):
            await store.load(key)

    with tempfile.TemporaryDirectory(prefix="tokenflight-benchmark-") as directory:
        store = FileTokenStore(Path(directory, "store"))
        await store.save(key, tokens)
        data, path = _only_record(Path(directory)), Path(directory, "bare.json")
        write_durably(path, data)
        comparisons = [
            await compare(
                f"A record of {len(data):,} bytes saved, in {tempfile.gettempdir()}",
                [
                    _blocking("durable write, blocking", lambda: write_durably(path, data)),
                    _in_thread("durable write, in a thread", lambda: write_durably(path, data)),
                    Rival("FileTokenStore.save", save),
                ],
                count=effort.share_of(10),
                effort=effort,
            ),
            await compare(
                "The same record loaded",
                [
                    _blocking("read, blocking", path.read_bytes),
                    _in_thread("read, in a thread", path.read_bytes),
                    Rival("FileTokenStore.load", load),
                ],
                count=effort.share_of(200),
                effort=effort,
            ),
        ]
        await store.aclose()
        return comparisons


def write_durably(path: Path, data: bytes) -> None:
    """Replace the file at `path` so that a power cut leaves the old content or the new."""
    aside = path.with_suffix(".tmp")
    with aside.open("wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
    aside.rename(path)
    directory = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(directory)
    finally:
        os.close(directory)


def _only_record(directory: Path) -> bytes:
    (record,) = directory.rglob("*.json")
    return record.read_bytes()


def _blocking(name: str, work: Callable[[], object]) -> Rival:
    async def run(count: int) -> None:
        for _ in range(count):
            work()

    return Rival(name, run)


def _in_thread(name: str, work: Callable[[], object]) -> Rival:
    async def run(count: int) -> None:
        for _ in range(count):
            await asyncio.to_thread(work)

    return Rival(name, run)
