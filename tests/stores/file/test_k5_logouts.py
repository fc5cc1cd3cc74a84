"""K5: what a logout leaves in the directory, and for how long."""
# Tests look at files as they please:
# ruff: noqa: ASYNC240

import json
import os
import stat
import time
from pathlib import Path

import pytest

from kit.stores import keys_of
from tokenflight import FileTokenStore, StoreConflict, StoredTokens, TokenKey, TokenSet

KEY = TokenKey("idp", "alice")
RECORD = StoredTokens(TokenSet("access", refresh_token="refresh-secret"))
DAY = 86_400


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    return tmp_path / "tokens"


@pytest.fixture
async def store(directory: Path) -> FileTokenStore:
    """A store that alice has just logged out of."""
    store = FileTokenStore(directory)
    await store.save(KEY, RECORD)
    assert await store.delete(KEY) is True
    return store


@pytest.fixture
def marker(directory: Path) -> Path:
    return directory / "idp" / "alice.logout"


async def create(store: FileTokenStore) -> None:
    await store.replace(KEY, StoredTokens(RECORD.tokens), expected=None)


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


async def test_k5_listing_the_users_clears_away_the_markers_whose_day_is_over(
    store: FileTokenStore, marker: Path
) -> None:
    assert await keys_of(store) == []
    assert marker.exists()
    long_ago = time.time() - DAY - 1
    os.utime(marker, (long_ago, long_ago))
    assert await keys_of(store) == []
    assert not marker.exists()


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
    directory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = FileTokenStore(directory)
    await store.save(KEY, RECORD)
    (directory / "idp" / "alice.logout").mkdir()  # nothing can be written in its place
    assert await store.delete(KEY) is True
    assert await store.load(KEY) is None
