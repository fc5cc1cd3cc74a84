"""N12: files and directories that another user owns or can exchange, and files for users who never were."""
# Tests look at files as they please:
# ruff: noqa: ASYNC240

import os
import stat
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest

from kit.stores import KEY, keys_of
from tokenflight import (
    FileTokenStore,
    StoreConflict,
    StoredTokens,
    StoreError,
    TokenKey,
    TokenSet,
    Version,
)

TOKENS = TokenSet("access", refresh_token="refresh")
SOMEBODY = 65534


@pytest.fixture
def give_away(monkeypatch: pytest.MonkeyPatch) -> Callable[[Path], None]:
    """Make a file somebody else's; without the right to, look at all files as somebody else."""

    def give(path: Path) -> None:
        if os.geteuid():
            monkeypatch.setattr(os, "geteuid", lambda: SOMEBODY)
        else:
            os.chown(path, SOMEBODY, SOMEBODY, follow_symlinks=False)

    return give


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


async def check_refused(store: FileTokenStore, *operations: str, because: str) -> None:
    calls: dict[str, Callable[[], Awaitable[object]]] = {
        "load": lambda: store.load(KEY),
        "save": lambda: store.save(KEY, StoredTokens(TOKENS)),
        "replace": lambda: store.replace(KEY, StoredTokens(TOKENS), expected=Version("1")),
        "create": lambda: store.replace(KEY, StoredTokens(TOKENS), expected=None),
        "delete": lambda: store.delete(KEY),
        "lease": lambda: store.lease(KEY, timeout=0).__aenter__(),
    }
    for operation in operations or calls:
        with pytest.raises(StoreError, match=because) as raised:
            await calls[operation]()
        assert raised.value.code == "insecure_permissions"


@pytest.mark.parametrize("name", ["tokens", "tokens/idp"])
async def test_n12_a_directory_of_another_user_is_refused(
    store: FileTokenStore, tmp_path: Path, name: str, give_away: Callable[[Path], None]
) -> None:
    await store.save(KEY, StoredTokens(TOKENS))
    give_away(tmp_path / name)
    await check_refused(store, because="belongs to another user")


async def test_n12_a_record_of_another_user_is_refused_and_left_alone_until_a_login(
    store: FileTokenStore, path: Path, give_away: Callable[[Path], None]
) -> None:
    await store.save(KEY, StoredTokens(TOKENS))
    before = path.read_bytes()
    give_away(path)
    await check_refused(store, "load", "replace", because="belongs to another user")
    assert path.read_bytes() == before
    if not os.geteuid():
        await store.save(KEY, login := StoredTokens(TOKENS))
        assert await store.load(KEY) == login


@pytest.mark.parametrize(
    ("lock", "operations"),
    [("alice.lock", ["lease"]), ("alice.write-lock", ["save", "replace", "create", "delete", "lease"])],
    ids=["lease", "write lock"],
)
async def test_n12_a_lock_file_of_another_user_is_refused(
    store: FileTokenStore, path: Path, lock: str, operations: list[str], give_away: Callable[[Path], None]
) -> None:
    await store.save(KEY, StoredTokens(TOKENS))
    async with store.lease(KEY, timeout=0):
        pass
    give_away(path.with_name(lock))
    await check_refused(store, *operations, because="belongs to another user")


async def test_n12_k5_a_marker_of_another_user_is_refused_until_a_login(
    store: FileTokenStore, path: Path, give_away: Callable[[Path], None]
) -> None:
    await store.save(KEY, StoredTokens(TOKENS))
    await store.delete(KEY)
    marker = path.with_name("alice.logout")
    before = marker.read_bytes()
    give_away(marker)
    await check_refused(store, "create", because="belongs to another user")
    assert marker.read_bytes() == before
    if not os.geteuid():
        await store.save(KEY, login := StoredTokens(TOKENS))
        assert await store.load(KEY) == login
        assert not marker.exists()


async def test_n12_k5_a_listing_clears_nothing_away_where_others_can_write(store: FileTokenStore, path: Path) -> None:
    await store.save(KEY, StoredTokens(TOKENS))
    await store.delete(KEY)
    marker = path.with_name("alice.logout")
    os.utime(marker, (0, 0))
    path.parent.chmod(0o777)
    assert await keys_of(store) == []
    assert marker.exists()
    path.parent.chmod(0o700)
    assert await keys_of(store) == []
    assert not marker.exists()


@pytest.mark.parametrize("lock", ["alice.lock", "alice.write-lock"])
async def test_n12_a_lock_file_that_others_could_lock_is_mended(store: FileTokenStore, path: Path, lock: str) -> None:
    async with store.lease(KEY, timeout=0):
        await store.save(KEY, StoredTokens(TOKENS))
    path.with_name(lock).chmod(0o666)
    async with store.lease(KEY, timeout=0):
        await store.save(KEY, StoredTokens(TOKENS))
    assert mode(path.with_name(lock)) == 0o600


@pytest.mark.parametrize("permissions", [0o777, 0o757, 0o770], ids=oct)
@pytest.mark.parametrize("parent", ["outer", "outer/inner"])
async def test_n12_a_parent_in_which_others_could_exchange_the_directory_is_refused(
    tmp_path: Path, parent: str, permissions: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "getegid", lambda: SOMEBODY)  # in no group that could be the user's own
    (tmp_path / "outer" / "inner").mkdir(mode=0o755, parents=True)
    directory = tmp_path / "outer" / "inner" / "tokens"
    used, new = FileTokenStore(directory), FileTokenStore(directory)
    await used.save(KEY, StoredTokens(TOKENS))
    (tmp_path / parent).chmod(permissions)
    for store in (used, new):
        await check_refused(store, because=rf"/{parent} can be written to by other users")
    (tmp_path / parent).chmod(0o1777)  # as /tmp is
    for store in (used, new):
        await store.save(KEY, StoredTokens(TOKENS))
        await store.aclose()


async def test_n12_no_directory_is_made_in_a_parent_that_others_can_write_to(tmp_path: Path) -> None:
    (tmp_path / "open").mkdir()
    (tmp_path / "open").chmod(0o777)
    await check_refused(FileTokenStore(tmp_path / "open" / "app" / "tokens"), because="written to by other users")
    assert list((tmp_path / "open").iterdir()) == []


async def test_n12_a_parent_may_be_open_to_the_group_that_the_user_is_alone_in(
    store: FileTokenStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tmp_path.chmod(0o775)
    if not os.geteuid():
        os.chown(tmp_path, 0, 4711)
    group = tmp_path.stat().st_gid
    monkeypatch.setattr(os, "getegid", lambda: group)
    monkeypatch.setattr(os, "geteuid", lambda: group + 1)
    await check_refused(store, because="written to by other users")
    monkeypatch.setattr(os, "geteuid", lambda: group)
    assert await store.load(KEY) is None


async def test_n12_users_who_never_were_leave_no_file_behind(store: FileTokenStore, directory: Path) -> None:
    await store.save(KEY, StoredTokens(TOKENS))
    before = set(directory.rglob("*"))
    for stranger in (TokenKey("idp", "mallory"), TokenKey("nowhere", "mallory")):
        assert await store.load(stranger) is None
        assert await store.delete(stranger) is False
        with pytest.raises(StoreConflict):
            await store.replace(stranger, StoredTokens(TOKENS), expected=Version("1"))
    assert set(directory.rglob("*")) == before
