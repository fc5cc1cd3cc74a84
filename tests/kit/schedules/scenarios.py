"""What may come to a user and some refreshers: each scenario sets the scene, and says which rules it adds."""

from collections.abc import Callable
from typing import Final

from kit.schedules.explorer import Scenario, Schedule
from kit.schedules.parts import Fault
from kit.schedules.world import LIBRARY, Parts, World, get, get_for_long, holding, renew
from kit.tally import Counts

ONCE: Final = range(1, 2)

EXPIRED, DUE, AGING, FRESH = -10.0, 100.0, 310.0, 2000.0
"""Seconds of life left."""

STORE_OPERATIONS: Final = ("load", "lease", "release", "replace", "save", "delete")
"""Those of flights first."""

PROVIDER_ERRORS: Final = frozenset({"provider_unavailable", "outcome_unknown", "deadline_exceeded"})
STORE_ERRORS: Final = frozenset({"store_unavailable", "timeout", "lease_timeout", "unsaved", "deadline_exceeded"})


async def a_crowd_comes(world: World) -> None:
    """S1, S3, S8, X8: one request, whoever is cancelled, and however many processes there are."""
    await world.begin(world.random.choice((EXPIRED, DUE)), trust=world.random.choice((60, None)))
    world.requests = ONCE
    world.callers(get, get_for_long)
    world.cancellations()


async def a_token_ages(world: World) -> None:
    """Callers get what there is at once; one request in the background."""
    await world.begin(AGING, trust=world.random.choice((60, None)))
    world.requests = ONCE
    world.callers(get, get_for_long)
    world.cancellations()


async def a_token_is_rejected(world: World) -> None:
    """S7, S11: stragglers with the same 401 make one request, and nobody gets the token again."""
    tokens = await world.begin(world.random.choice((FRESH, AGING)))
    world.requests = ONCE
    world.rejections(tokens)
    world.callers(get)
    world.cancellations()
    world.rejections(tokens)  # of whom nobody is cancelled


async def renewals_are_forced(world: World) -> None:
    """Each who forces a renewal makes one or joins one."""
    await world.begin(world.random.choice((FRESH, DUE)))
    world.callers(renew, get_for_long)
    world.cancellations()


async def users_come_and_go(world: World) -> None:
    """X9, X10: logins and logouts win over the renewals under way, in whatever process."""
    await world.begin(world.random.choice((EXPIRED, DUE, AGING, FRESH)))
    logouts = world.random.randint(0, 2)
    world.logouts(logouts)
    world.logins(world.random.randint(0 if logouts else 1, 2))
    world.allowed = frozenset({"no_tokens"} if logouts else ())
    world.callers(get, get_for_long, renew)
    world.cancellations()


async def saving_fails(world: World) -> None:
    """P1: the callers get the rotated token, nobody sends the spent one, and it is stored in the end or told of."""
    await world.begin(world.random.choice((EXPIRED, DUE)))
    world.recovers = world.random.random() < 0.8
    faults = world.some_faults(Fault.UNREACHABLE, Fault.REPLY_LOST, Fault.STALLED)
    world.store.faults["replace"] = faults if world.recovers else [Fault.UNREACHABLE] * 1000
    world.requests = ONCE
    world.may_serve_unsaved = True
    world.allowed = frozenset({"lease_timeout"} if len(world.refreshers) > 1 else ())
    world.callers(get, get_for_long)
    world.cancellations()


async def the_store_fails(world: World) -> None:
    """P7: whatever operation fails, nothing is lost."""
    await world.begin(world.random.choice((EXPIRED, DUE, AGING)))
    for operation in world.random.sample(STORE_OPERATIONS[:4], 2):
        world.store.faults[operation] = world.some_faults(Fault.UNREACHABLE, Fault.REPLY_LOST)
    world.may_serve_unsaved = True
    world.allowed = STORE_ERRORS
    world.callers(get, get_for_long, renew)
    world.cancellations()


async def the_provider_is_down(world: World) -> None:
    """S4, T1, T4, T5: the failure is shared, the cool-down kept, and all is well afterwards."""
    life_left = world.random.choice((EXPIRED, DUE))
    await world.begin(life_left)
    world.provider.faults = world.some_faults(Fault.UNREACHABLE)
    world.provider.least_pause = 0.5 if len(world.refreshers) == 1 else 0.0
    world.requests = range(1, len(world.provider.faults) + 2)
    world.allowed = frozenset({"provider_unavailable"})
    world.serves = life_left is DUE
    world.callers(get, get_for_long)
    world.cancellations()


async def a_reply_is_lost(world: World) -> None:
    """T4, T6, S6: it is not replayed at once, and what came of it is told as it is."""
    life_left = world.random.choice((EXPIRED, DUE))
    await world.begin(life_left)
    world.provider.faults = [world.random.choice((Fault.REPLY_LOST, Fault.STALLED))]
    world.provider.least_pause = 0.5 if len(world.refreshers) == 1 else 0.0
    world.allowed = PROVIDER_ERRORS | {"refused", "lease_timeout"}
    world.serves = life_left is DUE and Fault.STALLED not in world.provider.faults
    world.callers(get, get_for_long, renew)
    world.cancellations()


async def the_grant_is_revoked(world: World) -> None:
    """T3: a dead refresh token is sent once, by whatever process."""
    tokens = await world.begin(world.random.choice((EXPIRED, DUE)))
    world.provider.grant(tokens).revoked = True
    world.requests = ONCE
    world.allowed = frozenset({"refused"})
    world.callers(get, get_for_long, renew)
    world.cancellations()


async def callers_keep_the_tokens(world: World) -> None:
    """S8: callers who hold the same row make one request, also those who come with it too late."""
    row = await world.begin(world.random.choice((EXPIRED, DUE)), stored=world.random.random() < 0.5)
    world.requests = range(2)
    world.callers(holding(row))
    world.cancellations()


async def a_user_with_a_row_logs_out(world: World) -> None:
    """X9: a logout is not undone by the rows that callers came with before."""
    stored = world.random.random() < 0.5
    row = await world.begin(world.random.choice((EXPIRED, DUE)), refreshers=1, stored=stored)
    world.allowed = frozenset({"no_tokens"})
    world.ends_logged_out = True
    world.callers(holding(row))
    await world.all_have_come.wait()
    world.cancellations()
    world.logouts(1)


async def a_user_with_a_row_logs_in(world: World) -> None:
    """X10: a login is not overwritten by the rows that callers came with before."""
    row = await world.begin(world.random.choice((EXPIRED, DUE)), refreshers=1, stored=False)
    world.ends_logged_in = True
    world.callers(holding(row))
    await world.all_have_come.wait()
    world.cancellations()
    world.logins(1)


async def a_refresher_closes(world: World) -> None:
    """L3: what is under way is finished and stored."""
    await world.begin(world.random.choice((EXPIRED, DUE, AGING)))
    world.requests = range(2)
    world.allowed = frozenset({"closed"})
    world.callers(get, get_for_long)
    world.closings(world.random.randint(1, len(world.refreshers)))
    world.cancellations()


async def everything_happens(world: World) -> None:
    """All of it at once."""
    tokens = await world.begin(world.random.choice((EXPIRED, DUE, AGING, FRESH)))
    failing = world.random.sample(STORE_OPERATIONS, 2)
    for operation in failing:
        world.store.faults[operation] = world.some_faults(*Fault)
    world.provider.faults = world.some_faults(*Fault)
    world.may_serve_unsaved = True
    world.allowed = PROVIDER_ERRORS | STORE_ERRORS | {"no_tokens", "refused", "closed"}
    world.callers(get, get_for_long, renew)
    world.rejections(tokens)
    world.logins(world.random.randint(0, 2))
    world.logouts(world.random.randint(0, 1))
    if "replace" not in failing:  # closed while it can't store, a refresher loses what it renewed, and says so
        world.closings(world.random.randint(0, len(world.refreshers) - 1))
    world.cancellations()


SCENARIOS: Final = (
    a_crowd_comes,
    a_token_ages,
    a_token_is_rejected,
    renewals_are_forced,
    users_come_and_go,
    saving_fails,
    the_store_fails,
    the_provider_is_down,
    a_reply_is_lost,
    the_grant_is_revoked,
    callers_keep_the_tokens,
    a_user_with_a_row_logs_out,
    a_user_with_a_row_logs_in,
    a_refresher_closes,
    everything_happens,
)


def scenarios(parts: Parts = LIBRARY, *, tell: Callable[[Counts], None] = lambda _: None) -> Scenario:
    """Each seed's choice of a scenario, in a world made of `parts`; `tell` hears what happened."""

    async def choose(schedule: Schedule) -> None:
        scenario = schedule.random.choice(SCENARIOS)
        schedule.note(scenario.__name__)
        world = World(schedule, parts)
        try:
            await scenario(world)
            await world.end()
        finally:
            await world.close()
        world.look_back()
        tell(world.counts())

    return choose
