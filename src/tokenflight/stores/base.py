"""The contract of a store: where token sets outlive the process, and who may renew one."""

from abc import ABC, abstractmethod
from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from typing import NewType

from tokenflight.tokens import TokenKey, TokenSet

Version = NewType("Version", str)
"""An opaque string that no two writes of a key share, not even across a delete."""


@dataclass(frozen=True, slots=True)
class StoredTokens:
    """A record: one atomic unit.

    `issuer` is the authorization server the token set came from, None where unknown: its refresh token is sent
    nowhere else. `refused` says that the provider has refused the refresh token: it is not sent again.
    """

    tokens: TokenSet
    version: Version
    issuer: str | None = None
    refused: bool = False


class Lease:
    """The right to renew one user's token set, until the context that gave it ends.

    Subclass it for a lease that can lapse before, as one with a time limit does when its holder stands still.
    """

    __slots__ = ()

    def is_held(self) -> bool:
        """Whether nobody else can have the lease now. Asks no server: it is called just before a renewal is sent."""
        return True


class TokenStore(ABC):
    """Where token sets outlive the process. It also gives the lease, the right to renew one.

    Each method is atomic: cancelled or failed, it has happened whole or not at all. All raise `StoreUnavailable` when
    the store can't be reached, read or written. A store may be used by several refreshers, processes and event loops
    at once. To write one, subclass this and run the suite in `tokenflight.testing.conformance` on it.
    """

    @abstractmethod
    async def load(self, key: TokenKey) -> StoredTokens | None:
        """The record of `key`, or None.

        Raises `StoreCorrupted` if there is one that can't be understood; it is left as it is.
        """

    @abstractmethod
    async def save(self, key: TokenKey, tokens: TokenSet, *, issuer: str | None = None) -> Version:
        """Write the record of `key` whatever was there, and whoever holds the lease: a login wins over everything.

        Durable when it returns. The new record is not refused.
        """

    @abstractmethod
    async def replace(
        self,
        key: TokenKey,
        tokens: TokenSet,
        *,
        expected: Version,
        issuer: str | None = None,
        refused: bool = False,
    ) -> Version:
        """Write the record of `key` only if it still has the version `expected`. Durable when it returns.

        Raises `StoreConflict`, and writes nothing, if the record changed or is gone: a logout stays a logout.
        """

    @abstractmethod
    async def delete(self, key: TokenKey) -> bool:
        """Remove the record of `key`, understood or not; say whether there was one."""

    @abstractmethod
    def lease(self, key: TokenKey, *, timeout: float) -> AbstractAsyncContextManager[Lease]:
        """The right to renew the token set of `key`, exclusive among all users of the store.

        It does not keep anybody from reading or writing the record. It is released when its holder dies, and
        renewed while it is held. Raises `LeaseTimeout` on entry if another holder kept it for `timeout` seconds; with
        0, a lease that is free is given all the same.
        """

    @abstractmethod
    def keys(self, provider: str | None = None) -> AsyncIterator[TokenKey]:
        """The keys of all records, or of one provider's, in no order. Records written meanwhile may be missing."""

    @abstractmethod
    async def aclose(self) -> None:
        """Close what the store opened, never what it was given. A store used again opens it again."""
