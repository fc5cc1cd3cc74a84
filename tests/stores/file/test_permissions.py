"""Permissions of the files, and links that would lead out of the directory: P5 and P6."""
# Tests look at files as they please:
# ruff: noqa: ASYNC240

import os
import stat
from collections.abc import Iterator
from pathlib import Path

import pytest

from kit.stores import KEY
from tokenflight import (
    FileTokenStore,
    StoreCorrupted,
    StoredTokens,
    StoreError,
    StoreUnavailable,
    TokenKey,
    TokenSet,
    Version,
)
from tokenflight.testing.conformance._suite import HOSTILE_NAMES, LONE_SURROGATES

TOKENS = TokenSet("access", refresh_token="refresh")


@pytest.fixture(params=[0o000, 0o022, 0o077, 0o177], ids=oct)
def umask(request: pytest.FixtureRequest) -> Iterator[int]:
    before = os.umask(request.param)
    yield request.param
    os.umask(before)


@pytest.fixture
def provider_directory(tmp_path: Path) -> Path:
    return tmp_path / "tokens" / "idp"


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat(follow_symlinks=False).st_mode)


async def check_that_all_fails(store: FileTokenStore, error: type[StoreError], code: str) -> None:
    for operation in (
        store.load(KEY),
        store.save(KEY, StoredTokens(TOKENS)),
        store.replace(KEY, StoredTokens(TOKENS), expected=Version("1")),
        store.delete(KEY),
        store.lease(KEY, timeout=5).__aenter__(),
    ):
        with pytest.raises(error) as raised:
            await operation
        assert raised.value.code == code


async def test_p5_files_and_directories_are_private_whatever_the_umask(tmp_path: Path, umask: int) -> None:
    store = FileTokenStore(tmp_path / "state" / "app" / "tokens")
    for _ in range(2):
        await store.save(KEY, record := StoredTokens(TOKENS))
        await store.replace(KEY, StoredTokens(TOKENS), expected=record.version)
        async with store.lease(KEY, timeout=0):
            pass
    await store.aclose()
    found = {str(path.relative_to(tmp_path / "state")): mode(path) for path in (tmp_path / "state").rglob("*")}
    assert mode(tmp_path / "state") == 0o700
    assert found == {
        "app": 0o700,
        "app/tokens": 0o700,
        "app/tokens/idp": 0o700,
        "app/tokens/idp/alice.json": 0o600,
        "app/tokens/idp/alice.lock": 0o600,
        "app/tokens/idp/alice.write-lock": 0o600,
    }


async def test_p5_a_file_is_private_before_its_first_byte(
    store: FileTokenStore, umask: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    created: list[tuple[int, int]] = []
    plain_open = os.open

    def watched_open(path: Path, flags: int, mode: int = 0o777) -> int:
        descriptor = plain_open(path, flags, mode)
        if flags & os.O_CREAT:
            status = os.fstat(descriptor)
            created.append((stat.S_IMODE(status.st_mode), status.st_size))
        return descriptor

    monkeypatch.setattr(os, "open", watched_open)
    await store.save(KEY, StoredTokens(TOKENS))
    async with store.lease(KEY, timeout=0):
        pass
    # The lock of a write and the file that it writes, twice, and the lease. The lock is there the second time, and the
    # third, when what the lease has reserved is removed.
    assert created == [(0o600, 0)] * 6


@pytest.mark.parametrize("permissions", [0o640, 0o604, 0o660, 0o666, 0o644, 0o610], ids=oct)
async def test_p5_a_record_that_others_can_read_is_refused_and_left_alone(
    store: FileTokenStore, provider_directory: Path, permissions: int
) -> None:
    await store.save(KEY, record := StoredTokens(TOKENS))
    path = provider_directory / "alice.json"
    path.chmod(permissions)
    before = path.read_bytes()
    for operation in (store.load(KEY), store.replace(KEY, StoredTokens(TOKENS), expected=record.version)):
        with pytest.raises(StoreError, match=rf"mode {permissions:04o}.*chmod go-rwx .*alice\.json") as raised:
            await operation
        assert raised.value.code == "insecure_permissions"
        assert not isinstance(raised.value, StoreCorrupted)
    assert path.read_bytes() == before
    assert mode(path) == permissions
    await store.save(KEY, StoredTokens(TOKENS))  # a login makes a file of its own
    assert mode(path) == 0o600


@pytest.mark.parametrize("permissions", [0o770, 0o707, 0o777, 0o720], ids=oct)
@pytest.mark.parametrize("name", ["tokens", "tokens/idp"])
async def test_p5_a_directory_that_others_can_write_to_is_refused(
    store: FileTokenStore, tmp_path: Path, name: str, permissions: int
) -> None:
    await store.save(KEY, StoredTokens(TOKENS))
    path = tmp_path / "tokens" / "idp" / "alice.json"
    before = path.read_bytes()
    (tmp_path / name).chmod(permissions)
    await check_that_all_fails(store, StoreError, "insecure_permissions")
    assert path.read_bytes() == before
    assert mode(tmp_path / name) == permissions


async def test_a_directory_that_others_may_only_look_into_is_accepted(store: FileTokenStore, tmp_path: Path) -> None:
    (tmp_path / "tokens").mkdir(mode=0o755)
    await store.save(KEY, StoredTokens(TOKENS))
    assert mode(tmp_path / "tokens") == 0o755
    assert mode(tmp_path / "tokens" / "idp") == 0o700


@pytest.mark.parametrize("place", ["user_id", "provider"])
async def test_p6_names_of_any_content_stay_inside_the_directory(
    store: FileTokenStore, tmp_path: Path, place: str
) -> None:
    for name in (*HOSTILE_NAMES, *LONE_SURROGATES):
        key = TokenKey("idp", name) if place == "user_id" else TokenKey(name, "alice")
        await store.save(key, StoredTokens(TOKENS))
        async with store.lease(key, timeout=0):
            pass
    assert [path.name for path in tmp_path.iterdir()] == ["tokens"]
    files = [path for path in tmp_path.rglob("*") if not path.is_dir()]
    assert len(files) == 3 * len((*HOSTILE_NAMES, *LONE_SURROGATES))
    assert all(path.parent.parent == tmp_path / "tokens" for path in files)
    assert all(len(path.name) <= 255 and path.name.isascii() for path in files)


@pytest.fixture
def outside(tmp_path: Path) -> Iterator[Path]:
    """A file that a link leads to; it must not change."""
    path = tmp_path / "outside"
    path.write_bytes(b'{"access_token": "outside"}')
    path.chmod(0o600)
    before = path.stat()
    yield path
    after = path.stat()
    assert path.read_bytes() == b'{"access_token": "outside"}'
    assert (after.st_mtime_ns, after.st_mode, after.st_ino) == (before.st_mtime_ns, before.st_mode, before.st_ino)


async def test_p6_a_link_in_the_place_of_a_record_is_not_followed(
    store: FileTokenStore, provider_directory: Path, outside: Path
) -> None:
    await store.save(KEY, record := StoredTokens(TOKENS))
    path = provider_directory / "alice.json"
    path.unlink()
    path.symlink_to(outside)
    for operation in (store.load(KEY), store.replace(KEY, StoredTokens(TOKENS), expected=record.version)):
        with pytest.raises(StoreUnavailable):
            await operation
    assert path.is_symlink()
    await store.save(KEY, StoredTokens(TOKENS))  # a login puts a file in the place of the link
    assert not path.is_symlink()
    path.unlink()
    path.symlink_to(outside)
    assert await store.delete(KEY) is True


async def test_p6_a_link_in_the_place_of_the_temporary_file_is_not_followed(
    store: FileTokenStore, provider_directory: Path, outside: Path
) -> None:
    await store.save(KEY, StoredTokens(TOKENS))
    (provider_directory / ".alice.json.tmp").symlink_to(outside)
    await store.save(KEY, StoredTokens(TOKENS))
    assert not (provider_directory / "alice.json").is_symlink()


@pytest.mark.parametrize("target", ["outside", "nowhere"])
async def test_p6_a_link_in_the_place_of_a_lock_is_not_followed(
    store: FileTokenStore, tmp_path: Path, provider_directory: Path, outside: Path, target: str
) -> None:
    await store.save(KEY, saved := StoredTokens(TOKENS))
    for name in ("alice.lock", "alice.write-lock"):
        (provider_directory / name).unlink(missing_ok=True)
        (provider_directory / name).symlink_to(tmp_path / target)
    for operation in (
        store.lease(KEY, timeout=5).__aenter__(),
        store.save(KEY, StoredTokens(TokenSet("new"))),
        store.replace(KEY, StoredTokens(TokenSet("new")), expected=saved.version),
        store.delete(KEY),
    ):
        with pytest.raises(StoreUnavailable):
            await operation
    record = await store.load(KEY)
    assert record is not None
    assert record.version == saved.version
    assert not (tmp_path / "nowhere").exists()


@pytest.mark.parametrize("name", ["tokens", "tokens/idp"])
async def test_p6_a_link_in_the_place_of_a_directory_is_not_followed(
    store: FileTokenStore, tmp_path: Path, name: str
) -> None:
    await store.save(KEY, StoredTokens(TOKENS))
    (tmp_path / name).rename(tmp_path / "elsewhere")
    (tmp_path / name).symlink_to(tmp_path / "elsewhere")
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "elsewhere").rglob("*")}
    await check_that_all_fails(store, StoreUnavailable, "store_unavailable")
    assert {path: path.stat().st_mtime_ns for path in (tmp_path / "elsewhere").rglob("*")} == before


async def test_the_directory_named_by_the_app_may_be_a_link(tmp_path: Path) -> None:
    (tmp_path / "disk").mkdir(mode=0o700)
    (tmp_path / "link").symlink_to(tmp_path / "disk")
    store = FileTokenStore(tmp_path / "link" / "tokens")
    await store.save(KEY, StoredTokens(TOKENS))
    await store.aclose()
    assert (tmp_path / "disk" / "tokens" / "idp" / "alice.json").exists()


async def test_p6_a_pipe_in_the_place_of_a_record_is_refused_and_not_waited_for(
    store: FileTokenStore, provider_directory: Path
) -> None:
    provider_directory.mkdir(mode=0o700, parents=True)
    os.mkfifo(provider_directory / "alice.json", 0o600)
    with pytest.raises(StoreUnavailable, match="not a regular file"):
        await store.load(KEY)
