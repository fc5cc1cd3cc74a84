"""A process that closes its event loop under a renewal, and then its refresher on another event loop.

Its argument says what is under way: ``a flight``, ``a save`` that fails to the end, or ``a save`` that ``recovers``. It
prints how closing ended. What such an event loop leaves behind complains when it is collected, in a process of its own.
"""

import asyncio
import os
import sys
from collections.abc import Awaitable, Callable

from kit.minting import EXPIRED, KEY, Minting, renewed_of
from tokenflight import MemoryTokenStore, StoredTokens, StoreUnavailable, TokenRefresher
from tokenflight.testing import FaultyStore


def run_and_close_the_loop_under_it(program: Callable[[], Awaitable[None]]) -> None:
    loop = asyncio.new_event_loop()
    loop.set_exception_handler(lambda _loop, _context: None)
    loop.run_until_complete(program())
    loop.close()


def main(under_way: str) -> None:
    store = FaultyStore(MemoryTokenStore())
    refresher = TokenRefresher(Minting(seconds=60 if under_way == "a flight" else 0), store)

    async def leave() -> None:
        await store.save(KEY, StoredTokens(EXPIRED))
        if under_way == "a flight":
            caller = asyncio.create_task(refresher.get_valid_token("alice"))
            await asyncio.sleep(0.01)
            assert not caller.done()
        else:
            store.fail("replace")
            await refresher.get_valid_token("alice")

    async def close() -> None:
        if under_way == "a save that recovers":
            store.recover()
        async with asyncio.timeout(5):
            try:
                await refresher.aclose()
            except StoreUnavailable as exc:
                sys.stdout.write(f"{exc.code}: {exc}\n")
                return
        record = await store.load(KEY)
        stored = record is not None and record.tokens == renewed_of("alice")
        sys.stdout.write("closed, and stored\n" if stored else "closed\n")

    run_and_close_the_loop_under_it(leave)
    asyncio.run(close())
    sys.stdout.flush()
    os._exit(0)  # what the closed event loop has left behind is not of interest


if __name__ == "__main__":
    main(*sys.argv[1:])
