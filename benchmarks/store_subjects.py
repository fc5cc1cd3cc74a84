"""The stores that need no server, each beside the bare calls that it is made of."""

import asyncio
import os
import tempfile
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from itertools import cycle
from pathlib import Path
from typing import Final

from filelock import lock_descriptor, unlock_descriptor

from benchmarks.subjects import USER, token_set
from tokenflight import FileTokenStore, MemoryTokenStore, StoredTokens, TokenKey, TokenStore, Version
from tokenflight.stores.codec import JSONCodec

KEY: Final = TokenKey("prompt", USER)
FILE_SAVE_SHARE: Final = 0.8
RENEWAL_SHARE: Final = 0.7
TESTS: Final = str(Path(__file__).parents[1] / "tests")
"""The directory of the modules that start servers."""

Work = Callable[[], Awaitable[object]]


@dataclass(frozen=True, slots=True)
class Subject:
    """A store, the bare ways to do the same work, with the floor first, and the number of repetitions in a round."""

    name: str
    store: TokenStore
    other: TokenStore
    saves: Mapping[str, Work]
    loads: Mapping[str, Work]
    renewals: Mapping[str, Work]
    count: int
    save_share: float | None = None
    renewal_share: float | None = RENEWAL_SHARE


def records() -> Iterator[bytes]:
    """Alternate between two records as large as a store's: some engines skip a write that changes nothing."""
    tokens = token_set(issued_at=time.time())
    return cycle([JSONCodec().encode(KEY, StoredTokens(tokens)) for _ in range(2)])


@asynccontextmanager
async def closing(*stores: TokenStore) -> AsyncIterator[None]:
    """Close `stores` at the end."""
    try:
        yield
    finally:
        for store in stores:
            await store.aclose()


@asynccontextmanager
async def memory() -> AsyncIterator[Subject]:
    """Open the store beside a bare dict."""
    store = MemoryTokenStore()
    records: dict[TokenKey, StoredTokens] = {}
    record = StoredTokens(token_set(issued_at=time.time()), Version("bare"))

    async def save() -> None:
        records[KEY] = record

    async def load() -> None:
        records.get(KEY)

    async def renew() -> None:
        async with asyncio.Lock():
            records.get(KEY)
            records[KEY] = record

    yield Subject(
        "Memory",
        store,
        store,
        {"dict: assignment": save},
        {"dict: look-up": load},
        {"asyncio.Lock, dict: look-up, assignment": renew},
        count=2_000,
        renewal_share=None,
    )


@asynccontextmanager
async def files() -> AsyncIterator[Subject]:
    """Open two stores in one directory, beside a bare file."""
    with tempfile.TemporaryDirectory(prefix="tokenflight-benchmark-") as directory:
        store, other = FileTokenStore(Path(directory, "store")), FileTokenStore(Path(directory, "store"))
        async with closing(store, other):
            bare = _BareFile(Path(directory, "bare"))

            async def save() -> None:
                bare.write_durably()

            async def load() -> None:
                bare.read()

            yield Subject(
                f"Files in {tempfile.gettempdir()}",
                store,
                other,
                {
                    "write, sync, rename, sync: blocking": save,
                    "write, sync, rename, sync: in a thread": lambda: asyncio.to_thread(bare.write_durably),
                },
                {"read: blocking": load, "read: in a thread": lambda: asyncio.to_thread(bare.read)},
                {"lock, read, durable write, unlock: in threads": bare.renew_in_threads},
                count=10,
                save_share=FILE_SAVE_SHARE,
            )


class _BareFile:
    """One file, written so that a power cut leaves either the old or the new content."""

    def __init__(self, directory: Path) -> None:
        directory.mkdir()
        self._path = directory / "record.json"
        self._lock = directory / "record.lock"
        self._records = records()
        self.write_durably()

    def write_durably(self) -> None:
        """Write a temporary file, sync it, rename it, and sync the directory."""
        aside = self._path.with_suffix(".tmp")
        with aside.open("wb") as file:
            file.write(next(self._records))
            file.flush()
            os.fsync(file.fileno())
        aside.rename(self._path)
        directory = os.open(self._path.parent, os.O_RDONLY)
        try:
            os.fsync(directory)
        finally:
            os.close(directory)

    def read(self) -> bytes:
        """Read the whole file."""
        return self._path.read_bytes()

    async def renew_in_threads(self) -> None:
        """Lock, read, compare and replace, unlock, with as many hops to a thread as the store makes."""
        lock = await asyncio.to_thread(self._take_lock)
        try:
            await asyncio.to_thread(self.read)
            await asyncio.to_thread(self._read_and_write)
        finally:
            unlock_descriptor(lock)
            os.close(lock)

    def _take_lock(self) -> int:
        descriptor = os.open(self._lock, os.O_RDWR | os.O_CREAT, 0o600)
        lock_descriptor(descriptor, blocking=False)
        return descriptor

    def _read_and_write(self) -> None:
        self.read()
        self.write_durably()
