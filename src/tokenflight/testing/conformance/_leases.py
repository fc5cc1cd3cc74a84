"""The lease: the right to renew a token set."""
# ruff: noqa: S101 - tests assert

import asyncio
from abc import ABC

from tokenflight import StoredTokens
from tokenflight.errors import LeaseTimeout
from tokenflight.stores.base import TokenStore
from tokenflight.testing.conformance._suite import (
    BARE,
    FULL,
    INTERRUPTIONS,
    KEY,
    Raises,
    StoreSuite,
    interrupted,
    keys_of,
    loaded,
)
from tokenflight.tokens import TokenKey


class LeaseTests(StoreSuite, ABC):
    """When a lease is granted, to how many, and when it ends."""

    async def test_a_lease_is_exclusive_within_a_store_and_among_stores(self) -> None:
        async with self.open_store() as store, self.open_store() as other:
            async with store.lease(KEY, timeout=self.patience):
                assert not await self._is_free(store)
                assert not await self._is_free(other)
            assert await self._is_free(other)
            assert await self._is_free(store)

    async def test_waiting_for_a_lease_ends_after_its_timeout(self) -> None:
        async with self.open_store() as store, self.open_store() as other:
            clock = asyncio.get_running_loop().time
            async with store.lease(KEY, timeout=self.patience):
                for timeout in (0.0, self.moment):
                    began = clock()
                    with Raises(LeaseTimeout):
                        await other.lease(KEY, timeout=timeout).__aenter__()
                    assert timeout * 0.9 <= clock() - began < timeout + self.patience / 2

    async def test_a_free_lease_is_given_without_a_wait(self) -> None:
        async with self.open_store() as store, store.lease(KEY, timeout=0.0):
            pass

    async def test_a_lease_tells_that_it_is_held(self) -> None:
        async with self.open_store() as store, store.lease(KEY, timeout=self.patience) as lease:
            assert lease.is_held()
            await asyncio.sleep(self.moment)
            assert lease.is_held()

    async def test_a_lease_passes_to_a_waiter_when_its_holder_releases_it(self) -> None:
        async with self.open_store() as store, self.open_store() as other:
            async with store.lease(KEY, timeout=self.patience):
                waiters = [asyncio.create_task(self._acquire(each)) for each in (store, other, store)]
                await asyncio.sleep(self.moment)
                assert not any(waiter.done() for waiter in waiters)
            async with asyncio.timeout(self.patience):
                await asyncio.gather(*waiters)

    async def test_a_lease_ends_with_an_error_in_its_body_and_lets_it_through(self) -> None:
        async with self.open_store() as store, self.open_store() as other:
            with Raises(ZeroDivisionError):
                async with store.lease(KEY, timeout=self.patience):
                    raise ZeroDivisionError
            assert await self._is_free(other)

    async def test_a_lease_ends_when_its_holder_is_cancelled(self) -> None:
        async with self.open_store() as store, self.open_store() as other:
            held = asyncio.Event()

            async def hold() -> None:
                async with store.lease(KEY, timeout=self.patience):
                    held.set()
                    await asyncio.Event().wait()

            holder = asyncio.create_task(hold())
            await held.wait()
            assert not await self._is_free(other)
            holder.cancel()
            await asyncio.wait([holder])
            assert holder.cancelled()
            assert await self._is_free(other)

    async def test_a_cancelled_waiter_takes_no_lease_and_frees_none(self) -> None:
        async with self.open_store() as store, self.open_store() as other:
            async with store.lease(KEY, timeout=self.patience):
                for moment in range(INTERRUPTIONS):
                    await interrupted(self._acquire(other), moment)
                assert not await self._is_free(other)
            assert await self._is_free(other)

    async def test_a_lease_cancelled_while_it_is_granted_is_not_lost(self) -> None:
        async with self.open_store() as store, self.open_store() as other:
            for moment in range(INTERRUPTIONS):
                await interrupted(self._acquire(store), moment)
                await self._acquire(other)

    async def test_leases_of_different_users_and_providers_are_independent(self) -> None:
        keys = [TokenKey("a", "b/c"), TokenKey("a/b", "c"), TokenKey("a", "B/C"), TokenKey("a", "b_c")]
        async with self.open_store() as store, store.lease(KEY, timeout=self.patience):
            for key in keys:
                assert await self._is_free(store, key), key

    async def test_records_can_be_read_and_written_while_the_lease_is_held(self) -> None:
        async with self.open_store() as store, self.open_store() as other:
            await store.save(KEY, StoredTokens(BARE))
            async with store.lease(KEY, timeout=self.patience), asyncio.timeout(self.patience):
                for each in (store, other):
                    await each.save(KEY, record := StoredTokens(FULL))
                    assert (await loaded(each)).tokens == FULL
                    await each.replace(KEY, StoredTokens(BARE), expected=record.version)
                    assert await keys_of(each) == [KEY]
                    assert await each.delete(KEY) is True

    async def test_a_first_login_during_a_lease_is_stored_and_stays_when_the_lease_ends(self) -> None:
        async with self.open_store() as store, self.open_store() as other:
            async with store.lease(KEY, timeout=self.patience):
                await other.save(KEY, StoredTokens(FULL))
                assert (await loaded(store)).tokens == FULL
            assert (await loaded(other)).tokens == FULL
            assert await self._is_free(other)

    async def test_a_lease_is_no_record(self) -> None:
        async with self.open_store() as store:
            async with store.lease(KEY, timeout=self.patience):
                assert await store.load(KEY) is None
                assert await keys_of(store) == []
            assert await keys_of(store) == []
            assert await store.delete(KEY) is False

    async def test_leases_are_exclusive_among_event_loops(self) -> None:
        holders = 0

        async def contend() -> None:
            nonlocal holders
            async with self.open_store() as store:
                for _ in range(10):
                    async with store.lease(KEY, timeout=self.patience):
                        holders += 1
                        assert holders == 1
                        await asyncio.sleep(0.001)
                        assert holders == 1
                        holders -= 1

        await asyncio.gather(contend(), contend(), *(asyncio.to_thread(lambda: asyncio.run(contend())) for _ in "ab"))

    async def _acquire(self, store: TokenStore, key: TokenKey = KEY) -> None:
        async with store.lease(key, timeout=self.patience):
            await asyncio.sleep(0)

    async def _is_free(self, store: TokenStore, key: TokenKey = KEY) -> bool:
        try:
            async with store.lease(key, timeout=self.moment):
                return True
        except LeaseTimeout:
            return False
