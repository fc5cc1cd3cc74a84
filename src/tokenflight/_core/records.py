"""The records of one provider in a store: bound to their issuer, and never waited for without a limit."""

import asyncio
import logging
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from dataclasses import replace
from typing import TypeVar
from weakref import WeakValueDictionary

from tokenflight._core import failures
from tokenflight._core.cache import CacheEntry
from tokenflight._core.limits import Limits
from tokenflight._log import log
from tokenflight.errors import (
    ProviderMisconfigured,
    StoreConflict,
    StoreCorrupted,
    StoreError,
    StoreUnavailable,
    TokenflightError,
)
from tokenflight.providers.base import BaseProvider
from tokenflight.stores.base import Lease, RenewalFailure, StoredTokens, TokenStore, new_version
from tokenflight.tokens import TokenKey, TokenSet

T = TypeVar("T")


def is_same_grant(tokens: TokenSet, other: TokenSet) -> bool:
    """Whether both are renewed with the same token: the refresh token or, where there is none, the access token."""
    if tokens.refresh_token is None and other.refresh_token is None:
        return tokens.access_token == other.access_token
    return tokens.refresh_token == other.refresh_token


class Records:
    """Reads and writes the records of `provider` in `store`. Each call raises a `StoreError` where the store fails."""

    def __init__(self, store: TokenStore, provider: BaseProvider, limits: Limits) -> None:
        self._store = store
        self._provider = provider.name
        self._issuer = provider.issuer
        self._limits = limits
        self._login_locks = WeakValueDictionary[str, asyncio.Lock]()  # each lives while a caller holds or awaits it

    def key(self, user_id: str) -> TokenKey:
        """The key of the record of `user_id`."""
        return TokenKey(self._provider, user_id)

    def login_lock(self, user_id: str) -> asyncio.Lock:
        """Guards the order in which logins, logouts and the first record of a user are written.

        Without it, a renewal could create a record between a logout's delete and the moment when the renewal learns
        of that logout. The store can't tell the two apart: in both cases there is no record.
        """
        return self._login_locks.setdefault(user_id, asyncio.Lock())

    @asynccontextmanager
    async def lease(self, key: TokenKey, *, wait: bool) -> AsyncIterator[Lease]:
        """The right to renew; raises `LeaseTimeout` if another holder has it, at once or after a long `wait`.

        Leaving the context never fails and never hangs.
        """
        timeout = self._limits.lease_timeout if wait else 0.0
        context = self._store.lease(key, timeout=timeout)
        # Entered and left by hand, because each step has a time limit of its own and the body has none.
        lease = await self._in_time(context.__aenter__(), seconds=timeout + self._limits.store_timeout)
        try:
            yield lease
        finally:
            try:
                await self._in_time(context.__aexit__(None, None, None))
            except TokenflightError as exc:
                # What was done under the lease counts; a lease whose release fails lapses.
                log(
                    logging.WARNING,
                    "the lease on user %r at %s could not be given back (%s)",
                    key.user_id,
                    key.provider,
                    exc.code,
                )

    async def load(self, key: TokenKey) -> StoredTokens | None:
        """The record, or None. Raises `ProviderMisconfigured` if another issuer's: its tokens are never sent here."""
        record = await self._in_time(self._store.load(key))
        if record is not None and None not in (record.issuer, self._issuer) and record.issuer != self._issuer:
            raise ProviderMisconfigured(
                f"the stored token set of user {key.user_id!r} was issued by {record.issuer}, but {key.provider} is "
                f"now {self._issuer}; nothing was sent: configure the old issuer, or send the user through login",
                code="issuer_mismatch",
                user_id=key.user_id,
                provider=key.provider,
            )
        return record

    async def load_newest(self, key: TokenKey, known: CacheEntry | None) -> StoredTokens | None:
        """The record, as `load` gives it. If it is past to what is `known` here, that is written back first.

        A store goes back in time when it is restored, or when a replica takes over that had not received the last
        writes. The caller holds the lease.
        """
        while True:
            record = await self.load(key)
            if record is None or known is None or not known.is_past(record.tokens):
                return record
            newest = replace(known.record, version=new_version())
            with suppress(StoreConflict):  # another writer came between: look again
                await self._in_time(self._store.replace(key, newest, expected=record.version))
                message = (
                    "the store had an older token set of user %r at %s than this process, which wrote its own back"
                )
                log(logging.WARNING, message, key.user_id, key.provider)
                return newest

    async def save(self, key: TokenKey, tokens: TokenSet) -> StoredTokens:
        """Write the `tokens` of a login, whatever was there; return the record."""
        if tokens.refresh_token is None:
            message = "the login of user %r at %s brought no refresh token, and none is kept: it can't be renewed"
            log(logging.WARNING, message, key.user_id, key.provider)
        record = StoredTokens(tokens, issuer=self._issuer)
        await self._in_time(self._store.save(key, record))
        return record

    async def keeps_refresh_token(self, key: TokenKey, tokens: TokenSet) -> bool:
        """Whether the `tokens` of a login brought no refresh token, and a stored one of the same user can stay."""
        return tokens.refresh_token is None and (await self._completed(key, tokens))[1].refresh_token is not None

    async def save_keeping_refresh_token(self, key: TokenKey, tokens: TokenSet) -> StoredTokens:
        """Write the `tokens` of a login with the stored refresh token in them.

        The caller holds the lease: a renewal under way is about to replace that refresh token.
        """
        while True:
            before, completed = await self._completed(key, tokens)
            if before is None or completed.refresh_token is None:
                return await self.save(key, tokens)
            record = self.successor(completed, before)
            with suppress(StoreConflict):  # another login came between: look again
                await self._in_time(self._store.replace(key, record, expected=before.version))
                return record

    async def _completed(self, key: TokenKey, tokens: TokenSet) -> tuple[StoredTokens | None, TokenSet]:
        """The record, if it can be read, and the `tokens` of a login completed from it."""
        try:
            before = await self.load(key)
        except (StoreCorrupted, ProviderMisconfigured):
            before = None  # damaged, or another issuer's: a login overwrites it
        return before, tokens if before is None or before.refused else tokens.after_login(before.tokens)

    def successor(self, tokens: TokenSet, before: StoredTokens | None) -> StoredTokens:
        """The record that holds `tokens` in place of those in `before`. Access tokens of other targets stay in it."""
        if before is None:
            return StoredTokens(tokens, issuer=self._issuer)
        return StoredTokens(tokens, issuer=self._issuer, access_tokens=before.access_tokens)

    async def put_successor(
        self,
        key: TokenKey,
        record: StoredTokens,
        before: StoredTokens | None,
        *,
        may_create: Callable[[], bool],
        known: CacheEntry | None,
    ) -> None:
        """Write `record` in place of the record `before` and of no other; None stands for there being none.

        Raises `StoreConflict` if another writer was faster, unless the store has gone back in time: what it has then is
        past to what is `known` here. A login of another process is a record that the store finds. A logout of this
        process leaves nothing to find: where there was no record, `may_create` tells whether one has come.
        """
        if before is None:
            # No version tells of a logout. The lock lets none come between the question and the write.
            async with self.login_lock(key.user_id):
                if not may_create():
                    raise StoreConflict(f"user {key.user_id!r} has logged in or out at {key.provider} in the meantime")
                await self._in_time(self._store.replace(key, record, expected=None))
            return
        try:
            await self._in_time(self._store.replace(key, record, expected=before.version))
        except StoreConflict:
            # Where this read fails, a logout may have come: then the conflict stands, and the successor is dropped.
            current = await self._load_or_none(key)
            if current is None or current.version == before.version:
                raise
            if current.tokens != before.tokens and (known is None or not known.is_past(current.tokens)):
                raise
            # No login: the same token set, marked as refused or under another encryption key, or one that is past.
            await self._in_time(self._store.replace(key, record, expected=current.version))

    async def mark_refused(self, key: TokenKey, record: StoredTokens) -> StoredTokens | None:
        """Remember in the record that the provider refused its refresh token; return the record that is there then.

        From then on, no process sends that refresh token again. The record stays as it is if another process
        stored another refresh token, or logged the user out.
        """
        try:
            current = await self.load(key)
        except StoreError:
            return record  # not remembered, the refresh token is sent and refused once more: no harm
        if current is None or not is_same_grant(current.tokens, record.tokens):
            return current
        refused = replace(current, version=new_version(), refused=True)
        try:
            await self._in_time(self._store.replace(key, refused, expected=current.version))
        except StoreConflict:
            return await self.load(key)
        except StoreError:
            return current  # as above
        return refused

    async def note_failure(self, key: TokenKey, record: StoredTokens, failure: RenewalFailure) -> StoredTokens:
        """Tell other processes in the record that its renewal has failed; return the record as it is then, if known.

        The caller holds the lease. Where this can't be written, another process asks the provider once more: no harm
        but for one that acts on requests whose replies it loses.
        """
        noted = replace(record, version=new_version(), failure=failure)
        try:
            await self._in_time(self._store.replace(key, noted, expected=record.version))
        except StoreError:
            return record
        return noted

    def keys(self) -> AsyncIterator[TokenKey]:
        """The keys of the provider's records. Errors that the store raises while it lists them pass through."""
        return self._store.keys(self._provider)

    async def delete(self, key: TokenKey) -> bool:
        """Remove the record; say whether there was one."""
        return await self._in_time(self._store.delete(key))

    async def _load_or_none(self, key: TokenKey) -> StoredTokens | None:
        try:
            return await self.load(key)
        except TokenflightError:
            return None

    async def _in_time(self, operation: Awaitable[T], *, seconds: float | None = None) -> T:
        """The result of `operation`. Its failures, and its taking too long, become errors of the tree."""
        if seconds is None:
            seconds = self._limits.store_timeout
        timeout = asyncio.timeout(seconds)
        try:
            async with timeout:
                return await operation
        except TokenflightError:
            raise
        except asyncio.CancelledError:
            task = asyncio.current_task()
            if task is None or task.cancelling():
                raise
            # The end of the event loop has cancelled a task of the store's, and not the one that waits for it.
            raise StoreUnavailable("the store was cut off by the end of the event loop", code="cut_off") from None
        except Exception as exc:
            if timeout.expired():
                raise failures.store_timed_out(seconds) from None
            # A third party's store that lets its engine's errors through.
            raise StoreUnavailable(
                f"the store failed with {type(exc).__name__}; see the cause", code="unexpected"
            ) from exc
