"""`refresh_token` renews whatever the expiry, and joins a renewal under way."""

import asyncio

from kit.support import login
from tokenflight import OIDCProvider, StoredTokens, TokenKey, TokenRefresher, TokenStore
from tokenflight.testing import FakeProvider, FaultyStore


async def test_refresh_token_renews_whatever_the_expiry_and_joins_a_renewal_under_way(
    fake: FakeProvider, refresher: TokenRefresher
) -> None:
    tokens = login(fake, "alice")
    await refresher.save_tokens("alice", tokens)
    results = await asyncio.gather(*(refresher.refresh_token("alice") for _ in range(10)))
    assert {renewed.access_token for renewed in results}.isdisjoint({tokens.access_token})
    assert fake.requests() == 1
    await refresher.refresh_token("alice")
    assert fake.requests() == 2


async def test_refresh_token_does_not_take_a_cold_read_for_a_renewal(
    fake: FakeProvider, provider: OIDCProvider, store: TokenStore
) -> None:
    tokens = login(fake, "alice")
    await store.save(TokenKey(provider.name, "alice"), StoredTokens(tokens))
    async with TokenRefresher(provider, store) as refresher:
        _, renewed = await asyncio.gather(refresher.get_valid_token("alice"), refresher.refresh_token("alice"))
    assert renewed.access_token != tokens.access_token
    assert fake.requests() == 1


async def test_refresh_token_renews_though_the_record_was_rewritten_with_the_same_tokens(
    fake: FakeProvider, refresher: TokenRefresher, store: FaultyStore, provider: OIDCProvider
) -> None:
    tokens = login(fake, "alice")
    await refresher.save_tokens("alice", tokens)
    await store.save(TokenKey(provider.name, "alice"), StoredTokens(tokens))  # as under another key of encryption
    assert await refresher.refresh_token("alice") != tokens
    assert fake.requests() == 1


async def test_a_caller_whose_token_will_do_does_not_wait_for_a_forced_renewal(
    fake: FakeProvider, refresher: TokenRefresher
) -> None:
    tokens = login(fake, "alice", life_left=1000)
    await refresher.save_tokens("alice", tokens)
    with fake.hold() as gate:
        forced = asyncio.create_task(refresher.refresh_token("alice"))
        await gate.reached()
        async with asyncio.timeout(2):
            assert await refresher.get_valid_token("alice", min_validity=700) == tokens
    await forced
