"""The file of a SQLite database: made so that its owner alone can read it, and no link."""

import errno
import os
from collections.abc import Mapping
from typing import Final
from urllib.parse import unquote, urlsplit

from tokenflight.errors import StoreUnavailable

_TRUE: Final = frozenset({"true", "yes", "on", "y", "t", "1"})
"""How SQLAlchemy lets a URL turn an option on."""

_MODES_THAT_CREATE: Final = frozenset({None, "rwc"})


def create_private_file(database: str | None, query: Mapping[str, object]) -> None:
    """Create the file of a SQLite database (0600), if there is none. `database` and `query` are those of its URL.

    SQLite itself would make it readable for all, and gives its journal the same mode. Raises `StoreUnavailable` if it
    is a symbolic link: whoever made that chooses where the tokens are written to.
    """
    path = database
    if database and database.startswith("file:") and str(query.get("uri")).lower() in _TRUE:
        # https://www.sqlite.org/uri.html
        if query.get("mode") not in _MODES_THAT_CREATE:
            return
        path = unquote(urlsplit(database).path)
    if not path or path == ":memory:":
        return
    try:
        os.close(os.open(path, os.O_RDWR | os.O_CREAT | getattr(os, "O_NOFOLLOW", 0), 0o600))
    except OSError as exc:
        if exc.errno == errno.ELOOP:
            raise StoreUnavailable(f"{path} is a symbolic link and is refused; give the store the file itself") from exc
        # SQLite reports any other error when it opens the file.
