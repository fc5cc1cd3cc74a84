"""Holding requests at the provider, so that a test can act while they are there without sleeping."""

import asyncio
from typing import Self


class Gate:
    """Holds the requests that come to it until it is opened; made by `FakeProvider.hold`.

    As a context manager it opens at the end of the block, so that a failed assertion leaves nobody waiting.
    """

    def __init__(self) -> None:
        self._held = 0
        self._arrival = asyncio.Event()
        self._opened = asyncio.Event()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.open()

    @property
    def is_open(self) -> bool:
        """Whether requests pass."""
        return self._opened.is_set()

    async def reached(self, n: int = 1) -> None:
        """Wait until `n` requests have come to the gate since it was made."""
        while self._held < n:
            self._arrival.clear()
            await self._arrival.wait()

    def open(self) -> None:
        """Let go of all requests held, and hold no more."""
        self._opened.set()

    async def passage(self) -> None:
        """Wait, as a request, until the gate is open."""
        self._held += 1
        self._arrival.set()
        await self._opened.wait()
