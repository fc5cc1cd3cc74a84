"""K14: a logout or login that fails changes nothing about what a renewal under way has brought."""

import asyncio

import pytest
import time_machine

from kit.support import login, until_told
from tokenflight import OIDCProvider, SaveRecovered, StoreUnavailable, TokenEvent, TokenRefresher, TokenSet
from tokenflight.testing import FakeProvider, FaultyStore


@pytest.mark.parametrize("last_word", ["logout", "login"])
async def test_k14_the_successor_of_a_renewal_survives_a_logout_or_login_that_failed(
    fake: FakeProvider, provider: OIDCProvider, store: FaultyStore, events: list[TokenEvent], last_word: str
) -> None:
    async with TokenRefresher(provider, store, on_event=events.append) as refresher:
        await refresher.save_tokens("alice", login(fake, "alice", life_left=-1))
        another = TokenSet("another", refresh_token="another")
        with fake.hold(after=True) as gate:
            caller = asyncio.create_task(refresher.get_valid_token("alice"))
            await gate.reached()
            for operation in ("replace", "delete", "save"):
                store.fail(operation)
            with pytest.raises(StoreUnavailable):
                await (
                    refresher.delete_tokens("alice")
                    if last_word == "logout"
                    else refresher.save_tokens("alice", another)
                )
        renewed = await caller
        assert renewed.refresh_token == fake.current_refresh_token("alice")
        store.recover()
        await until_told(events, SaveRecovered)
        assert await refresher.load_tokens("alice") == renewed
        assert await refresher.refresh_token("alice") != renewed
    assert fake.reuses() == 0


async def test_k14_the_successor_of_a_renewal_survives_a_logout_that_was_cancelled_before_it_happened(
    fake: FakeProvider, provider: OIDCProvider, store: FaultyStore, clock: time_machine.Traveller
) -> None:
    async with TokenRefresher(provider, store) as refresher:
        await refresher.save_tokens("alice", login(fake, "alice", life_left=-1))
        with fake.hold(after=True) as gate:
            caller = asyncio.create_task(refresher.get_valid_token("alice"))
            await gate.reached()
            store.hang("delete", times=1)
            with pytest.raises(TimeoutError):
                async with asyncio.timeout(0.01):
                    await refresher.delete_tokens("alice")
        renewed = await caller
        assert await refresher.load_tokens("alice") == renewed
        assert renewed.refresh_token == fake.current_refresh_token("alice")
