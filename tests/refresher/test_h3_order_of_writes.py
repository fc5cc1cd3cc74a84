"""H3, K3: logins and logouts of a user take effect in the order of their calls, whoever waits for them."""

import asyncio
import os
import threading
from collections.abc import Callable
from pathlib import Path

import anyio
import pytest
import time_machine

from kit.minting import Minting
from kit.support import let_others_run
from kit.virtual_time import run_in_virtual_time
from tokenflight import FileTokenStore, MemoryTokenStore, StoreUnavailable, TokenRefresher, TokenSet
from tokenflight.testing import FaultyStore

FIRST = TokenSet("first", refresh_token="first", expires_at=4e9)
SECOND = TokenSet("second", refresh_token="second", expires_at=4e9)
SECONDS_A_STORE_HAS = 10.0


async def cancel_twice(caller: asyncio.Task[object]) -> None:
    for _ in range(2):
        caller.cancel()
        await asyncio.sleep(0)
    await asyncio.wait([caller])


async def leave_by_an_anyio_scope(refresher: TokenRefresher, store: FaultyStore) -> None:
    with store.hold("delete", times=1) as gate:
        async with anyio.create_task_group() as group:
            group.start_soon(refresher.delete_tokens, "alice")
            await gate.reached()
            group.cancel_scope.cancel()
        login = asyncio.create_task(refresher.save_tokens("alice", SECOND))
        await let_others_run()
        assert not login.done()
    await login


async def leave_by_two_cancellations(refresher: TokenRefresher, store: FaultyStore) -> None:
    with store.hold("delete", times=1) as gate:
        caller: asyncio.Task[object] = asyncio.create_task(refresher.delete_tokens("alice"))
        await gate.reached()
        await cancel_twice(caller)
        login = asyncio.create_task(refresher.save_tokens("alice", SECOND))
        await let_others_run()
        assert not login.done()
    await login


async def leave_by_a_time_limit_in_wait_for(refresher: TokenRefresher, store: FaultyStore) -> None:
    with store.hold("delete", times=1) as gate:
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.01):
                await asyncio.wait_for(refresher.delete_tokens("alice"), 10)
        await gate.reached()
        login = asyncio.create_task(refresher.save_tokens("alice", SECOND))
        await let_others_run()
        assert not login.done()
    await login


@pytest.mark.parametrize(
    "leave",
    [leave_by_an_anyio_scope, leave_by_two_cancellations, leave_by_a_time_limit_in_wait_for],
    ids=lambda leave: leave.__name__,
)
async def test_h3_a_logout_whose_caller_has_left_does_not_delete_the_login_that_followed(
    store: FaultyStore, leave: "Callable[[TokenRefresher, FaultyStore], asyncio.Future[None]]"
) -> None:
    async with TokenRefresher(Minting(), store) as refresher:
        await refresher.save_tokens("alice", FIRST)
        await leave(refresher, store)
        assert await refresher.load_tokens("alice") == SECOND
        assert refresher.cached_token("alice") == SECOND


async def test_h3_a_login_whose_caller_has_left_does_not_overwrite_the_logout_that_followed(store: FaultyStore) -> None:
    async with TokenRefresher(Minting(), store) as refresher:
        with store.hold("save", times=1) as gate:
            caller: asyncio.Task[object] = asyncio.create_task(refresher.save_tokens("alice", FIRST))
            await gate.reached()
            await cancel_twice(caller)
            logout = asyncio.create_task(refresher.delete_tokens("alice"))
            await let_others_run()
            assert not logout.done()
        assert await logout is True
        assert await refresher.load_tokens("alice") is None


async def test_h3_a_write_that_had_not_begun_when_its_caller_left_never_happens(store: FaultyStore) -> None:
    async with TokenRefresher(Minting(), store) as refresher:
        with store.hold("save", times=1) as gate:
            login = asyncio.create_task(refresher.save_tokens("alice", FIRST))
            await gate.reached()
            logout: asyncio.Task[object] = asyncio.create_task(refresher.delete_tokens("alice"))
            await let_others_run()
            await cancel_twice(logout)
        await login
        assert await refresher.load_tokens("alice") == FIRST
    assert store.calls("delete") == 0


async def test_h3_a_login_that_waits_for_a_lease_does_not_come_after_a_later_logout(store: FaultyStore) -> None:
    async with TokenRefresher(Minting(), store) as refresher:
        await refresher.save_tokens("alice", FIRST)
        with store.hold("lease", times=1) as gate:
            # It brings no refresh token, so it waits for a renewal under way, which is about to replace the kept one.
            login = asyncio.create_task(refresher.save_tokens("alice", TokenSet("second")))
            await gate.reached()
            assert await refresher.delete_tokens("alice") is True
        await login
        assert await refresher.load_tokens("alice") is None
        assert refresher.cached_token("alice") is None


async def test_h3_the_file_store_is_written_in_order_though_its_thread_goes_on_without_a_caller(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    reached, go_on = threading.Event(), threading.Event()
    fsync = os.fsync

    def slow_fsync(descriptor: int) -> None:
        reached.set()
        go_on.wait(10)
        fsync(descriptor)

    async with TokenRefresher(Minting(), FileTokenStore(tmp_path / "tokens")) as refresher:
        await refresher.save_tokens("alice", FIRST)
        monkeypatch.setattr(os, "fsync", slow_fsync)
        async with anyio.create_task_group() as group:
            group.start_soon(refresher.save_tokens, "alice", SECOND)
            await asyncio.to_thread(reached.wait, 10)
            group.cancel_scope.cancel()
        logout = asyncio.create_task(refresher.delete_tokens("alice"))
        await asyncio.sleep(0.05)
        assert not logout.done()
        go_on.set()
        assert await logout is True
        assert await refresher.load_tokens("alice") is None


async def test_h3_closing_waits_for_a_write_whose_caller_has_left(store: FaultyStore) -> None:
    refresher = TokenRefresher(Minting(), store)
    with store.hold("save", times=1) as gate:
        caller: asyncio.Task[object] = asyncio.create_task(refresher.save_tokens("alice", FIRST))
        await gate.reached()
        await cancel_twice(caller)
        closing = asyncio.create_task(refresher.aclose())
        await let_others_run()
        assert not closing.done()
    await closing
    assert store.calls("save") == 1


def test_k3_five_logouts_at_once_take_as_long_as_one_while_the_store_hangs(clock: time_machine.Traveller) -> None:
    async def main() -> list[float]:
        loop = asyncio.get_running_loop()
        store = FaultyStore(MemoryTokenStore())
        store.hang("delete")
        async with TokenRefresher(Minting(), store) as refresher:
            began = loop.time()

            async def log_out() -> float:
                with pytest.raises(StoreUnavailable):
                    await refresher.delete_tokens("alice")
                return loop.time() - began

            return await asyncio.gather(*(log_out() for _ in range(5)))

    assert run_in_virtual_time(clock, main) == pytest.approx([SECONDS_A_STORE_HAS] * 5, abs=0.5)


async def test_h3_nothing_is_remembered_of_writes_that_have_ended(store: FaultyStore) -> None:
    async with TokenRefresher(Minting(), store) as refresher:
        for number in range(100):
            await refresher.save_tokens(f"user-{number}", FIRST)
        logins = refresher._logins
        assert (len(logins._by_user), len(logins._tasks)) == (0, 0)
