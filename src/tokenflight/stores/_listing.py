"""The keys that a store lists: they come from names, which others may have written too."""

import logging
from collections.abc import Callable

from tokenflight._checks import printable
from tokenflight._log import log
from tokenflight.errors import ConfigurationError
from tokenflight.tokens import TokenKey


def listed_key(read: Callable[[], TokenKey | None], name: str) -> TokenKey | None:
    """The key that `read` finds in `name`, or None, with a warning, if that is not the name of a record.

    One planted name must not end a listing, and with it a sweep or a change of the encryption key, for all users.
    """
    try:
        key = read()
    except (ConfigurationError, UnicodeError):
        key = None
    if key is None:
        log(logging.WARNING, "passed over %s, which is not the name of a user's record", printable(name))
    return key
