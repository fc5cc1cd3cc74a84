"""What a logout leaves behind, and what it keeps out."""
# ruff: noqa: S101, S106 - tests assert, and the secrets are made up

import time
from abc import ABC
from dataclasses import replace

from tokenflight.errors import StoreConflict
from tokenflight.stores.base import StoredTokens, TokenStore
from tokenflight.testing.conformance._suite import KEY, Raises, StoreSuite, keys_of, loaded, tokens_named
from tokenflight.tokens import TokenKey, TokenSet

HOUR = 3600.0


class LogoutTests(StoreSuite, ABC):
    """The marker that stays of a deleted record."""

    async def test_a_grant_that_a_logout_ended_is_not_created_again(self) -> None:
        async with self.open_store() as store, self.open_store() as other:
            await store.save(KEY, StoredTokens(tokens_named("alice")))
            assert await store.delete(KEY) is True
            for each in (store, other):
                await self._check_that_it_is_logged_out(each, tokens_named("alice"))
                # With another access token, it is still the same grant.
                await self._check_that_it_is_logged_out(each, replace(tokens_named("alice"), access_token="newer"))

    async def test_a_token_set_issued_before_a_logout_is_not_created_after_it(self) -> None:
        async with self.open_store() as store, self.open_store() as other:
            await store.save(KEY, StoredTokens(tokens_named("alice")))
            assert await other.delete(KEY) is True
            await self._check_that_it_is_logged_out(store, replace(tokens_named("old"), issued_at=time.time() - HOUR))

    async def test_a_token_set_issued_after_a_logout_is_created(self) -> None:
        async with self.open_store() as store, self.open_store() as other:
            await store.save(KEY, StoredTokens(tokens_named("alice")))
            assert await store.delete(KEY) is True
            record = StoredTokens(replace(tokens_named("new"), issued_at=time.time()))
            await other.replace(KEY, record, expected=None)
            assert await loaded(store) == record

    async def test_a_login_after_a_logout_is_stored_whatever_its_grant(self) -> None:
        async with self.open_store() as store, self.open_store() as other:
            await store.save(KEY, StoredTokens(tokens_named("alice")))
            assert await store.delete(KEY) is True
            await other.save(KEY, record := StoredTokens(tokens_named("alice")))
            assert await loaded(store) == record

    async def test_each_logout_of_a_user_ends_the_grant_of_its_own_login(self) -> None:
        async with self.open_store() as store:
            for name in ("first", "second"):
                await store.save(KEY, StoredTokens(tokens_named(name)))
                assert await store.delete(KEY) is True
                await self._check_that_it_is_logged_out(store, tokens_named(name))

    async def test_a_second_logout_leaves_the_marker_of_the_first(self) -> None:
        async with self.open_store() as store, self.open_store() as other:
            await store.save(KEY, StoredTokens(tokens_named("alice")))
            assert await store.delete(KEY) is True
            assert await other.delete(KEY) is False
            await self._check_that_it_is_logged_out(store, tokens_named("alice"))

    async def test_a_logout_under_a_lease_leaves_its_marker_too(self) -> None:
        async with self.open_store() as store, self.open_store() as other:
            await store.save(KEY, StoredTokens(tokens_named("alice")))
            async with store.lease(KEY, timeout=self.patience):
                assert await other.delete(KEY) is True
                await self._check_that_it_is_logged_out(store, tokens_named("alice"))
            await self._check_that_it_is_logged_out(other, tokens_named("alice"))

    async def test_a_logout_leaves_no_record_and_is_no_logout_of_others(self) -> None:
        bob = TokenKey(KEY.provider, "bob")
        async with self.open_store() as store, self.open_store() as other:
            await store.save(KEY, StoredTokens(tokens_named("alice")))
            assert await store.delete(KEY) is True
            assert await other.load(KEY) is None
            assert await keys_of(other) == []
            assert await keys_of(other, KEY.provider) == []
            assert await other.delete(KEY) is False
            await other.replace(bob, StoredTokens(tokens_named("alice")), expected=None)
            assert await keys_of(store) == [bob]

    async def test_a_logout_of_a_user_without_a_record_leaves_no_marker(self) -> None:
        async with self.open_store() as store:
            assert await store.delete(KEY) is False
            await store.replace(KEY, record := StoredTokens(tokens_named("alice")), expected=None)
            assert await loaded(store) == record

    async def _check_that_it_is_logged_out(self, store: TokenStore, tokens: TokenSet) -> None:
        with Raises(StoreConflict, code="logged_out"):
            await store.replace(KEY, StoredTokens(tokens), expected=None)
        assert await store.load(KEY) is None
