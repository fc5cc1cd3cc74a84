"""Private, durable files and locks between processes: the blocking system calls under the file store.

By default, only the owner can read a file, from its first byte on (0600), or enter the directory it is in (0700). No
call follows a symbolic link. Permissions are checked where the system has POSIX ones. Paths are strings and files are
descriptors: pathlib and buffered files take half as long again as the system calls of a write.

A record is written to a temporary file beside it, which then takes its name. `reserve` makes that file in advance, so
that the record can be stored although the disk has filled up since. Whoever touches the temporary file holds the write
lock of the record.

A lock is a lock of the operating system on an open file, which the system frees when the process dies. The file is
never removed. If it were, a second process could lock a new file of that name while the first one holds the old one.
"""

import errno
import os
import stat
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Final

from tokenflight.errors import StoreUnavailable
from tokenflight.stores.file._permissions import (
    OWNER,
    POSIX,
    Permissions,
    mend_mode,
    require_private_directory,
    require_private_file,
)

LOCK_POLL_SECONDS: Final = 0.001

_held_locks: set[int] = set()
"""The descriptors of the locks that this process holds. A forked child closes its copies of them."""

_CAN_NOT_SYNC: Final = frozenset({errno.EINVAL, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS})
_NOT_A_FILE_OF_OURS: Final = frozenset({errno.ELOOP, errno.EMLINK, errno.ENXIO, errno.EACCES})
"""The errors of opening a link, a pipe, or a file of another user."""
_NONBLOCK: Final = getattr(os, "O_NONBLOCK", 0)
"""A pipe in the place of a file would otherwise block the open."""
_FLAGS: Final = getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_CLOEXEC", 0) | getattr(os, "O_BINARY", 0)


def has_directory(directory: str, permissions: Permissions = OWNER) -> bool:
    """Whether there is a directory at `directory`; refuse a link to one, and one that is not private."""
    try:
        status = os.lstat(directory)
    except FileNotFoundError:
        return False
    if not stat.S_ISDIR(status.st_mode):
        raise StoreUnavailable(f"{directory} is not a directory of its own")
    require_private_directory(directory, status, permissions)
    return True


def make_directory(directory: str, permissions: Permissions = OWNER) -> None:
    """Create `directory` and its parents if need be, durable on return; refuse what `has_directory` refuses."""
    if has_directory(directory, permissions):
        return
    # One by one: `os.makedirs` would accept a parent that others can write to, and nothing in it is private.
    if not os.path.exists(parent := os.path.dirname(directory)):
        make_directory(parent, permissions)
    try:
        os.mkdir(directory, permissions.directory_mode)
    except FileExistsError:  # another process has just made it, or put something else in its place
        has_directory(directory, permissions)
        return
    if permissions.checks_owner:
        # A umask can take permissions from the owner too. The directory may have inherited its group with the bit that
        # passes the group on, which has to stay.
        inherited = os.lstat(directory).st_mode & stat.S_ISGID
        os.chmod(directory, permissions.directory_mode | inherited)
    _sync_directory(parent)


def read_file(path: str, *, max_bytes: int, permissions: Permissions = OWNER) -> bytes | None:
    """The first `max_bytes` of the file at `path`, or None if there is none. Refuses a file that is not private."""
    try:
        descriptor = os.open(path, os.O_RDONLY | _FLAGS | _NONBLOCK)
    except FileNotFoundError:
        return None
    try:
        status = os.fstat(descriptor)
        _require_regular(path, status)
        require_private_file(path, status, permissions)
        return _read(descriptor, min(max_bytes, status.st_size + 1))  # a read allocates as much as it asks for
    finally:
        os.close(descriptor)


def exists(path: str) -> bool:
    """Whether there is a record at `path`, or a temporary file for one. Either may be a link."""
    return os.path.lexists(path) or os.path.lexists(_temporary(path))


def size_of(path: str) -> int:
    """How many bytes the file at `path` has; 0 if there is none."""
    try:
        return os.lstat(path).st_size
    except FileNotFoundError:
        return 0


def reserve(path: str, size: int, permissions: Permissions = OWNER) -> None:
    """Make sure that `size` bytes can be written to `path`, whatever happens to the disk until then.

    The caller holds the write lock of `path`. The disk has the room when this returns, but a power cut may take it.
    """
    temporary = _temporary(path)
    try:
        descriptor = _create(temporary, permissions)
    except FileExistsError:  # the holder before died, or could not remove it
        os.unlink(temporary)
        descriptor = _create(temporary, permissions)
    try:
        try:
            # Written, and not allocated with fallocate: a file system counts the blocks at either, and has less to
            # undo when the record takes their place. macOS has no such call.
            _write(descriptor, bytes(size))
        finally:
            os.close(descriptor)  # where a network file system reports a full disk
    except BaseException:
        with suppress(OSError):  # the first error is the one to report
            _unlink_if_there(temporary)
        raise


def discard_reservation(path: str, write_lock: str, permissions: Permissions = OWNER) -> None:
    """Remove the temporary file of `path` unless a writer is using it, who holds `write_lock`."""
    temporary = _temporary(path)
    if not os.path.lexists(temporary) or (lock := try_lock(write_lock, permissions)) is None:
        return
    try:
        _unlink_if_there(temporary)
    finally:
        release_lock(lock)


def write_file(path: str, data: bytes, permissions: Permissions = OWNER) -> None:
    """Put `data` at `path` whole or not at all, durable on return. The caller holds the write lock of `path`.

    If a descriptor can't be had, nothing has been done.
    """
    temporary = _temporary(path)
    # Before the rename, after which it is too late to find that there is no descriptor left to sync the directory.
    with _opened_directory(os.path.dirname(path)) as directory:
        descriptor, was_reserved = _open_temporary(temporary, permissions)
        try:
            try:
                _write(descriptor, data)
                if was_reserved:
                    os.ftruncate(descriptor, len(data))
                # Before the rename: after a power cut, the name would otherwise be there without the content.
                os.fsync(descriptor)
            finally:
                os.close(descriptor)
            os.replace(temporary, path)
        except BaseException:
            if not was_reserved:  # what was reserved, the next try needs
                with suppress(OSError):  # the first error is the one to report
                    os.unlink(temporary)
            raise
        _sync(directory)


def remove_file(path: str) -> bool:
    """Remove the file at `path` and its temporary file, durable on return; say whether there was the file itself.

    The caller holds the write lock of `path`.
    """
    with _opened_directory(os.path.dirname(path)) as directory:
        was_there = _unlink_if_there(path)
        if _unlink_if_there(_temporary(path)) or was_there:
            _sync(directory)
    return was_there


def discard_file(path: str) -> None:
    """Remove the file at `path` and its temporary file, where that is possible. A power cut may bring them back.

    The caller holds the write lock of `path`.
    """
    for each in (path, _temporary(path)):
        with suppress(OSError):
            os.unlink(each)


def try_lock(path: str, permissions: Permissions = OWNER) -> int | None:
    """Take the lock on the file at `path`, created if need be. None if another thread or process holds it.

    Mends the mode of a lock file that others could lock, and refuses one that is somebody else's. Returns the
    descriptor for `release_lock`.
    """
    from filelock import lock_descriptor  # noqa: PLC0415 - importing it takes a third of the time that we take

    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | _FLAGS | _NONBLOCK, permissions.file_mode)
    try:
        status = os.fstat(descriptor)
        _require_regular(path, status)
        if not mend_mode(descriptor, status, permissions):
            require_private_file(path, status, permissions)
        if lock_descriptor(descriptor, blocking=False):
            _held_locks.add(descriptor)
            return descriptor
    except BaseException:
        os.close(descriptor)
        raise
    os.close(descriptor)
    return None


def release_lock(descriptor: int) -> None:
    """Free a lock that `try_lock` took."""
    from filelock import unlock_descriptor  # noqa: PLC0415 - as in try_lock

    _held_locks.discard(descriptor)  # before the close: a later file may get the number, and a child would close that
    try:
        # Closing the file alone does not free the lock while a forked child has it open too.
        unlock_descriptor(descriptor)
    finally:
        os.close(descriptor)


@contextmanager
def locked(path: str, *, timeout: float, permissions: Permissions = OWNER) -> Iterator[None]:
    """Hold the lock on the file at `path`, among all threads and processes.

    Raises `StoreUnavailable` if another one holds it for `timeout` seconds.
    """
    deadline = time.monotonic() + timeout
    while (descriptor := try_lock(path, permissions)) is None:
        if time.monotonic() > deadline:
            raise StoreUnavailable(f"{path} has been locked by another process for {timeout:.0f} s")
        time.sleep(LOCK_POLL_SECONDS)
    try:
        yield
    finally:
        release_lock(descriptor)


def _close_inherited_locks() -> None:
    """In a forked child, close the files of the parent's locks: the child would keep them locked after its death."""
    for descriptor in _held_locks:
        with suppress(OSError):
            os.close(descriptor)
    _held_locks.clear()


if hasattr(os, "register_at_fork"):  # not on Windows
    os.register_at_fork(after_in_child=_close_inherited_locks)


def _read(descriptor: int, max_bytes: int) -> bytes:
    data = b""
    while len(data) < max_bytes and (more := os.read(descriptor, max_bytes - len(data))):
        data += more
    return data


def _write(descriptor: int, data: bytes) -> None:
    rest = memoryview(data)
    while rest:
        rest = rest[os.write(descriptor, rest) :]


def _temporary(path: str) -> str:
    directory, name = os.path.split(path)
    return os.path.join(directory, f".{name}.tmp")


def _open_temporary(path: str, permissions: Permissions) -> tuple[int, bool]:
    """The temporary file at `path`, open for writing, and whether it was there.

    It is there if it was reserved, or if a process died while it was writing.
    """
    try:
        descriptor = os.open(path, os.O_WRONLY | _FLAGS | _NONBLOCK)
    except FileNotFoundError:
        pass
    except OSError as exc:
        if exc.errno not in _NOT_A_FILE_OF_OURS:
            raise
        os.unlink(path)
    else:
        status = os.fstat(descriptor)
        if stat.S_ISREG(status.st_mode) and status.st_nlink == 1 and permissions.is_private_file(status):
            return descriptor, True
        # Others may have it open, and would read what is written to it.
        os.close(descriptor)
        os.unlink(path)
    return _create(path, permissions), False


def _create(path: str, permissions: Permissions) -> int:
    """Create the file at `path` and open it for writing. Raises `FileExistsError` if something is there."""
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | _FLAGS, permissions.file_mode)
    if permissions.trusts_group:  # a umask usually takes the group's bits
        mend_mode(descriptor, os.fstat(descriptor), permissions)
    return descriptor


def _unlink_if_there(path: str) -> bool:
    try:
        os.unlink(path)
    except FileNotFoundError:
        return False
    return True


def _require_regular(path: str, status: os.stat_result) -> None:
    if not stat.S_ISREG(status.st_mode):
        raise StoreUnavailable(f"{path} is not a regular file")


@contextmanager
def _opened_directory(directory: str) -> Iterator[int | None]:
    """A descriptor of `directory` for `_sync`. Windows neither needs nor allows it: None."""
    if not POSIX:
        yield None
        return
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        yield descriptor
    finally:
        os.close(descriptor)


def _sync_directory(directory: str) -> None:
    with _opened_directory(directory) as descriptor:
        _sync(descriptor)


def _sync(directory: int | None) -> None:
    """Make a rename or removal in a directory survive a power cut."""
    if directory is None:
        return
    try:
        os.fsync(directory)
    except OSError as exc:
        # Some file systems, such as those of containers' mounts, can't sync a directory. The rename has happened:
        # an error here would say that the record is not saved, although it is.
        if exc.errno not in _CAN_NOT_SYNC:
            raise
