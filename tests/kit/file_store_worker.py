"""A process of its own that uses a file store; its arguments are the task and the directory.

It says on standard output what it has done, a line each.
"""

import asyncio
import json
import os
import resource
import signal
import sys
from collections.abc import Awaitable, Callable
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

from tokenflight import FileTokenStore, StoreConflict, StoredTokens, StoreError, TokenKey, TokenSet

T = TypeVar("T")

KEY = TokenKey("idp", "alice")


def tokens(number: int) -> TokenSet:
    return TokenSet(f"access-{number}", refresh_token=f"refresh-{number}", extra={"filling": str(number) * 20_000})


async def hold(store: FileTokenStore) -> None:
    """Hold the lease until standard input ends."""
    async with store.lease(KEY, timeout=10):
        print("held", flush=True)  # noqa: T201
        await asyncio.to_thread(sys.stdin.read)
    print("released", flush=True)  # noqa: T201


async def save_for_ever(store: FileTokenStore) -> None:
    """Save records with rising numbers; say which ones are stored."""
    number = 0
    while True:
        number += 1
        await store.save(KEY, StoredTokens(tokens(number)))
        print(number, flush=True)  # noqa: T201


async def count_up(store: FileTokenStore) -> None:
    """Raise the number in the record by ten, one by one, under the lease."""
    for _ in range(10):
        async with store.lease(KEY, timeout=30):
            record = await store.load(KEY)
            assert record is not None
            number = int(record.tokens.access_token.removeprefix("access-"))
            await store.replace(KEY, StoredTokens(TokenSet(f"access-{number + 1}")), expected=record.version)


async def write_with_limit(store: FileTokenStore) -> None:
    """Write more than the system lets this process write to a file, as when the disk is full."""
    sys.dont_write_bytecode = True  # A short write would break the byte code for every process.
    resource.setrlimit(resource.RLIMIT_FSIZE, (1_000, resource.RLIM_INFINITY))
    record = await store.load(KEY)
    assert record is not None
    writes: list[Callable[[], Awaitable[object]]] = [
        lambda: store.save(KEY, StoredTokens(tokens(2))),
        lambda: store.replace(KEY, StoredTokens(tokens(2)), expected=record.version),
    ]
    for write in writes:
        try:
            await write()
        except StoreError as error:
            print(type(error).__name__, error.code, flush=True)  # noqa: T201
    assert await store.load(KEY) == record


async def lease_with_limit(store: FileTokenStore) -> None:
    """Take the lease before and after the system lets this process write no large file, as when the disk is full."""
    sys.dont_write_bytecode = True  # A short write would break the byte code for every process.
    unlimited = resource.getrlimit(resource.RLIMIT_FSIZE)
    limited = (1_000, unlimited[1])
    record = await store.load(KEY)
    assert record is not None
    async with store.lease(KEY, timeout=0):
        resource.setrlimit(resource.RLIMIT_FSIZE, limited)
        try:
            await store.replace(KEY, StoredTokens(tokens(2)), expected=record.version)
        except StoreError as error:
            print("replace", error.code, flush=True)  # noqa: T201
        resource.setrlimit(resource.RLIMIT_FSIZE, unlimited)
        print(sum(path.stat().st_size >= 40_000 for path in Path(sys.argv[2]).rglob(".*")), flush=True)  # noqa: ASYNC240, T201
        await store.replace(KEY, StoredTokens(tokens(2)), expected=record.version)
    resource.setrlimit(resource.RLIMIT_FSIZE, limited)
    try:
        await hold_for_a_moment(store)
    except StoreError as error:
        print("lease", error.code, flush=True)  # noqa: T201
    resource.setrlimit(resource.RLIMIT_FSIZE, unlimited)
    await hold_for_a_moment(store)


def fork(directory: str) -> None:
    """Use a store, fork, and use it in both processes; a lease ends although the child has its file open too."""
    store = FileTokenStore(directory)
    asyncio.run(store.save(KEY, StoredTokens(tokens(1))))
    lease = store.lease(KEY, timeout=0)
    asyncio.run(lease.__aenter__())
    from_parent, to_child = os.pipe()
    child = os.fork()
    if not child:
        os.close(to_child)
        os.read(from_parent, 1)
        asyncio.run(store.save(KEY, StoredTokens(tokens(2))))
        asyncio.run(hold_for_a_moment(store))
        os._exit(0)
    asyncio.run(lease.__aexit__(None, None, None))
    asyncio.run(hold_for_a_moment(FileTokenStore(directory)))
    os.write(to_child, b"!")
    _, status = os.waitpid(child, 0)
    record = asyncio.run(store.load(KEY))
    print(os.waitstatus_to_exitcode(status), record is not None and record.tokens == tokens(2))  # noqa: T201


def die_after_a_fork(directory: str) -> None:
    """Hold a lease, fork, and be killed; the child lives until its standard input ends."""
    asyncio.run(FileTokenStore(directory).lease(KEY, timeout=0).__aenter__())
    if os.fork():
        os.kill(os.getpid(), signal.SIGKILL)
    print("orphaned", flush=True)  # noqa: T201
    sys.stdin.read()


def die_while_logging_out(directory: str) -> None:
    """Log out in child processes, each killed a step later; say what that leaves, and what a second logout."""
    died, step = True, 0
    while died:
        asyncio.run(use_in_a_new_store(directory, lambda store: store.save(KEY, StoredTokens(tokens(1)))))
        if not (child := os.fork()):
            kill_at_step(step)
            asyncio.run(use_in_a_new_store(directory, lambda store: store.delete(KEY)))
            os._exit(0)
        died = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == -signal.SIGKILL
        left = asyncio.run(use_in_a_new_store(directory, what_is_left))
        asyncio.run(use_in_a_new_store(directory, lambda store: store.delete(KEY)))
        names = sorted(path.name for path in (Path(directory) / KEY.provider).iterdir())
        print(json.dumps({"died": died, "left": left, "names": names}), flush=True)  # noqa: T201
        step += 1


def kill_at_step(step: int) -> None:
    """Kill this process in the place of its call number `step` of those that change files or make that last."""
    left = step

    def counted(call: Callable[..., Any], *arguments: Any) -> Any:
        nonlocal left
        if not left:
            os.kill(os.getpid(), signal.SIGKILL)
        left -= 1
        return call(*arguments)

    for name in ("write", "fsync", "replace", "unlink"):
        setattr(os, name, partial(counted, getattr(os, name)))


async def what_is_left(store: FileTokenStore) -> str:
    """Whether there is a record, or a logout that keeps it from being created again."""
    if await store.load(KEY) is not None:
        return "record"
    try:
        await store.replace(KEY, StoredTokens(tokens(1)), expected=None)
    except StoreConflict as error:
        return "marker" if error.code == "logged_out" else error.code
    return "nothing"


async def use_in_a_new_store(directory: str, use: Callable[[FileTokenStore], Awaitable[T]]) -> T:
    store = FileTokenStore(directory)
    try:
        return await use(store)
    finally:
        await store.aclose()


async def hold_for_a_moment(store: FileTokenStore) -> None:
    async with store.lease(KEY, timeout=5):
        pass


async def run(what: Callable[[FileTokenStore], Awaitable[None]], directory: str) -> None:
    store = FileTokenStore(directory)
    await what(store)
    await store.aclose()


if __name__ == "__main__":
    forking = {task.__name__: task for task in (fork, die_after_a_fork, die_while_logging_out)}
    if sys.argv[1] in forking:
        forking[sys.argv[1]](sys.argv[2])
    else:
        tasks = {task.__name__: task for task in (hold, save_for_ever, count_up, write_with_limit, lease_with_limit)}
        asyncio.run(run(tasks[sys.argv[1]], sys.argv[2]))
