"""A process that writes the first record of a user, and stands still just before it does.

Its arguments are a `StoreSpec` as JSON and what it is to do. It prints a line when it is about to write, and writes
when it reads a line. At the end it prints the token set that its caller got, as JSON; or, if the user has to log in
again, the reason, and how many requests the provider has had.
"""

import asyncio
import json
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AbstractAsyncContextManager
from typing import Final

from kit.storms.stores import StoreSpec, open_store
from tokenflight import (
    Lease,
    ReauthenticationRequired,
    StoredTokens,
    TokenKey,
    TokenRefresher,
    TokenSet,
    TokenStore,
    Version,
)
from tokenflight.providers import BaseProvider

USER: Final = "alice"
ROW: Final = TokenSet("of the row", refresh_token="of the row", issued_at=1_700_000_000, expires_at=1_700_003_600)


class NeedsNoRefreshToken(BaseProvider):
    """A provider that issues a token to each client that asks, as the client credentials grant does."""

    def __init__(self) -> None:
        self.requests = 0

    @property
    def name(self) -> str:
        return "idp"

    async def renew(self, user_id: str, tokens: TokenSet | None) -> TokenSet:
        self.requests += 1
        return TokenSet(f"issued to {user_id}", issued_at=time.time(), expires_at=time.time() + 3600)


class HeldStore(TokenStore):
    """The store `inner`. Its first write prints that it is about to happen, and waits for a line."""

    def __init__(self, inner: TokenStore) -> None:
        self._inner = inner
        self._has_held = False

    async def load(self, key: TokenKey) -> StoredTokens | None:
        return await self._inner.load(key)

    async def save(self, key: TokenKey, record: StoredTokens) -> None:
        await self._hold()
        await self._inner.save(key, record)

    async def replace(self, key: TokenKey, record: StoredTokens, *, expected: Version | None) -> None:
        await self._hold()
        await self._inner.replace(key, record, expected=expected)

    async def delete(self, key: TokenKey) -> bool:
        return await self._inner.delete(key)

    def lease(self, key: TokenKey, *, timeout: float) -> AbstractAsyncContextManager[Lease]:
        return self._inner.lease(key, timeout=timeout)

    def keys(self, provider: str | None = None) -> AsyncIterator[TokenKey]:
        return self._inner.keys(provider)

    async def aclose(self) -> None:
        await self._inner.aclose()

    async def _hold(self) -> None:
        if self._has_held:
            return
        self._has_held = True
        print("about to write", flush=True)  # noqa: T201
        await asyncio.to_thread(sys.stdin.readline)  # in a thread, so that the lease is renewed in the meantime


async def offer_a_row(refresher: TokenRefresher) -> TokenSet:
    """Bring a row of the caller's own database, expired, to a store without a record."""
    result = await refresher.ensure_valid_token(USER, ROW)
    assert result.should_update
    return result.tokens


async def renew_without_a_record(refresher: TokenRefresher) -> TokenSet:
    """Ask for a token where the store has no record."""
    return await refresher.get_valid_token(USER)


FIRST_WRITES: Final[list[Callable[[TokenRefresher], Awaitable[TokenSet]]]] = [offer_a_row, renew_without_a_record]
"""The two ways in which a renewal creates a record."""


async def main(spec: StoreSpec, name: str) -> None:
    [first_write] = [first_write for first_write in FIRST_WRITES if first_write.__name__ == name]
    provider = NeedsNoRefreshToken()
    async with TokenRefresher(provider, HeldStore(open_store(spec))) as refresher:
        try:
            told = (await first_write(refresher)).to_dict()
        except ReauthenticationRequired as error:
            told = {"reason": error.reason, "requests": provider.requests}
    print(json.dumps(told))  # noqa: T201


if __name__ == "__main__":
    asyncio.run(main(StoreSpec(**json.loads(sys.argv[1])), sys.argv[2]))
