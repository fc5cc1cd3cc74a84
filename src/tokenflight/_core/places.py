"""The places for renewals that may be under way at the same moment.

A place is for a renewal that is answered. One that hangs gives its place to another after a moment; from then on it
counts against the bound of all renewals under way alone. So users whose renewals hang do not hold up the others, and
a provider that answers nobody still gets no more than so many requests at once. Whoever asks for a place first gets it
first, of either kind.
"""

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Self


class Places:
    """`answering` places for renewals that are answered, and `in_all` for those that hang too."""

    def __init__(self, answering: int, in_all: int) -> None:
        self.answering = asyncio.Semaphore(answering)
        self.in_all = asyncio.Semaphore(in_all)


class Place:
    """A place among the renewals under way. A renewal takes it and gives it back as often as it has to."""

    def __init__(self, places: Places) -> None:
        self._places = places
        self._is_under_way = False
        self._is_answering = False

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.give_back()

    async def take(self) -> None:
        """Wait for a place, unless it is taken already."""
        if not self._is_under_way:
            await self._places.in_all.acquire()
            self._is_under_way = True
        if not self._is_answering:
            await self._places.answering.acquire()
            self._is_answering = True

    def give_back(self) -> None:
        """Let another renewal have the place."""
        self._stop_answering()
        if self._is_under_way:
            self._is_under_way = False
            self._places.in_all.release()

    @contextmanager
    def given_up_after(self, seconds: float) -> Iterator[None]:
        """If the body takes longer than `seconds`, let a renewal that is answered have the place meanwhile."""
        timer = asyncio.get_running_loop().call_later(seconds, self._stop_answering)
        try:
            yield
        finally:
            timer.cancel()

    def _stop_answering(self) -> None:
        if self._is_answering:
            self._is_answering = False
            self._places.answering.release()
