"""What the tests of stores whose leases lapse share: a lease that could not be given back at first."""

import asyncio


def late_releases() -> list[asyncio.Task[object]]:
    """The tasks on this event loop that try to give a lease back."""
    return [task for task in asyncio.all_tasks() if task.get_name() == "tokenflight late release"]
