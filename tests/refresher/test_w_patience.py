"""W1, W3: a caller whose token is really valid waits for trouble elsewhere no longer than its patience."""

import asyncio
from collections.abc import Callable, Coroutine
from functools import partial
from typing import Any

import pytest
import time_machine

from kit.minting import EXPIRED, KEY, Minting
from kit.support import NOW
from kit.virtual_time import run_in_virtual_time, seconds
from tokenflight import (
    MemoryTokenStore,
    RefreshPolicy,
    StoredTokens,
    TokenRefresher,
    TokenSet,
)
from tokenflight.testing import FaultyStore

DUE = TokenSet("due", refresh_token="refresh", issued_at=NOW - 3400, expires_at=NOW + 200)

Scene = Callable[[TokenRefresher, FaultyStore, Minting], Coroutine[Any, Any, None]]


@pytest.fixture
def play(clock: time_machine.Traveller) -> Callable[..., None]:
    """Play a scene in virtual time, with a provider that takes 20 s for an answer."""

    def play(scene: Scene, *, patience: float | None = 1) -> None:
        async def main() -> None:
            store, provider = FaultyStore(MemoryTokenStore()), Minting(seconds=20)
            async with TokenRefresher(provider, store, policy=RefreshPolicy(patience=patience)) as refresher:
                await scene(refresher, store, provider)

        run_in_virtual_time(clock, main)

    return play


async def took(call: Coroutine[Any, Any, TokenSet]) -> tuple[str, float]:
    began = seconds()
    tokens = await call
    return str(tokens.access_token), round(seconds() - began, 1)


@pytest.mark.parametrize("is_known", [True, False], ids=["known", "cold"])
def test_w1_while_the_provider_hangs_a_caller_with_a_valid_token_waits_for_a_second_at_most(
    play: Callable[..., None], *, is_known: bool
) -> None:
    async def scene(refresher: TokenRefresher, store: FaultyStore, provider: Minting) -> None:
        if is_known:
            await refresher.save_tokens("alice", DUE)
        else:
            await store.save(KEY, StoredTokens(DUE))
        assert await took(refresher.get_valid_token("alice")) == ("due", 1.0)
        # The renewal goes on: callers that come after the first second do not wait at all, and then get its result.
        assert await took(refresher.get_valid_token("alice")) == ("due", 0.0)
        await asyncio.sleep(20)
        assert (await refresher.get_valid_token("alice")).access_token != "due"
        assert provider.requests == 1

    play(scene)


def test_w3_while_another_process_holds_the_lease_a_caller_with_a_valid_token_waits_for_a_second_at_most(
    play: Callable[..., None],
) -> None:
    async def scene(refresher: TokenRefresher, store: FaultyStore, provider: Minting) -> None:
        await refresher.save_tokens("alice", DUE)
        async with store.lease(KEY, timeout=0):
            assert await took(refresher.get_valid_token("alice")) == ("due", 1.0)
        assert provider.requests == 0

    play(scene)


@pytest.mark.parametrize("operation", ["load", "lease"])
def test_w1_while_the_store_hangs_a_caller_with_a_valid_token_waits_for_a_second_at_most(
    play: Callable[..., None], operation: Any
) -> None:
    async def scene(refresher: TokenRefresher, store: FaultyStore, provider: Minting) -> None:
        await refresher.save_tokens("alice", DUE)
        await asyncio.sleep(61)  # the cached entry is no longer current
        store.hang(operation)
        assert await took(refresher.get_valid_token("alice")) == ("due", 1.0)

    play(scene)


def test_w1_a_renewal_that_answers_in_time_is_waited_for(play: Callable[..., None]) -> None:
    async def scene(refresher: TokenRefresher, store: FaultyStore, provider: Minting) -> None:
        provider.seconds = 0.5
        await refresher.save_tokens("alice", DUE)
        access_token, waited = await took(refresher.get_valid_token("alice"))
        assert (access_token != "due", waited) == (True, 0.5)

    play(scene)


def test_w1_a_caller_who_asks_for_more_waits_to_the_end(play: Callable[..., None]) -> None:
    async def scene(refresher: TokenRefresher, store: FaultyStore, provider: Minting) -> None:
        calls: list[Callable[[], Coroutine[Any, Any, TokenSet]]] = [
            partial(refresher.get_valid_token, "alice", min_validity=250),
            partial(refresher.get_valid_token, "alice", rejected="due"),
            partial(refresher.refresh_token, "alice"),
        ]
        for call in calls:
            await refresher.save_tokens("alice", DUE)
            access_token, waited = await took(call())
            assert (access_token != "due", waited) == (True, 20.0)

    play(scene)


def test_w1_without_a_valid_token_a_caller_waits_to_the_end(play: Callable[..., None]) -> None:
    async def scene(refresher: TokenRefresher, store: FaultyStore, provider: Minting) -> None:
        await refresher.save_tokens("alice", EXPIRED)
        access_token, waited = await took(refresher.get_valid_token("alice"))
        assert (access_token != EXPIRED.access_token, waited) == (True, 20.0)

    play(scene)


def test_w1_patience_may_be_longer_or_without_end(play: Callable[..., None]) -> None:
    async def scene(refresher: TokenRefresher, store: FaultyStore, provider: Minting) -> None:
        await refresher.save_tokens("alice", DUE)
        waits.append(await took(refresher.get_valid_token("alice")))

    waits: list[tuple[str, float]] = []
    for patience in (0, 5, None):
        play(scene, patience=patience)
    assert [waited for _, waited in waits] == [0.0, 5.0, 20.0]


def test_w1_a_caller_who_keeps_token_sets_itself_has_the_same_patience(play: Callable[..., None]) -> None:
    async def scene(refresher: TokenRefresher, store: FaultyStore, provider: Minting) -> None:
        began = seconds()
        result = await refresher.ensure_valid_token("alice", DUE)
        assert (result.tokens, result.should_update, seconds() - began) == (DUE, False, 1.0)

    play(scene)


def test_w1_after_a_logout_no_patience_brings_the_token_back(play: Callable[..., None]) -> None:
    async def scene(refresher: TokenRefresher, store: FaultyStore, provider: Minting) -> None:
        await refresher.save_tokens("alice", DUE)
        caller = asyncio.create_task(refresher.get_valid_token("alice"))
        await asyncio.sleep(0.5)
        await refresher.delete_tokens("alice")
        assert (await caller).access_token != "due"

    play(scene)
