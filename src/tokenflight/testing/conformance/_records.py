"""Reading, writing, removing and listing records."""
# Plain asserts, and tests whose names say what they test:
# ruff: noqa: S101

import asyncio
from abc import ABC

from tokenflight.errors import StoreConflict
from tokenflight.stores.base import StoredTokens, Version
from tokenflight.testing.conformance._suite import (
    BARE,
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
    """What a store keeps, and under which names."""

    async def test_an_absent_record_loads_as_none(self) -> None:
        async with self.open_store() as store:
            assert await store.load(KEY) is None

    async def test_a_saved_token_set_loads_with_all_its_fields(self) -> None:
        async with self.open_store() as store:
            for tokens in (FULL, BARE):
                await store.save(KEY, tokens)
                assert (await loaded(store)).tokens == tokens
                assert (await loaded(store)).tokens.to_dict() == tokens.to_dict()

    async def test_what_one_store_writes_another_one_reads(self) -> None:
        async with self.open_store() as writer, self.open_store() as reader:
            assert await reader.load(KEY) is None
            version = await writer.save(KEY, FULL, issuer=ISSUER)
            assert await reader.load(KEY) == StoredTokens(FULL, version, ISSUER, refused=False)
            await writer.delete(KEY)
            assert await reader.load(KEY) is None

    async def test_a_save_stores_the_issuer_or_none_and_is_not_refused(self) -> None:
        async with self.open_store() as store:
            for issuer in (ISSUER, None):
                version = await store.save(KEY, BARE, issuer=issuer)
                assert await store.load(KEY) == StoredTokens(BARE, version, issuer, refused=False)

    async def test_a_save_overwrites_a_refused_record(self) -> None:
        async with self.open_store() as store:
            version = await store.save(KEY, FULL, issuer=ISSUER)
            await store.replace(KEY, FULL, expected=version, issuer=ISSUER, refused=True)
            version = await store.save(KEY, BARE)
            assert await store.load(KEY) == StoredTokens(BARE, version)

    async def test_a_save_wins_while_somebody_holds_the_lease(self) -> None:
        async with self.open_store() as store, self.open_store() as other:
            version = await store.save(KEY, tokens_named("old"))
            async with store.lease(KEY, timeout=self.patience), asyncio.timeout(self.patience):
                await other.save(KEY, tokens_named("login"))
                with Raises(StoreConflict):
                    await store.replace(KEY, tokens_named("renewed"), expected=version)
            assert (await loaded(store)).tokens == tokens_named("login")

    async def test_no_two_writes_share_a_version(self) -> None:
        async with self.open_store() as store, self.open_store() as other:
            versions: list[Version] = []
            for _ in range(3):
                versions.append(await store.save(KEY, BARE))
                versions.append(await other.save(KEY, BARE))
                versions.append(await store.replace(KEY, BARE, expected=versions[-1]))
                assert (await loaded(other)).version == versions[-1]
                await store.delete(KEY)
            assert len(set(versions)) == len(versions)

    # replace

    async def test_a_replacement_of_the_expected_version_is_written_as_passed(self) -> None:
        async with self.open_store() as store, self.open_store() as other:
            version = await store.save(KEY, BARE)
            for issuer, refused in ((ISSUER, True), (None, True), (ISSUER, False), (None, False)):
                version = await store.replace(KEY, FULL, expected=version, issuer=issuer, refused=refused)
                assert await other.load(KEY) == StoredTokens(FULL, version, issuer, refused)

    async def test_a_replacement_of_another_version_conflicts_and_writes_nothing(self) -> None:
        async with self.open_store() as store, self.open_store() as other:
            outdated = await store.save(KEY, tokens_named("first"))
            await other.save(KEY, tokens_named("second"), issuer=ISSUER)
            before = await store.load(KEY)
            for expected in (outdated, Version(""), Version("no version of ours")):
                with Raises(StoreConflict):
                    await store.replace(KEY, tokens_named("third"), expected=expected, refused=True)
                assert await store.load(KEY) == before

    async def test_a_replacement_never_creates_a_record(self) -> None:
        async with self.open_store() as store, self.open_store() as other:
            elsewhere = await store.save(TokenKey("idp", "bob"), BARE)
            with Raises(StoreConflict):
                await store.replace(KEY, BARE, expected=elsewhere)
            version = await store.save(KEY, BARE)
            await other.delete(KEY)
            with Raises(StoreConflict):
                await store.replace(KEY, BARE, expected=version)
            assert await store.load(KEY) is None
            assert await keys_of(store) == [TokenKey("idp", "bob")]

    async def test_a_replacement_does_not_touch_a_login_after_a_logout(self) -> None:
        async with self.open_store() as store:
            version = await store.save(KEY, BARE)
            await store.delete(KEY)
            await store.save(KEY, BARE)
            with Raises(StoreConflict):
                await store.replace(KEY, FULL, expected=version)
            assert (await loaded(store)).tokens == BARE

    async def test_one_of_many_concurrent_replacements_wins(self) -> None:
        async with self.open_store() as store, self.open_store() as other:
            expected = await store.save(KEY, tokens_named("first"))
            outcomes = await asyncio.gather(
                *((store, other)[n % 2].replace(KEY, tokens_named(str(n)), expected=expected) for n in range(20)),
                return_exceptions=True,
            )
            winners = [n for n, outcome in enumerate(outcomes) if isinstance(outcome, str)]
            assert len(winners) == 1
            assert sum(isinstance(outcome, StoreConflict) for outcome in outcomes) == len(outcomes) - 1
            record = await loaded(store)
            assert (record.tokens, record.version) == (tokens_named(str(winners[0])), outcomes[winners[0]])

    # delete

    async def test_a_delete_says_whether_there_was_a_record(self) -> None:
        async with self.open_store() as store, self.open_store() as other:
            assert await store.delete(KEY) is False
            await store.save(KEY, BARE)
            await store.save(TokenKey("idp", "bob"), BARE)
            assert await other.delete(KEY) is True
            assert await store.load(KEY) is None
            assert await store.delete(KEY) is False
            assert (await loaded(store, TokenKey("idp", "bob"))).tokens == BARE

    # keys

    async def test_keys_are_those_of_all_records_or_of_one_provider(self) -> None:
        async with self.open_store() as store, self.open_store() as other:
            assert await keys_of(other) == []
            assert await keys_of(other, "idp") == []
            # Names that begin with one another, and that hold what a pattern or a separator might be.
            providers = ("idp", "idp2", "idp/2", "idp:2", "id", "IDP", "*", "%", "idp_")
            keys = [TokenKey(provider, user_id) for provider in providers for user_id in ("alice", "2:alice", "*")]
            for key in keys:
                await store.save(key, BARE)
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
                await store.save(TokenKey("idp", user_id), BARE)
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
                await store.save(key, tokens_named(str(number)))
            for number, key in enumerate(keys):
                assert (await loaded(other, key)).tokens == tokens_named(str(number)), key
            assert sorted(await keys_of(other), key=name_pair) == sorted(keys, key=name_pair)
            for key in keys:
                assert await other.delete(key) is True, key
            assert await keys_of(store) == []

    def _names(self) -> tuple[str, ...]:
        return (*PLAIN_NAMES, *HOSTILE_NAMES, *(LONE_SURROGATES if self.takes_lone_surrogates else ()))
