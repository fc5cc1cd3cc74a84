"""The contract of a store, which keeps token sets for longer than a process lives and grants the right to renew one."""

import hashlib
import secrets
from abc import ABC, abstractmethod
from collections.abc import AsyncIterator, Mapping
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, field
from typing import Final, NewType, Self

from tokenflight._redaction import ReadOnlyDict
from tokenflight._token_times import MAX_CLOCK_SKEW_SECONDS
from tokenflight.errors import ConfigurationError
from tokenflight.tokens import DEFAULT_TARGET, Target, TokenKey, TokenSet

Version = NewType("Version", str)
"""An opaque string of at most 64 characters that no two writes of a key share, not even across a delete."""


def new_version() -> Version:
    """A version that no other write has. It is random because a counter would repeat itself after a delete."""
    return Version(secrets.token_hex(8))


@dataclass(frozen=True, slots=True)
class RenewalFailure:
    """The last renewal of a record, if it failed: told to other processes, so that none repeats it too soon.

    `kind` is the name of the error's class, `code` and `error` are as in the error. `at` is when it failed and `until`
    is the end of the pause, both in POSIX seconds. `count` is how many renewals have failed in a row.
    """

    kind: str
    code: str
    at: float
    until: float
    count: int = 1
    error: str | None = None


_NO_ACCESS_TOKENS: Final = ReadOnlyDict[Target, TokenSet]()


@dataclass(frozen=True, slots=True)
class StoredTokens:
    """A record: one atomic unit that holds the grant and an access token for each target.

    `tokens` is the grant: the refresh token, the ID token, and the access token of the default target. `version` is
    made by the caller of a write, a new one for each write. Note that `dataclasses.replace` keeps the old version
    unless it is given a `new_version`. `issuer` is the authorization server that issued the grant, None where unknown;
    the refresh token is sent to no other. `refused` says that the provider has refused the refresh token, which is
    then not sent again. `access_tokens` holds the access tokens of other targets, read-only. `failure` is there if the
    last renewal failed, and the provider should be left alone for a while.

    Raises `ConfigurationError` if `access_tokens` has one for the default target, or one with a refresh token, an ID
    token or further members, which belong to the grant.
    """

    tokens: TokenSet
    version: Version = field(default_factory=new_version)
    issuer: str | None = None
    refused: bool = False
    access_tokens: Mapping[Target, TokenSet] = field(default_factory=lambda: _NO_ACCESS_TOKENS, hash=False)
    failure: RenewalFailure | None = None

    def __post_init__(self) -> None:
        if not self.access_tokens:
            return
        if DEFAULT_TARGET in self.access_tokens:
            raise ConfigurationError("the access token of the default target belongs in tokens, not in access_tokens")
        for tokens in self.access_tokens.values():
            if tokens.refresh_token is not None or tokens.id_token is not None or tokens.extra:
                raise ConfigurationError(
                    "a token set in access_tokens must have no refresh token, no ID token and no further members"
                )
        object.__setattr__(self, "access_tokens", ReadOnlyDict(self.access_tokens))

    def tokens_for(self, target: Target = DEFAULT_TARGET) -> TokenSet | None:
        """The token set with the access token of `target`, or None if the record has none."""
        return self.tokens if target == DEFAULT_TARGET else self.access_tokens.get(target)


LOGOUT_MARKER_SECONDS: Final = 86_400.0
"""For how long a store keeps a `LogoutMarker`: longer than a packet, a caller's row or a process can be late."""


@dataclass(frozen=True, slots=True)
class LogoutMarker:
    """What a store keeps of a record that `TokenStore.delete` removed, so that nothing older brings the grant back.

    `ended_at` is when that was, in POSIX seconds. `digest` is a hash of the refresh token in the record; None if the
    record had none, or could not be understood.
    """

    ended_at: float
    digest: str | None

    @classmethod
    def of(cls, tokens: TokenSet | None, ended_at: float) -> Self:
        """The marker of a logout at `ended_at` that ended the grant in `tokens`; None stands for an unreadable one."""
        return cls(ended_at, None if tokens is None else _digest_of_refresh_token(tokens))

    def ends(self, tokens: TokenSet) -> bool:
        """Whether the logout ended the grant in `tokens`: that very one, or one issued before the logout.

        The clocks of two hosts differ: a set issued less than `MAX_CLOCK_SKEW_SECONDS` earlier may be a later login's.
        """
        if self.digest is not None and _digest_of_refresh_token(tokens) == self.digest:
            return True
        return tokens.issued_at is not None and tokens.issued_at + MAX_CLOCK_SKEW_SECONDS < self.ended_at


def _digest_of_refresh_token(tokens: TokenSet) -> str | None:
    if tokens.refresh_token is None:
        return None
    return hashlib.sha256(tokens.refresh_token.encode("utf-8", "surrogatepass")).hexdigest()[:32]


class Lease:
    """The right to renew one user's token set, until the context that gave it ends.

    Subclass it for a lease that can lapse earlier: one with a time limit lapses when its holder stands still.
    """

    __slots__ = ()

    def is_held(self) -> bool:
        """Whether no other holder can have the lease now.

        Asks no server, because the caller is about to send a renewal.
        """
        return True

    def unreleased_for(self) -> float | None:
        """How many seconds ago a former holder was last heard of that never gave its lease back; None without one.

        Such a holder died, stands still or can't reach the store. It may have sent the refresh token of the record, and
        may yet store what came back. The store forgets it as soon as a record is written, or the lease is given back by
        that holder after all.
        """
        return None


class TokenStore(ABC):
    """Keeps token sets for longer than a process lives. It also grants the lease, the right to renew one.

    Each method is atomic: one that is cancelled or fails has happened whole or not at all. All raise
    `StoreUnavailable` when the store can't be reached, read or written. Several refreshers, processes and event loops
    may use a store at once. To write one, subclass this and run the suite in `tokenflight.testing.conformance` on it.
    """

    @abstractmethod
    async def load(self, key: TokenKey) -> StoredTokens | None:
        """The record of `key`, or None.

        Raises `StoreCorrupted` if the record can't be understood, and leaves it as it is.
        """

    @abstractmethod
    async def save(self, key: TokenKey, record: StoredTokens) -> None:
        """Write the record of `key`, whatever was there and whichever flight holds the lease: a login always wins.

        The write is durable when this returns. A write that was overtaken never lands: where this failed or was
        cancelled, what a later `save` or `delete` of `key` left stays, however late the request reaches the server. A
        caller that still waits gets `StoreConflict` with the code ``overtaken``.
        """

    @abstractmethod
    async def replace(self, key: TokenKey, record: StoredTokens, *, expected: Version | None) -> None:
        """Write the record of `key` only if it still has the version `expected`, or, with None, only if there is none.

        The comparison and the write are one step for all users of the store; the write is durable when this returns.
        Raises `StoreConflict`, and writes nothing, if the record changed, is gone (a logout stays a logout), or, with
        None, is there. With None it raises `StoreConflict` with the code ``logged_out`` if a logout in the last
        `LOGOUT_MARKER_SECONDS` ended the grant in the record, as `LogoutMarker.ends` tells.
        """

    @abstractmethod
    async def delete(self, key: TokenKey) -> bool:
        """Remove the record of `key`, understood or not; say whether there was one.

        Of a record that was there, a `LogoutMarker` stays for `LOGOUT_MARKER_SECONDS`, or until the next `save`. It is
        no record: `load`, `keys` and `delete` pass over it. As with `save`, a deletion that was overtaken never lands.
        """

    @abstractmethod
    def lease(self, key: TokenKey, *, timeout: float) -> AbstractAsyncContextManager[Lease]:
        """The right to renew the token set of `key`, exclusive among all users of the store.

        The record can be read and written while the lease is held. The lease is extended for as long as its holder
        lives, and becomes free when the holder dies; `Lease.unreleased_for` then tells the next one. Entering the
        context raises `LeaseTimeout` if another holder keeps the lease for `timeout` seconds; with 0, it gives a lease
        that is free and waits for none that is not.
        """

    @abstractmethod
    def keys(self, provider: str | None = None) -> AsyncIterator[TokenKey]:
        """The keys of all records, or of one provider's, in no order.

        Records that are written while this goes on may be missing.
        """

    @abstractmethod
    async def aclose(self) -> None:
        """Close what the store opened, never what it was given. A store that is used again opens it again."""
