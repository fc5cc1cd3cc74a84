"""The records of one provider in a store, as a flight uses them: bound to their issuer, never waited for for ever."""

import asyncio
import logging
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import Final, TypeVar
from weakref import WeakValueDictionary

from tokenflight._log import log
from tokenflight.errors import ProviderMisconfigured, StoreConflict, StoreError, StoreUnavailable, TokenflightError
from tokenflight.providers.base import IssuerBound, Provider
from tokenflight.stores.base import Lease, StoredTokens, TokenStore, new_version
from tokenflight.tokens import TokenKey, TokenSet

T = TypeVar("T")

LEASE_TIMEOUT_SECONDS: Final = 90.0
"""Longer than the lease of a dead holder lasts in a store that has to wait for it."""

STORE_TIMEOUT_SECONDS: Final = 10.0


class Records:
    """Reads and writes the records of `provider` in `store`. Each call raises a `StoreError` where the store fails."""

    def __init__(self, store: TokenStore, provider: Provider) -> None:
        self._store = store
        self._provider = provider.name
        self._issuer = provider.issuer if isinstance(provider, IssuerBound) else None
        self._locks = WeakValueDictionary[str, asyncio.Lock]()  # each as long as somebody has or wants it

    def key(self, user_id: str) -> TokenKey:
        """The key of the record of `user_id`."""
        return TokenKey(self._provider, user_id)

    def writing(self, user_id: str) -> asyncio.Lock:
        """Guards who writes last where the store can't: logins and logouts, and what creates a record."""
        return self._locks.setdefault(user_id, asyncio.Lock())

    @asynccontextmanager
    async def lease(self, key: TokenKey, *, wait: bool) -> AsyncIterator[Lease]:
        """The right to renew; raises `LeaseTimeout` if somebody else has it, at once or after a long `wait`.

        Its end can neither fail nor hang.
        """
        timeout = LEASE_TIMEOUT_SECONDS if wait else 0.0
        context = self._store.lease(key, timeout=timeout)
        lease = await _in_time(context.__aenter__(), seconds=timeout + STORE_TIMEOUT_SECONDS)
        try:
            yield lease
        finally:
            try:
                await _in_time(context.__aexit__(None, None, None))
            except TokenflightError as exc:
                # What was done under the lease counts; and the lease of one who can't be reached lapses.
                log(
                    logging.WARNING,
                    "the lease on user %r at %s could not be given back (%s)",
                    key.user_id,
                    key.provider,
                    exc.code,
                )

    async def load(self, key: TokenKey) -> StoredTokens | None:
        """The record, or None. Raises `ProviderMisconfigured` if it is another issuer's: its tokens stay here."""
        record = await _in_time(self._store.load(key))
        if record is not None and None not in (record.issuer, self._issuer) and record.issuer != self._issuer:
            raise ProviderMisconfigured(
                f"the stored token set of user {key.user_id!r} was issued by {record.issuer}, but {key.provider} is "
                f"now {self._issuer}; nothing was sent: configure the old issuer, or send the user through login",
                code="issuer_mismatch",
                user_id=key.user_id,
                provider=key.provider,
            )
        return record

    async def save(self, key: TokenKey, tokens: TokenSet) -> StoredTokens:
        """Write `tokens` whatever was there."""
        record = StoredTokens(tokens, issuer=self._issuer)
        await _in_time(self._store.save(key, record))
        return record

    async def succeed(
        self, key: TokenKey, tokens: TokenSet, before: StoredTokens | None, *, wanted: Callable[[], bool]
    ) -> StoredTokens:
        """Write `tokens` in place of those in the record `before` and of no others; None stands for there being none.

        Raises `StoreConflict` if a login or logout was faster. Those of this process are known by `wanted`, which is
        asked before a record is created.
        """
        if before is None:
            async with self.writing(key.user_id):
                if not wanted() or await _in_time(self._store.load(key)) is not None:
                    raise StoreConflict(f"user {key.user_id!r} has logged in or out at {key.provider} meanwhile")
                return await self.save(key, tokens)
        try:
            return await self._replace(key, tokens, before)
        except StoreConflict:
            current = await self._load_or_none(key)
            if current is None or current.version == before.version or current.tokens != before.tokens:
                raise
            # No login: the same token set, marked as refused, or written under another key of encryption.
            return await self._replace(key, tokens, current)

    async def mark_refused(self, key: TokenKey, record: StoredTokens) -> StoredTokens | None:
        """Remember in the record that the provider refused its refresh token; return what the store holds then.

        Then no other process sends it again, nor this one after a restart. Where somebody else wrote another refresh
        token meanwhile, or logged the user out, nothing is marked.
        """
        current = await self.load(key)
        if current is None or current.tokens.refresh_token != record.tokens.refresh_token:
            return current
        refused = replace(current, version=new_version(), refused=True)
        try:
            await _in_time(self._store.replace(key, refused, expected=current.version))
        except StoreConflict:
            return await self.load(key)
        except StoreError:
            return current  # not remembered, it is sent and refused once more: no harm
        return refused

    async def _replace(self, key: TokenKey, tokens: TokenSet, before: StoredTokens) -> StoredTokens:
        record = StoredTokens(tokens, issuer=self._issuer, access_tokens=before.access_tokens)
        await _in_time(self._store.replace(key, record, expected=before.version))
        return record

    async def _load_or_none(self, key: TokenKey) -> StoredTokens | None:
        try:
            return await self.load(key)
        except TokenflightError:
            return None

    def keys(self) -> AsyncIterator[TokenKey]:
        """The keys of the provider's records. What a store raises while it lists them is its own."""
        return self._store.keys(self._provider)

    async def delete(self, key: TokenKey) -> bool:
        """Remove the record; say whether there was one."""
        return await _in_time(self._store.delete(key))


async def _in_time(operation: Awaitable[T], *, seconds: float | None = None) -> T:
    if seconds is None:
        seconds = STORE_TIMEOUT_SECONDS
    timeout = asyncio.timeout(seconds)
    try:
        async with timeout:
            return await operation
    except TokenflightError:
        raise
    except Exception as exc:
        if timeout.expired():
            raise StoreUnavailable(f"the store took longer than {seconds:.0f} s", code="timeout") from None
        # A store of somebody else's that lets its engine's errors through.
        raise StoreUnavailable(f"the store failed with {type(exc).__name__}; see the cause", code="unexpected") from exc
