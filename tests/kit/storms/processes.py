"""Worker processes as a storm sees them: started, killed, interrupted, dismissed, and heard."""

import asyncio
import os
import signal
import sys
import time
from asyncio.subprocess import PIPE, Process
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Final

from kit.storms import worker
from kit.storms.ledger import WatchedProvider
from kit.storms.reports import Kind, Life, Pause, heard
from kit.storms.stores import StoreSpec
from tokenflight import RefreshPolicy

PATIENCE_SECONDS: Final = 30.0
"""How long anything that has to happen is waited for."""


class Worker(Life):
    """A process, and what is known of it. Each start is a worker of its own, with a `number` of its own."""

    def __init__(self, number: int, process: Process) -> None:
        super().__init__(number)
        self._process = process
        self._news = asyncio.Event()
        self._hearing = asyncio.create_task(self._hear())
        self._complaints = asyncio.create_task(_read_all(process))

    @property
    def is_running(self) -> bool:
        """Whether it has not ended yet, as far as is known."""
        return self._process.returncode is None

    async def has_reported(self, kind: Kind) -> None:
        """Wait for its first report of `kind`."""
        async with asyncio.timeout(PATIENCE_SECONDS):
            while not any(self.of_kind(kind)):
                assert not self._hearing.done(), f"{self} ended early: {await self._complaints}"
                self._news.clear()
                await self._news.wait()

    async def kill(self) -> None:
        """Send it a SIGKILL and wait until it is dead and all it reported has been heard."""
        self.killed_at = time.monotonic()
        self._process.kill()
        exit_status = await self.ended()
        self.reaped_at = time.monotonic()
        assert exit_status == -signal.SIGKILL, f"{self} had ended before: {await self._complaints}"

    def freeze(self) -> None:
        """Send it a SIGSTOP, and wait until it stands still."""
        begun = time.monotonic()
        self._process.send_signal(signal.SIGSTOP)
        self._note_pause(begun)

    async def has_frozen(self) -> None:
        """Wait until it has stopped itself, as it was started to do."""
        begun = time.monotonic()
        await self.has_reported("standing still")
        self._note_pause(begun)

    def thaw(self) -> None:
        """Let it go on."""
        self.pauses[-1] = replace(self.pauses[-1], over=time.monotonic())
        self._process.send_signal(signal.SIGCONT)

    def interrupt(self) -> None:
        """Send it what Ctrl-C sends."""
        self._process.send_signal(signal.SIGINT)

    def dismiss(self) -> None:
        """Let its ``main`` return."""
        assert self._process.stdin is not None
        self._process.stdin.close()

    async def ended(self) -> int:
        """Wait for its end and return its exit status. What it logged becomes this process's standard error."""
        async with asyncio.timeout(PATIENCE_SECONDS):
            exit_status = await self._process.wait()
            await self._hearing
            sys.stderr.write(await self._complaints)  # where it is searched for tokens
        assert self._process.stdin is not None
        self._process.stdin.close()
        return exit_status

    def _note_pause(self, begun: float) -> None:
        _, status = os.waitpid(self._process.pid, os.WUNTRACED)
        assert os.WIFSTOPPED(status), f"{self} has ended instead"
        self.pauses.append(Pause(begun, certain=time.monotonic()))

    async def _hear(self) -> None:
        assert self._process.stdout is not None
        async for line in self._process.stdout:
            self.reports.append(heard(line))
            self._news.set()
        self._news.set()


class Crew:
    """All workers of a storm, dead or alive."""

    def __init__(
        self, store: StoreSpec, provider: WatchedProvider, users: list[str], tasks: int, policy: RefreshPolicy
    ) -> None:
        self.workers: dict[int, Worker] = {}
        """By number, from 1."""
        self._store = store
        self._provider = provider
        self._users = users
        self._tasks = tasks
        self._policy = policy

    @property
    def running(self) -> list[Worker]:
        """The workers that have not ended."""
        return [worker for worker in self.workers.values() if worker.is_running]

    async def start(self, *, stands_still: bool = False) -> Worker:
        """Start one more worker; one that `stands_still` stops itself when it gets its first lease."""
        number = len(self.workers) + 1
        endpoint = self._provider.token_endpoint_of(number)
        settings = worker.Settings(self._store, endpoint, self._users, self._tasks, self._policy, stands_still)
        process = await asyncio.create_subprocess_exec(
            sys.executable,
            worker.__file__,
            settings.to_json(),
            stdin=PIPE,
            stdout=PIPE,
            stderr=PIPE,
            env=_environment(),
        )
        started = self.workers[number] = Worker(number, process)
        return started


@asynccontextmanager
async def crew(
    store: StoreSpec, provider: WatchedProvider, users: list[str], tasks: int, policy: RefreshPolicy
) -> AsyncIterator[Crew]:
    """A crew, empty at first, whose workers work `tasks` at a time for `users`. At exit those that run are killed."""
    hired = Crew(store, provider, users, tasks, policy)
    try:
        yield hired
    finally:
        await asyncio.gather(*(worker.kill() for worker in hired.running), return_exceptions=True)


def _environment() -> dict[str, str]:
    # A killed process would leave half a coverage file.
    inherited = {name: value for name, value in os.environ.items() if not name.startswith("COVERAGE_")}
    return {**inherited, "PYTHONPATH": os.fspath(Path(__file__).parents[2])}


async def _read_all(process: Process) -> str:
    assert process.stderr is not None
    return (await process.stderr.read()).decode(errors="replace")
