"""The places for renewals that may be under way at the same moment."""

import asyncio
from typing import Self


class Place:
    """A place among the renewals under way. A renewal takes it and gives it back as often as it has to."""

    def __init__(self, places: asyncio.Semaphore) -> None:
        self._places = places
        self._is_taken = False

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.give_back()

    async def take(self) -> None:
        """Wait for a place, unless it is taken already."""
        if not self._is_taken:
            await self._places.acquire()
            self._is_taken = True

    def give_back(self) -> None:
        """Let another renewal have the place."""
        if self._is_taken:
            self._is_taken = False
            self._places.release()
