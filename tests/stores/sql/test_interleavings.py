"""What happens between the statements of one operation, and when a statement runs twice."""

from collections.abc import Awaitable, Callable
from typing import Any

import pytest
from sqlalchemy.engine.interfaces import DBAPICursor

from kit.sql_database import Database, Driver
from kit.stores import KEY, is_free
from tokenflight import (
    StoreConflict,
    StoredTokens,
    StoreUnavailable,
    TokenSet,
)


class Repeating(Driver):
    """Runs each statement twice, as after a lost reply. Between the first two, another process does `meanwhile`."""

    def __init__(self, meanwhile: Callable[[], Awaitable[None]] | None = None) -> None:
        self._meanwhile = meanwhile
        self._repeated = False

    async def after(self, statement: str, changed_rows: int) -> bool:
        self._repeated = not self._repeated
        # On a database without upserts, what changes no row is an update before the insertion.
        if self._repeated and changed_rows and self._meanwhile is not None:
            meanwhile, self._meanwhile = self._meanwhile, None
            await meanwhile()
        return self._repeated


@pytest.mark.parametrize("creates", [False, True], ids=["a save", "a creation"])
async def test_a_write_that_is_run_again_does_not_undo_the_renewal_that_came_between(
    database: Database, *, creates: bool
) -> None:
    login, renewed = StoredTokens(TokenSet("login")), StoredTokens(TokenSet("renewed"))

    async def renew() -> None:
        assert await other.load(KEY) == login
        await other.replace(KEY, renewed, expected=login.version)

    async with database.opened() as other, database.opened_through(Repeating(renew)) as store:
        await (store.replace(KEY, login, expected=None) if creates else store.save(KEY, login))
        assert await other.load(KEY) == renewed


async def test_a_write_or_lease_whose_reply_was_lost_counts_once(database: Database) -> None:
    async with database.opened() as other, database.opened_through(Repeating()) as store:
        await other.save(KEY, saved := StoredTokens(TokenSet("one")))
        await store.replace(KEY, replaced := StoredTokens(TokenSet("two")), expected=saved.version)
        assert await other.load(KEY) == replaced
        await other.delete(KEY)
        await store.replace(KEY, created := StoredTokens(TokenSet("three")), expected=None)
        assert await other.load(KEY) == created
        async with store.lease(KEY, timeout=0) as lease:
            assert lease.is_held()
            assert not await is_free(other)
        assert await is_free(other)


async def test_x10_a_first_login_between_the_statements_of_a_release_stays_and_the_lease_is_free(
    database: Database,
) -> None:
    login = StoredTokens(TokenSet("login"))

    class LoggingIn(Driver):
        """A login comes when the lease could not be released with the record: there was none."""

        async def after(self, statement: str, changed_rows: int) -> bool:
            if "SET lease_owner" in statement and "record IS NOT NULL" in statement:
                assert changed_rows == 0
                await other.save(KEY, login)
            return False

    async with database.opened() as other:
        async with database.opened_through(LoggingIn()) as store, store.lease(KEY, timeout=0):
            pass
        assert await other.load(KEY) == login
        assert await is_free(other)


async def test_a_delete_between_whose_statements_the_lease_is_released_leaves_no_row(database: Database) -> None:
    class Releasing(Driver):
        """The lease ends when the row could not be deleted because of it, before its record is."""

        async def before(self, statement: str) -> None:
            if statement.startswith("UPDATE"):
                await held.__aexit__(None, None, None)

    async with database.opened() as other, database.opened_through(Releasing()) as store:
        await other.save(KEY, StoredTokens(TokenSet("one")))
        held = other.lease(KEY, timeout=0)
        await held.__aenter__()
        assert await store.delete(KEY) is True
    assert await database.count_rows() == 0


async def test_a_delete_that_happened_is_told_though_the_row_could_not_be_removed(database: Database) -> None:
    class FailingAtTheEnd(Driver):
        """The database goes down once the record is gone."""

        deletes = 0

        async def before(self, statement: str) -> None:
            self.deletes += statement.startswith("DELETE")
            if self.deletes == 2:
                raise OSError("down")

    driver = FailingAtTheEnd()
    async with database.opened() as other, database.opened_through(driver) as store, other.lease(KEY, timeout=0):
        await other.save(KEY, StoredTokens(TokenSet("one")))
        assert await store.delete(KEY) is True
        assert driver.deletes == 2
        assert await other.load(KEY) is None


@pytest.mark.parametrize("creates", [False, True], ids=["a save", "a creation"])
async def test_a_write_that_changes_no_row_is_not_taken_for_stored(database: Database, *, creates: bool) -> None:
    class Idle(Driver):
        """The database does nothing."""

        def execute(self, cursor: DBAPICursor, statement: str, parameters: Any) -> bool:
            return True

    login = StoredTokens(TokenSet("login"))
    async with database.opened_through(Idle()) as store:
        with pytest.raises(StoreConflict if creates else StoreUnavailable) as caught:
            await (store.replace(KEY, login, expected=None) if creates else store.save(KEY, login))
    assert caught.value.code == ("store_conflict" if creates else "contended")
