"""K2: a login or logout whose statement was late does not undo a later one."""

from collections.abc import Awaitable, Callable, Mapping
from typing import Final

import pytest
from sqlalchemy import Executable

from kit.sql_database import Database
from kit.stores import KEY
from tokenflight import StoreConflict, StoredTokens, TokenSet
from tokenflight.stores.sql import SQLTokenStore
from tokenflight.stores.sql._database import NO_PARAMETERS, Result

FIRST: Final = StoredTokens(TokenSet("first", refresh_token="first"))
LATE: Final = StoredTokens(TokenSet("late", refresh_token="late"))
LAST: Final = StoredTokens(TokenSet("last", refresh_token="last"))

Write = Callable[[SQLTokenStore], Awaitable[object]]


async def log_in_late(store: SQLTokenStore) -> None:
    await store.save(KEY, LATE)


async def log_in_last(store: SQLTokenStore) -> None:
    await store.save(KEY, LAST)


async def log_out(store: SQLTokenStore) -> None:
    await store.delete(KEY)


class KeptBackError(Exception):
    """The caller has given up."""


async def keep_back(store: SQLTokenStore, write: Write) -> Callable[[], Awaitable[None]]:
    """Let the statement of `write` be late, and its caller give up; return what lets it arrive."""
    run, kept_back = store._database.run, list[tuple[Executable, Mapping[str, object]]]()

    async def run_or_keep_back(
        statement: Executable, parameters: Mapping[str, object] = NO_PARAMETERS, *, repeatable: bool = True
    ) -> Result:
        if statement.is_select:
            return await run(statement, parameters, repeatable=repeatable)
        kept_back.append((statement, parameters))
        raise KeptBackError

    store._database.run = run_or_keep_back  # type: ignore[method-assign] # the network between the two
    with pytest.raises(KeptBackError):
        await write(store)

    async def deliver() -> None:
        for statement, parameters in kept_back:
            await run(statement, parameters)

    return deliver


@pytest.mark.parametrize(
    ("late", "last", "expected"),
    [
        pytest.param(log_in_late, log_out, None, id="a login does not undo a logout"),
        pytest.param(log_in_late, log_in_last, LAST, id="a login does not undo a login"),
        pytest.param(log_out, log_in_last, LAST, id="a logout does not undo a login"),
    ],
)
async def test_k2_what_was_overtaken_does_not_land(
    database: Database, late: Write, last: Write, expected: StoredTokens | None
) -> None:
    async with database.opened() as store, database.opened() as other:
        await store.save(KEY, FIRST)
        deliver = await keep_back(other, late)
        await last(store)
        await deliver()
        assert await store.load(KEY) == expected


async def test_k2_a_first_login_that_was_late_does_not_undo_a_logout_that_found_nobody(database: Database) -> None:
    async with database.opened() as store, database.opened() as other:
        deliver = await keep_back(other, log_in_late)
        assert await store.delete(KEY) is False
        await deliver()
        assert await store.load(KEY) is None
        await store.save(KEY, LAST)
        assert await store.load(KEY) == LAST


async def test_k2_a_logout_that_is_overtaken_while_its_caller_waits_removes_no_later_login(database: Database) -> None:
    async with database.opened() as store, database.opened() as other:
        await store.save(KEY, FIRST)
        run = other._database.run

        async def run_after_a_login(
            statement: Executable, parameters: Mapping[str, object] = NO_PARAMETERS, *, repeatable: bool = True
        ) -> Result:
            if not statement.is_select and await store.load(KEY) == FIRST:
                await store.save(KEY, LAST)
            return await run(statement, parameters, repeatable=repeatable)

        other._database.run = run_after_a_login  # type: ignore[method-assign] # the network between the two
        assert await other.delete(KEY) is False
        assert await store.load(KEY) == LAST


async def test_k2_a_login_that_is_overtaken_while_its_caller_waits_is_told_so(database: Database) -> None:
    async with database.opened() as store, database.opened() as other:
        run = other._database.run

        async def run_after_a_login(
            statement: Executable, parameters: Mapping[str, object] = NO_PARAMETERS, *, repeatable: bool = True
        ) -> Result:
            if not statement.is_select and await store.load(KEY) is None:
                await store.save(KEY, LAST)
            return await run(statement, parameters, repeatable=repeatable)

        other._database.run = run_after_a_login  # type: ignore[method-assign] # the network between the two
        with pytest.raises(StoreConflict) as caught:
            await other.save(KEY, LATE)
        assert caught.value.code == "overtaken"
        assert await store.load(KEY) == LAST


async def test_k2_a_first_login_that_was_late_does_not_undo_a_later_one_and_its_renewal(database: Database) -> None:
    async with database.opened() as store, database.opened() as other:
        deliver = await keep_back(other, log_in_late)
        await store.save(KEY, FIRST)
        await store.replace(KEY, LAST, expected=FIRST.version)
        await deliver()
        assert await store.load(KEY) == LAST


async def test_k2_what_is_late_lands_where_nothing_has_overtaken_it(database: Database) -> None:
    async with database.opened() as store, database.opened() as other:
        await store.save(KEY, FIRST)
        deliver = await keep_back(other, log_in_late)
        await store.replace(KEY, LAST, expected=FIRST.version)  # a renewal of the grant before is no later login
        await deliver()
        assert await store.load(KEY) == LATE


async def test_k2_a_clock_of_the_database_that_was_set_back_keeps_no_login_out(database: Database) -> None:
    async with database.opened() as store:
        await store.save(KEY, FIRST)
        await database.run("update {table} set saved = '00009999999999999999:first'")
        await store.save(KEY, LAST)
        assert await store.load(KEY) == LAST
        assert await store.delete(KEY) is True
        assert await store.load(KEY) is None


async def test_k2_a_row_that_an_older_version_has_saved_takes_a_login_and_a_logout(database: Database) -> None:
    async with database.opened() as store:
        for write, expected in ((log_in_last, LAST), (log_out, None)):
            await store.save(KEY, FIRST)
            await database.run(f"update {{table}} set saved = '{FIRST.version}'")
            await write(store)
            assert await store.load(KEY) == expected


async def test_k2_a_creation_after_a_logout_keeps_older_logins_out(database: Database) -> None:
    async with database.opened() as store, database.opened() as other:
        await store.save(KEY, FIRST)
        deliver = await keep_back(other, log_in_late)
        await store.delete(KEY)
        await store.replace(KEY, LAST, expected=None)
        await deliver()
        assert await store.load(KEY) == LAST
