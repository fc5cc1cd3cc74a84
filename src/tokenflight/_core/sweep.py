"""A pass over all users of a store: streamed, a few at a time, each with an outcome of its own."""

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable
from dataclasses import dataclass

from tokenflight.errors import TokenflightError
from tokenflight.tokens import TokenKey


@dataclass(frozen=True, slots=True)
class SweepOutcome:
    """What became of one user in a sweep.

    `renewed` tells that the token set was due and is a new one now; `error` why it is not. Neither: it was not due.
    """

    user_id: str
    renewed: bool = False
    error: TokenflightError | None = None


async def sweep(
    keys: AsyncGenerator[TokenKey, None], tend: Callable[[TokenKey], Awaitable[bool]], *, concurrency: int
) -> AsyncGenerator[SweepOutcome, None]:
    """Call `tend` on each of `keys`, at most `concurrency` at once; yield the outcomes as they come.

    `tend` tells whether it renewed. Only what is under way is held in memory.
    """
    pending: set[asyncio.Task[SweepOutcome]] = set()
    try:
        async for key in keys:
            pending.add(asyncio.create_task(_outcome(key, tend)))
            if len(pending) >= concurrency:
                done, pending = await asyncio.wait(pending, return_when=asyncio.FIRST_COMPLETED)
                for ended in done:
                    yield ended.result()
        while pending:
            done, pending = await asyncio.wait(pending, return_when=asyncio.FIRST_COMPLETED)
            for ended in done:
                yield ended.result()
    finally:
        for task in pending:  # who stops listening ends the sweep; a renewal under way is a flight and goes on
            task.cancel()
        if pending:
            await asyncio.wait(pending)
        await keys.aclose()


async def _outcome(key: TokenKey, tend: Callable[[TokenKey], Awaitable[bool]]) -> SweepOutcome:
    try:
        return SweepOutcome(key.user_id, renewed=await tend(key))
    except TokenflightError as exc:
        if exc.code == "closed":
            raise  # no user's failure
        return SweepOutcome(key.user_id, error=exc)
