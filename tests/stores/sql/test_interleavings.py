"""What happens between the statements of one operation, and when a statement runs twice."""

import time
from collections.abc import Awaitable, Callable
from typing import Any

import pytest
from sqlalchemy.engine.interfaces import DBAPICursor

from kit.sql_database import Database, Driver
from kit.stores import KEY, is_free, keys_of
from tokenflight import (
    StoreConflict,
    StoredTokens,
    StoreUnavailable,
    TokenSet,
)
from tokenflight.stores import LogoutMarker
from tokenflight.stores.sql._logouts import marker_text


class Repeating(Driver):
    """Runs each statement twice, as after a lost reply. Between the first two, another process does `meanwhile`."""

    def __init__(self, meanwhile: Callable[[], Awaitable[None]] | None = None) -> None:
        self._meanwhile = meanwhile
        self._repeated = False

    async def after(self, statement: str, changed_rows: int) -> bool:
        self._repeated = not self._repeated
        # On a database without upserts, what changes no row is an update before the insertion.
        wrote = changed_rows and not statement.startswith("SELECT")
        if self._repeated and wrote and self._meanwhile is not None:
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
            if "SET lease_until=CASE" in statement and "record IS NOT NULL" in statement:
                assert changed_rows == 0
                await other.save(KEY, login)
            return False

    async with database.opened() as other:
        async with database.opened_through(LoggingIn()) as store, store.lease(KEY, timeout=0):
            pass
        assert await other.load(KEY) == login
        assert await is_free(other)


async def test_a_delete_between_whose_statements_the_record_is_renewed_ends_what_is_there_then(
    database: Database,
) -> None:
    renewed = StoredTokens(TokenSet("renewed", refresh_token="renewed"))

    class Renewing(Driver):
        """A renewal comes when the record has been read, before it is removed."""

        renewals = 0

        async def before(self, statement: str) -> None:
            if statement.startswith("UPDATE") and not self.renewals:
                self.renewals += 1
                await other.replace(KEY, renewed, expected=login.version)

    async with database.opened() as other, database.opened_through(Renewing()) as store:
        await other.save(KEY, login := StoredTokens(TokenSet("login", refresh_token="login")))
        assert await store.delete(KEY) is True
        assert await other.load(KEY) is None
        with pytest.raises(StoreConflict) as caught:
            await other.replace(KEY, StoredTokens(renewed.tokens), expected=None)
        assert caught.value.code == "logged_out"


async def test_a_delete_that_is_run_again_says_that_there_was_a_record(database: Database) -> None:
    async with database.opened() as other, database.opened_through(Repeating()) as store:
        await other.save(KEY, StoredTokens(TokenSet("one")))
        assert await store.delete(KEY) is True
        assert await store.delete(KEY) is False


async def test_k5_a_marker_whose_day_is_over_goes_when_the_users_are_listed(database: Database) -> None:
    async with database.opened() as store:
        await store.save(KEY, StoredTokens(TokenSet("one", refresh_token="one")))
        await store.delete(KEY)
        assert await keys_of(store) == []
        assert await database.count_rows() == 1
        long_ago = marker_text(LogoutMarker(time.time() - 86_401, None))
        await database.run(f"update {{table}} set version = '{long_ago}'")
        await store.replace(KEY, StoredTokens(TokenSet("two", refresh_token="one")), expected=None)
        await store.delete(KEY)
        await database.run(f"update {{table}} set version = '{long_ago}'")
        assert await keys_of(store) == []
        assert await database.count_rows() == 0


@pytest.mark.parametrize("creates", [False, True], ids=["a save", "a creation"])
async def test_a_write_that_changes_no_row_is_not_taken_for_stored(database: Database, *, creates: bool) -> None:
    class Idle(Driver):
        """The database writes nothing."""

        def execute(self, cursor: DBAPICursor, statement: str, parameters: Any) -> bool:
            return not statement.startswith("SELECT")

    login = StoredTokens(TokenSet("login"))
    async with database.opened_through(Idle()) as store:
        with pytest.raises(StoreUnavailable) as caught:
            await (store.replace(KEY, login, expected=None) if creates else store.save(KEY, login))
    assert caught.value.code == "contended"
