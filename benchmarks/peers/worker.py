"""An app's process that shares tokens with other processes: `python -m benchmarks.peers.worker MODULE CALLERS`.

It reads commands, one JSON object a line, and answers each with a line: ``seed`` writes the tokens of a login to the
shared location, ``open`` opens the library, ``ask`` lets a number of callers ask at once, ``close`` closes the library.
"""

import asyncio
import json
import logging
import sys
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from importlib import import_module
from typing import Any

from benchmarks.peers import Callers
from benchmarks.peers.base import Session
from benchmarks.peers.crowd import serve
from benchmarks.provider import Login


async def main(module: str, kind: str) -> None:
    """Run commands until standard input ends."""
    adapter: Any = import_module(f"benchmarks.peers.{module}")
    callers = Callers[kind]
    session: Session | None = None
    print(flush=True)
    async with AsyncExitStack() as stack:
        async for command in _commands():
            login, location = Login(**command["login"]), command["location"]
            told: dict[str, object] = {}
            match command["do"]:
                case "seed":
                    await adapter.seed(login, location)
                case "open":
                    session = await stack.enter_async_context(adapter.open_shared(login, location))
                case "ask":
                    assert session is not None
                    served = await serve(session, callers, command["number"], login)
                    told = {"tokens": served.tokens}
                case "close":
                    await stack.aclose()
            print(json.dumps(told), flush=True)


async def _commands() -> AsyncIterator[dict[str, Any]]:
    while line := await asyncio.to_thread(sys.stdin.readline):
        yield json.loads(line)


if __name__ == "__main__":
    logging.getLogger().addHandler(logging.NullHandler())
    asyncio.run(main(*sys.argv[1:]))
