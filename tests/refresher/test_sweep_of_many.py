"""A sweep of 100,000 users takes the memory of a few, whatever the store; and the example of a cron job that sweeps."""

import asyncio
import gc
import logging
import os
import sys
import time
import tracemalloc
from asyncio.subprocess import PIPE
from collections import Counter
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Final, TypeVar

import pytest
from redis.asyncio import Redis
from sqlalchemy import insert
from sqlalchemy.ext.asyncio import create_async_engine

from kit.postgres_server import postgres_server
from kit.redis_server import running_server
from kit.support import login
from kit.tally import Counts, Tally
from tokenflight import (
    ClientSecretBasic,
    FileTokenStore,
    MemoryTokenStore,
    OIDCProvider,
    RefreshPolicy,
    StoredTokens,
    TokenKey,
    TokenRefresher,
    TokenSet,
    TokenStore,
)
from tokenflight.stores import new_version
from tokenflight.stores.redis import RedisTokenStore
from tokenflight.stores.sql import SQLTokenStore
from tokenflight.stores.sql._table import escape, row_id
from tokenflight.testing import FakeProvider, ServerError

T = TypeVar("T")

EXAMPLE: Final = Path(__file__).parents[2] / "examples" / "sweep.py"

ONE_IN: Final = 100
"""So few are due."""

READS_PER_RENEWAL: Final = 2
"""Beside the one that finds out that it is due: one to see whether that is still so, and one under the lease."""

A_FEW: Final = RefreshPolicy(max_cached_users=10)
"""Those renewed are kept in memory, which is not what a sweep is to be blamed for."""

ROOM_BYTES: Final = 400_000
ROOM_BYTES_PER_USER: Final = 12
"""For a tenfold number of users: a page of keys and noise, and a list of all keys, which the memory store makes."""

ROWS_AT_ONCE: Final = 5000


class Renewing:
    """A provider that remembers whom it renewed, and nothing else."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.renewals = Counter[str]()

    async def renew(self, user_id: str, tokens: TokenSet | None) -> TokenSet:
        self.renewals[user_id] += 1
        return tokens_of(user_id, life_left=3600)


def tokens_of(user_id: str, *, life_left: float) -> TokenSet:
    now = time.time()
    return TokenSet(
        f"access of {user_id}",
        refresh_token=f"refresh of {user_id}",
        expires_at=now + life_left,
        issued_at=now + life_left - 3600,
    )


def is_due(number: int) -> bool:
    return number % ONE_IN == 0


def records(provider: str, users: int) -> Iterator[tuple[TokenKey, StoredTokens]]:
    """The records of users 0, 1, 2 and so on: one in a hundred has expired."""
    for number in range(users):
        tokens = tokens_of(str(number), life_left=-1 if is_due(number) else 3600)
        yield TokenKey(provider, str(number)), StoredTokens(tokens, new_version())


def in_batches(several: Iterator[T]) -> Iterator[list[T]]:
    while batch := list(islice(several, ROWS_AT_ONCE)):
        yield batch


@pytest.fixture
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[TokenStore]:
    """An empty store of the kind that the test is parametrised with."""
    match request.param:
        case "memory":
            yield MemoryTokenStore()
        case "files":
            yield FileTokenStore(tmp_path)
        case "Redis":
            with running_server() as redis:
                yield RedisTokenStore(redis.url)
        case "PostgreSQL":
            with postgres_server() as postgres:
                yield SQLTokenStore(postgres.url)
        case "SQLite":
            yield SQLTokenStore(f"sqlite+aiosqlite:///{tmp_path}/tokens.db")


async def fill(store: TokenStore, provider: str, users: int) -> None:
    """Write records as `store` does, but many at once and without syncing each."""
    match store:
        case MemoryTokenStore():
            store._records.update(records(provider, users))
        case FileTokenStore():
            await asyncio.to_thread(fill_files, store, provider, users)
        case RedisTokenStore():
            assert isinstance(store._client, str)
            async with Redis.from_url(store._client) as client:
                for several in in_batches(records(provider, users)):
                    pipeline = client.pipeline(transaction=False)
                    for key, record in several:
                        fields = ("version", record.version, "record", store._codec.encode(key, record))
                        pipeline.execute_command("HSET", store._names.record(key), *fields)
                    await pipeline.execute()
        case SQLTokenStore():
            await store.create_table()
            assert store._database._url is not None
            engine = create_async_engine(store._database._url)
            async with engine.begin() as connection:
                for several in in_batches(records(provider, users)):
                    await connection.execute(insert(store._table), [row_of(store, *each) for each in several])
            await engine.dispose()


def fill_files(store: FileTokenStore, provider: str, users: int) -> None:
    store._make_directories(store._provider_directory(provider))
    for key, record in records(provider, users):
        descriptor = os.open(store._files(key).record, os.O_WRONLY | os.O_CREAT, 0o600)
        os.write(descriptor, store._codec.encode(key, record))
        os.close(descriptor)


def row_of(store: SQLTokenStore, key: TokenKey, record: StoredTokens) -> dict[str, object]:
    return {
        "id": row_id(key),
        "provider": escape(key.provider),
        "user_id": escape(key.user_id),
        "version": record.version,
        "record": store._codec.encode(key, record),
    }


class Reads:
    """Counts the reads of a store."""

    def __init__(self, store: TokenStore) -> None:
        self.total = 0
        self._load = store.load
        store.load = self.load  # type: ignore[method-assign]

    async def load(self, key: TokenKey) -> StoredTokens | None:
        self.total += 1
        return await self._load(key)


async def swept(store: TokenStore, reads: Reads, users: int) -> int:
    """Sweep so many users, see that each is met and those that are due renewed once; return the bytes it took."""
    provider = Renewing(f"provider of {users}")
    await fill(store, provider.name, users)
    met = bytearray(users)
    renewed = most_held = 0
    async with TokenRefresher(provider, store, policy=A_FEW) as refresher:
        before = held_now()
        reads_before, started = reads.total, time.monotonic()
        async for outcome in refresher.sweep():
            assert outcome.error is None
            met[int(outcome.user_id)] += 1
            renewed += outcome.renewed
            # Not the peak: now and then the interpreter moves its table of interned strings, and has it twice.
            held, _ = tracemalloc.get_traced_memory()
            most_held = max(most_held, held)
    due = [str(number) for number in range(users) if is_due(number)]
    assert provider.renewals == Counter(due)
    assert renewed == len(due)
    assert min(met) == 1
    repeated = sum(met) - users  # Redis may list a key twice
    assert repeated == 0 or isinstance(store, RedisTokenStore)
    assert 0 <= reads.total - reads_before - users - READS_PER_RENEWAL * len(due) <= repeated
    done = f"{users:,} users: {reads.total - reads_before:,} reads, {renewed:,} renewals, {most_held - before:,} bytes"
    sys.stdout.write(f"{done} in {time.monotonic() - started:.0f} s\n")
    return most_held - before


def held_now() -> int:
    """The bytes held now, garbage aside."""
    gc.collect()
    held, _ = tracemalloc.get_traced_memory()
    return held


@pytest.mark.parametrize(
    ("store", "users"),
    [
        pytest.param("memory", 2000, id="2,000 in memory"),
        pytest.param(
            "files", 2000, id="2,000 in files", marks=pytest.mark.long
        ),  # Python interns file names as it goes
        *(
            pytest.param(kind, 100_000, id=f"100,000 in {kind}", marks=[pytest.mark.long, pytest.mark.timeout(1800)])
            for kind in ("memory", "files", "Redis", "PostgreSQL", "SQLite")
        ),
    ],
    indirect=["store"],
)
async def test_l2_system_b_a_sweep_of_many_users_reads_each_once_and_takes_the_memory_of_a_few(
    store: TokenStore, users: int, request: pytest.FixtureRequest, tally: Tally, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.WARNING)  # what is logged is kept in memory by who captures it
    reads = Reads(store)
    tracemalloc.start()
    try:
        await swept(store, reads, ONE_IN)  # what is made once, at the first use
        few = await swept(store, reads, users // 10)
        many = await swept(store, reads, users)
    finally:
        tracemalloc.stop()
    assert many - few < ROOM_BYTES + ROOM_BYTES_PER_USER * users
    tally.add(f"sweep, {request.node.callspec.id}", Counts(refreshes=users // ONE_IN))


async def run_example(issuer: str, directory: Path, *options: str) -> tuple[int, list[str]]:
    """The exit status of examples/sweep.py, and the lines it printed."""
    environment = {**os.environ, "CLIENT_ID": "app", "CLIENT_SECRET": "s3cret", "PYTHONUTF8": "1"}
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-W", "error", os.fspath(EXAMPLE), os.fspath(directory), issuer, *options),
        stdout=PIPE,
        stderr=PIPE,
        env=environment,
    )
    out, errors = await process.communicate()
    sys.stderr.write(out.decode() + errors.decode())  # where it is searched for tokens
    assert process.returncode is not None
    return process.returncode, out.decode().splitlines()


async def test_system_b_the_example_of_a_cron_job_tells_who_has_to_log_in_again(
    fake: FakeProvider, tmp_path: Path
) -> None:
    async with fake.serve() as issuer, app(issuer, tmp_path) as refresher:
        for user_id, life_left in {"due": -1, "later": 2000, "fresh": 3000, "[i]Ida": -1}.items():
            await refresher.save_tokens(user_id, login(fake, user_id, life_left=life_left))
        fake.revoke("[i]Ida")
        exit_status, lines = await run_example(issuer, tmp_path)
        assert exit_status == 1
        assert lines[-1] == "4 users: 1 renewed, 2 not due, 1 to log in again, 0 failed"
        assert any(line.startswith("'[i]Ida': ") and "login" in line for line in lines)
        await refresher.delete_tokens("[i]Ida")
        exit_status, lines = await run_example(issuer, tmp_path, "--within", "1800")
        assert exit_status == 0
        assert lines[-1] == "3 users: 1 renewed, 2 not due, 0 to log in again, 0 failed"
    assert [fake.refreshes(user_id) for user_id in ("due", "later", "fresh")] == [1, 1, 0]


async def test_system_b_the_example_of_a_cron_job_tells_what_failed(fake: FakeProvider, tmp_path: Path) -> None:
    async with fake.serve() as issuer, app(issuer, tmp_path) as refresher:
        await refresher.save_tokens("alice", login(fake, "alice", life_left=-1))
        fake.fail(ServerError())
        exit_status, lines = await run_example(issuer, tmp_path)
    assert exit_status == 1
    assert any(line.startswith("'alice': ") and "500" in line for line in lines)
    assert lines[-1] == "1 users: 0 renewed, 0 not due, 0 to log in again, 1 failed"


def app(issuer: str, directory: Path) -> TokenRefresher:
    """The app whose users the cron job sweeps."""
    return TokenRefresher(OIDCProvider(issuer, ClientSecretBasic("app", "s3cret")), FileTokenStore(directory))
