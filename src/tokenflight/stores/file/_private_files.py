"""Private, durable files and locks between processes: the blocking system calls under the file store.

Only the owner can read a file, from its first byte on (0600), or enter the directory it is in (0700). No call follows
a symbolic link. Permissions are checked where the system has POSIX ones. Paths are strings and files are descriptors:
pathlib and buffered files take half as long again as the system calls of a write.

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

from tokenflight.errors import StoreError, StoreUnavailable

LOCK_POLL_SECONDS: Final = 0.001

_held_locks: set[int] = set()
"""The descriptors of the locks that this process holds. A forked child closes its copies of them."""

_CAN_NOT_SYNC: Final = frozenset({errno.EINVAL, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS})
_POSIX: Final = os.name == "posix"
_FLAGS: Final = getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_CLOEXEC", 0) | getattr(os, "O_BINARY", 0)


def has_directory(directory: str) -> bool:
    """Whether there is a directory at `directory`; refuse a link to one, and one that others can write to."""
    try:
        status = os.lstat(directory)
    except FileNotFoundError:
        return False
    if not stat.S_ISDIR(status.st_mode):
        raise StoreUnavailable(f"{directory} is not a directory of its own")
    if _POSIX and status.st_mode & 0o022:
        raise _insecure(directory, status, "written to", "go-w")
    return True


def make_directory(directory: str) -> None:
    """Create `directory` and its parents (0700) if need be, durable on return; refuse what `has_directory` refuses."""
    if has_directory(directory):
        return
    # One by one: `os.makedirs` would accept a parent that others can write to, and nothing in it is private.
    if not os.path.exists(parent := os.path.dirname(directory)):
        make_directory(parent)
    try:
        os.mkdir(directory, 0o700)
    except FileExistsError:  # another process has just made it, or put something else in its place
        has_directory(directory)
        return
    os.chmod(directory, 0o700)  # a umask can take permissions from the owner too
    _sync_directory(parent)


def read_file(path: str, *, max_bytes: int) -> bytes | None:
    """The first `max_bytes` of the file at `path`, or None if there is none. Refuses a file that others can read."""
    try:
        descriptor = os.open(path, os.O_RDONLY | _FLAGS | getattr(os, "O_NONBLOCK", 0))  # a pipe would block the open
    except FileNotFoundError:
        return None
    try:
        status = os.fstat(descriptor)
        if not stat.S_ISREG(status.st_mode):
            raise StoreUnavailable(f"{path} is not a regular file")
        if _POSIX and status.st_mode & 0o077:
            raise _insecure(path, status, "read", "go-rwx")
        return _read(descriptor, min(max_bytes, status.st_size + 1))  # a read allocates as much as it asks for
    finally:
        os.close(descriptor)


def write_file(path: str, data: bytes) -> None:
    """Put `data` at `path` whole or not at all, durable on return.

    The caller holds the write lock of `path`: two writers would use the same temporary file.
    """
    directory, name = os.path.split(path)
    temporary = os.path.join(directory, f".{name}.tmp")
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | _FLAGS
    try:
        descriptor = os.open(temporary, flags, 0o600)
    except FileExistsError:  # a process died while it was writing
        os.unlink(temporary)
        descriptor = os.open(temporary, flags, 0o600)
    try:
        try:
            _write(descriptor, data)
            # Before the rename: after a power cut, the name would otherwise be there without the content.
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
        os.replace(temporary, path)
    except BaseException:
        with suppress(OSError):  # the first error is the one to report
            os.unlink(temporary)
        raise
    _sync_directory(directory)


def remove_file(path: str) -> bool:
    """Remove the file at `path`, durable on return; say whether there was one."""
    try:
        os.unlink(path)
    except FileNotFoundError:
        return False
    _sync_directory(os.path.dirname(path))
    return True


def try_lock(path: str) -> int | None:
    """Take the lock on the file at `path`, created if need be. None if another thread or process holds it.

    Returns the descriptor for `release_lock`.
    """
    from filelock import lock_descriptor  # noqa: PLC0415 - importing it takes a third of the time that we take

    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | _FLAGS, 0o600)
    try:
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
def locked(path: str, *, timeout: float) -> Iterator[None]:
    """Hold the lock on the file at `path`, among all threads and processes.

    Raises `StoreUnavailable` if another one holds it for `timeout` seconds.
    """
    deadline = time.monotonic() + timeout
    while (descriptor := try_lock(path)) is None:
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


def _sync_directory(directory: str) -> None:
    """Make a rename or removal in `directory` survive a power cut. Windows neither needs nor allows it."""
    if not _POSIX:
        return
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    except OSError as exc:
        # Some file systems, such as those of containers' mounts, can't sync a directory. The rename has happened:
        # an error here would say that the record is not saved, although it is.
        if exc.errno not in _CAN_NOT_SYNC:
            raise
    finally:
        os.close(descriptor)


def _insecure(path: str, status: os.stat_result, access: str, mode: str) -> StoreError:
    return StoreError(
        f"{path} can be {access} by other users (mode {stat.S_IMODE(status.st_mode):04o}) and is refused; if its "
        f"content is still to be trusted, run: chmod {mode} {path}",
        code="insecure_permissions",
    )
