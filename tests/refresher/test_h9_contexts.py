"""H9: a flight keeps nothing of the request alive that happened to start it."""

import asyncio
import gc
import weakref
from contextvars import ContextVar

from kit.minting import Minting
from tokenflight import MemoryTokenStore, SaveFailed, TokenEvent, TokenRefresher, TokenSet
from tokenflight.testing import FaultyStore

EXPIRED = TokenSet("old", refresh_token="old", expires_at=1.0)

made_by: ContextVar[str] = ContextVar("made_by", default="nobody")


class Request:
    """Something large."""


request: ContextVar[Request] = ContextVar("request")


async def is_alive(request: weakref.ref[Request]) -> bool:
    await asyncio.sleep(0)  # the step of the event loop that has just seen the request end holds its task
    gc.collect()
    return request() is not None


async def handle(refresher: TokenRefresher) -> weakref.ref[Request]:
    """Serve a request in a context of its own, and give it up before the token is there."""
    request.set(Request())
    waiting = asyncio.create_task(refresher.get_valid_token("alice"))
    await asyncio.sleep(0.01)
    waiting.cancel()
    await asyncio.wait([waiting])
    return weakref.ref(request.get())


async def test_h9_a_flight_that_hangs_keeps_no_context_variable_of_its_first_caller_alive() -> None:
    async with TokenRefresher(Minting(seconds=0.2)) as refresher:
        await refresher.save_tokens("alice", EXPIRED)
        first = await asyncio.create_task(handle(refresher))
        assert not await is_alive(first)
        assert (await refresher.get_valid_token("alice")).access_token


async def test_h9_a_save_that_is_tried_again_and_again_keeps_none_alive_either() -> None:
    store, events = FaultyStore(MemoryTokenStore()), list[TokenEvent]()
    async with TokenRefresher(Minting(), store, on_event=events.append) as refresher:
        await refresher.save_tokens("alice", EXPIRED)
        store.fail("replace")
        first = await asyncio.create_task(handle(refresher))
        assert isinstance(events[-1], SaveFailed)
        assert not await is_alive(first)
        store.recover()


async def test_h9_a_provider_runs_in_the_context_in_which_the_refresher_was_made() -> None:
    seen: list[str] = []

    class Looking(Minting):
        async def renew(self, user_id: str, tokens: TokenSet | None) -> TokenSet:
            seen.append(made_by.get())
            return await super().renew(user_id, tokens)

    made_by.set("the app")
    async with TokenRefresher(Looking()) as refresher:
        made_by.set("a request")
        await refresher.get_valid_token("alice")
    assert seen == ["the app"]
