"""H7: permissions that the platform sets, as with a Kubernetes fsGroup or a mount that shows 0777 for everything."""
# Tests look at files as they please:
# ruff: noqa: ASYNC240

import os
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

import pytest

from kit.stores import KEY, keys_of
from tokenflight import ConfigurationError, FileTokenStore, StoredTokens, StoreError, TokenSet

TOKENS = TokenSet("access", refresh_token="refresh")
Choice = Literal["owner", "group", "unchecked"]


@pytest.fixture(autouse=True)
def usual_umask() -> Iterator[None]:
    before = os.umask(0o022)
    yield
    os.umask(before)


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


async def use(store: FileTokenStore) -> None:
    """Do all that a store can do, and leave a record, its locks, and what a lease reserves."""
    await store.save(KEY, record := StoredTokens(TOKENS))
    assert await store.load(KEY) == record
    async with store.lease(KEY, timeout=0):
        await store.replace(KEY, renewed := StoredTokens(TOKENS), expected=record.version)
    assert await keys_of(store) == [KEY]
    assert await store.load(KEY) == renewed
    await store.delete(KEY)
    await store.save(KEY, StoredTokens(TOKENS))
    await store.aclose()


@pytest.mark.parametrize("setgid", [0, stat.S_ISGID], ids=["plain", "setgid"])
async def test_h7_the_group_can_use_what_a_store_for_the_group_makes(directory: Path, setgid: int) -> None:
    directory.mkdir()
    directory.chmod(0o770 | setgid)
    store = FileTokenStore(directory, permissions="group")
    async with store.lease(KEY, timeout=0):
        assert mode(directory / "idp" / ".alice.json.tmp") == 0o660
    await use(store)
    assert {path.name: mode(path) for path in directory.rglob("*")} == {
        "idp": 0o770 | setgid,
        "alice.json": 0o660,
        "alice.lock": 0o660,
        "alice.write-lock": 0o660,
    }
    assert mode(directory) == 0o770 | setgid


async def test_h7_a_store_for_the_group_makes_its_own_directory(directory: Path) -> None:
    await use(FileTokenStore(directory, permissions="group"))
    assert mode(directory) == 0o770


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a file away")
async def test_h7_a_store_for_the_group_shares_the_files_of_its_members_and_refuses_those_of_strangers(
    directory: Path,
) -> None:
    store = FileTokenStore(directory, permissions="group")
    await use(store)
    for path in (directory, *directory.rglob("*")):
        os.chown(path, 65534, os.getegid())
        path.chmod(0o770 if path.is_dir() else 0o660)
    await use(store)
    os.chown(directory / "idp" / "alice.json", 65534, 65534)
    with pytest.raises(StoreError, match="belongs to another user"):
        await store.load(KEY)


@pytest.mark.parametrize("name", ["tokens", "tokens/idp", "tokens/idp/alice.json"])
@pytest.mark.parametrize("bits", [0o002, 0o007], ids=oct)
async def test_h7_a_store_for_the_group_refuses_what_all_others_can_use(tmp_path: Path, name: str, bits: int) -> None:
    store = FileTokenStore(tmp_path / "tokens", permissions="group")
    await use(store)
    (tmp_path / name).chmod(0o770 | bits)
    with pytest.raises(StoreError, match=rf"chmod o-\w+ {tmp_path / name}") as raised:
        await store.load(KEY)
    assert raised.value.code == "insecure_permissions"


async def test_h7_a_store_that_checks_nothing_uses_whatever_the_platform_shows(tmp_path: Path) -> None:
    (tmp_path / "mount").mkdir()
    (tmp_path / "mount").chmod(0o777)
    store = FileTokenStore(tmp_path / "mount" / "tokens", permissions="unchecked")
    await use(store)
    for path in (tmp_path / "mount" / "tokens", *(tmp_path / "mount" / "tokens").rglob("*")):
        path.chmod(0o777)
        if not os.geteuid():
            os.chown(path, 65534, 65534)
    await use(store)


@pytest.mark.parametrize("permissions", [0o770, 0o2770, 0o777], ids=oct)
async def test_h7_a_directory_refused_says_which_choice_would_take_it(directory: Path, permissions: int) -> None:
    directory.mkdir()
    directory.chmod(permissions)
    with pytest.raises(StoreError, match=r'permissions="group" or permissions="unchecked"') as raised:
        await FileTokenStore(directory).load(KEY)
    assert raised.value.code == "insecure_permissions"


@pytest.mark.parametrize("choice", ["", "Owner", "0600", 0o600, None, ["owner"]])
def test_h7_any_other_choice_is_refused(directory: Path, choice: Any) -> None:
    with pytest.raises(ConfigurationError, match="permissions must be one of 'owner', 'group', 'unchecked'"):
        FileTokenStore(directory, permissions=choice)
