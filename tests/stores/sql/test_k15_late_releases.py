"""K15: a lease that could not be given back is given back as soon as the database lets it be."""

import time

import pytest

from kit.late_releases import late_releases
from kit.sql_database import Database, Driver
from kit.stores import KEY, is_free, until
from tokenflight import StoreUnavailable
from tokenflight.stores.sql import SQLTokenStore


class Failing(Driver):
    """Cuts the store off while `is_down`."""

    is_down = False

    async def before(self, statement: str) -> None:
        if self.is_down:
            raise ConnectionResetError


async def fail_to_release(store: SQLTokenStore, driver: Failing) -> None:
    """Take the lease, and fail to give it back."""
    context = store.lease(KEY, timeout=0)
    await context.__aenter__()
    driver.is_down = True
    with pytest.raises(StoreUnavailable):
        await context.__aexit__(None, None, None)


async def test_k15_a_lease_that_could_not_be_given_back_is_free_long_before_it_would_lapse(database: Database) -> None:
    driver = Failing()
    async with database.opened_through(driver, lease_duration=8) as store, database.opened() as other:
        await fail_to_release(store, driver)
        failed_at = time.monotonic()
        driver.is_down = False
        async with other.lease(KEY, timeout=20):
            assert time.monotonic() - failed_at < 4
        await until(lambda: late_releases() == [])


async def test_k15_nothing_is_given_back_once_it_has_lapsed_or_the_store_is_closed(database: Database) -> None:
    driver = Failing()
    async with database.opened_through(driver, lease_duration=0.3) as store, database.opened() as other:
        await fail_to_release(store, driver)
        assert len(late_releases()) == 1
        await until(lambda: late_releases() == [])
        driver.is_down = False
        async with other.lease(KEY, timeout=5):
            pass
        await fail_to_release(store, driver)
        assert not await is_free(other)
        await store.aclose()
        assert late_releases() == []
