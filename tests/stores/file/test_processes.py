"""The file store between real processes: leases, kills, forks and full disks."""

import asyncio
import os
import signal
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

from kit import file_store_worker
from kit.file_store_worker import tokens
from kit.stores import KEY
from kit.workers import line_of, worker
from tokenflight import FileTokenStore, LeaseTimeout, StoredTokens, TokenSet


async def test_a_lease_is_exclusive_among_processes(store: FileTokenStore, directory: Path) -> None:
    async with worker(file_store_worker, "hold", str(directory)) as holder:
        assert await line_of(holder) == "held"
        with pytest.raises(LeaseTimeout, match="not free within"):
            await store.lease(KEY, timeout=0.1).__aenter__()
        await store.save(KEY, StoredTokens(tokens(1)))
        assert holder.stdin is not None
        holder.stdin.close()
        async with store.lease(KEY, timeout=10):
            assert await line_of(holder) == "released"


async def test_x7_the_lease_of_a_killed_process_is_free_at_once(store: FileTokenStore, tmp_path: Path) -> None:
    clock = asyncio.get_running_loop().time
    async with worker(file_store_worker, "hold", str(tmp_path / "tokens")) as holder:
        assert await line_of(holder) == "held"
        taken = asyncio.Event()

        async def take() -> None:
            async with store.lease(KEY, timeout=30):
                taken.set()

        waiter = asyncio.create_task(take())
        await asyncio.sleep(0.1)
        assert not taken.is_set()
        killed_at = clock()
        holder.kill()
        await waiter
        assert clock() - killed_at < 2
    # The file that the dead process locked is still there and does no harm.
    assert (tmp_path / "tokens" / "idp" / "alice.lock").exists()
    async with store.lease(KEY, timeout=0):
        pass


async def test_processes_that_take_turns_lose_no_update(store: FileTokenStore, directory: Path) -> None:
    await store.save(KEY, StoredTokens(TokenSet("access-0")))
    async with (
        worker(file_store_worker, "count_up", str(directory)) as one,
        worker(file_store_worker, "count_up", str(directory)) as other,
    ):
        assert [await one.wait(), await other.wait()] == [0, 0]
    record = await store.load(KEY)
    assert record is not None
    assert record.tokens.access_token == "access-20"


@pytest.mark.parametrize("moment", range(5))
async def test_p3_a_process_killed_while_saving_leaves_a_whole_record(
    store: FileTokenStore, tmp_path: Path, moment: int
) -> None:
    async with worker(file_store_worker, "save_for_ever", str(tmp_path / "tokens")) as process:
        assert await line_of(process) == "1"
        await asyncio.sleep(0.0037 * moment)
        process.kill()
        printed, _ = await process.communicate()
    last_told = int(printed.split()[-1]) if printed.split() else 1
    record = await store.load(KEY)
    assert record is not None
    assert record.tokens in (tokens(last_told), tokens(last_told + 1))
    await store.save(KEY, StoredTokens(tokens(0)))
    names = {path.name for path in (tmp_path / "tokens" / "idp").iterdir()}
    assert names == {"alice.json", "alice.write-lock"}


async def test_p7_a_write_that_does_not_fit_fails_and_leaves_the_record(store: FileTokenStore, tmp_path: Path) -> None:
    await store.save(KEY, StoredTokens(TokenSet("access-1")))
    before = (tmp_path / "tokens" / "idp" / "alice.json").read_bytes()
    async with worker(file_store_worker, "write_with_limit", str(tmp_path / "tokens")) as process:
        printed, _ = await process.communicate()
    assert process.returncode == 0
    assert printed.decode().splitlines() == ["StoreUnavailable store_unavailable"] * 2
    assert (tmp_path / "tokens" / "idp" / "alice.json").read_bytes() == before
    assert {path.name for path in (tmp_path / "tokens" / "idp").iterdir()} == {"alice.json", "alice.write-lock"}


async def test_a_store_and_its_leases_survive_a_fork(directory: Path) -> None:
    async with worker(file_store_worker, "fork", str(directory)) as process:
        printed, _ = await process.communicate()
    assert printed.decode().split() == ["0", "True"]


def test_x7_the_lease_of_a_killed_holder_is_free_at_once_though_a_child_it_forked_lives_on(tmp_path: Path) -> None:
    async def take_the_lease() -> None:
        async with FileTokenStore(tmp_path / "tokens").lease(KEY, timeout=0):
            pass

    command = [sys.executable, file_store_worker.__file__, "die_after_a_fork", str(tmp_path / "tokens")]
    environment = {name: value for name, value in os.environ.items() if not name.startswith("COVERAGE_")}
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=environment) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"orphaned\n"
        assert process.wait() == -signal.SIGKILL
        asyncio.run(take_the_lease())


def test_a_forked_child_closes_no_file_but_those_of_locks(tmp_path: Path) -> None:
    program = textwrap.dedent("""
        import os, sys
        from tokenflight.stores.file import _private_files

        def fork(then):
            if child := os.fork():
                return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
            os._exit(then())

        def is_open(descriptor):
            try:
                os.fstat(descriptor)
            except OSError:
                return 1
            return 0

        path = os.path.join(sys.argv[1], "lock")
        lock = _private_files.try_lock(path)
        _private_files.release_lock(lock)
        assert os.open(os.devnull, os.O_RDONLY) == lock  # its number is another file's now
        print(fork(lambda: is_open(lock)))
        os.close(lock)
        lock = _private_files.try_lock(path)

        def child():
            assert os.open(os.devnull, os.O_RDONLY) == lock  # closed by the fork
            return fork(lambda: is_open(lock))

        print(fork(child))
    """)
    environment = {name: value for name, value in os.environ.items() if not name.startswith("COVERAGE_")}
    printed = subprocess.run(
        [sys.executable, "-c", program, str(tmp_path)], env=environment, capture_output=True, text=True, check=True
    )
    assert printed.stdout.split() == ["0", "0"]
