"""The scenes of the demo: situations in which other programs fail, played on a stage."""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass
from typing import Final

from tokenflight.cli.demo._calls import Tally
from tokenflight.cli.demo._processes import further_process
from tokenflight.cli.demo._stage import LIFETIME_SECONDS, Counts, Stage
from tokenflight.testing import DropRequest

LONG_EXPIRED_SECONDS: Final = 2 * LIFETIME_SECONDS
"""An access token of this age expired an hour ago."""

NEARLY_EXPIRED_SECONDS: Final = LIFETIME_SECONDS - 200
"""An access token of this age is still valid, but within the expiry buffer."""

MANY_CALLS: Final = 1000
MANY_USERS: Final = 200
CALLS: Final = 100
PROCESSES: Final = 2
CALLS_PER_PROCESS: Final = 25


@dataclass(frozen=True, slots=True)
class Scene:
    """`play` acts on a stage and returns the callers' tally; `promise` puts `expected` into words."""

    title: str
    promise: str
    expected: Counts
    play: Callable[[Stage], Awaitable[Tally]]


async def play_many_calls(stage: Stage) -> Tally:
    """One user's token has expired, and a thousand callers ask for it at once."""
    await stage.log_in("alice", seconds_ago=LONG_EXPIRED_SECONDS)
    return await _calls_of(stage, ["alice"] * MANY_CALLS)


async def play_many_users(stage: Stage) -> Tally:
    """All users' tokens have expired, and each user makes a call."""
    user_ids = [f"user-{number}" for number in range(MANY_USERS)]
    await asyncio.gather(*(stage.log_in(user_id, seconds_ago=LONG_EXPIRED_SECONDS) for user_id in user_ids))
    return await _calls_of(stage, user_ids)


async def play_cancelled_caller(stage: Stage) -> Tally:
    """The caller that started the refresh is cancelled while the provider handles it."""
    await stage.log_in("bob", seconds_ago=LONG_EXPIRED_SECONDS)
    async with asyncio.TaskGroup() as callers:
        with stage.fake.hold() as gate:
            first, *others = [callers.create_task(stage.call("bob")) for _ in range(CALLS)]
            await gate.reached()
            first.cancel()
    return Tally.of_calls(caller.result() for caller in others)


async def play_processes(stage: Stage) -> Tally:
    """Other processes need a token while this one is renewing it.

    The worst moment: the provider has spent the refresh token in the store, and its reply is still on the way.
    """
    await stage.log_in("carol", seconds_ago=LONG_EXPIRED_SECONDS)
    async with asyncio.TaskGroup() as group, AsyncExitStack() as processes:
        with stage.fake.hold(after=True) as gate:
            group.create_task(stage.refresher.get_valid_token("carol"))
            await gate.reached()
            stage.meter.restart()  # count the requests of the other processes only
            started = [
                await processes.enter_async_context(further_process(stage, "carol", calls=CALLS_PER_PROCESS))
                for _ in range(PROCESSES)
            ]
            await asyncio.gather(*(process.asks_for_lease() for process in started))
        tallies = await asyncio.gather(*(process.tally() for process in started))
    return Tally(
        failed=sum(tally.failed for tally in tallies),
        adopted=sum(tally.adopted for tally in tallies),
        problem=next((tally.problem for tally in tallies if tally.problem is not None), None),
    )


async def play_revoked_token(stage: Stage) -> Tally:
    """The API rejects a token that has not expired."""
    await stage.log_in("dave")
    stage.fake.revoke_access_tokens("dave")
    return await _calls_of(stage, ["dave"] * CALLS)


async def play_provider_down(stage: Stage) -> Tally:
    """A token is due but valid for minutes more, and the provider drops every connection."""
    await stage.log_in("erin", seconds_ago=NEARLY_EXPIRED_SECONDS)
    stage.fake.fail(DropRequest())
    try:
        return await _calls_of(stage, ["erin"] * CALLS)
    finally:
        stage.fake.recover()


SCENES: Final = (
    Scene(
        f"{MANY_CALLS:,} calls, one user",
        "token expired: 1 refresh",
        Counts(api_calls=MANY_CALLS, token_requests=1, refreshes=1),
        play_many_calls,
    ),
    Scene(
        f"{MANY_USERS} users at once",
        "1 refresh each",
        Counts(api_calls=MANY_USERS, token_requests=MANY_USERS, refreshes=MANY_USERS),
        play_many_users,
    ),
    Scene(
        "first caller cancelled",
        f"the other {CALLS - 1} never notice",
        Counts(api_calls=CALLS - 1, token_requests=1, refreshes=1),
        play_cancelled_caller,
    ),
    Scene(
        f"{PROCESSES} further processes",
        "they adopt, 0 refreshes",
        Counts(api_calls=PROCESSES * CALLS_PER_PROCESS, token_requests=0, refreshes=0, adopted=PROCESSES),
        play_processes,
    ),
    Scene(
        "token revoked at the API",
        "401, 1 refresh, replayed",
        Counts(api_calls=2 * CALLS, token_requests=1, refreshes=1),
        play_revoked_token,
    ),
    Scene(
        "provider down",
        "calls go on",
        Counts(api_calls=CALLS, token_requests=1, refreshes=0),
        play_provider_down,
    ),
)


async def _calls_of(stage: Stage, user_ids: Sequence[str]) -> Tally:
    """Make one call for each of `user_ids`, all at once."""
    return Tally.of_calls(await asyncio.gather(*(stage.call(user_id) for user_id in user_ids)))
