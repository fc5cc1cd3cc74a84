"""`cached_token` returns what `get_valid_token` returns without waiting, and nothing else."""

import pytest
import time_machine

from kit.support import login
from tokenflight import OIDCProvider, RefreshPolicy, TokenRefresher, TokenStore
from tokenflight.testing import FakeProvider


async def test_a_fresh_token_in_the_cache_is_returned(fake: FakeProvider, refresher: TokenRefresher) -> None:
    await refresher.save_tokens("alice", login(fake, "alice"))
    assert refresher.cached_token("alice") is await refresher.get_valid_token("alice")


async def test_a_token_that_only_the_store_holds_is_returned_once_it_has_been_read(
    fake: FakeProvider, provider: OIDCProvider, store: TokenStore, refresher: TokenRefresher
) -> None:
    async with TokenRefresher(provider, store) as elsewhere:
        await elsewhere.save_tokens("alice", login(fake, "alice"))
    assert refresher.cached_token("alice") is None
    tokens = await refresher.get_valid_token("alice")
    assert refresher.cached_token("alice") is tokens


@pytest.mark.parametrize("life_left", [301, 200, -1], ids=["aging", "due", "expired"])
async def test_a_token_that_has_to_be_renewed_is_not_returned_and_no_renewal_starts(
    life_left: float, clock: time_machine.Traveller, fake: FakeProvider, provider: OIDCProvider
) -> None:
    async with TokenRefresher(provider, policy=RefreshPolicy(cache_ttl=None)) as refresher:
        await refresher.save_tokens("alice", login(fake, "alice"))
        clock.shift(2999)
        assert refresher.cached_token("alice") is not None
        clock.shift(601 - life_left)
        assert refresher.cached_token("alice") is None
    assert fake.requests() == 0


async def test_an_entry_older_than_the_cache_allows_is_not_returned(
    clock: time_machine.Traveller, fake: FakeProvider, refresher: TokenRefresher
) -> None:
    await refresher.save_tokens("alice", login(fake, "alice"))
    clock.shift(60)
    assert refresher.cached_token("alice") is not None
    clock.shift(1)
    assert refresher.cached_token("alice") is None


async def test_after_a_logout_and_after_closing_none_is_returned(fake: FakeProvider, provider: OIDCProvider) -> None:
    async with TokenRefresher(provider) as refresher:
        await refresher.save_tokens("alice", login(fake, "alice"))
        await refresher.save_tokens("bob", login(fake, "bob"))
        await refresher.delete_tokens("alice")
        assert refresher.cached_token("alice") is None
        assert refresher.cached_token("bob") is not None
    assert refresher.cached_token("bob") is None
