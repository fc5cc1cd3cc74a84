"""H4, H5: on a second event loop, the first call fails as clearly as any later one, and closing never hangs."""

import asyncio
import threading
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest

from kit import closed_loop_process
from kit.minting import Minting
from kit.support import login
from kit.workers import line_of, worker
from tokenflight import ConfigurationError, FileTokenStore, TokenRefresher, TokenSet
from tokenflight.testing import FakeProvider

FRESH = TokenSet("fresh", refresh_token="fresh", expires_at=4e9)
CALLS: list[Callable[[TokenRefresher], Awaitable[object]]] = [
    lambda refresher: refresher.get_valid_token("alice"),
    lambda refresher: refresher.get_valid_token("alice", min_validity=60),
    lambda refresher: refresher.refresh_token("alice"),
    lambda refresher: refresher.save_tokens("alice", FRESH),
    lambda refresher: refresher.load_tokens("alice"),
    lambda refresher: refresher.delete_tokens("alice"),
]


async def check_that_each_call_is_refused(refresher: TokenRefresher) -> None:
    for call in CALLS:
        with pytest.raises(ConfigurationError, match="belongs to another event loop") as caught:
            await call(refresher)
        assert caught.value.code == "wrong_event_loop"


@pytest.mark.parametrize("is_fresh", [True, False])
def test_h5_on_the_next_event_loop_each_call_is_refused_whether_the_token_is_fresh_or_due(
    fake: FakeProvider, *, is_fresh: bool
) -> None:
    refresher = TokenRefresher(Minting())
    asyncio.run(refresher.save_tokens("alice", FRESH if is_fresh else login(fake, "alice", life_left=-1)))
    asyncio.run(check_that_each_call_is_refused(refresher))
    asyncio.run(refresher.aclose())


async def test_h5_on_the_event_loop_of_another_thread_each_call_is_refused_and_closing_too() -> None:
    async with TokenRefresher(Minting()) as refresher:
        await refresher.save_tokens("alice", FRESH)
        await asyncio.to_thread(asyncio.run, check_that_each_call_is_refused(refresher))
        with pytest.raises(ConfigurationError) as caught:
            await asyncio.to_thread(asyncio.run, refresher.aclose())
        assert caught.value.code == "wrong_event_loop"
        assert await refresher.get_valid_token("alice") == FRESH


@pytest.mark.parametrize(
    ("under_way", "expected"),
    [
        ("a flight", "closed"),
        ("a save that recovers", "closed, and stored"),
        ("a save", "unsaved: renewed token sets of 1 users could not be stored and are lost: 'alice'"),
    ],
)
async def test_h4_closing_does_not_hang_because_the_event_loop_was_closed_and_stores_what_it_can(
    under_way: str, expected: str
) -> None:
    async with worker(closed_loop_process, under_way) as process:
        assert (await line_of(process)).startswith(expected)


def test_h4_a_file_store_serves_each_event_loop_with_a_refresher_of_its_own(tmp_path: Path) -> None:
    store = FileTokenStore(tmp_path / "tokens")
    served: list[TokenSet] = []

    async def task() -> None:
        async with TokenRefresher(Minting(), store) as refresher:
            served.append(await refresher.get_valid_token("alice"))

    async def begin() -> None:
        async with TokenRefresher(Minting(), store) as refresher:
            await refresher.save_tokens("alice", FRESH)

    asyncio.run(begin())
    threads = [threading.Thread(target=asyncio.run, args=(task(),)) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert served == [FRESH] * 4
