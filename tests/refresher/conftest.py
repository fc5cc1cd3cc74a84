"""What the tests of the refresher share: a store that fails, hangs and waits when a test tells it to."""

import pytest

from tokenflight import MemoryTokenStore
from tokenflight.testing import FaultyStore


@pytest.fixture
def store() -> FaultyStore:
    """An empty store, which a test may put faults into."""
    return FaultyStore(MemoryTokenStore())
