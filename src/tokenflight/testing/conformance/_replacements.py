"""Replacing a record of an expected version, and creating one where there is none."""
# ruff: noqa: S101 - tests assert

import asyncio
from abc import ABC

from tokenflight.errors import StoreConflict
from tokenflight.stores.base import StoredTokens, TokenStore, Version
from tokenflight.testing.conformance._suite import (
    BARE,
    FULL,
    ISSUER,
    KEY,
    Raises,
    StoreSuite,
    keys_of,
    loaded,
    tokens_named,
)
from tokenflight.tokens import TokenKey

CONTENDERS = 20


class ReplacementTests(StoreSuite, ABC):
    """What `replace` writes, and when it refuses to."""

    async def test_a_replacement_of_the_expected_version_is_written_as_passed(self) -> None:
        async with self.open_store() as store, self.open_store() as other:
            await store.save(KEY, record := StoredTokens(BARE))
            for issuer, refused in ((ISSUER, True), (None, True), (ISSUER, False), (None, False)):
                expected, record = record.version, StoredTokens(FULL, issuer=issuer, refused=refused)
                await store.replace(KEY, record, expected=expected)
                assert await other.load(KEY) == record

    async def test_a_replacement_of_another_version_conflicts_and_writes_nothing(self) -> None:
        async with self.open_store() as store, self.open_store() as other:
            await store.save(KEY, record := StoredTokens(tokens_named("first")))
            await other.save(KEY, StoredTokens(tokens_named("second"), issuer=ISSUER))
            before = await store.load(KEY)
            for expected in (record.version, Version(""), Version("no version of ours")):
                with Raises(StoreConflict):
                    await store.replace(KEY, StoredTokens(tokens_named("third"), refused=True), expected=expected)
                assert await store.load(KEY) == before

    async def test_a_replacement_never_creates_a_record(self) -> None:
        async with self.open_store() as store, self.open_store() as other:
            await store.save(TokenKey("idp", "bob"), record := StoredTokens(BARE))
            with Raises(StoreConflict):
                await store.replace(KEY, StoredTokens(BARE), expected=record.version)
            await store.save(KEY, record := StoredTokens(BARE))
            await other.delete(KEY)
            with Raises(StoreConflict):
                await store.replace(KEY, StoredTokens(BARE), expected=record.version)
            assert await store.load(KEY) is None
            assert await keys_of(store) == [TokenKey("idp", "bob")]

    async def test_a_replacement_does_not_touch_a_login_after_a_logout(self) -> None:
        async with self.open_store() as store:
            await store.save(KEY, record := StoredTokens(BARE))
            await store.delete(KEY)
            await store.save(KEY, StoredTokens(BARE))
            with Raises(StoreConflict):
                await store.replace(KEY, StoredTokens(FULL), expected=record.version)
            assert (await loaded(store)).tokens == BARE

    async def test_one_of_many_concurrent_replacements_wins(self) -> None:
        async with self.open_store() as store, self.open_store() as other:
            await store.save(KEY, saved := StoredTokens(tokens_named("first")))
            await self._check_that_one_wins((store, other), expected=saved.version)

    async def test_a_record_is_created_where_there_is_none(self) -> None:
        async with self.open_store() as store, self.open_store() as other:
            await store.replace(KEY, record := StoredTokens(FULL, issuer=ISSUER), expected=None)
            assert await other.load(KEY) == record
            assert await keys_of(other) == [KEY]

    async def test_a_record_that_is_there_is_not_created_again(self) -> None:
        async with self.open_store() as store, self.open_store() as other:
            await store.replace(KEY, created := StoredTokens(tokens_named("first")), expected=None)
            with Raises(StoreConflict):
                await other.replace(KEY, StoredTokens(tokens_named("second")), expected=None)
            assert await store.load(KEY) == created
            await store.save(KEY, login := StoredTokens(tokens_named("login"), refused=True))
            with Raises(StoreConflict):
                await other.replace(KEY, StoredTokens(tokens_named("third")), expected=None)
            assert await store.load(KEY) == login

    async def test_a_record_can_be_created_again_after_a_delete(self) -> None:
        async with self.open_store() as store, self.open_store() as other:
            for number in range(3):
                await store.replace(KEY, record := StoredTokens(tokens_named(str(number))), expected=None)
                assert await other.load(KEY) == record
                assert await other.delete(KEY) is True

    async def test_a_lease_is_no_record_and_keeps_none_from_being_created(self) -> None:
        async with self.open_store() as store, self.open_store() as other:
            async with store.lease(KEY, timeout=self.patience):
                await other.replace(KEY, record := StoredTokens(FULL), expected=None)
                assert await store.load(KEY) == record
                with Raises(StoreConflict):
                    await store.replace(KEY, StoredTokens(BARE), expected=None)
                assert await other.delete(KEY) is True
                await store.replace(KEY, record := StoredTokens(BARE), expected=None)
            assert await other.load(KEY) == record

    async def test_one_of_many_concurrent_creators_wins(self) -> None:
        async with self.open_store() as store, self.open_store() as other:
            for _ in range(3):
                await self._check_that_one_wins((store, other), expected=None)
                await store.delete(KEY)
            async with store.lease(KEY, timeout=self.patience):
                await self._check_that_one_wins((store, other), expected=None)

    async def _check_that_one_wins(self, stores: tuple[TokenStore, ...], expected: Version | None) -> None:
        records = [StoredTokens(tokens_named(str(number))) for number in range(CONTENDERS)]
        outcomes = await asyncio.gather(
            *(
                stores[number % len(stores)].replace(KEY, record, expected=expected)
                for number, record in enumerate(records)
            ),
            return_exceptions=True,
        )
        winners = [record for record, outcome in zip(records, outcomes, strict=True) if outcome is None]
        assert len(winners) == 1
        assert sum(isinstance(outcome, StoreConflict) for outcome in outcomes) == len(outcomes) - 1
        assert await stores[0].load(KEY) == winners[0]
