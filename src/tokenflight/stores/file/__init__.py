"""A store in files: one a user, shared by all processes of one machine."""

from tokenflight.stores.file._store import FileTokenStore

__all__ = ["FileTokenStore"]
