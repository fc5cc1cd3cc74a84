"""Stores: where token sets outlive the process."""

from tokenflight.stores.base import Lease, LogoutMarker, RenewalFailure, StoredTokens, TokenStore, Version, new_version
from tokenflight.stores.file._store import FileTokenStore
from tokenflight.stores.memory import MemoryTokenStore

__all__ = [
    "FileTokenStore",
    "Lease",
    "LogoutMarker",
    "MemoryTokenStore",
    "RenewalFailure",
    "StoredTokens",
    "TokenStore",
    "Version",
    "default_store",
    "new_version",
]


def default_store() -> TokenStore:
    """The store of a refresher that was given none."""
    return MemoryTokenStore()
