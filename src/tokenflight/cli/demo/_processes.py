"""The demo's worker processes, seen from the main process."""

import asyncio
import json
import os
import sys
from asyncio.subprocess import PIPE
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Final

from tokenflight.cli.demo._calls import Tally
from tokenflight.cli.demo._stage import Stage

_MODULE: Final = "tokenflight.cli.demo._worker"


class FurtherProcess:
    """A process that makes `calls` API calls at once."""

    def __init__(self, process: asyncio.subprocess.Process, calls: int) -> None:
        self._process = process
        self._calls = calls

    async def asks_for_lease(self) -> None:
        """Wait until the process has found the stored token expired and asks for the lease, or until it has ended."""
        if self._process.stdout is not None:
            await self._process.stdout.readline()

    async def tally(self) -> Tally:
        """Wait for the process to end. If it crashed, count all its calls as failed."""
        stdout, stderr = await self._process.communicate()
        if self._process.returncode == 0:
            return Tally(**json.loads(stdout))
        last_words = stderr.decode(errors="replace").strip().rpartition("\n")[2]
        return Tally(
            failed=self._calls,
            problem=f"a process ended with exit status {self._process.returncode}: {last_words}",
        )


@asynccontextmanager
async def further_process(stage: Stage, user_id: str, *, calls: int) -> AsyncIterator[FurtherProcess]:
    """Start a process on the store of `stage`. At exit, kill it if it still runs."""
    arguments = (os.fspath(stage.store_directory), stage.fake.issuer, stage.fake.api_url, user_id, str(calls))
    process = await asyncio.create_subprocess_exec(sys.executable, "-m", _MODULE, *arguments, stdout=PIPE, stderr=PIPE)
    try:
        yield FurtherProcess(process, calls)
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
