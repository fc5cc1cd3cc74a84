"""A store in files: one a user, shared by all processes of one machine."""

import asyncio
import os
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from itertools import islice
from typing import Final, NamedTuple, TypeVar

from tokenflight._checks import require_kind
from tokenflight.errors import ConfigurationError, StoreError, StoreUnavailable
from tokenflight.stores import _failures
from tokenflight.stores._cancellation import wait_briefly
from tokenflight.stores.base import Lease, StoredTokens, TokenStore, Version
from tokenflight.stores.codec import MAX_RECORD_BYTES, JSONCodec, RecordCodec, decode_key
from tokenflight.stores.file import _private_files
from tokenflight.stores.file._names import decode_name, encode_name
from tokenflight.tokens import TokenKey

T = TypeVar("T")

RECORD_SUFFIX: Final = ".json"
LEASE_SUFFIX: Final = ".lock"
WRITE_LOCK_SUFFIX: Final = ".write-lock"
MAX_THREADS: Final = 16
SHORTEST_POLL_SECONDS: Final = 0.005
LONGEST_POLL_SECONDS: Final = 0.05
KEYS_PER_READ: Final = 1000


class _Files(NamedTuple):
    """The paths of what belongs to one key."""

    directory: str
    record: str
    lease: str
    write_lock: str


class FileTokenStore(TokenStore):
    """One JSON file a user under `directory`, which is created if need be; ``~`` in it is expanded.

    Files are readable by their owner alone and replaced whole: written temporary, synced to disk, renamed. A file that
    others can read is refused. The lease is a lock on a file beside the record, freed by the system when its holder
    dies. A directory that is taken away, as by an unmounted disk, makes the store unavailable and logs nobody out.
    `codec` turns records into bytes; a user id is also in the file's name. On Windows, where it is
    not tested, it does without the permissions.
    """

    def __init__(self, directory: str | os.PathLike[str], *, codec: RecordCodec = JSONCodec()) -> None:  # noqa: B008 - it has no state
        self._codec = codec
        require_kind("directory", directory, str | os.PathLike)
        expanded = os.path.expanduser(directory)
        if not expanded or expanded.startswith("~"):
            raise ConfigurationError(
                f"directory must be a path, not {directory!r}: it is empty, or there is no home directory for its ~"
            )
        self._directory = os.path.realpath(expanded)
        self._first_seen: tuple[int, int] | None = None
        self._threads: ThreadPoolExecutor | None = None
        self._process = 0
        self._guard = threading.Lock()  # guards both, as event loops in several threads may share the store

    def __repr__(self) -> str:
        return f"<FileTokenStore {self._directory!r}>"

    async def load(self, key: TokenKey) -> StoredTokens | None:
        """See `TokenStore.load`."""
        return await self._in_thread(self._read, key)

    async def save(self, key: TokenKey, record: StoredTokens) -> None:
        """See `TokenStore.save`."""
        await self._in_thread(self._save, key, record)

    async def replace(self, key: TokenKey, record: StoredTokens, *, expected: Version | None) -> None:
        """See `TokenStore.replace`."""
        await self._in_thread(self._replace, key, record, expected)

    async def delete(self, key: TokenKey) -> bool:
        """See `TokenStore.delete`."""
        return await self._in_thread(self._delete, key)

    def lease(self, key: TokenKey, *, timeout: float) -> AbstractAsyncContextManager[Lease]:
        """See `TokenStore.lease`."""
        return self._lease(key, timeout)

    async def keys(self, provider: str | None = None) -> AsyncIterator[TokenKey]:
        """See `TokenStore.keys`. Files that are no records of this store are passed over."""
        for directory in await self._in_thread(self._provider_directories, provider):
            records = _records_in(directory)
            while batch := await self._in_thread(_next_keys, records):
                for key in batch:
                    if key is not None:
                        yield key

    async def aclose(self) -> None:
        """Let the store's threads end when what they do is done."""
        with self._guard:
            if self._threads is not None:
                self._threads.shutdown(wait=False)
                self._threads = None

    @asynccontextmanager
    async def _lease(self, key: TokenKey, timeout: float) -> AsyncIterator[Lease]:
        loop = asyncio.get_running_loop()
        give_up_at = loop.time() + timeout
        pause = SHORTEST_POLL_SECONDS
        while (lock := await self._try_lease(key)) is None:
            if (left := give_up_at - loop.time()) <= 0:
                raise _failures.lease_timeout(key, timeout)
            await asyncio.sleep(min(pause, left))
            pause = min(pause * 2, LONGEST_POLL_SECONDS)
        try:
            yield Lease()
        finally:
            _private_files.release_lock(lock)  # here, not in a thread: a second cancellation must not keep the lease

    async def _try_lease(self, key: TokenKey) -> int | None:
        attempt = self._submit(self._try_lock, key)
        try:
            return await asyncio.wrap_future(attempt)
        except asyncio.CancelledError:
            # The thread may be about to get the lock. It frees it itself: the event loop may end before.
            attempt.add_done_callback(_release_unwanted)
            raise

    async def _in_thread(self, work: Callable[..., T], *args: object) -> T:
        """Run `work` in one of the store's threads, in one go: what has started happens whole, even if cancelled."""
        running = self._submit(work, *args)
        try:
            return await asyncio.wrap_future(running)
        except asyncio.CancelledError:
            if not running.cancel():
                await wait_briefly(asyncio.wrap_future(running))
            raise

    def _submit(self, work: Callable[..., T], *args: object) -> Future[T]:
        with self._guard:
            threads = self._threads
            if threads is None or self._process != os.getpid():  # a forked child has the pool but not its threads
                threads = self._threads = ThreadPoolExecutor(MAX_THREADS, thread_name_prefix="tokenflight-file-store")
                self._process = os.getpid()
            return threads.submit(self._mapping_errors, work, *args)

    def _mapping_errors(self, work: Callable[..., T], *args: object) -> T:
        try:
            return work(*args)
        except OSError as exc:
            raise StoreUnavailable(
                f"the file store in {self._directory} failed: {exc.strerror or type(exc).__name__}"
                + (f" ({exc.filename})" if exc.filename else "")
            ) from exc

    def _provider_directory(self, provider: str) -> str:
        return os.path.join(self._directory, encode_name(provider))

    def _files(self, key: TokenKey) -> _Files:
        directory = self._provider_directory(key.provider)
        stem = os.path.join(directory, encode_name(key.user_id))
        return _Files(directory, stem + RECORD_SUFFIX, stem + LEASE_SUFFIX, stem + WRITE_LOCK_SUFFIX)

    def _require_first_seen_directory(self) -> None:
        """Raise `StoreUnavailable` where the absence of a record proves nothing.

        Another process makes the directory anew while its disk is unmounted: an empty directory is no logout.
        """
        if self._is_there() and _identity(self._directory) != self._first_seen:
            raise StoreUnavailable(f"the directory {self._directory} is not the one it was; bring that one back")

    def _is_there(self) -> bool:
        """Whether the store's directory is there. Once it was, it has to be: an unmounted disk logs nobody out."""
        there = _private_files.has_directory(self._directory)
        if there and self._first_seen is None:
            self._first_seen = _identity(self._directory)
        if not there and self._first_seen is not None:
            raise StoreUnavailable(f"the directory {self._directory} is gone; bring it back, or start anew without it")
        return there

    def _has_directories(self, provider_directory: str) -> bool:
        """Whether the store's directory and the provider's one in it are there; refuse those that are not private."""
        return self._is_there() and _private_files.has_directory(provider_directory)

    def _make_directories(self, provider_directory: str) -> None:
        """Make sure of the store's directory and the provider's one in it."""
        if not self._is_there():
            _private_files.make_directory(self._directory)
            self._is_there()  # seen from now on
        _private_files.make_directory(provider_directory)

    def _read(self, key: TokenKey) -> StoredTokens | None:
        files = self._files(key)
        return self._decode(key, files) if self._has_directories(files.directory) else None

    def _decode(self, key: TokenKey, files: _Files) -> StoredTokens | None:
        data = _private_files.read_file(files.record, max_bytes=MAX_RECORD_BYTES + 1)
        return None if data is None else self._codec.decode(key, data)

    def _save(self, key: TokenKey, record: StoredTokens) -> None:
        files, data = self._files(key), self._codec.encode(key, record)
        self._make_directories(files.directory)
        with _private_files.locked(files.write_lock):
            _private_files.write_file(files.record, data)

    def _replace(self, key: TokenKey, record: StoredTokens, expected: Version | None) -> None:
        files, data = self._files(key), self._codec.encode(key, record)
        if expected is None:
            self._make_directories(files.directory)
        elif not self._has_directories(files.directory):
            self._require_first_seen_directory()
            raise _failures.conflict(key, expected)
        # The lock makes the comparison and the write one step for all threads and processes.
        with _private_files.locked(files.write_lock):
            current = self._decode(key, files)
            if current is None:
                self._require_first_seen_directory()
            if (None if current is None else current.version) != expected:
                raise _failures.conflict(key, expected)
            _private_files.write_file(files.record, data)

    def _try_lock(self, key: TokenKey) -> int | None:
        files = self._files(key)
        self._make_directories(files.directory)
        return _private_files.try_lock(files.lease)

    def _delete(self, key: TokenKey) -> bool:
        files = self._files(key)
        if not self._has_directories(files.directory):
            return False
        with _private_files.locked(files.write_lock):
            return _private_files.remove_file(files.record)

    def _provider_directories(self, provider: str | None) -> list[str]:
        if not self._is_there():
            return []
        if provider is not None:
            directories = [self._provider_directory(provider)]
        else:
            directories = [os.path.join(self._directory, name) for name in os.listdir(self._directory)]
        return [directory for directory in directories if os.path.isdir(directory) and not os.path.islink(directory)]


def _release_unwanted(attempt: Future[int | None]) -> None:
    if not attempt.cancelled() and attempt.exception() is None and (lock := attempt.result()) is not None:
        _private_files.release_lock(lock)


def _identity(directory: str) -> tuple[int, int]:
    status = os.lstat(directory)
    return status.st_dev, status.st_ino


def _records_in(directory: str) -> Iterator[str]:
    with os.scandir(directory) as entries:  # read as it goes: there may be a million
        for entry in entries:
            if entry.name.endswith(RECORD_SUFFIX):
                yield entry.path


def _next_keys(records: Iterator[str]) -> list[TokenKey | None]:
    return [_key_of(path) for path in islice(records, KEYS_PER_READ)]


def _key_of(path: str) -> TokenKey | None:
    """The key of the record at `path`: from its name, or from its content where the name was cut."""
    directory, name = os.path.split(path)
    directory = os.path.basename(directory)
    provider, user_id = decode_name(directory), decode_name(name.removesuffix(RECORD_SUFFIX))
    if provider is not None and user_id is not None:
        return TokenKey(provider, user_id)
    try:
        data = _private_files.read_file(path, max_bytes=MAX_RECORD_BYTES + 1)
    except (OSError, StoreError):
        return None
    key = None if data is None else decode_key(data)
    named = key is not None and (encode_name(key.provider), f"{encode_name(key.user_id)}{RECORD_SUFFIX}")
    return key if named == (directory, name) else None
