"""K5: what a logout leaves in the directory, and for how long."""
# Tests look at files as they please:
# ruff: noqa: ASYNC240

import asyncio
import errno
import json
import logging
import os
import stat
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, Literal

import pytest

from kit import file_store_worker
from kit.stores import KEY, keys_of
from kit.workers import worker
from tokenflight import FileTokenStore, StoreConflict, StoredTokens, StoreError, StoreUnavailable, TokenKey, TokenSet
from tokenflight.stores.file import _private_files

RECORD = StoredTokens(TokenSet("access", refresh_token="refresh-secret"))
DAY = 86_400


@pytest.fixture
async def store(store: FileTokenStore) -> FileTokenStore:
    """A store that alice has just logged out of."""
    await log_out(store)
    return store


@pytest.fixture
def marker(directory: Path) -> Path:
    return directory / "idp" / "alice.logout"


async def log_out(store: FileTokenStore) -> None:
    await store.save(KEY, RECORD)
    assert await store.delete(KEY) is True


async def create(store: FileTokenStore) -> None:
    await store.replace(KEY, StoredTokens(RECORD.tokens), expected=None)


async def check_that_alice_is_logged_out(store: FileTokenStore) -> None:
    with pytest.raises(StoreConflict) as caught:
        await create(store)
    assert caught.value.code == "logged_out"
    assert await store.load(KEY) is None


def make_old(marker: Path) -> None:
    long_ago = time.time() - DAY - 1
    os.utime(marker, (long_ago, long_ago))


async def test_k5_a_marker_is_private_and_holds_no_token(store: FileTokenStore, marker: Path) -> None:
    assert stat.S_IMODE(marker.stat().st_mode) == 0o600
    assert "secret" not in marker.read_text()


async def test_k5_a_marker_is_gone_after_a_day_and_a_login(store: FileTokenStore, marker: Path) -> None:
    with pytest.raises(StoreConflict):
        await create(store)
    members = json.loads(marker.read_text())
    marker.write_text(json.dumps(members | {"ended_at": time.time() - DAY - 1}))
    await create(store)
    await store.delete(KEY)
    await store.save(KEY, RECORD)
    assert not marker.exists()


async def test_k5_a_logout_noted_by_a_clock_far_ahead_keeps_nobody_out(store: FileTokenStore, marker: Path) -> None:
    far_ahead = time.time() + 365 * DAY
    members = json.loads(marker.read_text())
    marker.write_text(json.dumps(members | {"ended_at": far_ahead}))
    os.utime(marker, (far_ahead, far_ahead))
    await create(store)
    assert await keys_of(store) == [KEY]
    assert not marker.exists()


async def test_k5_listing_the_users_clears_away_the_markers_whose_day_is_over(
    store: FileTokenStore, marker: Path
) -> None:
    assert await keys_of(store) == []
    assert marker.exists()
    before = set(marker.parent.iterdir())
    marker.with_name(".alice.logout.tmp").write_bytes(b"left by a crash")
    make_old(marker)
    assert await keys_of(store) == []
    assert set(marker.parent.iterdir()) == before - {marker}


@pytest.mark.parametrize("content", ["", "{", "[]", '{"ended_at": "soon", "digest": 1}', "x" * 5000])
async def test_k5_a_damaged_marker_keeps_nobody_out(store: FileTokenStore, marker: Path, content: str) -> None:
    marker.write_text(content)
    await create(store)
    assert await store.load(KEY) is not None


async def test_k5_a_marker_that_a_crash_left_beside_its_record_hides_nothing(
    store: FileTokenStore, marker: Path
) -> None:
    left = marker.read_bytes()
    await store.save(KEY, RECORD)
    marker.write_bytes(left)
    marker.chmod(0o600)
    assert await store.load(KEY) == RECORD
    assert await keys_of(store) == [KEY]
    await store.replace(KEY, StoredTokens(TokenSet("renewed")), expected=RECORD.version)
    assert await store.delete(KEY) is True


async def test_k5_the_logout_of_a_record_that_can_not_be_understood_keeps_older_token_sets_out(
    store: FileTokenStore, directory: Path
) -> None:
    await store.save(KEY, RECORD)
    (directory / "idp" / "alice.json").write_text("damaged")
    assert await store.delete(KEY) is True
    with pytest.raises(StoreConflict) as caught:
        await store.replace(KEY, StoredTokens(TokenSet("old", issued_at=time.time() - 3600)), expected=None)
    assert caught.value.code == "logged_out"


async def test_n12_a_logout_of_nobody_leaves_nothing(directory: Path) -> None:
    store = FileTokenStore(directory)
    await store.save(TokenKey("idp", "bob"), RECORD)
    before = sorted(directory.rglob("*"))
    assert await store.delete(KEY) is False
    assert sorted(directory.rglob("*")) == before


async def test_k5_a_logout_happens_although_there_is_no_room_for_its_marker(
    directory: Path, caplog: pytest.LogCaptureFixture
) -> None:
    store = FileTokenStore(directory)
    await store.save(KEY, RECORD)
    (directory / "idp" / "alice.logout").mkdir()  # nothing can be written in its place
    assert await store.delete(KEY) is True
    assert await store.load(KEY) is None
    [warning] = [record for record in caplog.records if record.levelno == logging.WARNING]
    assert "'alice'" in warning.getMessage()


async def test_k5_on_a_full_disk_a_marker_takes_the_room_of_the_record(
    store: FileTokenStore, path: Path, marker: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    await store.save(KEY, RECORD)
    write = os.write

    def write_where_there_is_room(descriptor: int, data: bytes) -> int:
        if path.exists():
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return write(descriptor, data)

    monkeypatch.setattr(os, "write", write_where_there_is_room)
    assert await store.delete(KEY) is True
    await check_that_alice_is_logged_out(store)


async def test_k5_k11_a_logout_without_descriptors_uses_those_set_aside_and_leaves_a_marker(
    store: FileTokenStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    await store.save(KEY, RECORD)
    refused: list[str] = []
    open_file = os.open

    def refuse_once(path: str, *arguments: int) -> int:
        if path.endswith(".alice.logout.tmp") and not refused:
            refused.append(path)
            raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))
        return open_file(path, *arguments)

    monkeypatch.setattr(os, "open", refuse_once)
    assert await store.delete(KEY) is True
    assert refused
    await check_that_alice_is_logged_out(store)


@pytest.mark.parametrize("number", [errno.EMFILE, errno.EIO], ids=lambda number: errno.errorcode[number])
async def test_k5_a_record_that_can_not_be_read_is_logged_out_and_one_for_want_of_a_descriptor_is_read_again(
    store: FileTokenStore, path: Path, marker: Path, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    await store.save(KEY, RECORD)
    failed: list[str] = []
    open_file = os.open

    def fail_once(name: str, *arguments: int) -> int:
        if name == os.fspath(path) and not failed:
            failed.append(name)
            raise OSError(number, os.strerror(number))
        return open_file(name, *arguments)

    monkeypatch.setattr(os, "open", fail_once)
    assert await store.delete(KEY) is True
    assert failed
    assert (json.loads(marker.read_bytes())["digest"] is None) == (number == errno.EIO)


async def test_k5_a_logout_that_the_disk_did_not_confirm_leaves_record_or_marker(
    store: FileTokenStore, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    await store.save(KEY, RECORD)
    fsync = os.fsync

    def fail_once_the_record_is_removed(descriptor: int) -> None:
        if not path.exists():
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        fsync(descriptor)

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", fail_once_the_record_is_removed)
        with pytest.raises(StoreUnavailable):
            await store.delete(KEY)
    await check_that_alice_is_logged_out(store)


async def test_k5_a_logout_killed_at_any_step_leaves_record_or_marker_and_the_next_one_nothing_else(
    directory: Path,
) -> None:
    async with worker(file_store_worker, "die_while_logging_out", os.fspath(directory)) as process:
        printed, _ = await process.communicate()
    assert process.returncode == 0
    steps = [json.loads(line) for line in printed.splitlines()]
    assert [step["left"] for step in steps] == sorted((step["left"] for step in steps), reverse=True)
    assert {step["left"] for step in steps} == {"record", "marker"}
    assert [step["died"] for step in steps] == [True] * (len(steps) - 1) + [False]
    assert len(steps) > 5
    assert all(step["names"] == ["alice.logout", "alice.write-lock"] for step in steps)


async def test_k5_a_logout_is_not_cleared_away_with_an_older_marker_that_it_has_just_replaced(
    store: FileTokenStore, directory: Path, marker: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    make_old(marker)
    there = FileTokenStore(directory)
    lstat, looked = os.lstat, False

    def look_and_let_another_log_out(path: Any) -> os.stat_result:
        nonlocal looked
        status = lstat(path)
        if path == os.fspath(marker) and not looked:
            looked = True
            asyncio.run(log_out(there))
        return status

    monkeypatch.setattr(os, "lstat", look_and_let_another_log_out)
    assert await keys_of(store) == []
    assert looked
    await there.aclose()
    await check_that_alice_is_logged_out(store)


async def test_k5_a_marker_that_a_writer_is_using_is_cleared_away_at_the_next_listing(
    store: FileTokenStore, path: Path, marker: Path
) -> None:
    make_old(marker)
    lock = _private_files.try_lock(os.fspath(path.with_suffix(".write-lock")))
    assert lock is not None
    assert await keys_of(store) == []
    assert marker.exists()
    _private_files.release_lock(lock)
    assert await keys_of(store) == []
    assert not marker.exists()


async def test_k5_the_logout_of_a_link_keeps_older_token_sets_out(
    store: FileTokenStore, path: Path, tmp_path: Path
) -> None:
    await store.save(KEY, RECORD)
    path.rename(tmp_path / "elsewhere")
    path.symlink_to(tmp_path / "elsewhere")
    assert await store.delete(KEY) is True
    assert (tmp_path / "elsewhere").exists()
    with pytest.raises(StoreConflict):
        await store.replace(KEY, StoredTokens(TokenSet("old", issued_at=time.time() - 3600)), expected=None)


async def test_k5_p5_a_marker_that_others_can_read_is_refused_until_a_login(
    store: FileTokenStore, marker: Path
) -> None:
    marker.chmod(0o644)
    with pytest.raises(StoreError) as caught:
        await create(store)
    assert caught.value.code == "insecure_permissions"
    assert await store.load(KEY) is None
    await store.save(KEY, RECORD)
    await check_that_the_next_logout_counts(store)


async def test_k5_p6_nothing_is_read_or_written_through_a_link_in_the_place_of_a_marker(
    store: FileTokenStore, marker: Path, tmp_path: Path
) -> None:
    marker.rename(tmp_path / "elsewhere")
    before = (tmp_path / "elsewhere").read_bytes()
    marker.symlink_to(tmp_path / "elsewhere")
    with pytest.raises(StoreError):
        await create(store)
    await store.save(KEY, RECORD)
    assert not marker.is_symlink()
    marker.symlink_to(tmp_path / "elsewhere")
    await check_that_the_next_logout_counts(store)
    assert (tmp_path / "elsewhere").read_bytes() == before


async def check_that_the_next_logout_counts(store: FileTokenStore) -> None:
    assert await store.delete(KEY) is True
    await check_that_alice_is_logged_out(store)


@pytest.mark.parametrize(("permissions", "mode"), [("group", 0o660), ("unchecked", 0o600)])
async def test_h7_k5_a_marker_has_the_mode_of_a_record(
    directory: Path, marker: Path, permissions: Literal["group", "unchecked"], mode: int
) -> None:
    store = FileTokenStore(directory, permissions=permissions)
    await log_out(store)
    assert stat.S_IMODE(marker.stat().st_mode) == mode
    await check_that_alice_is_logged_out(store)
    await store.aclose()


async def test_k5_a_login_is_stored_although_the_marker_can_not_be_removed(store: FileTokenStore, marker: Path) -> None:
    marker.unlink()
    marker.mkdir()
    await store.save(KEY, RECORD)
    assert await store.load(KEY) == RECORD


async def test_k5_a_login_removes_the_temporary_file_that_a_crash_left_of_a_marker(
    store: FileTokenStore, path: Path, marker: Path
) -> None:
    marker.rename(marker.with_name(".alice.logout.tmp"))
    await store.save(KEY, RECORD)
    assert {each.name for each in path.parent.iterdir()} == {"alice.json", "alice.write-lock"}


async def test_k5_loads_and_renewals_do_not_look_for_a_marker(
    store: FileTokenStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    await store.save(KEY, RECORD)
    seen: list[str] = []

    def watched(call: Callable[..., Any], path: object, *arguments: Any, **options: Any) -> Any:
        seen.append(str(path))
        return call(path, *arguments, **options)

    for name in ("open", "lstat", "unlink", "replace"):
        monkeypatch.setattr(os, name, partial(watched, getattr(os, name)))
    async with store.lease(KEY, timeout=0):
        assert await store.load(KEY) == RECORD
        await store.replace(KEY, StoredTokens(TokenSet("renewed")), expected=RECORD.version)
    assert any(path.endswith("alice.json") for path in seen)
    assert not [path for path in seen if "logout" in path]
