"""L2: memory returns to the base line, whatever became of users who came once."""

import asyncio
import gc
import logging
import sys
from collections.abc import Awaitable, Callable
from typing import TypeAlias

import pytest
import time_machine

from kit.minting import EXPIRED, Minting, flights_of, renewed_of, stored
from kit.support import login
from kit.virtual_time import run_in_virtual_time
from tokenflight import (
    MemoryTokenStore,
    OIDCProvider,
    ProviderUnavailable,
    ReauthenticationRequired,
    RefreshPolicy,
    StoredTokens,
    StoreUnavailable,
    TokenflightError,
    TokenKey,
    TokenRefresher,
    TokenSet,
    TokenStore,
    Version,
)
from tokenflight._core.limits import Limits
from tokenflight.testing import FakeProvider, FaultyStore


class FailingProvider(Minting):
    """It answers with `error`, if there is one."""

    error: TokenflightError | None = None

    def answer(self, user_id: str) -> TokenSet:
        if self.error is not None:
            raise self.error.with_traceback(None)
        return renewed_of(user_id)


class ForgetfulStore(MemoryTokenStore):
    """A store that takes no renewal while it is `full`, and in which `visit` leaves no record of a user behind."""

    def __init__(self, provider: FailingProvider) -> None:
        super().__init__()
        self.full = False
        self.provider = provider

    async def replace(self, key: TokenKey, record: StoredTokens, *, expected: Version | None) -> None:
        if self.full:
            raise StoreUnavailable("no space left on device")
        await super().replace(key, record, expected=expected)

    async def visit(self, visit: "Visit", refresher: TokenRefresher, user_id: str) -> None:
        await stored(self, user_id)
        await visit(refresher, self, user_id)
        await self.delete(TokenKey(Minting.name, user_id))


Visit: TypeAlias = Callable[[TokenRefresher, ForgetfulStore, str], Awaitable[None]]


async def _renewed(refresher: TokenRefresher, store: ForgetfulStore, user_id: str) -> None:
    await refresher.get_valid_token(user_id)
    assert (await refresher.ensure_valid_token(user_id, EXPIRED)).should_update


async def _failed(refresher: TokenRefresher, store: ForgetfulStore, user_id: str) -> None:
    store.provider.error = ProviderUnavailable("down")
    for _ in range(2):
        with pytest.raises(ProviderUnavailable):
            await refresher.get_valid_token(user_id)


async def _refused(refresher: TokenRefresher, store: ForgetfulStore, user_id: str) -> None:
    store.provider.error = ReauthenticationRequired("refused")
    for _ in range(2):
        with pytest.raises(ReauthenticationRequired):
            await refresher.get_valid_token(user_id)


async def _logged_in_and_out(refresher: TokenRefresher, store: ForgetfulStore, user_id: str) -> None:
    await refresher.save_tokens(user_id, EXPIRED)
    await refresher.get_valid_token(user_id)
    await refresher.delete_tokens(user_id)


async def _rejected(refresher: TokenRefresher, store: ForgetfulStore, user_id: str) -> None:
    store.provider.error = ProviderUnavailable("down")
    with pytest.raises(ProviderUnavailable):
        await refresher.get_valid_token(user_id, rejected="old")


async def _abandoned(refresher: TokenRefresher, store: ForgetfulStore, user_id: str) -> None:
    caller = asyncio.create_task(refresher.get_valid_token(user_id))
    await asyncio.sleep(0)
    caller.cancel()
    await asyncio.wait([caller])
    await refresher.get_valid_token(user_id)


async def _unsaved_and_logged_out(refresher: TokenRefresher, store: ForgetfulStore, user_id: str) -> None:
    store.full = True
    await refresher.get_valid_token(user_id)
    await refresher.delete_tokens(user_id)


async def _unsaved_and_saved(refresher: TokenRefresher, store: ForgetfulStore, user_id: str) -> None:
    store.full = True
    await refresher.get_valid_token(user_id)
    store.full = False
    while refresher._state.cache.is_pinned(user_id):  # noqa: ASYNC110 - it happens in the background
        await asyncio.sleep(0.1)


@pytest.mark.parametrize(
    "visit",
    [
        _renewed,
        _failed,
        _refused,
        _logged_in_and_out,
        _rejected,
        _abandoned,
        _unsaved_and_logged_out,
        _unsaved_and_saved,
    ],
    ids=lambda visit: visit.__name__.strip("_").replace("_", " "),
)
def test_l2_nothing_is_left_of_users_who_come_once(
    clock: time_machine.Traveller,
    caplog: pytest.LogCaptureFixture,
    visit: Visit,
) -> None:
    caplog.set_level(logging.CRITICAL)  # pytest keeps every record
    # Small enough to be full before the base line is taken.

    async def main() -> tuple[int, int]:
        provider = FailingProvider()
        store = ForgetfulStore(provider)
        policy = RefreshPolicy(max_cached_users=100)
        async with TokenRefresher(
            provider, store, policy=policy, _limits=Limits(max_backoff_users=100, max_rejected_users=100)
        ) as refresher:

            async def blocks_after(users: range) -> int:
                for start in range(users.start, users.stop, 50):
                    visits = (store.visit(visit, refresher, f"user-{start + n}") for n in range(50))
                    await asyncio.gather(*visits)
                state = refresher._state
                assert flights_of(refresher) == len(state.pending._saves) == len(state.records._login_locks) == 0
                assert max(len(state.backoff._by_user), len(state.cache.rejections)) <= 100
                gc.collect()
                return sys.getallocatedblocks()

            return await blocks_after(range(500)), await blocks_after(range(500, 3_500))

    base_line, afterwards = run_in_virtual_time(clock, main)
    assert afterwards < base_line + 1_500, "less than half a block of memory for each of 3,000 users"


async def test_the_oldest_cached_entry_gives_way_and_costs_one_read(
    fake: FakeProvider, provider: OIDCProvider, store: TokenStore
) -> None:
    async with TokenRefresher(provider, store, policy=RefreshPolicy(max_cached_users=2)) as refresher:
        for user_id in ("alice", "bob", "carol"):
            await refresher.save_tokens(user_id, login(fake, user_id))
        for user_id in ("alice", "bob", "carol"):
            assert (await refresher.get_valid_token(user_id)).access_token
    assert fake.requests() == 0


async def test_so_many_entries_stay_cached_and_the_one_read_longest_ago_gives_way(
    fake: FakeProvider, clock: time_machine.Traveller
) -> None:
    store = FaultyStore(MemoryTokenStore())
    async with TokenRefresher(Minting(), store, policy=RefreshPolicy(max_cached_users=2)) as refresher:
        for user_id in ("alice", "bob"):
            await refresher.save_tokens(user_id, login(fake, user_id))
        for user_id in ("alice", "bob"):
            await refresher.get_valid_token(user_id)
        assert store.calls("load") == 0
        clock.shift(61)
        await refresher.get_valid_token("alice")  # read again, and so younger than bob's
        await refresher.save_tokens("carol", login(fake, "carol"))
        assert [store.calls("load", user_id=user_id) for user_id in ("alice", "bob", "carol")] == [1, 0, 0]
        await refresher.get_valid_token("alice")
        await refresher.get_valid_token("bob")
    assert [store.calls("load", user_id=user_id) for user_id in ("alice", "bob", "carol")] == [1, 1, 0]


@pytest.mark.long
async def test_l2_memory_returns_to_the_base_line_after_a_hundred_thousand_one_time_users(
    clock: time_machine.Traveller, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.CRITICAL)  # pytest keeps every record

    class Endless:
        name = "endless"

        async def renew(self, user_id: str, tokens: TokenSet | None) -> TokenSet:
            return TokenSet(f"access-{user_id}", expires_at=clock_now + 3600, issued_at=clock_now)

    class Forgetful(MemoryTokenStore):
        async def replace(self, key: TokenKey, record: StoredTokens, *, expected: Version | None) -> None:
            await super().replace(key, record, expected=expected)
            await self.delete(key)

    clock_now = 1_800_000_000.0
    policy = RefreshPolicy(max_cached_users=100)
    async with TokenRefresher(Endless(), Forgetful(), policy=policy) as refresher:

        async def serve(users: range) -> int:
            for start in range(users.start, users.stop, 100):
                await asyncio.gather(*(refresher.get_valid_token(f"user-{n}") for n in range(start, start + 100)))
            gc.collect()
            return sys.getallocatedblocks()

        base_line = await serve(range(1_000))
        afterwards = await serve(range(1_000, 101_000))
    assert afterwards < base_line + 1_000
