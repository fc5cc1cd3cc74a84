"""X1-X11 with stores on the network: one refresh per expiry, whatever becomes of processes and servers."""

import sys
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final
from uuid import uuid4

import pytest

from kit.postgres_server import PostgresServer, pgbouncer, postgres_server
from kit.redis_server import RedisServer, running_server
from kit.storms.host_storms import SHORT_LIVED, Server, expiry_storm, freeze_storm, restart_storm
from kit.storms.kill_storm import kill_storm
from kit.storms.processes import Worker
from kit.storms.reports import fingerprint
from kit.storms.stores import StoreSpec
from kit.storms.storm import Storm, storm_on
from kit.storms.worker import Regime
from kit.tally import Tally
from tokenflight import RefreshPolicy

LEASE_SECONDS: Final = 3.0
"""Where leases are to lapse: as short as a busy machine allows."""

LONG_LEASE_SECONDS: Final = 10.0
"""Where no holder dies: longer than any stall."""

LONG_LIVED: Final = Regime(3600.0, RefreshPolicy())


@dataclass(frozen=True)
class Host:
    """A store, and its server if there is one."""

    name: str
    spec: StoreSpec
    server: Server | None = None


@dataclass(frozen=True)
class Size:
    """Of a storm."""

    processes: int
    seconds: float


STORES: Final = ["Redis", "PostgreSQL"]
SIZES: Final = [
    pytest.param(Size(2, 3), id="3 s"),
    pytest.param(Size(4, 30), id="30 s", marks=[pytest.mark.long, pytest.mark.timeout(180)]),
]


def on_hosts(brief: str) -> pytest.MarkDecorator:
    """Runs of a storm: a short one on the store named, and long ones on all."""
    short, long = SIZES
    runs = [pytest.param(brief, *short.values, id=f"{brief}-{short.id}")]
    runs += [pytest.param(name, *long.values, id=f"{name}-{long.id}", marks=long.marks) for name in STORES]
    return pytest.mark.parametrize(("host", "size"), runs, indirect=["host"])


@pytest.fixture(scope="module")
def redis() -> Iterator[RedisServer]:
    """A server that forgets nothing."""
    with running_server("--appendonly", "yes", "--appendfsync", "always") as server:
        yield server


@pytest.fixture(scope="module")
def postgres() -> Iterator[PostgresServer]:
    with postgres_server() as server:
        yield server


@pytest.fixture(params=STORES)
def host(request: pytest.FixtureRequest) -> Host:
    """A store with a server that can be restarted."""
    name = f"storm_{uuid4().hex}"
    if request.param == "Redis":
        redis: RedisServer = request.getfixturevalue("redis")
        return Host(request.param, StoreSpec("redis", redis.url, name, LEASE_SECONDS), redis)
    postgres: PostgresServer = request.getfixturevalue("postgres")
    return Host(request.param, StoreSpec("sql", postgres.url, name, LEASE_SECONDS), postgres)


@pytest.fixture
def sqlite(tmp_path: Path) -> Host:
    return Host("SQLite", StoreSpec("sql", f"sqlite+aiosqlite:///{tmp_path}/tokens.db", "tokens", LEASE_SECONDS))


@pytest.fixture
def pooler(postgres: PostgresServer) -> Iterator[Host]:
    with pgbouncer(postgres) as pooler:
        yield Host("PgBouncer", StoreSpec("sql behind a pooler", pooler.url, f"storm_{uuid4().hex}", LEASE_SECONDS))


@pytest.mark.parametrize("size", SIZES)
async def test_x1_x2_each_token_set_is_renewed_once_when_it_expires(host: Host, size: Size, tally: Tally) -> None:
    await each_token_set_is_renewed_once(host, size, tally)


@pytest.mark.long
@pytest.mark.timeout(180)
@pytest.mark.parametrize("kind", ["sqlite", "pooler"])
async def test_x1_x11_in_a_file_or_behind_a_pooler_too_each_token_set_is_renewed_once(
    kind: str, request: pytest.FixtureRequest, tally: Tally
) -> None:
    await each_token_set_is_renewed_once(request.getfixturevalue(kind), Size(4, 30), tally)


async def each_token_set_is_renewed_once(host: Host, size: Size, tally: Tally) -> None:
    spec = replace(host.spec, lease_duration=LONG_LEASE_SECONDS)
    verdict = await expiry_storm(spec, seconds=size.seconds, processes=size.processes)
    tally.add(f"expiry storm, {host.name}", verdict.counts)
    assert verdict.faults == []
    assert (verdict.counts.reuses, verdict.counts.excused_reuses, verdict.counts.users_lost) == (0, 0, 0)
    assert verdict.counts.refreshes >= size.seconds / SHORT_LIVED.lifetime * 20


@on_hosts("Redis")
async def test_x7_p8_processes_killed_every_second_cost_nobody_a_login(host: Host, size: Size, tally: Tally) -> None:
    verdict = await kill_storm(
        host.spec,
        seconds=size.seconds,
        processes=size.processes,
        patient=True,
        regime=SHORT_LIVED,
        shortest_peace=0.2,
        longest_peace=0.8,
    )
    tally.add(f"kill storm, {host.name}", verdict.counts)
    assert verdict.faults == []
    assert (verdict.counts.reuses, verdict.counts.users_lost) == (0, 0)
    assert verdict.counts.kills >= size.seconds / 5


@on_hosts("PostgreSQL")
async def test_p1_p7_a_server_restarted_with_replies_in_the_air_costs_nobody_a_login(
    host: Host, size: Size, tally: Tally
) -> None:
    assert host.server is not None
    verdict = await restart_storm(host.spec, host.server, seconds=size.seconds, processes=size.processes)
    tally.add(f"restart storm, {host.name}", verdict.counts)
    sys.stdout.write(f"{verdict.outage_failures} callers were told of {verdict.counts.faults} outages\n")
    assert verdict.faults == []
    assert (verdict.counts.reuses, verdict.counts.excused_reuses, verdict.counts.users_lost) == (0, 0, 0)


@pytest.mark.long
@pytest.mark.timeout(180)
async def test_x3_processes_that_stand_still_longer_than_their_leases_cost_nobody_a_login(
    host: Host, tally: Tally
) -> None:
    verdict = await freeze_storm(host.spec, seconds=30, processes=4)
    tally.add(f"freeze storm, {host.name}", verdict.counts)
    assert verdict.faults == []
    assert (verdict.counts.reuses, verdict.counts.users_lost) == (0, 0)


async def test_x3_a_holder_that_stood_still_before_it_asked_adopts_what_its_successor_stored(host: Host) -> None:
    async with storm_on(brief(host), users=1, tasks=2, regime=LONG_LIVED) as storm:
        await storm.log_in("user-0", life_left=-1)
        holder = await storm.crew.start(stands_still=True)
        await holder.has_frozen()
        successor = await storm.crew.start()
        await successor.has_reported("served")
        holder.thaw()
        await holder.has_reported("served")
        await end_all(storm)
        stored = await storm.record("user-0")
    assert served_by(holder) == served_by(successor) == {fingerprint(stored.tokens.access_token)}
    assert (storm.fake.requests(), storm.fake.reuses()) == (1, 0)


async def test_x3_a_holder_that_stood_still_with_the_reply_in_the_air_leaves_its_successors_record(host: Host) -> None:
    async with storm_on(brief(host), users=1, tasks=2, regime=LONG_LIVED) as storm:
        storm.fake.rotation = "never"  # so that the successor can renew too
        holder, successor = await overtaken_with_the_reply_in_the_air(storm)
        await successor.has_reported("served")
        holder.thaw()
        await holder.has_reported("served")
        await end_all(storm)
        stored = await storm.record("user-0")
    assert any(holder.of_kind("discarded"))
    assert served_by(holder) == served_by(successor) == {fingerprint(stored.tokens.access_token)}
    assert (storm.fake.requests(), storm.fake.refreshes()) == (2, 2)


async def test_x3_x6_the_late_reply_of_a_holder_that_stood_still_makes_good_its_successors_refusal(host: Host) -> None:
    async with storm_on(brief(host), users=1, tasks=2, regime=LONG_LIVED) as storm:
        storm.fake.strict = False  # otherwise the successor's request revokes the grant
        holder, successor = await overtaken_with_the_reply_in_the_air(storm)
        await successor.has_reported("failed")
        assert (await storm.record("user-0")).refused
        holder.thaw()
        for worker in (holder, successor):
            await worker.has_reported("served")
        assert await storm.users_lost() == set()
        await end_all(storm)
    assert len(served_by(holder)) == 1
    assert served_by(holder) == served_by(successor)
    assert (storm.fake.requests(), storm.fake.refreshes(), storm.fake.reuses()) == (2, 1, 1)


def brief(host: Host) -> StoreSpec:
    """The store with leases as brief as they may be where the one who holds it stands still anyway."""
    return replace(host.spec, lease_duration=1.0)


async def overtaken_with_the_reply_in_the_air(storm: Storm) -> tuple[Worker, Worker]:
    """A holder that stands still, having asked but not heard the reply, and who waits for its lease to lapse."""
    await storm.log_in("user-0", life_left=-1)
    with storm.fake.hold(after=True) as gate:
        holder = await storm.crew.start()
        await gate.reached()
        await storm.freeze(holder)
    return holder, await storm.crew.start()


async def end_all(storm: Storm) -> None:
    for worker in storm.crew.running:
        worker.dismiss()
        assert await worker.ended() == 0


def served_by(worker: Worker) -> set[str]:
    """The fingerprints of the access tokens that its callers got."""
    return {report.access for report in worker.of_kind("served")}
