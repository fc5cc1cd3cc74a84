"""A store in files: one a user, shared by all processes of one machine.

Beside the record ``<user>.json`` lie two lock files. ``<user>.write-lock`` is held while a record is compared and
written, for milliseconds, by a thread of the store. ``<user>.lock`` is the lease, held for as long as a renewal takes.
Readers take no lock, because a write replaces the file as a whole. For a day, ``<user>.logout`` tells of a logout.

Whoever takes the lease reserves what the write of the renewed token set needs, before the provider is asked: room on
the disk, in the temporary file of the record, and descriptors. Without these, the lease is not given, and the refresh
token is not spent.
"""

import asyncio
import os
import time
from collections.abc import AsyncIterator, Callable, Iterator
from concurrent.futures import Future
from contextlib import AbstractAsyncContextManager, AbstractContextManager, asynccontextmanager, suppress
from functools import partial
from itertools import islice
from typing import Final, Literal, NamedTuple, TypeVar

from tokenflight._checks import require_kind
from tokenflight.errors import ConfigurationError, StoreError, StoreUnavailable
from tokenflight.stores import _failures
from tokenflight.stores._listing import listed_key
from tokenflight.stores.base import Lease, LogoutMarker, StoredTokens, TokenStore, Version
from tokenflight.stores.codec import MAX_RECORD_BYTES, JSONCodec, RecordCodec, decode_key
from tokenflight.stores.file import _private_files
from tokenflight.stores.file._limits import FileLimits
from tokenflight.stores.file._logouts import read_logout, remove_if_over, remove_record
from tokenflight.stores.file._names import decode_name, encode_name
from tokenflight.stores.file._permissions import Permissions, chosen_permissions, parents_of, require_safe_parents
from tokenflight.stores.file._spares import is_out_of_descriptors, set_descriptors_aside, write_with_spares
from tokenflight.stores.file._threads import Operation, Threads
from tokenflight.tokens import TokenKey, TokenSet

T = TypeVar("T")

RECORD_SUFFIX: Final = ".json"
LEASE_SUFFIX: Final = ".lock"
WRITE_LOCK_SUFFIX: Final = ".write-lock"
LOGOUT_SUFFIX: Final = ".logout"

SMALLEST_RESERVATION_BYTES: Final = 16 * 1024
"""The room that is reserved for a record; more if twice the present record is more."""


class _Paths(NamedTuple):
    """The paths of the files of one key."""

    directory: str
    record: str
    lease: str
    write_lock: str
    logout: str


class FileTokenStore(TokenStore):
    """One JSON file a user under `directory`, which is created if need be; ``~`` in it is expanded.

    A write replaces a file as a whole: it writes a temporary file, syncs it to disk and renames it. The lease is a lock
    on a file beside the record; the system frees it when its holder dies. Taking it reserves room on the disk, so that
    no provider is asked for a token set that could not be stored. A directory that vanishes, as when its disk is
    unmounted, makes the store unavailable and logs no user out. `codec` turns records into bytes; the name of the file
    shows the user id too.

    `permissions` says who may use the files:

    - ``"owner"``: the user of the process alone (0700, 0600). What belongs to another user, a file that others can
      read, a directory that they can write to and a parent of it that is not sticky are refused, with the code
      ``insecure_permissions``.
    - ``"group"``: the group of the directory too (0770, 0660), as where Kubernetes sets an ``fsGroup``. All others are
      refused.
    - ``"unchecked"``: whoever the system lets in, as on a mount that shows 0777 for everything.

    On Windows, where the store is not tested, it does without the permissions.
    """

    def __init__(
        self,
        directory: str | os.PathLike[str],
        *,
        codec: RecordCodec = JSONCodec(),  # noqa: B008 - it has no state
        permissions: Literal["owner", "group", "unchecked"] = "owner",
        _limits: FileLimits = FileLimits(),  # noqa: B008 - it is frozen
    ) -> None:
        self._codec = codec
        self._permissions = chosen_permissions(permissions)
        require_kind("directory", directory, str | os.PathLike)
        expanded = os.path.expanduser(directory)
        if not expanded or expanded.startswith("~"):
            raise ConfigurationError(
                f"directory must be a path, not {directory!r}: it is empty, or there is no home directory for its ~"
            )
        self._directory = os.path.realpath(expanded)
        self._parents = parents_of(self._directory)
        # Device and inode of the directory when this store first saw it.
        self._first_seen: tuple[int, int] | None = None
        self._limits = _limits
        self._threads = Threads(_limits)

    def __repr__(self) -> str:
        return f"<FileTokenStore {self._directory!r}>"

    async def load(self, key: TokenKey) -> StoredTokens | None:
        """See `TokenStore.load`."""
        return await self._in_thread(self._read, key)

    async def save(self, key: TokenKey, record: StoredTokens) -> None:
        """See `TokenStore.save`."""
        await self._in_thread(write_with_spares, self._save, key, record)

    async def replace(self, key: TokenKey, record: StoredTokens, *, expected: Version | None) -> None:
        """See `TokenStore.replace`."""
        await self._in_thread(write_with_spares, self._replace, key, record, expected)

    async def delete(self, key: TokenKey) -> bool:
        """See `TokenStore.delete`."""
        return await self._in_thread(write_with_spares, self._delete, key)

    def lease(self, key: TokenKey, *, timeout: float) -> AbstractAsyncContextManager[Lease]:
        """See `TokenStore.lease`."""
        return self._lease(key, self._files(key), timeout)

    async def keys(self, provider: str | None = None) -> AsyncIterator[TokenKey]:
        """See `TokenStore.keys`. Passes over files that are not records of this store."""
        for directory in await self._in_thread(self._provider_directories, provider):
            records = _records_in(directory, self._permissions)
            while batch := await self._in_thread(self._next_keys, records, self._limits.keys_per_read):
                for key in batch:
                    if key is not None:
                        yield key

    async def aclose(self) -> None:
        """Let the store's threads end when they have done what they were given."""
        self._threads.close()

    @asynccontextmanager
    async def _lease(self, key: TokenKey, files: _Paths, timeout: float) -> AsyncIterator[Lease]:
        loop = asyncio.get_running_loop()
        deadline = loop.time() + timeout
        pause = self._limits.shortest_poll_seconds
        while (lock := await self._try_lease(files)) is None:
            if (left := deadline - loop.time()) <= 0:
                raise _failures.lease_timeout(key, timeout)
            await asyncio.sleep(min(pause, left))
            pause = min(pause * 2, self._limits.longest_poll_seconds)
        try:
            yield Lease()
        finally:
            # Here and not in a thread: a second cancellation would end the wait for the thread and keep the lease.
            self._release(files, lock)

    async def _try_lease(self, files: _Paths) -> int | None:
        """The lock that is the lease, or None if another holder has it."""
        attempt: Operation[int | None] = Operation(self._threads, self._mapping_errors, self._try_lock, files)
        try:
            return await attempt.result()
        except asyncio.CancelledError:
            # The thread may be about to take the lock. It frees it itself, because this event loop may end before.
            attempt.future.add_done_callback(partial(self._release_unwanted, files))
            raise

    def _release(self, files: _Paths, lock: int) -> None:
        """Give back the lease and what was reserved for it, without waiting for a lock."""
        try:
            with suppress(OSError, StoreError):  # the next lease, write or logout of the user finds it
                _private_files.discard_reservation(files.record, files.write_lock, self._permissions)
        finally:
            _private_files.release_lock(lock)

    def _release_unwanted(self, files: _Paths, attempt: Future[int | None]) -> None:
        """Free the lease that a cancelled attempt took after all."""
        if not attempt.cancelled() and attempt.exception() is None and (lock := attempt.result()) is not None:
            self._release(files, lock)

    async def _in_thread(self, work: Callable[..., T], *args: object) -> T:
        return await self._threads.run(self._mapping_errors, work, *args)

    def _mapping_errors(self, work: Callable[..., T], *args: object) -> T:
        """Do `work`, and turn an error of the operating system into one of this library."""
        try:
            return work(*args)
        except OSError as exc:
            raise StoreUnavailable(
                f"the file store in {self._directory} failed: {exc.strerror or type(exc).__name__}"
                + (f" ({exc.filename})" if exc.filename else "")
            ) from exc

    # Everything below runs in a thread.

    def _read(self, key: TokenKey) -> StoredTokens | None:
        files = self._files(key)
        return self._decode(key, files) if self._has_directories(files.directory) else None

    def _save(self, key: TokenKey, record: StoredTokens) -> None:
        files, data = self._files(key), self._codec.encode(key, record)
        self._make_directories(files.directory)
        with self._locked(files):  # or this write could come between the comparison and the write of a replacement
            _private_files.write_file(files.record, data, self._permissions)
            _private_files.discard_file(files.logout)  # last: it says nothing while there is a record

    def _replace(self, key: TokenKey, record: StoredTokens, expected: Version | None) -> None:
        files, data = self._files(key), self._codec.encode(key, record)
        if expected is None:
            self._make_directories(files.directory)
        elif not self._has_directories(files.directory) or not _private_files.exists(files.record):
            self._require_first_seen_directory()
            raise _failures.conflict(key, expected)
        # The lock makes the comparison and the write one step for all threads and processes.
        with self._locked(files):
            current = self._decode(key, files)
            if current is None:
                self._require_first_seen_directory()
            if (None if current is None else current.version) != expected:
                raise _failures.conflict(key, expected)
            logout = read_logout(files.logout, self._permissions) if expected is None else None
            if logout is not None and logout.ends(record.tokens):
                raise _failures.logged_out(key)
            _private_files.write_file(files.record, data, self._permissions)

    def _delete(self, key: TokenKey) -> bool:
        files = self._files(key)
        if not self._has_directories(files.directory) or not _private_files.exists(files.record):
            return False  # and no lock file is left behind for whatever name somebody asks for
        with self._locked(files):  # or a replacement that has just compared versions would bring the record back
            if not os.path.lexists(files.record):
                return _private_files.remove_file(files.record)
            marker = LogoutMarker.of(self._tokens_in(key, files), time.time())
            return remove_record(key, files.record, files.logout, marker, self._permissions)

    def _tokens_in(self, key: TokenKey, files: _Paths) -> TokenSet | None:
        """The token set in the record, None where it can't be read or understood."""
        try:
            record = self._decode(key, files)
        except StoreError:
            return None
        except OSError as exc:
            if is_out_of_descriptors(exc):
                raise
            return None
        return None if record is None else record.tokens

    def _try_lock(self, files: _Paths) -> int | None:
        self._make_directories(files.directory)
        set_descriptors_aside()
        lock = _private_files.try_lock(files.lease, self._permissions)
        if lock is None:
            return None
        try:
            with self._locked(files):  # a writer may be using what the holder before has left
                size = max(SMALLEST_RESERVATION_BYTES, 2 * _private_files.size_of(files.record))
                _private_files.reserve(files.record, min(size, MAX_RECORD_BYTES), self._permissions)
        except BaseException:
            _private_files.release_lock(lock)
            raise
        return lock

    def _locked(self, files: _Paths) -> AbstractContextManager[None]:
        return _private_files.locked(
            files.write_lock, timeout=self._limits.lock_timeout_seconds, permissions=self._permissions
        )

    def _decode(self, key: TokenKey, files: _Paths) -> StoredTokens | None:
        data = _private_files.read_file(files.record, max_bytes=MAX_RECORD_BYTES + 1, permissions=self._permissions)
        return None if data is None else self._codec.decode(key, data)

    def _files(self, key: TokenKey) -> _Paths:
        directory = self._provider_directory(key.provider)
        stem = os.path.join(directory, encode_name(key.user_id))
        return _Paths(
            directory, stem + RECORD_SUFFIX, stem + LEASE_SUFFIX, stem + WRITE_LOCK_SUFFIX, stem + LOGOUT_SUFFIX
        )

    def _provider_directory(self, provider: str) -> str:
        return os.path.join(self._directory, encode_name(provider))

    def _provider_directories(self, provider: str | None) -> list[str]:
        if not self._is_there():
            return []
        if provider is not None:
            directories = [self._provider_directory(provider)]
        else:
            directories = [os.path.join(self._directory, name) for name in os.listdir(self._directory)]
        return [directory for directory in directories if os.path.isdir(directory) and not os.path.islink(directory)]

    def _next_keys(self, records: Iterator[str], count: int) -> list[TokenKey | None]:
        return [listed_key(partial(self._key_of, path), path) for path in islice(records, count)]

    def _key_of(self, path: str) -> TokenKey | None:
        """The key of the record at `path`: from its name, or from its content where the name was cut."""
        directory, name = os.path.split(path)
        directory = os.path.basename(directory)
        provider, user_id = decode_name(directory), decode_name(name.removesuffix(RECORD_SUFFIX))
        if provider is not None and user_id is not None:
            return TokenKey(provider, user_id)
        try:
            data = _private_files.read_file(path, max_bytes=MAX_RECORD_BYTES + 1, permissions=self._permissions)
        except (OSError, StoreError):
            return None
        key = None if data is None else decode_key(data)
        # A copy of a record under a foreign name is not the record of its key.
        named = key is not None and (encode_name(key.provider), f"{encode_name(key.user_id)}{RECORD_SUFFIX}")
        return key if named == (directory, name) else None

    def _is_there(self) -> bool:
        """Whether the store's directory is there.

        Raises `StoreUnavailable` if it was there before: an unmounted disk logs no user out.
        """
        require_safe_parents(self._parents, self._permissions)
        there = _private_files.has_directory(self._directory, self._permissions)
        if there and self._first_seen is None:
            self._first_seen = _identity(self._directory)
        if not there and self._first_seen is not None:
            raise StoreUnavailable(f"the directory {self._directory} is gone; bring it back, or start anew without it")
        return there

    def _require_first_seen_directory(self) -> None:
        """Raise `StoreUnavailable` where the absence of a record proves nothing.

        Another process makes the directory anew while its disk is unmounted: an empty directory is no logout.
        """
        if self._is_there() and _identity(self._directory) != self._first_seen:
            raise StoreUnavailable(f"the directory {self._directory} is not the one it was; bring that one back")

    def _has_directories(self, provider_directory: str) -> bool:
        """Whether the store's directory and the provider's one in it are there; refuse those that are not private."""
        return self._is_there() and _private_files.has_directory(provider_directory, self._permissions)

    def _make_directories(self, provider_directory: str) -> None:
        """Create the store's directory and the provider's one in it where they are missing."""
        if not self._is_there():
            _private_files.make_directory(self._directory, self._permissions)
            self._is_there()  # notes its identity
        _private_files.make_directory(provider_directory, self._permissions)


def _identity(directory: str) -> tuple[int, int]:
    status = os.lstat(directory)
    return status.st_dev, status.st_ino


def _records_in(directory: str, permissions: Permissions) -> Iterator[str]:
    """The paths of the records in `directory`. Removes the markers that it meets whose time is over."""
    with os.scandir(directory) as entries:  # an iterator and not a list: there may be a million entries
        for entry in entries:
            if entry.name.endswith(RECORD_SUFFIX):
                yield entry.path
            elif entry.name.endswith(LOGOUT_SUFFIX):
                write_lock = entry.path.removesuffix(LOGOUT_SUFFIX) + WRITE_LOCK_SUFFIX
                remove_if_over(entry.path, write_lock, permissions)
