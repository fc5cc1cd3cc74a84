"""Disks in trouble.

A trouble is a context manager on a store's directory: bad inside, good again afterwards. Some can only be made for a
whole process.
"""

import os
import resource
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, suppress
from dataclasses import dataclass
from functools import cache
from itertools import count
from pathlib import Path
from typing import Final, Literal

CAP_SYS_ADMIN: Final = 1 << 21


@contextmanager
def moved_away(directory: Path) -> Iterator[None]:
    aside = directory.with_name("moved")
    directory.rename(aside)
    try:
        yield
    finally:
        aside.rename(directory)


@contextmanager
def replaced_by_a_file(directory: Path) -> Iterator[None]:
    with moved_away(directory):
        directory.write_text("a file")
        try:
            yield
        finally:
            directory.unlink()


@contextmanager
def readable_by_the_group(directory: Path) -> Iterator[None]:
    for path in directory.rglob("*.json"):
        path.chmod(0o640)
    try:
        yield
    finally:
        for path in directory.rglob("*.json"):
            path.chmod(0o600)


@contextmanager
def damaged(directory: Path) -> Iterator[None]:
    before = {path: path.read_bytes() for path in directory.rglob("*.json")}
    for path, data in before.items():
        path.write_bytes(data[: len(data) // 2])
    try:
        yield
    finally:
        for path, data in before.items():
            path.write_bytes(data)


@contextmanager
def permission_lost(directory: Path) -> Iterator[None]:
    directory.chmod(0)
    try:
        yield
    finally:
        directory.chmod(0o700)


@contextmanager
def not_writable(directory: Path) -> Iterator[None]:
    [of_provider] = directory.iterdir()
    of_provider.chmod(0o500)
    try:
        yield
    finally:
        of_provider.chmod(0o700)


@contextmanager
def file_size_limit(_: Path) -> Iterator[None]:
    """To a process, this looks like a full disk, and it needs no privilege."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    wrote_bytecode = not sys.dont_write_bytecode
    # CPython does not notice a short write of byte code: what is first imported here would be broken for every process.
    sys.dont_write_bytecode = True
    resource.setrlimit(resource.RLIMIT_FSIZE, (100, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
        sys.dont_write_bytecode = not wrote_bytecode


@contextmanager
def no_file_descriptors(_: Path) -> Iterator[None]:
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (128, before[1]))
    taken: list[int] = []
    with suppress(OSError):
        while True:
            taken.append(os.open(os.devnull, os.O_RDONLY))
    try:
        yield
    finally:
        for descriptor in taken:
            os.close(descriptor)
        resource.setrlimit(resource.RLIMIT_NOFILE, before)


@contextmanager
def full(directory: Path) -> Iterator[None]:
    filling = directory.with_name("filling")
    with suppress(OSError), filling.open("wb", buffering=0) as file:
        while True:
            file.write(bytes(1024))
    try:
        yield
    finally:
        filling.unlink()


@contextmanager
def no_inodes(directory: Path) -> Iterator[None]:
    crowd = directory.with_name("crowd")
    crowd.mkdir()
    with suppress(OSError):
        for number in count():
            (crowd / str(number)).touch()
    try:
        yield
    finally:
        shutil.rmtree(crowd)


@contextmanager
def read_only(directory: Path) -> Iterator[None]:
    # A file system with a file open for writing, as a lease has, can't be made read-only: another mount of it can.
    run("mount", "--bind", directory, directory)
    run("mount", "-o", "remount,bind,ro", directory)
    try:
        yield
    finally:
        run("umount", "--lazy", directory)


@dataclass(frozen=True, slots=True, kw_only=True)
class Trouble:
    """What goes wrong: `hinders` is the first of reading, leasing and writing that fails.

    `code` is the code of its error, and `process` the kind of process in which the trouble can be made. What the
    holder of a lease has asked for is stored all the same if `is_provided_for`.
    """

    begin: Callable[[Path], AbstractContextManager[None]]
    hinders: Literal["reading", "leasing", "writing"]
    code: str = "store_unavailable"
    process: Literal["this one", "own", "unprivileged", "mounting"] = "this one"
    is_provided_for: bool = False


TROUBLES: Final = {
    "directory replaced by a file": Trouble(begin=replaced_by_a_file, hinders="reading"),
    "record readable by the group": Trouble(
        begin=readable_by_the_group, hinders="reading", code="insecure_permissions"
    ),
    "damaged record": Trouble(begin=damaged, hinders="reading", code="store_corrupted"),
    "directory moved away": Trouble(begin=moved_away, hinders="reading"),
    "file size limit": Trouble(begin=file_size_limit, hinders="writing", process="own"),
    "no file descriptors": Trouble(begin=no_file_descriptors, hinders="reading", process="own", is_provided_for=True),
    "permission lost": Trouble(begin=permission_lost, hinders="reading", process="unprivileged"),
    "directory not writable": Trouble(begin=not_writable, hinders="leasing", process="unprivileged"),
    "full disk": Trouble(begin=full, hinders="leasing", process="mounting", is_provided_for=True),
    "no inodes": Trouble(begin=no_inodes, hinders="leasing", process="mounting", is_provided_for=True),
    "read-only disk": Trouble(begin=read_only, hinders="leasing", process="mounting"),
}


@cache
def mounting() -> tuple[str, ...]:
    """The command in front of a program that has to mount: file systems of its own. Empty where that is forbidden."""
    for command in (("unshare", "--mount"), ("unshare", "--mount", "--map-root-user")):
        with suppress(FileNotFoundError):
            mount = [*command, "mount", "-t", "tmpfs", "tmpfs", tempfile.gettempdir()]
            if not subprocess.run(mount, capture_output=True, check=False).returncode:
                return command
    return ("unshare", "--mount") if _may_administer() else ()


def _may_administer() -> bool:
    status = Path("/proc/self/status")
    lines = dict(line.split(":\t", 1) for line in status.read_text().splitlines()) if status.exists() else {}
    return bool(int(lines.get("CapEff", "0"), 16) & CAP_SYS_ADMIN)


def run(*command: str | Path) -> None:
    subprocess.run(command, check=True)
