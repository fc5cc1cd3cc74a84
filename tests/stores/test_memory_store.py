"""What the memory store promises beyond the contract."""

import asyncio
import gc
import tracemalloc
from collections.abc import Callable

import pytest

from kit.stores import KEY
from tokenflight import LeaseTimeout, MemoryTokenStore, StoredTokens, TokenKey, TokenSet


async def test_leases_are_given_in_the_order_in_which_they_were_asked_for() -> None:
    store = MemoryTokenStore()
    order: list[int] = []

    async def take(number: int) -> None:
        async with store.lease(KEY, timeout=5):
            order.append(number)
            await asyncio.sleep(0)

    await asyncio.gather(*(take(number) for number in range(20)))
    assert order == list(range(20))


async def test_a_waiter_that_is_cancelled_or_times_out_does_not_lose_the_others_their_turn() -> None:
    store = MemoryTokenStore()
    order: list[str] = []

    async def take(name: str, timeout: float = 5) -> None:
        async with store.lease(KEY, timeout=timeout):
            order.append(name)

    async with store.lease(KEY, timeout=0):
        waiters = {name: asyncio.create_task(take(name)) for name in ("first", "cancelled", "last")}
        await asyncio.sleep(0)
        with pytest.raises(LeaseTimeout):
            await take("impatient", timeout=0)
        waiters["cancelled"].cancel()
    outcomes = await asyncio.gather(*waiters.values(), return_exceptions=True)
    assert order == ["first", "last"]
    assert isinstance(outcomes[1], asyncio.CancelledError)


async def test_a_waiter_cancelled_in_the_moment_it_is_called_passes_the_lease_on() -> None:
    store = MemoryTokenStore()

    async def take() -> None:
        async with store.lease(KEY, timeout=5):
            await asyncio.sleep(0)

    holder = store.lease(KEY, timeout=0)
    await holder.__aenter__()
    called, following = asyncio.create_task(take()), asyncio.create_task(take())
    await asyncio.sleep(0)
    await holder.__aexit__(None, None, None)
    called.cancel()
    await asyncio.wait_for(following, 5)
    assert called.cancelled()


async def test_a_lease_timeout_names_the_user_and_no_token() -> None:
    store = MemoryTokenStore()
    await store.save(KEY, StoredTokens(TokenSet("canary-access", refresh_token="canary-refresh")))
    async with store.lease(KEY, timeout=0):
        with pytest.raises(LeaseTimeout, match=r"user 'alice' at idp was not free within 0 s") as raised:
            await store.lease(KEY, timeout=0).__aenter__()
    assert "canary" not in str(raised.value)


async def test_a_timeout_in_the_body_of_a_lease_is_not_taken_for_one_of_the_lease() -> None:
    store = MemoryTokenStore()
    with pytest.raises(TimeoutError):
        async with store.lease(KEY, timeout=5):
            raise TimeoutError


async def _take_leases(store: MemoryTokenStore, keys: range) -> None:
    for number in keys:
        async with store.lease(TokenKey("idp", str(number)), timeout=0):
            pass


async def _save_and_delete(store: MemoryTokenStore, keys: range) -> None:
    for number in keys:
        key = TokenKey("idp", str(number))
        await store.save(key, StoredTokens(TokenSet("access")))
        await store.delete(key)


async def _give_up_waiting(store: MemoryTokenStore, keys: range) -> None:
    for number in keys[::10]:
        key = TokenKey("idp", str(number))
        async with store.lease(key, timeout=0):
            with pytest.raises(LeaseTimeout):
                await store.lease(key, timeout=0).__aenter__()


@pytest.mark.parametrize("visit", [_take_leases, _save_and_delete, _give_up_waiting])
async def test_l2_one_time_users_leave_no_memory_behind(visit: Callable[..., object]) -> None:
    store = MemoryTokenStore()

    async def visited(keys: range) -> int:
        await visit(store, keys)  # type: ignore[misc]
        gc.collect()
        return tracemalloc.get_traced_memory()[0]

    tracemalloc.start()
    try:
        base_line = await visited(range(500))
        assert await visited(range(500, 3500)) - base_line < 50_000
    finally:
        tracemalloc.stop()
