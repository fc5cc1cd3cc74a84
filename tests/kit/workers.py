"""Processes of their own that use a store, and tell on standard output what they have done, a line each."""

import asyncio
import os
import sys
from asyncio.subprocess import PIPE, Process
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from types import ModuleType


@asynccontextmanager
async def worker(program: ModuleType, *arguments: str) -> AsyncIterator[Process]:
    """A process that runs `program`, killed at the end if need be."""
    assert program.__file__ is not None
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, program.__file__, *arguments),
        stdin=PIPE,
        stdout=PIPE,
        # A killed process would leave half a coverage file.
        env={name: value for name, value in os.environ.items() if not name.startswith("COVERAGE_")}
        | {"PYTHONPATH": os.fspath(Path(__file__).parents[1])},
    )
    try:
        yield process
    finally:
        if process.returncode is None:
            process.kill()
        await process.communicate()


async def line_of(process: Process) -> str:
    """The next line that `process` prints."""
    assert process.stdout is not None
    return (await process.stdout.readline()).decode().strip()


async def ask(process: Process) -> str:
    """Send `process` a line; what it prints then."""
    assert process.stdin is not None
    process.stdin.write(b"\n")
    await process.stdin.drain()
    return await line_of(process)
