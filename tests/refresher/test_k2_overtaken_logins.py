"""K2: a login that a later one, or a logout, overtakes on its way to the store counts as stored before that."""

import asyncio

from kit.minting import KEY, Minting
from tokenflight import StoreConflict, StoredTokens, TokenRefresher, TokenSet
from tokenflight.testing import FaultyStore

LATE = TokenSet("late", refresh_token="late", expires_at=4e9)
LAST = TokenSet("last", refresh_token="last", expires_at=4e9)


def overtaken() -> StoreConflict:
    return StoreConflict("a later login has landed", code="overtaken")


async def test_k2_a_login_that_was_overtaken_is_no_error_and_is_handed_out_to_nobody(store: FaultyStore) -> None:
    async with TokenRefresher(Minting(), store) as refresher:
        with store.hold("save", times=1) as gate:
            login = asyncio.create_task(refresher.save_tokens("alice", LATE))
            await gate.reached()
            store.fail("save", error=overtaken, times=1)
            await store.replace(KEY, StoredTokens(LAST), expected=None)
        await login
        assert refresher.cached_token("alice") is None
        assert await refresher.get_valid_token("alice") == LAST
