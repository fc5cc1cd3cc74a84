"""Operations that are cancelled, several event loops, and closing."""
# ruff: noqa: S101 - tests assert

import asyncio
from abc import ABC

from tokenflight.stores.base import StoredTokens, TokenStore
from tokenflight.testing.conformance._suite import (
    BARE,
    FULL,
    INTERRUPTIONS,
    ISSUER,
    KEY,
    SECONDS_BETWEEN_INTERRUPTIONS,
    StoreSuite,
    interrupted,
    keys_of,
    loaded,
    tokens_named,
)


class CancellationTests(StoreSuite, ABC):
    """What a store guarantees when operations are cancelled, and when it is shared or closed."""

    async def test_a_cancelled_save_has_happened_whole_or_not_at_all(self) -> None:
        async with self.open_store() as store:
            for moment in range(INTERRUPTIONS):
                old = StoredTokens(tokens_named(f"old-{moment}"))
                new = StoredTokens(tokens_named(f"new-{moment}"), issuer=ISSUER)
                await store.save(KEY, old)
                await interrupted(store.save(KEY, new), moment)
                assert await loaded(store) in (old, new)
                await self._check_that_nothing_follows(store)

    async def test_a_cancelled_replacement_has_happened_whole_or_not_at_all(self) -> None:
        async with self.open_store() as store:
            for moment in range(INTERRUPTIONS):
                old = StoredTokens(tokens_named(f"old-{moment}"))
                new = StoredTokens(tokens_named(f"new-{moment}"), issuer=ISSUER, refused=True)
                await store.save(KEY, old)
                await interrupted(store.replace(KEY, new, expected=old.version), moment)
                assert await loaded(store) in (old, new)
                await self._check_that_nothing_follows(store)

    async def test_a_cancelled_creation_has_happened_whole_or_not_at_all(self) -> None:
        async with self.open_store() as store:
            for moment in range(INTERRUPTIONS):
                await store.delete(KEY)
                new = StoredTokens(tokens_named(f"new-{moment}"), issuer=ISSUER)
                await interrupted(store.replace(KEY, new, expected=None), moment)
                assert await store.load(KEY) in (None, new)
                await self._check_that_nothing_follows(store)

    async def test_a_cancelled_delete_has_happened_whole_or_not_at_all(self) -> None:
        async with self.open_store() as store:
            for moment in range(INTERRUPTIONS):
                await store.save(KEY, record := StoredTokens(FULL))
                await interrupted(store.delete(KEY), moment)
                assert await store.load(KEY) in (None, record)
                await self._check_that_nothing_follows(store)

    async def test_a_cancelled_load_leaves_the_store_usable(self) -> None:
        async with self.open_store() as store:
            await store.save(KEY, StoredTokens(FULL))
            for moment in range(INTERRUPTIONS):
                await interrupted(store.load(KEY), moment)
                await interrupted(keys_of(store), moment)
            assert (await loaded(store)).tokens == FULL
            assert await keys_of(store) == [KEY]

    async def _check_that_nothing_follows(self, store: TokenStore) -> None:
        """A cancelled operation is over when its call has ended: it can't undo what the caller does next."""
        await store.save(KEY, StoredTokens(BARE))
        for _ in range(3):
            await asyncio.sleep(SECONDS_BETWEEN_INTERRUPTIONS)
            assert (await loaded(store)).tokens == BARE

    async def test_several_event_loops_read_and_write_the_same_data(self) -> None:
        async def count_up() -> None:
            async with self.open_store() as store:
                for _ in range(10):
                    async with store.lease(KEY, timeout=self.patience):
                        record = await loaded(store)
                        following = tokens_named(str(int(record.tokens.scope or "") + 1))
                        await store.replace(KEY, StoredTokens(following), expected=record.version)

        async with self.open_store() as store:
            await store.save(KEY, StoredTokens(tokens_named("0")))
            await asyncio.gather(count_up(), *(asyncio.to_thread(lambda: asyncio.run(count_up())) for _ in "ab"))
            assert (await loaded(store)).tokens == tokens_named("30")

    async def test_a_closed_store_can_be_closed_and_used_again(self) -> None:
        async with self.open_store() as store:
            await store.aclose()
            await store.save(KEY, StoredTokens(FULL))
            await store.aclose()
            await store.aclose()
            version = (await loaded(store)).version
            async with store.lease(KEY, timeout=self.patience):
                await store.replace(KEY, StoredTokens(BARE), expected=version)
            assert await keys_of(store) == [KEY]
            await store.aclose()
