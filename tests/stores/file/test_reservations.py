"""K17: whoever has the lease can store what the provider gives, although the disk fills up in the meantime."""
# Tests look at files as they please:
# ruff: noqa: ASYNC240

import json
import os
import stat
from pathlib import Path

import pytest

from kit import file_store_worker
from kit.stores import KEY, is_free
from kit.workers import line_of, worker
from tokenflight import FileTokenStore, StoreConflict, StoredTokens, TokenSet
from tokenflight.stores.codec import MAX_RECORD_BYTES
from tokenflight.stores.file import _private_files

LOCKS = {"alice.lock", "alice.write-lock"}


@pytest.fixture
def reserved(path: Path) -> Path:
    """Where the room for the next record of alice is."""
    return path.with_name(".alice.json.tmp")


def names_in(directory: Path) -> set[str]:
    return {path.name for path in directory.iterdir()}


@pytest.mark.parametrize(
    ("filling", "least"),
    [(0, 16 * 1024), (20_000, 40_000), (3_000_000, MAX_RECORD_BYTES)],
    ids=["small", "large", "as large as can be"],
)
async def test_k17_a_lease_reserves_private_room_for_a_record_that_grows(
    store: FileTokenStore, path: Path, reserved: Path, filling: int, least: int
) -> None:
    await store.save(KEY, StoredTokens(TokenSet("access", extra={"filling": "x" * filling})))
    async with store.lease(KEY, timeout=0):
        status = reserved.stat()
        assert least <= status.st_size <= max(2 * path.stat().st_size, 16 * 1024)
        assert status.st_blocks * 512 >= least
        assert stat.S_IMODE(status.st_mode) == 0o600
    assert names_in(path.parent) == {"alice.json", *LOCKS}


async def test_k17_the_record_takes_the_place_of_the_room_and_is_synced_no_more_often_than_before(
    store: FileTokenStore, path: Path, reserved: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    await store.save(KEY, saved := StoredTokens(TokenSet("before")))
    synced: list[int] = []
    fsync = os.fsync

    def watched_fsync(descriptor: int) -> None:
        fsync(descriptor)
        synced.append(os.fstat(descriptor).st_ino)

    monkeypatch.setattr(os, "fsync", watched_fsync)
    async with store.lease(KEY, timeout=0):
        room = reserved.stat().st_ino
        await store.replace(KEY, StoredTokens(TokenSet("after")), expected=saved.version)
        assert not reserved.exists()
    assert path.stat().st_ino == room
    assert synced == [room, path.parent.stat().st_ino]
    assert json.loads(path.read_bytes())["tokens"]["access_token"] == "after"


async def test_k17_without_room_there_is_no_lease_and_what_was_reserved_outlasts_a_write_that_fails(
    store: FileTokenStore, path: Path
) -> None:
    await store.save(KEY, StoredTokens(file_store_worker.tokens(1)))
    async with worker(file_store_worker, "lease_with_limit", os.fspath(path.parents[1])) as process:
        printed, _ = await process.communicate()
    assert process.returncode == 0
    assert printed.decode().splitlines() == ["replace store_unavailable", "1", "lease store_unavailable"]
    assert names_in(path.parent) == {"alice.json", *LOCKS}
    record = await store.load(KEY)
    assert record is not None
    assert record.tokens == file_store_worker.tokens(2)


@pytest.mark.parametrize("then", ["lease", "login", "logout"])
async def test_k17_n12_the_room_of_a_killed_holder_is_used_or_removed_by_what_comes_next(
    store: FileTokenStore, path: Path, reserved: Path, then: str
) -> None:
    await store.save(KEY, StoredTokens(TokenSet("access")))
    async with worker(file_store_worker, "hold", os.fspath(path.parents[1])) as holder:
        assert await line_of(holder) == "held"
    assert reserved.exists()
    if then == "lease":
        assert await is_free(store)
    elif then == "login":
        await store.save(KEY, StoredTokens(TokenSet("again")))
    else:
        assert await store.delete(KEY)
    assert names_in(path.parent) == LOCKS | ({"alice.logout"} if then == "logout" else {"alice.json"})


async def test_n12_a_logout_removes_the_temporary_file_that_a_crash_left_also_where_no_record_is(
    store: FileTokenStore, path: Path, reserved: Path
) -> None:
    path.parent.mkdir(mode=0o700, parents=True)
    reserved.write_text('{"refresh_token": "half a rec')
    reserved.chmod(0o600)
    assert await store.delete(KEY) is False
    assert names_in(path.parent) == {"alice.write-lock"}


async def test_k17_a_login_under_the_lease_takes_the_room_and_wins(
    store: FileTokenStore, path: Path, reserved: Path
) -> None:
    await store.save(KEY, old := StoredTokens(TokenSet("old")))
    async with store.lease(KEY, timeout=0):
        await FileTokenStore(path.parents[1]).save(KEY, login := StoredTokens(TokenSet("login")))
        with pytest.raises(StoreConflict):
            await store.replace(KEY, StoredTokens(TokenSet("renewed")), expected=old.version)
    assert await store.load(KEY) == login
    assert names_in(path.parent) == {"alice.json", *LOCKS}


async def test_k17_a_release_leaves_the_room_to_a_writer_that_is_using_it(
    store: FileTokenStore, path: Path, reserved: Path
) -> None:
    async with store.lease(KEY, timeout=0):
        lock = _private_files.try_lock(os.fspath(path.with_name("alice.write-lock")))
        assert lock is not None
    assert reserved.exists()
    _private_files.release_lock(lock)
    assert await is_free(store)
    assert not reserved.exists()


async def test_k17_nothing_is_written_through_a_hard_link_to_the_room(
    store: FileTokenStore, path: Path, reserved: Path, tmp_path: Path
) -> None:
    async with store.lease(KEY, timeout=0):
        (tmp_path / "elsewhere").hardlink_to(reserved)
        await store.save(KEY, StoredTokens(TokenSet("access-secret")))
    assert b"secret" not in (tmp_path / "elsewhere").read_bytes()
    assert path.stat().st_nlink == 1
