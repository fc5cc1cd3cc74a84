"""Descriptors set aside for writes.

A process that has run out of descriptors can't open the files of a write. Each lease keeps one descriptor until its
token set is stored, so leases could take them all and none would ever come free. Therefore no lease is given unless
enough are set aside for one write, and a write that finds no others uses those.
"""

import errno
import os
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Final, ParamSpec, TypeVar

P = ParamSpec("P")
T = TypeVar("T")

DESCRIPTORS_OF_A_WRITE: Final = 3
"""Its lock, its directory, and the record that it reads or the file that it writes."""

MAX_RETRIES: Final = 50
RETRY_SECONDS: Final = 0.002

_NONE_LEFT: Final = frozenset({errno.EMFILE, errno.ENFILE})

_spares: Final[list[int]] = []
"""The descriptors set aside, from the first lease on. The limit is the process's own, so all stores share them."""

_guard = threading.Lock()
"""Guards the list, and is held by the one write that uses what was in it."""


def set_descriptors_aside() -> None:
    """Make sure that a write finds descriptors from now on. Raises `OSError` if too few are left."""
    if len(_spares) < DESCRIPTORS_OF_A_WRITE:  # without the lock: whoever uses them is out of descriptors too
        with _guard:
            _fill()


def is_out_of_descriptors(error: OSError) -> bool:
    """Whether the process or the system has no descriptor left. `write_with_spares` has some aside."""
    return error.errno in _NONE_LEFT


def write_with_spares(work: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
    """Do `work`, with the descriptors set aside if there are no others.

    Work that fails for want of a descriptor has to have done nothing: it is done again.
    """
    try:
        return work(*args, **kwargs)
    except OSError as exc:
        if not is_out_of_descriptors(exc):
            raise
    with _lent():
        for _ in range(MAX_RETRIES):
            try:
                return work(*args, **kwargs)
            except OSError as exc:
                if not is_out_of_descriptors(exc):
                    raise
            time.sleep(RETRY_SECONDS)  # another thread took a descriptor: a write like this one, which now waits
        return work(*args, **kwargs)


@contextmanager
def _lent() -> Iterator[None]:
    """Close the descriptors set aside, so that others can be opened in their place; set new ones aside afterwards."""
    with _guard:
        while _spares:
            os.close(_spares.pop())
        try:
            yield
        finally:
            with suppress(OSError):  # another thread was faster: no lease is given until there are enough again
                _fill()


def _fill() -> None:
    while len(_spares) < DESCRIPTORS_OF_A_WRITE:
        _spares.append(os.open(os.devnull, os.O_RDONLY))


def _forget_lock() -> None:
    """In a forked child, make a new lock: the thread that may hold the old one is not there."""
    global _guard  # noqa: PLW0603 - nothing else replaces it
    _guard = threading.Lock()


if hasattr(os, "register_at_fork"):  # not on Windows
    os.register_at_fork(after_in_child=_forget_lock)
