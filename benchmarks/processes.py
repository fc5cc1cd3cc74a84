"""Measure several processes that share one store and find the same token in it expired."""

import asyncio
import json
import sys
import tempfile
import time
from asyncio.subprocess import PIPE, Process
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import asdict, dataclass
from importlib import import_module
from statistics import median
from typing import Any, Final

from benchmarks.comparison import FULL, Effort
from benchmarks.peers import Callers, Peer, split, versions_note
from benchmarks.peers.crowd import PATIENCE_SECONDS, Served, failures_among
from benchmarks.provider import Conduct, Login, Provider, provider_process
from benchmarks.report import Cell, Table
from benchmarks.store_subjects import TESTS

SIZES: Final = (1, 2, 4, 8)
QUICK_SIZES: Final = (2,)
CALLERS: Final = 25
"""In each process."""

USERS: Final = 5
PROVIDER_SECONDS: Final = 0.05
"""The provider answers a refresh after this time."""

COLUMNS: Final = ("library and store", "processes", "callers", "requests", "failed", "grants revoked", "median ms")


@dataclass(frozen=True, slots=True)
class Subject:
    """A library on one of its stores. `server` names the module and the function that start the store's server."""

    peer: Peer
    server: tuple[str, str] | None = None


def _ours(name: str, server: tuple[str, str] | None = None, *, distributions: Sequence[str] = ()) -> Subject:
    peer = Peer(
        name=f"tokenflight, {name}",
        module="tokenflight",
        distributions=["tokenflight", "httpx", *distributions],
        callers=Callers.TASKS,
    )
    return Subject(peer, server)


SUBJECTS: Final = (
    _ours("files"),
    _ours("Redis", ("kit.redis_server", "running_server"), distributions=["redis"]),
    _ours(
        "PostgreSQL",
        ("kit.postgres_server", "postgres_server"),
        distributions=["sqlalchemy", "asyncpg"],
    ),
    Subject(
        Peer(
            name="httpx-auth, JSON file",
            module="httpx_auth",
            distributions=["httpx-auth"],
            callers=Callers.TASKS,
        )
    ),
    Subject(
        Peer(
            name="msal-extensions, file and lock",
            module="msal",
            distributions=["msal", "msal-extensions"],
            callers=Callers.THREADS,
        )
    ),
    Subject(
        Peer(
            name="botocore, SSO file cache",
            module="botocore",
            distributions=["botocore"],
            callers=Callers.THREADS,
        )
    ),
)


async def processes(effort: Effort) -> list[Table]:
    """Let the callers of 1, 2, 4 and 8 processes ask for one expired token, user by user."""
    sizes, callers, users = (SIZES, CALLERS, USERS) if effort is FULL else (QUICK_SIZES, 5, 1)
    installed, missing = split(subject.peer for subject in SUBJECTS)
    rows: list[Sequence[Cell]] = []
    async with provider_process() as provider:
        await provider.behave(Conduct(seconds=PROVIDER_SECONDS))
        for subject in SUBJECTS:
            if subject.peer in installed:
                rows += await _rows(subject, provider, sizes, callers, users)
    return [
        Table(
            f"Processes that share an expired token, {callers} callers each",
            COLUMNS,
            sorted(rows, key=lambda row: int(str(row[1]))),
            [
                f"requests and failed: the worst of {users} users; grants revoked: of {users}",
                "ms: until the last caller is served",
                f"the provider is a process of its own and takes {PROVIDER_SECONDS} s",
                *missing,
                versions_note(installed),
            ],
        )
    ]


@dataclass(frozen=True, slots=True)
class Outcome:
    """The result for one user."""

    requests: int
    failed: int
    revoked: bool
    seconds: float


async def _rows(
    subject: Subject, provider: Provider, sizes: Sequence[int], callers: int, users: int
) -> list[Sequence[Cell]]:
    rows: list[Sequence[Cell]] = []
    async with _location(subject) as shared, AsyncExitStack() as stack:
        workers = [await stack.enter_async_context(_worker(subject.peer)) for _ in range(max(sizes))]
        for worker in workers:
            await _line_of(worker)  # the worker is ready
        for size in sizes:
            outcomes = []
            for _ in range(users):
                login = await provider.login()
                with tempfile.TemporaryDirectory(prefix="tokenflight-benchmark-") as directory:
                    crowd = _Crowd(workers[:size], login, shared or directory)
                    outcomes.append(await crowd.rush(callers, provider))
            rows.append(
                (
                    subject.peer.name,
                    size,
                    size * callers,
                    max(outcome.requests for outcome in outcomes),
                    max(outcome.failed for outcome in outcomes),
                    sum(outcome.revoked for outcome in outcomes),
                    median(outcome.seconds * 1e3 for outcome in outcomes),
                )
            )
    return rows


@dataclass(frozen=True, slots=True)
class _Crowd:
    """The processes that share the tokens of one login."""

    workers: Sequence[Process]
    login: Login
    location: str

    async def rush(self, callers: int, provider: Provider) -> Outcome:
        """Let `callers` callers in each process ask at the same moment."""
        await self._tell(self.workers[:1], "seed")
        await self._tell(self.workers, "open")
        start = time.perf_counter()
        replies = await self._tell(self.workers, "ask", number=callers)
        seconds = time.perf_counter() - start
        await self._tell(self.workers, "close")
        served = Served([token for reply in replies for token in reply["tokens"]], seconds)
        failed, sight = await failures_among(served, self.login, provider)
        return Outcome(sight.requests, failed, sight.revoked, seconds)

    async def _tell(self, workers: Sequence[Process], command: str, **members: object) -> list[dict[str, Any]]:
        told = {"do": command, "login": asdict(self.login), "location": self.location, **members}
        line = f"{json.dumps(told)}\n".encode()
        for worker in workers:
            assert worker.stdin is not None
            worker.stdin.write(line)
        async with asyncio.timeout(PATIENCE_SECONDS):
            return [json.loads(await _line_of(worker)) for worker in workers]


async def _line_of(worker: Process) -> bytes:
    assert worker.stdout is not None
    line = await worker.stdout.readline()
    if not line:
        raise RuntimeError(f"a worker ended with exit status {await worker.wait()}")
    return line


@asynccontextmanager
async def _worker(peer: Peer) -> AsyncIterator[Process]:
    """Run a process until the context ends. It prints an empty line when it is ready."""
    arguments = ("-m", "benchmarks.peers.worker", peer.module, peer.callers.name)
    process = await asyncio.create_subprocess_exec(sys.executable, *arguments, stdin=PIPE, stdout=PIPE, limit=2**20)
    assert process.stdin is not None
    try:
        yield process
    finally:
        process.stdin.close()
        await process.wait()


@asynccontextmanager
async def _location(subject: Subject) -> AsyncIterator[str | None]:
    """Run the server of `subject` and yield its URL; yield None if each user gets a directory instead."""
    if subject.server is None:
        yield None
        return
    sys.path.append(TESTS)  # the modules that start servers are there
    module, function = subject.server
    with getattr(import_module(module), function)() as server:
        yield server.url
