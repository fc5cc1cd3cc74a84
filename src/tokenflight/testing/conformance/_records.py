"""Reading, writing, removing and listing records."""
# ruff: noqa: S101 - tests assert

import asyncio
from abc import ABC

from tokenflight.errors import StoreConflict
from tokenflight.stores.base import StoredTokens
from tokenflight.testing.conformance._suite import (
    ACCESS_TOKENS,
    BARE,
    FAILURE,
    FULL,
    HOSTILE_NAMES,
    ISSUER,
    KEY,
    LONE_SURROGATES,
    PLAIN_NAMES,
    Raises,
    StoreSuite,
    keys_of,
    loaded,
    name_pair,
    tokens_named,
)
from tokenflight.tokens import TokenKey


class RecordTests(StoreSuite, ABC):
    """The records that a store keeps, and their names."""

    async def test_an_absent_record_loads_as_none(self) -> None:
        async with self.open_store() as store:
            assert await store.load(KEY) is None

    async def test_a_saved_token_set_loads_with_all_its_fields(self) -> None:
        async with self.open_store() as store:
            for tokens in (FULL, BARE):
                await store.save(KEY, StoredTokens(tokens))
                assert (await loaded(store)).tokens == tokens
                assert (await loaded(store)).tokens.to_dict() == tokens.to_dict()

    async def test_what_one_store_writes_another_one_reads(self) -> None:
        async with self.open_store() as writer, self.open_store() as reader:
            assert await reader.load(KEY) is None
            await writer.save(KEY, record := StoredTokens(FULL, issuer=ISSUER))
            assert await reader.load(KEY) == record
            await writer.delete(KEY)
            assert await reader.load(KEY) is None

    async def test_a_save_writes_the_record_as_passed_whatever_was_there(self) -> None:
        async with self.open_store() as store, self.open_store() as other:
            for issuer, refused in ((ISSUER, False), (None, True), (ISSUER, True), (None, False)):
                await store.save(KEY, record := StoredTokens(FULL, issuer=issuer, refused=refused))
                assert await other.load(KEY) == record

    async def test_the_access_tokens_of_other_targets_are_kept_with_the_grant(self) -> None:
        async with self.open_store() as store, self.open_store() as other:
            await store.save(KEY, record := StoredTokens(FULL, access_tokens=ACCESS_TOKENS))
            assert await other.load(KEY) == record
            for target, tokens in ACCESS_TOKENS.items():
                assert (await loaded(other)).tokens_for(target) == tokens
            renewed = StoredTokens(BARE, access_tokens=ACCESS_TOKENS)
            await store.replace(KEY, renewed, expected=record.version)
            assert await other.load(KEY) == renewed
            await store.save(KEY, login := StoredTokens(BARE))
            assert await other.load(KEY) == login

    async def test_the_failure_of_the_last_renewal_is_kept_until_another_write(self) -> None:
        async with self.open_store() as store, self.open_store() as other:
            await store.save(KEY, record := StoredTokens(BARE))
            failed = StoredTokens(BARE, failure=FAILURE)
            await store.replace(KEY, failed, expected=record.version)
            assert await other.load(KEY) == failed
            await other.replace(KEY, renewed := StoredTokens(FULL), expected=failed.version)
            assert await store.load(KEY) == renewed

    async def test_a_save_wins_while_another_store_holds_the_lease(self) -> None:
        async with self.open_store() as store, self.open_store() as other:
            await store.save(KEY, record := StoredTokens(tokens_named("old")))
            async with store.lease(KEY, timeout=self.patience), asyncio.timeout(self.patience):
                await other.save(KEY, StoredTokens(tokens_named("login")))
                with Raises(StoreConflict):
                    await store.replace(KEY, StoredTokens(tokens_named("renewed")), expected=record.version)
            assert (await loaded(store)).tokens == tokens_named("login")

    async def test_a_record_keeps_the_version_that_its_caller_made(self) -> None:
        async with self.open_store() as store, self.open_store() as other:
            for _ in range(3):
                await store.save(KEY, saved := StoredTokens(BARE))
                assert (await loaded(other)).version == saved.version
                await other.replace(KEY, replaced := StoredTokens(BARE), expected=saved.version)
                assert (await loaded(store)).version == replaced.version
                await store.delete(KEY)
                await other.replace(KEY, created := StoredTokens(BARE), expected=None)
                assert (await loaded(store)).version == created.version

    # delete

    async def test_a_delete_says_whether_there_was_a_record(self) -> None:
        async with self.open_store() as store, self.open_store() as other:
            assert await store.delete(KEY) is False
            await store.save(KEY, StoredTokens(BARE))
            await store.save(TokenKey("idp", "bob"), StoredTokens(BARE))
            assert await other.delete(KEY) is True
            assert await store.load(KEY) is None
            assert await store.delete(KEY) is False
            assert (await loaded(store, TokenKey("idp", "bob"))).tokens == BARE

    # keys

    async def test_keys_are_those_of_all_records_or_of_one_provider(self) -> None:
        async with self.open_store() as store, self.open_store() as other:
            assert await keys_of(other) == []
            assert await keys_of(other, "idp") == []
            # One name begins with another one, and some hold a pattern or a separator.
            providers = ("idp", "idp2", "idp/2", "idp:2", "id", "IDP", "*", "%", "idp_")
            keys = [TokenKey(provider, user_id) for provider in providers for user_id in ("alice", "2:alice", "*")]
            for key in keys:
                await store.save(key, StoredTokens(BARE))
            assert sorted(await keys_of(other), key=name_pair) == sorted(keys, key=name_pair)
            for provider in providers:
                mine = [key for key in keys if key.provider == provider]
                assert sorted(await keys_of(other, provider), key=name_pair) == sorted(mine, key=name_pair)
            assert await keys_of(other, "nobody") == []
            await store.delete(keys[0])
            assert keys[0] not in await keys_of(other)

    async def test_keys_need_not_be_read_to_the_end(self) -> None:
        async with self.open_store() as store:
            for user_id in PLAIN_NAMES:
                await store.save(TokenKey("idp", user_id), StoredTokens(BARE))
            async for _ in store.keys():
                break
            assert len(await keys_of(store)) == len(PLAIN_NAMES)

    async def test_user_ids_of_any_content_never_collide(self) -> None:
        await self._check_that_none_collides([TokenKey("idp", name) for name in self._names()])

    async def test_provider_names_of_any_content_never_collide(self) -> None:
        await self._check_that_none_collides([TokenKey(name, "alice") for name in self._names()])

    async def _check_that_none_collides(self, keys: list[TokenKey]) -> None:
        async with self.open_store() as store, self.open_store() as other:
            for number, key in enumerate(keys):
                assert await store.load(key) is None, key
                await store.save(key, StoredTokens(tokens_named(str(number))))
            for number, key in enumerate(keys):
                assert (await loaded(other, key)).tokens == tokens_named(str(number)), key
            assert sorted(await keys_of(other), key=name_pair) == sorted(keys, key=name_pair)
            for key in keys:
                assert await other.delete(key) is True, key
            assert await keys_of(store) == []

    def _names(self) -> tuple[str, ...]:
        return (*PLAIN_NAMES, *HOSTILE_NAMES, *(LONE_SURROGATES if self.takes_lone_surrogates else ()))
