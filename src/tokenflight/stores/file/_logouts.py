"""What a logout leaves beside the record that it removed: a small file for a day."""

import json
import os
import time
from contextlib import suppress
from typing import Final

from tokenflight._token_times import number
from tokenflight.errors import StoreError
from tokenflight.stores.base import LOGOUT_MARKER_SECONDS, LogoutMarker
from tokenflight.stores.file import _private_files
from tokenflight.stores.file._permissions import Permissions

_MAX_BYTES: Final = 1024


def write_logout(path: str, marker: LogoutMarker, permissions: Permissions) -> None:
    """Write `marker` to the file at `path`, durably."""
    data = json.dumps({"ended_at": marker.ended_at, "digest": marker.digest}).encode()
    _private_files.write_file(path, data, permissions)


def read_logout(path: str, permissions: Permissions) -> LogoutMarker | None:
    """The marker at `path`; None if there is none, if its time is over, or if it can't be understood."""
    try:
        data = _private_files.read_file(path, max_bytes=_MAX_BYTES, permissions=permissions)
        members = None if data is None else json.loads(data)
    except (StoreError, ValueError, RecursionError):
        return None
    if not isinstance(members, dict):
        return None
    ended_at, digest = number(members.get("ended_at")), members.get("digest")
    if ended_at is None or not isinstance(digest, str | None) or ended_at + LOGOUT_MARKER_SECONDS < time.time():
        return None
    return LogoutMarker(ended_at, digest)


def remove_if_over(path: str) -> None:
    """Remove the marker at `path` if its time is over."""
    with suppress(OSError):
        if os.lstat(path).st_mtime + LOGOUT_MARKER_SECONDS < time.time():
            os.unlink(path)
