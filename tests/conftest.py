"""What all tests share."""

from collections.abc import Iterator

import pytest
import time_machine

NOW = 1_800_000_000.0


@pytest.fixture
def clock() -> Iterator[time_machine.Coordinates]:
    """A clock that stands still until it is shifted."""
    with time_machine.travel(NOW, tick=False) as coordinates:
        yield coordinates
