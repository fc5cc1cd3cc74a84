"""A file store among tasks, threads and event loops, and under cancellation."""
# Tests look at files as they please:
# ruff: noqa: ASYNC240

import asyncio
import gc
import os
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import filelock
import pytest

from kit.stores import KEY
from tokenflight import (
    FileTokenStore,
    LeaseTimeout,
    StoreConflict,
    StoreCorrupted,
    StoredTokens,
    StoreUnavailable,
    TokenKey,
    TokenSet,
    Version,
)
from tokenflight.stores.codec import JSONCodec
from tokenflight.stores.file import _private_files
from tokenflight.stores.file._limits import FileLimits

TOKENS = TokenSet("access", expires_at=1_800_000_000, refresh_token="refresh", extra={"x": [1, "€"]})


def open_files() -> int:
    return len(os.listdir("/dev/fd"))  # noqa: PTH208 - names alone


async def test_no_operation_leaves_a_file_open(store: FileTokenStore, path: Path) -> None:
    async def all_operations() -> None:
        await store.save(KEY, record := StoredTokens(TOKENS))
        with pytest.raises(StoreConflict):
            await store.replace(KEY, StoredTokens(TOKENS), expected=Version("other"))
        await store.replace(KEY, StoredTokens(TOKENS), expected=record.version)
        async with store.lease(KEY, timeout=0):
            with pytest.raises(LeaseTimeout):
                await store.lease(KEY, timeout=0).__aenter__()
        async for _ in store.keys():
            break
        await store.delete(KEY)
        path.mkdir()
        for operation in (store.load(KEY), store.save(KEY, StoredTokens(TOKENS))):
            with pytest.raises(StoreUnavailable):
                await operation
        path.rmdir()
        path.symlink_to("elsewhere")
        with pytest.raises(StoreUnavailable):
            await store.load(KEY)
        path.unlink()

    await all_operations()
    before = open_files()
    for _ in range(5):
        await all_operations()
    assert open_files() == before


async def test_many_first_logins_at_once_make_the_directories_together(directory: Path) -> None:
    for attempt in range(10):
        stores = [FileTokenStore(directory / f"{attempt}" / "tokens") for _ in range(8)]
        await asyncio.gather(
            *(store.save(TokenKey("idp", str(n)), StoredTokens(TOKENS)) for n, store in enumerate(stores))
        )
        assert len([key async for key in stores[0].keys("idp")]) == len(stores)
        for store in stores:
            await store.aclose()


async def test_leases_given_up_at_any_moment_leave_no_lock_and_no_open_file(store: FileTokenStore) -> None:
    async def take() -> None:
        async with store.lease(KEY, timeout=5):
            await asyncio.sleep(0)

    await take()
    before = open_files()
    for round_ in range(150):
        tasks = [asyncio.create_task(take()) for _ in range(3)]
        await asyncio.sleep(round_ % 10 * 0.0002)
        for task in tasks:
            task.cancel()
        await asyncio.wait(tasks)
    await take()
    await store.aclose()
    await asyncio.sleep(0.05)
    assert open_files() == before


def test_a_lease_granted_after_its_event_loop_ended_is_freed(directory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = FileTokenStore(directory)
    begun, go_on = threading.Event(), threading.Event()
    lock_descriptor = filelock.lock_descriptor

    def lock_slowly(descriptor: int, *, blocking: bool) -> bool:
        begun.set()
        go_on.wait(10)
        return lock_descriptor(descriptor, blocking=blocking)

    async def give_up() -> None:
        waiting = asyncio.create_task(store.lease(KEY, timeout=5).__aenter__())
        await asyncio.to_thread(begun.wait, 10)
        waiting.cancel()
        await asyncio.wait([waiting])

    async def take() -> None:
        async with store.lease(KEY, timeout=5):
            pass
        await store.aclose()

    monkeypatch.setattr(filelock, "lock_descriptor", lock_slowly)
    asyncio.run(give_up())
    go_on.set()
    asyncio.run(take())


async def test_a_cancelled_save_that_has_begun_ends_before_its_call_does(store: FileTokenStore, path: Path) -> None:
    await store.save(KEY, StoredTokens(TokenSet("old")))
    lock = _private_files.try_lock(str(path.with_suffix(".write-lock")))
    assert lock is not None
    saving = asyncio.create_task(store.save(KEY, StoredTokens(TokenSet("new"))))
    await asyncio.sleep(0.05)
    saving.cancel()
    asyncio.get_running_loop().call_later(0.05, _private_files.release_lock, lock)
    with pytest.raises(asyncio.CancelledError):
        await saving
    record = await store.load(KEY)
    assert record is not None
    assert record.tokens == TokenSet("new")


async def test_a_cancelled_save_does_not_wait_for_a_disk_that_hangs(directory: Path, path: Path) -> None:
    store = FileTokenStore(directory, _limits=FileLimits(cancellation_seconds=0.05))
    await store.save(KEY, StoredTokens(TokenSet("old")))
    lock = _private_files.try_lock(str(path.with_suffix(".write-lock")))
    assert lock is not None
    saving = asyncio.create_task(store.save(KEY, StoredTokens(TokenSet("new"))))
    await asyncio.sleep(0.05)
    saving.cancel()
    async with asyncio.timeout(5):
        with pytest.raises(asyncio.CancelledError):
            await saving
    _private_files.release_lock(lock)
    await store.aclose()


async def test_a_save_cancelled_before_it_began_never_happens(directory: Path, path: Path) -> None:
    store = FileTokenStore(directory, _limits=FileLimits(max_threads=1))
    await store.save(KEY, StoredTokens(TokenSet("old")))
    lock = _private_files.try_lock(str(path.with_suffix(".write-lock")))
    assert lock is not None
    first = asyncio.create_task(store.save(KEY, StoredTokens(TokenSet("first"))))
    await asyncio.sleep(0)
    second = asyncio.create_task(store.save(KEY, StoredTokens(TokenSet("second"))))
    await asyncio.sleep(0)
    second.cancel()
    with pytest.raises(asyncio.CancelledError):
        await second
    _private_files.release_lock(lock)
    await first
    await store.load(KEY)  # behind whatever the one thread would still have to do
    record = await store.load(KEY)
    assert record is not None
    assert record.tokens == TokenSet("first")
    await store.aclose()


def test_s10_one_store_serves_event_loops_in_several_threads(directory: Path) -> None:
    store = FileTokenStore(directory)

    async def count_up() -> None:
        for _ in range(10):
            async with store.lease(KEY, timeout=20):
                record = await store.load(KEY)
                assert record is not None
                number = int(record.tokens.access_token) + 1
                await store.replace(KEY, StoredTokens(TokenSet(str(number))), expected=record.version)

    asyncio.run(store.save(KEY, StoredTokens(TokenSet("0"))))
    threads = [threading.Thread(target=asyncio.run, args=[count_up()]) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    record = asyncio.run(store.load(KEY))
    assert record is not None
    assert record.tokens == TokenSet("30")
    asyncio.run(store.aclose())


async def test_closing_ends_the_stores_threads(store: FileTokenStore) -> None:
    def threads() -> list[threading.Thread]:
        return [each for each in threading.enumerate() if each.name.startswith("tokenflight-file-store")]

    await asyncio.gather(*(store.save(TokenKey("idp", str(n)), StoredTokens(TOKENS)) for n in range(50)))
    mine = threads()
    assert 0 < len(mine) <= FileLimits().max_threads
    await store.aclose()
    for thread in mine:
        await asyncio.to_thread(thread.join, 5)
    assert not any(thread.is_alive() for thread in mine)


def test_an_event_loop_can_close_the_store_while_another_uses_it(directory: Path) -> None:
    store = FileTokenStore(directory)
    end = time.monotonic() + 0.5
    interval = sys.getswitchinterval()

    async def use() -> int:
        loads = 0
        while time.monotonic() < end:
            await store.load(KEY)
            loads += 1
        return loads

    async def close() -> int:
        while time.monotonic() < end:
            await store.load(KEY)
            await store.aclose()
        return 1

    sys.setswitchinterval(1e-6)
    try:
        with ThreadPoolExecutor() as threads:
            running = [threads.submit(asyncio.run, part()) for part in (use, close)]
            assert all(part.result() for part in running)
    finally:
        sys.setswitchinterval(interval)
    asyncio.run(store.aclose())


async def test_a_read_that_was_given_up_and_then_fails_is_not_reported_as_never_retrieved(directory: Path) -> None:
    reported: list[dict[str, Any]] = []
    asyncio.get_running_loop().set_exception_handler(lambda _loop, context: reported.append(context))
    go_on = threading.Event()

    class Slow(JSONCodec):
        def decode(self, key: TokenKey, data: bytes) -> StoredTokens:
            go_on.wait(10)
            raise StoreCorrupted("damaged")

    store = FileTokenStore(directory, codec=Slow(), _limits=FileLimits(cancellation_seconds=0.01))
    await store.save(KEY, StoredTokens(TokenSet("access")))
    loading = asyncio.create_task(store.load(KEY))
    await asyncio.sleep(0.05)
    loading.cancel()
    await asyncio.wait([loading])
    go_on.set()
    await asyncio.sleep(0.05)
    del loading
    gc.collect()
    await asyncio.sleep(0)
    assert reported == []
    await store.aclose()
