"""Who may read and write the files of a store, and the refusal of those that others can.

The owner and the bits of a file are checked each time that it is opened. Directories are checked before each
operation, the parents of the store's directory too: whoever can write to one of them can put another directory in the
place of the store's. With no such parent, nobody else can change what a path leads to, so files are opened by their
paths and not relative to a descriptor of their directory, which would take two more system calls to read a record.
"""

import os
import stat
from dataclasses import dataclass
from typing import Final

from tokenflight.errors import ConfigurationError, StoreError

POSIX: Final = os.name == "posix"


@dataclass(frozen=True, slots=True, kw_only=True)
class Permissions:
    """The modes with which files and directories are made, and the bits that are refused."""

    directory_mode: int
    file_mode: int
    refused_on_directories: int
    refused_on_files: int
    checks_owner: bool
    """Whether what belongs to another user is refused, if `trusts_group` is off or its group is none of ours."""
    trusts_group: bool = False

    def is_private_file(self, status: os.stat_result) -> bool:
        """Whether the file with this `status` is one that nobody else can read."""
        return not POSIX or not (status.st_mode & self.refused_on_files or self.is_foreign(status))

    def is_foreign(self, status: os.stat_result) -> bool:
        """Whether what has this `status` belongs to somebody else."""
        if not self.checks_owner or status.st_uid == os.geteuid():
            return False
        return not (self.trusts_group and status.st_gid in {os.getegid(), *os.getgroups()})


OWNER: Final = Permissions(
    directory_mode=0o700, file_mode=0o600, refused_on_directories=0o022, refused_on_files=0o077, checks_owner=True
)
_CHOICES: Final = {
    "owner": OWNER,
    "group": Permissions(
        directory_mode=0o770,
        file_mode=0o660,
        refused_on_directories=0o002,
        refused_on_files=0o007,
        checks_owner=True,
        trusts_group=True,
    ),
    "unchecked": Permissions(
        directory_mode=0o700, file_mode=0o600, refused_on_directories=0, refused_on_files=0, checks_owner=False
    ),
}


def chosen_permissions(choice: str) -> Permissions:
    """The permissions that `choice` names. Raises `ConfigurationError` if it names none."""
    if not isinstance(choice, str) or choice not in _CHOICES:
        raise ConfigurationError(f"permissions must be one of {', '.join(map(repr, _CHOICES))}, not {choice!r:.40}")
    return _CHOICES[choice]


def require_private_directory(path: str, status: os.stat_result, permissions: Permissions) -> None:
    """Raise `StoreError` if somebody else owns the directory or can write to it."""
    if not POSIX:
        return
    if permissions.is_foreign(status):
        raise _foreign(path, status)
    if status.st_mode & permissions.refused_on_directories:
        raise _insecure(path, status, "written to", permissions.refused_on_directories)


def require_private_file(path: str, status: os.stat_result, permissions: Permissions) -> None:
    """Raise `StoreError` if somebody else owns the file or can read it."""
    if permissions.is_private_file(status):
        return
    if permissions.is_foreign(status):
        raise _foreign(path, status)
    raise _insecure(path, status, "read", permissions.refused_on_files)


def parents_of(directory: str) -> tuple[str, ...]:
    """The directories that `directory` is in, the nearest first."""
    parents = [os.path.dirname(directory)]
    while (parent := os.path.dirname(parents[-1])) != parents[-1]:
        parents.append(parent)
    return tuple(parents)


def require_safe_parents(parents: tuple[str, ...], permissions: Permissions) -> None:
    """Raise `StoreError` if others could put another directory in the place of the one that is in `parents`.

    They can if they can write to one of them, unless that is sticky, as ``/tmp`` is.
    """
    refused = permissions.refused_on_directories
    if not POSIX or not refused:
        return
    for parent in parents:
        try:
            status = os.lstat(parent)
        except FileNotFoundError:  # it is made later, private
            continue
        if status.st_mode & refused and not status.st_mode & stat.S_ISVTX:
            if status.st_mode & refused == stat.S_IWGRP and _is_private_group(status.st_gid):
                continue
            raise _insecure(parent, status, "written to", refused)


def mend_mode(descriptor: int, status: os.stat_result, permissions: Permissions) -> bool:
    """Give the open file the mode that it is meant to have, if it is our own; say whether it has that mode now.

    A umask takes the group's bits, and somebody may have changed the mode of a lock file.
    """
    if not POSIX or not permissions.checks_owner or status.st_uid != os.geteuid():
        return False
    if stat.S_IMODE(status.st_mode) != permissions.file_mode:
        os.fchmod(descriptor, permissions.file_mode)
    return True


def _is_private_group(gid: int) -> bool:
    """Whether the user alone is in the group, as many systems set it up; they let it write by default (umask 002)."""
    return 0 != gid == os.getegid() == os.geteuid()


def _foreign(path: str, status: os.stat_result) -> StoreError:
    return StoreError(
        f"{path} belongs to another user (uid {status.st_uid}) and is refused; run as that user, remove it, or, if the "
        'platform sets the owner, give the store permissions="group" or permissions="unchecked"',
        code="insecure_permissions",
    )


def _insecure(path: str, status: os.stat_result, access: str, refused: int) -> StoreError:
    classes = "go" if refused & 0o070 else "o"
    bits = "rwx" if refused & 0o004 else "w"
    return StoreError(
        f"{path} can be {access} by other users (mode {stat.S_IMODE(status.st_mode):04o}) and is refused; if its "
        f"content is still to be trusted, run: chmod {classes}-{bits} {path}, or, if the platform sets the mode, give "
        'the store permissions="group" or permissions="unchecked"',
        code="insecure_permissions",
    )
