"""What a logout leaves beside the record that it removed: a small file for a day.

It counts only where there is no record. So nothing is lost if it stays beside one, after a crash or a login that could
not remove it: the next logout replaces it. Whoever writes or removes it holds the write lock of the record.
"""

import json
import logging
import os
import time
from contextlib import suppress
from typing import Final

from tokenflight._log import log
from tokenflight._token_times import number
from tokenflight.errors import StoreError
from tokenflight.stores.base import LOGOUT_MARKER_SECONDS, LogoutMarker
from tokenflight.stores.file import _private_files
from tokenflight.stores.file._permissions import Permissions
from tokenflight.stores.file._spares import is_out_of_descriptors
from tokenflight.tokens import TokenKey

_MAX_BYTES: Final = 1024


def remove_record(key: TokenKey, record: str, path: str, marker: LogoutMarker, permissions: Permissions) -> bool:
    """Remove the file at `record` and leave `marker` at `path`, durably; say whether the record was there.

    A logout is not refused because the disk is full: if no marker can be written, a warning says so.
    """
    try:
        # The marker first: a crash in between leaves the record, and beside it the marker says nothing.
        _write(path, marker, permissions)
    except OSError as exc:
        if is_out_of_descriptors(exc):  # nothing has been done, and the next try finds those set aside
            raise
    else:
        try:
            return _private_files.remove_file(record)
        except OSError:
            if os.path.lexists(record):  # nobody was logged out
                _private_files.discard_file(path)
            raise
    was_there = _private_files.remove_file(record)  # which makes room on a full disk
    try:
        _write(path, marker, permissions)
    except OSError as exc:
        message = (
            "the logout of user %r at %s left no marker (%s); a token set from before it may log the user in again"
        )
        log(logging.WARNING, message, key.user_id, key.provider, exc.strerror)
    return was_there


def read_logout(path: str, permissions: Permissions) -> LogoutMarker | None:
    """The marker at `path`; None if there is none, if its time is over, or if it can't be understood.

    Refuses one that is not private, as `read_file` does.
    """
    data = _private_files.read_file(path, max_bytes=_MAX_BYTES, permissions=permissions)
    try:
        members = None if data is None else json.loads(data)
    except (ValueError, RecursionError):
        return None
    if not isinstance(members, dict):
        return None
    ended_at, digest = number(members.get("ended_at")), members.get("digest")
    if ended_at is None or not isinstance(digest, str | None) or _is_over(ended_at):
        return None
    return LogoutMarker(ended_at, digest)


def remove_if_over(path: str, write_lock: str, permissions: Permissions) -> None:
    """Remove the marker at `path` if its time is over. What can't be removed now is left to the next listing."""
    with suppress(OSError, StoreError):
        if not _is_over(os.lstat(path).st_mtime) or not _private_files.has_directory(
            os.path.dirname(path), permissions
        ):
            return
        if (lock := _private_files.try_lock(write_lock, permissions)) is None:
            return
        try:
            if _is_over(os.lstat(path).st_mtime):  # or another logout has replaced it before the lock was taken
                _private_files.discard_file(path)
        finally:
            _private_files.release_lock(lock)


def _write(path: str, marker: LogoutMarker, permissions: Permissions) -> None:
    data = json.dumps({"ended_at": marker.ended_at, "digest": marker.digest}).encode()
    _private_files.write_file(path, data, permissions)


def _is_over(ended_at: float) -> bool:
    """Whether nothing can be as late as that any more. A logout far ahead was noted by a clock that was wrong."""
    return abs(time.time() - ended_at) > LOGOUT_MARKER_SECONDS
