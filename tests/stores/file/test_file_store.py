"""What the file store promises beyond the contract: whole records, damage, trouble with the disk."""

# Tests look at files as they please:
# ruff: noqa: ASYNC240
import asyncio
import errno
import json
import os
import shutil
import stat
import threading
from functools import partial
from pathlib import Path
from typing import Any

import filelock
import pytest

from kit.stores import KEY, keys_of
from tokenflight import (
    ConfigurationError,
    FileTokenStore,
    StoreConflict,
    StoreCorrupted,
    StoredTokens,
    StoreUnavailable,
    TokenKey,
    TokenSet,
)
from tokenflight.stores.base import Version
from tokenflight.stores.file import _private_files
from tokenflight.stores.file._limits import FileLimits
from tokenflight.stores.file._names import encode_name

TOKENS = TokenSet("access", expires_at=1_800_000_000, refresh_token="refresh", extra={"x": [1, "€"]})


def put(path: Path, data: bytes) -> None:
    """What another program, or a fault, left at `path`."""
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    path.write_bytes(data)
    path.chmod(0o600)


# The files


async def test_system_d_tokens_are_saved_and_loaded_for_an_account_at_a_provider(store: FileTokenStore) -> None:
    for key in (KEY, TokenKey("idp", "bob"), TokenKey("other", "alice")):
        await store.save(key, StoredTokens(TokenSet(f"access of {key}")))
    for key in (KEY, TokenKey("idp", "bob"), TokenKey("other", "alice")):
        record = await store.load(key)
        assert record is not None
        assert record.tokens == TokenSet(f"access of {key}")


async def test_system_d_a_record_is_a_private_json_file_of_its_own(store: FileTokenStore, path: Path) -> None:
    await store.save(KEY, StoredTokens(TOKENS))
    assert json.loads(path.read_bytes())["tokens"] == TOKENS.to_dict()
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700


@pytest.mark.parametrize(
    "older",
    [
        {"access_token": "old", "refresh_token": "r", "expires_at": "2027-01-15T08:00:00Z"},
        {"accessToken": "old", "refreshToken": "r", "expiresAt": 1_800_000_000},
        {"token": "old", "refresh_token": "r", "expiry": "2027-01-15T08:00:00"},
        {"access_token": "old", "refresh_token": "r", "expires_in": 100_000_000, "saved_at": 1_700_000_000},
    ],
    ids=["ISO 8601", "camelCase", "Google's", "expires_in and saved_at"],
)
async def test_system_d_an_older_file_loads_and_is_written_back_in_todays_shape(
    store: FileTokenStore, path: Path, older: dict[str, Any]
) -> None:
    put(path, json.dumps(older).encode())
    record = await store.load(KEY)
    assert record is not None
    assert (record.tokens.access_token, record.tokens.refresh_token) == ("old", "r")
    assert record.tokens.expires_at == 1_800_000_000
    assert await keys_of(store) == [KEY]
    await store.replace(KEY, StoredTokens(record.tokens), expected=record.version)
    assert json.loads(path.read_bytes())["tokens"] == record.tokens.to_dict()
    with pytest.raises(StoreConflict):
        await store.replace(KEY, StoredTokens(record.tokens), expected=record.version)


async def test_a_tilde_in_the_directory_is_the_home_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    store = FileTokenStore("~/.local/state/app/tokens")
    await store.save(KEY, StoredTokens(TOKENS))
    await store.aclose()
    assert (tmp_path / ".local/state/app/tokens/idp/alice.json").exists()


def test_the_store_shows_its_directory_and_makes_nothing_before_it_is_used(directory: Path) -> None:
    assert repr(FileTokenStore(directory)) == f"<FileTokenStore {str(directory)!r}>"
    assert not directory.exists()


async def test_reading_makes_no_directory(store: FileTokenStore, directory: Path) -> None:
    assert await store.load(KEY) is None
    assert await store.delete(KEY) is False
    assert await keys_of(store) == []
    assert await keys_of(store, "idp") == []
    assert not directory.exists()


# Writing


async def test_p2_p3_a_write_is_synced_renamed_and_synced_again(
    store: FileTokenStore, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    await store.save(KEY, StoredTokens(TokenSet("before")))
    before = path.read_bytes()
    steps: list[str] = []
    fsync, replace = os.fsync, os.replace

    def watched_fsync(descriptor: int) -> None:
        fsync(descriptor)
        is_directory = stat.S_ISDIR(os.fstat(descriptor).st_mode)
        steps.append("sync directory" if is_directory else f"sync {os.fstat(descriptor).st_size > 0}")

    def watched_replace(source: Path, target: Path) -> None:
        if Path(target) == path:
            assert path.read_bytes() == before
            assert json.loads(Path(source).read_bytes())["tokens"] == TOKENS.to_dict()
        replace(source, target)
        steps.append(f"rename to {Path(target).name}")

    monkeypatch.setattr(os, "fsync", watched_fsync)
    monkeypatch.setattr(os, "replace", watched_replace)
    await store.save(KEY, StoredTokens(TOKENS))
    assert steps == ["sync True", "rename to alice.json", "sync directory"]
    steps.clear()
    await store.delete(KEY)
    assert steps == ["sync True", "rename to alice.logout", "sync directory", "sync directory"]


async def test_p3_a_reader_never_sees_half_a_record(store: FileTokenStore, path: Path) -> None:
    small, large = TokenSet("small"), TokenSet("large", extra={"filling": "x" * 200_000})
    await store.save(KEY, StoredTokens(small))
    seen: set[str] = set()
    done = threading.Event()

    def read() -> None:
        while not done.is_set():
            seen.add(json.loads(path.read_bytes())["tokens"]["access_token"])

    reader = asyncio.create_task(asyncio.to_thread(read))
    for _ in range(20):
        await store.save(KEY, StoredTokens(large))
        await store.save(KEY, StoredTokens(small))
    done.set()
    await reader
    assert seen == {"small", "large"}


@pytest.mark.parametrize("left", [b"", b'{"half": ', b"x" * 1_000_000])
async def test_p3_a_temporary_file_left_by_a_dead_process_does_no_harm(
    store: FileTokenStore, path: Path, left: bytes
) -> None:
    temporary = path.with_name(".alice.json.tmp")
    put(temporary, left)
    temporary.chmod(0o644)
    assert await store.load(KEY) is None
    assert await keys_of(store) == []
    await store.save(KEY, StoredTokens(TOKENS))
    record = await store.load(KEY)
    assert record is not None
    assert record.tokens == TOKENS
    assert not temporary.exists()
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


async def test_the_lock_files_stay(store: FileTokenStore, path: Path) -> None:
    def locks() -> dict[str, int]:
        return {each.name: each.stat().st_ino for each in path.parent.iterdir() if each.suffix != ".json"}

    await store.save(KEY, StoredTokens(TOKENS))
    async with store.lease(KEY, timeout=0):
        pass
    before = locks()
    assert set(before) == {"alice.lock", "alice.write-lock"}
    async with store.lease(KEY, timeout=0):
        await store.delete(KEY)
        await store.save(KEY, StoredTokens(TOKENS))
    assert locks() == before


# Damage

DAMAGE = {
    "empty": b"",
    "zeros": b"\0" * 512,
    "no JSON": b"<html>",
    "no object": b"[]",
    "cut off": b'{"format_version": 1, "tokens": {"access_token": "acc',
    "no token": b'{"scope": "a"}',
    "another user's": b'{"provider": "idp", "user_id": "bob", "version": "1", "tokens": {"access_token": "a"}}',
    "endless": b"[" * (5 * 1024 * 1024),
}


@pytest.mark.parametrize("damage", DAMAGE)
async def test_p4_a_damaged_record_is_left_as_it_is_until_a_login_overwrites_it(
    store: FileTokenStore, path: Path, damage: str
) -> None:
    put(path, DAMAGE[damage])
    before = path.stat()
    with pytest.raises(StoreCorrupted, match="a new login overwrites it"):
        await store.load(KEY)
    with pytest.raises(StoreCorrupted):
        await store.replace(KEY, StoredTokens(TOKENS), expected=Version("1"))
    assert await keys_of(store) == [KEY]
    assert path.read_bytes() == DAMAGE[damage]
    assert path.stat().st_mtime_ns == before.st_mtime_ns
    await store.save(KEY, StoredTokens(TOKENS))
    record = await store.load(KEY)
    assert record is not None
    assert record.tokens == TOKENS


async def test_p4_a_damaged_record_can_be_deleted(store: FileTokenStore, path: Path) -> None:
    put(path, b"damaged")
    assert await store.delete(KEY) is True
    assert await store.load(KEY) is None


async def test_a_record_of_a_later_format_is_left_alone(store: FileTokenStore, path: Path) -> None:
    later = json.dumps({"format_version": 3, "provider": "idp", "user_id": "alice", "sealed": "AAAA"}).encode()
    put(path, later)
    with pytest.raises(StoreCorrupted, match="upgrade it") as raised:
        await store.load(KEY)
    assert raised.value.code == "unsupported_format"
    with pytest.raises(StoreCorrupted):
        await store.replace(KEY, StoredTokens(TOKENS), expected=Version("1"))
    assert path.read_bytes() == later


# Trouble with the disk


async def test_p7_a_renewal_does_not_make_a_removed_directory_again(store: FileTokenStore, directory: Path) -> None:
    await store.save(KEY, record := StoredTokens(TOKENS))
    shutil.rmtree(directory)
    with pytest.raises(StoreUnavailable, match="is gone"):
        await store.replace(KEY, StoredTokens(TOKENS), expected=record.version)
    assert not directory.exists()


async def test_p7_a_directory_that_is_taken_away_logs_no_user_out_and_is_not_made_again(
    store: FileTokenStore, directory: Path
) -> None:
    await store.save(KEY, record := StoredTokens(TOKENS))
    directory.rename(directory.with_name("away"))
    for operation in (
        store.load(KEY),
        store.save(KEY, StoredTokens(TOKENS)),
        store.replace(KEY, StoredTokens(TOKENS), expected=record.version),
        store.delete(KEY),
        store.lease(KEY, timeout=0).__aenter__(),
        anext(store.keys()),
    ):
        with pytest.raises(StoreUnavailable, match="is gone"):
            await operation
    assert not directory.exists()
    directory.with_name("away").rename(directory)
    await store.replace(KEY, StoredTokens(TOKENS), expected=record.version)


async def test_p7_a_directory_made_anew_by_another_process_is_no_logout_for_a_renewal(
    store: FileTokenStore, directory: Path
) -> None:
    await store.save(KEY, record := StoredTokens(TOKENS))
    directory.rename(directory.with_name("away"))
    for other in ("bob", "alice"):
        await FileTokenStore(directory).save(TokenKey("another", other), StoredTokens(TOKENS))
        with pytest.raises(StoreUnavailable, match="is not the one it was"):
            await store.replace(KEY, StoredTokens(TOKENS), expected=record.version)
    shutil.rmtree(directory)
    directory.with_name("away").rename(directory)
    await store.replace(KEY, StoredTokens(TOKENS), expected=record.version)


async def test_p7_a_record_is_not_created_in_a_directory_made_anew_by_another_process(
    store: FileTokenStore, directory: Path
) -> None:
    await store.save(KEY, record := StoredTokens(TOKENS))
    directory.rename(directory.with_name("away"))
    await FileTokenStore(directory).save(TokenKey("another", "bob"), StoredTokens(TOKENS))
    with pytest.raises(StoreUnavailable, match="is not the one it was"):
        await store.replace(KEY, StoredTokens(TOKENS), expected=None)
    shutil.rmtree(directory)
    directory.with_name("away").rename(directory)
    assert await store.load(KEY) == record


async def test_p4_a_damaged_record_is_not_created_anew(store: FileTokenStore, path: Path) -> None:
    put(path, b"damaged")
    with pytest.raises(StoreCorrupted):
        await store.replace(KEY, StoredTokens(TOKENS), expected=None)
    assert path.read_bytes() == b"damaged"


@pytest.mark.parametrize("replaced", ["tokens", "tokens/idp"])
async def test_p7_a_file_in_the_place_of_a_directory_makes_the_store_unavailable(
    store: FileTokenStore, tmp_path: Path, replaced: str
) -> None:
    await store.save(KEY, saved := StoredTokens(TOKENS))
    (tmp_path / replaced).rename(tmp_path / "moved")
    (tmp_path / replaced).write_text("a file")
    with pytest.raises(StoreUnavailable):
        await store.load(KEY)
    with pytest.raises(StoreUnavailable):
        await store.save(KEY, StoredTokens(TOKENS))
    with pytest.raises(StoreUnavailable):
        await store.replace(KEY, StoredTokens(TOKENS), expected=saved.version)
    with pytest.raises(StoreUnavailable):
        await store.delete(KEY)
    with pytest.raises(StoreUnavailable):
        await store.lease(KEY, timeout=5).__aenter__()
    assert (tmp_path / replaced).read_text() == "a file"
    (tmp_path / replaced).unlink()
    (tmp_path / "moved").rename(tmp_path / replaced)
    record = await store.load(KEY)
    assert record is not None
    assert record.version == saved.version


async def test_p7_a_system_error_is_unavailable_with_its_cause(store: FileTokenStore, path: Path) -> None:
    await store.save(KEY, StoredTokens(TOKENS))
    path.unlink()
    path.mkdir()
    for operation in (store.load, partial(store.save, record=StoredTokens(TOKENS)), store.delete):
        with pytest.raises(StoreUnavailable, match=r"alice\.json") as raised:
            await operation(KEY)
        assert "refresh" not in str(raised.value)
    assert {each.name for each in path.parent.iterdir()} == {"alice.json", "alice.write-lock"}


async def test_p7_a_write_lock_that_never_comes_free_is_given_up(directory: Path, path: Path) -> None:
    store = FileTokenStore(directory, _limits=FileLimits(lock_timeout_seconds=0.05))
    await store.save(KEY, StoredTokens(TOKENS))
    lock = _private_files.try_lock(str(path.with_suffix(".write-lock")))
    assert lock is not None
    with pytest.raises(StoreUnavailable, match="has been locked by another process"):
        await store.save(KEY, StoredTokens(TokenSet("later")))
    _private_files.release_lock(lock)
    await store.save(KEY, StoredTokens(TokenSet("later")))
    await store.aclose()


# keys


async def test_n15_keys_passes_over_what_is_no_record_and_tells(
    store: FileTokenStore, directory: Path, path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    await store.save(KEY, StoredTokens(TOKENS))
    async with store.lease(TokenKey("idp", "leased"), timeout=0):
        pass
    long = f"{encode_name('y' * 300)}.json"
    for foreign in ("README", "Bob.json", "%zz.json", ".bob.json.tmp", "bob.json.bak", ".json", "con.json"):
        put(path.with_name(foreign), b'{"provider": "idp", "user_id": "bob", "tokens": {}}')
    put(path.with_name(long), b"damaged")
    put(path.with_name(f"{encode_name('z' * 300)}.json"), path.read_bytes())
    put(Path(os.fsdecode(os.fsencode(path.parent) + b"/\xff.json")), b"{}")
    put(directory / "stray.json", path.read_bytes())
    (path.with_name(f"{encode_name('w' * 300)}.json")).mkdir()
    (directory / "link").symlink_to(path.parent)
    assert await keys_of(store) == [KEY]
    assert any(message.startswith(f"passed over {path.with_name('Bob.json')}") for message in caplog.messages)
    assert await keys_of(store, "idp") == [KEY]
    assert await keys_of(store, "link") == []


async def test_keys_come_in_batches_and_none_is_lost(directory: Path) -> None:
    store = FileTokenStore(directory, _limits=FileLimits(keys_per_read=3))
    keys = {TokenKey(provider, f"{n}" * length) for provider in "ab" for n in range(5) for length in (1, 300)}
    for key in keys:
        await store.save(key, StoredTokens(TOKENS))
    listed = await keys_of(store)
    assert len(listed) == len(keys)
    assert set(listed) == keys
    async for key in store.keys("a"):
        await store.delete(key)
    assert {key.provider for key in await keys_of(store)} == {"b"}
    await store.aclose()


@pytest.mark.parametrize("directory", ["", "~nobody-of-this-name/tokens"])
def test_a_directory_that_can_not_be_meant_is_refused(directory: str) -> None:
    with pytest.raises(ConfigurationError, match="directory"):
        FileTokenStore(directory)


def test_without_a_home_directory_its_abbreviation_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os.path, "expanduser", lambda path: path)  # what it does where there is none
    with pytest.raises(ConfigurationError, match="home"):
        FileTokenStore("~/.local/state/myapp")


async def test_p3_a_directory_that_was_made_is_synced_into_its_parent(
    store: FileTokenStore, directory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    synced: list[Path] = []
    fsync = os.fsync

    def watched_fsync(descriptor: int) -> None:
        fsync(descriptor)
        if stat.S_ISDIR(os.fstat(descriptor).st_mode):
            synced.append(Path(f"/proc/self/fd/{descriptor}").readlink())

    monkeypatch.setattr(os, "fsync", watched_fsync)
    await store.save(KEY, StoredTokens(TokenSet("access")))
    assert synced == [directory.parent, directory, directory / KEY.provider]


@pytest.mark.parametrize("number", [errno.EINVAL, errno.EIO], ids=lambda number: errno.errorcode[number])
async def test_h6_a_file_system_that_can_not_sync_a_directory_has_the_record_and_one_that_fails_is_told(
    store: FileTokenStore, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    fsync = os.fsync

    def limited_fsync(descriptor: int) -> None:
        if stat.S_ISDIR(os.fstat(descriptor).st_mode):
            raise OSError(number, os.strerror(number))
        fsync(descriptor)

    await store.save(KEY, StoredTokens(TokenSet("before")))
    monkeypatch.setattr(os, "fsync", limited_fsync)
    if number == errno.EINVAL:
        await store.save(KEY, StoredTokens(TOKENS))
        assert await store.load(KEY) is not None
        assert await store.delete(KEY)
    else:
        with pytest.raises(StoreUnavailable):
            await store.save(KEY, StoredTokens(TOKENS))


async def test_a_record_that_the_system_gives_in_pieces_is_read_whole(
    store: FileTokenStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    await store.save(KEY, StoredTokens(TokenSet("access")))
    read = os.read
    monkeypatch.setattr(os, "read", lambda descriptor, length: read(descriptor, min(length, 10)))
    record = await store.load(KEY)
    assert record is not None
    assert record.tokens == TokenSet("access")


def test_a_lock_that_can_not_be_taken_leaves_no_file_open(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(descriptor: int, *, blocking: bool) -> bool:
        raise OSError("no locks available")

    monkeypatch.setattr(filelock, "lock_descriptor", fail)
    before = len(list(Path("/proc/self/fd").iterdir()))
    with pytest.raises(OSError, match="no locks"):
        _private_files.try_lock(str(tmp_path / "lock"))
    assert len(list(Path("/proc/self/fd").iterdir())) == before


def test_p6_a_link_put_in_the_place_of_a_directory_this_instant_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def too_late(path: str, mode: int) -> None:
        (tmp_path / "elsewhere").symlink_to(tmp_path)
        raise FileExistsError(path)

    monkeypatch.setattr(os, "mkdir", too_late)
    with pytest.raises(StoreUnavailable):
        _private_files.make_directory(str(tmp_path / "elsewhere"))
