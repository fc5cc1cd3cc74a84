"""A file store for each test, and where its files are."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from tokenflight import FileTokenStore


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    """The directory of `store`, not made yet."""
    return tmp_path / "tokens"


@pytest.fixture
def path(directory: Path) -> Path:
    """Where the record of user alice at provider idp is."""
    return directory / "idp" / "alice.json"


@pytest.fixture
async def store(directory: Path) -> AsyncIterator[FileTokenStore]:
    """A file store in an empty directory."""
    store = FileTokenStore(directory)
    yield store
    await store.aclose()
