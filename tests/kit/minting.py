"""Users of a provider that needs no HTTP, for tests of many of them."""

import asyncio
from typing import Final

from kit.support import NOW
from tokenflight import StoredTokens, TokenKey, TokenRefresher, TokenSet, TokenStore

EXPIRED: Final = TokenSet("old", refresh_token="spent", expires_at=NOW - 1, issued_at=NOW - 3601)


def renewed_of(user_id: str) -> TokenSet:
    return TokenSet(f"new of {user_id}", refresh_token="next", expires_at=NOW + 3600, issued_at=NOW)


class Minting:
    """A provider that takes `seconds` and counts how many renewals it was asked for at the same moment."""

    name = "minting"

    def __init__(self, seconds: float = 0.0) -> None:
        self.seconds = seconds
        self.requests = 0
        self.under_way = 0
        self.most_at_once = 0

    async def renew(self, user_id: str, tokens: TokenSet | None) -> TokenSet:
        self.requests += 1
        self.under_way += 1
        self.most_at_once = max(self.most_at_once, self.under_way)
        try:
            await asyncio.sleep(self.seconds)
        finally:
            self.under_way -= 1
        return self.answer(user_id)

    def answer(self, user_id: str) -> TokenSet:
        return renewed_of(user_id)


KEY: Final = TokenKey(Minting.name, "alice")


def flights_of(refresher: TokenRefresher) -> int:
    return len(refresher._state.flights._by_key)


async def stored(store: TokenStore, *user_ids: str) -> None:
    for user_id in user_ids:
        await store.save(TokenKey(Minting.name, user_id), StoredTokens(EXPIRED))
