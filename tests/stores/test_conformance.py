"""The shipped suite over the shipped stores, and over stores that break one line of the contract each."""

import asyncio
import inspect
from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import replace
from pathlib import Path

import pytest

from tokenflight import FileTokenStore, MemoryTokenStore, StoreConflict, StoredTokens, TokenKey, TokenStore
from tokenflight.stores import Lease, Version
from tokenflight.testing.conformance import StoreConformance


class TestMemoryTokenStore(StoreConformance):
    @pytest.fixture(autouse=True)
    def empty_store(self) -> None:
        self.store = MemoryTokenStore()

    @asynccontextmanager
    async def open_store(self) -> AsyncIterator[TokenStore]:
        yield self.store
        await self.store.aclose()


class TestFileTokenStore(StoreConformance):
    @pytest.fixture(autouse=True)
    def empty_directory(self, tmp_path: Path) -> None:
        self.directory = tmp_path / "tokens"

    @asynccontextmanager
    async def open_store(self) -> AsyncIterator[TokenStore]:
        store = FileTokenStore(self.directory)
        yield store
        await store.aclose()


class Counting(MemoryTokenStore):
    """Makes versions of its own: numbers, which start again after a delete."""

    async def save(self, key: TokenKey, record: StoredTokens) -> None:
        current = await self.load(key)
        version = Version("1" if current is None else str(int(current.version) + 1))
        await super().save(key, replace(record, version=version))

    async def replace(self, key: TokenKey, record: StoredTokens, *, expected: Version | None) -> None:
        current = await self.load(key)
        if (None if current is None else current.version) != expected:
            raise StoreConflict("changed or gone")
        await self.save(key, record)


class UndoingLogouts(MemoryTokenStore):
    """Creates what it was asked to replace."""

    async def replace(self, key: TokenKey, record: StoredTokens, *, expected: Version | None) -> None:
        if await self.load(key) is None:
            expected = None
        await super().replace(key, record, expected=expected)


class CheckingTooEarly(MemoryTokenStore):
    """Compares versions, then writes later."""

    async def replace(self, key: TokenKey, record: StoredTokens, *, expected: Version | None) -> None:
        current = await self.load(key)
        await asyncio.sleep(0)
        if (None if current is None else current.version) != expected:
            raise StoreConflict("changed or gone")
        await super().save(key, record)


class LookingBeforeItCreates(MemoryTokenStore):
    """Creates a record with a plain save, once it has seen that there is none."""

    async def replace(self, key: TokenKey, record: StoredTokens, *, expected: Version | None) -> None:
        if expected is not None:
            await super().replace(key, record, expected=expected)
            return
        current = await self.load(key)
        await asyncio.sleep(0)
        if current is not None:
            raise StoreConflict("is there")
        await super().save(key, record)


class CreatingOverARecord(MemoryTokenStore):
    """Takes creating for saving."""

    async def replace(self, key: TokenKey, record: StoredTokens, *, expected: Version | None) -> None:
        if expected is None:
            await super().save(key, record)
        else:
            await super().replace(key, record, expected=expected)


class ForgettingLogouts(MemoryTokenStore):
    """Keeps nothing of a record that it has removed."""

    async def delete(self, key: TokenKey) -> bool:
        existed = await super().delete(key)
        self._logouts.clear()
        return existed


class ForgettingTheIssuer(MemoryTokenStore):
    """Stores the token set alone."""

    async def save(self, key: TokenKey, record: StoredTokens) -> None:
        await super().save(key, replace(record, issuer=None))


class ForgettingTargets(MemoryTokenStore):
    """Stores the grant alone."""

    async def save(self, key: TokenKey, record: StoredTokens) -> None:
        await super().save(key, StoredTokens(record.tokens, record.version, record.issuer, record.refused))


class Tearing(MemoryTokenStore):
    """Truncates, then writes."""

    async def save(self, key: TokenKey, record: StoredTokens) -> None:
        await self.delete(key)
        await asyncio.sleep(0)
        await super().save(key, record)


class Trailing(MemoryTokenStore):
    """Goes on writing after the caller was told that it was cancelled."""

    async def save(self, key: TokenKey, record: StoredTokens) -> None:
        await asyncio.shield(asyncio.ensure_future(self._save_later(key, record)))

    async def _save_later(self, key: TokenKey, record: StoredTokens) -> None:
        await asyncio.sleep(0.0001 if record.issuer is None else 0.0005)
        await super().save(key, record)


class IgnoringCase(MemoryTokenStore):
    """Names its records like a case-insensitive file system."""

    async def load(self, key: TokenKey) -> StoredTokens | None:
        return await super().load(TokenKey(key.provider.lower(), key.user_id.lower()))

    async def save(self, key: TokenKey, record: StoredTokens) -> None:
        await super().save(TokenKey(key.provider.lower(), key.user_id.lower()), record)


class MatchingPrefixes(MemoryTokenStore):
    """Lists the keys of all providers whose names begin alike."""

    async def keys(self, provider: str | None = None) -> AsyncIterator[TokenKey]:
        async for key in super().keys():
            if key.provider.startswith(provider or ""):
                yield key


class LeasingNothing(MemoryTokenStore):
    """Gives the lease to every caller."""

    @asynccontextmanager
    async def _lease(self, key: TokenKey, timeout: float) -> AsyncIterator[Lease]:
        await asyncio.sleep(0)
        yield Lease()


class LeasingForEver(MemoryTokenStore):
    """Releases only after a body that ended well."""

    def __init__(self) -> None:
        super().__init__()
        self._leases: list[object] = []  # or the garbage collector would release them

    @asynccontextmanager
    async def _lease(self, key: TokenKey, timeout: float) -> AsyncIterator[Lease]:
        lease = super()._lease(key, timeout)
        self._leases.append(lease)
        yield await lease.__aenter__()
        await lease.__aexit__(None, None, None)


class LeasingTheWholeStore(MemoryTokenStore):
    """Has one lease for all users."""

    def lease(self, key: TokenKey, *, timeout: float) -> AbstractAsyncContextManager[Lease]:
        return super().lease(TokenKey("all", "all"), timeout=timeout)


BROKEN_STORES = {
    Counting: "test_a_record_keeps_the_version_that_its_caller_made",
    UndoingLogouts: "test_a_replacement_never_creates_a_record",
    CheckingTooEarly: "test_one_of_many_concurrent_replacements_wins",
    LookingBeforeItCreates: "test_one_of_many_concurrent_creators_wins",
    CreatingOverARecord: "test_a_record_that_is_there_is_not_created_again",
    ForgettingLogouts: "test_a_grant_that_a_logout_ended_is_not_created_again",
    ForgettingTheIssuer: "test_a_save_writes_the_record_as_passed_whatever_was_there",
    ForgettingTargets: "test_the_access_tokens_of_other_targets_are_kept_with_the_grant",
    Tearing: "test_a_cancelled_save_has_happened_whole_or_not_at_all",
    Trailing: "test_a_cancelled_save_has_happened_whole_or_not_at_all",
    IgnoringCase: "test_user_ids_of_any_content_never_collide",
    MatchingPrefixes: "test_keys_are_those_of_all_records_or_of_one_provider",
    LeasingNothing: "test_a_lease_is_exclusive_within_a_store_and_among_stores",
    LeasingForEver: "test_a_lease_ends_when_its_holder_is_cancelled",
    LeasingTheWholeStore: "test_leases_of_different_users_and_providers_are_independent",
}


@pytest.mark.parametrize(("broken", "test"), BROKEN_STORES.items(), ids=lambda value: getattr(value, "__name__", ""))
async def test_the_suite_finds_a_store_that_breaks_the_contract(broken: type[MemoryTokenStore], test: str) -> None:
    store = broken()

    class Suite(StoreConformance):
        moment = 0.02

        @asynccontextmanager
        async def open_store(self) -> AsyncIterator[TokenStore]:
            yield store

    with pytest.raises(AssertionError):
        await getattr(Suite(), test)()


def test_the_suite_tests_every_method_of_a_store() -> None:
    tests = [inspect.getsource(test) for name, test in inspect.getmembers(StoreConformance) if name.startswith("test_")]
    assert len(tests) > 30
    for method in TokenStore.__abstractmethods__ - {"keys"}:
        assert any(f".{method}(" in test for test in tests), method
    assert any("keys_of(" in test for test in tests)
