"""Gates: a test holds an operation and acts in the meantime, without a sleep."""

import asyncio
from typing import Self


class Gate:
    """Holds operations until a test opens it. `FakeProvider.hold` and `FaultyStore.hold` make gates.

    As a context manager, it opens at the end of the block, so that a failed assertion leaves no operation held.
    """

    def __init__(self) -> None:
        self._arrived = 0
        self._arrival = asyncio.Event()
        self._opened = asyncio.Event()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.open()

    @property
    def is_open(self) -> bool:
        """Whether the gate is open and lets operations pass."""
        return self._opened.is_set()

    async def reached(self, n: int = 1) -> None:
        """Wait until `n` operations have arrived at the gate since it was made."""
        while self._arrived < n:
            self._arrival.clear()
            await self._arrival.wait()

    def open(self) -> None:
        """Release all held operations, and hold no more."""
        self._opened.set()

    async def wait_until_open(self) -> None:
        """Wait, as an operation, until the gate is open."""
        self._arrived += 1
        self._arrival.set()
        await self._opened.wait()
