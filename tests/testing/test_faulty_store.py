"""A faulty store: what each fault does to a call, which calls it strikes, and that without one the store is whole."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, Final

import pytest

from tokenflight import (
    ConfigurationError,
    FileTokenStore,
    LeaseTimeout,
    MemoryTokenStore,
    StoreConflict,
    StoredTokens,
    StoreUnavailable,
    TokenKey,
    TokenSet,
    TokenStore,
)
from tokenflight.testing import FaultyStore, StoreOperation
from tokenflight.testing.conformance import StoreConformance

ALICE: Final = TokenKey("idp", "alice")
BOB: Final = TokenKey("idp", "bob")
OLD: Final = StoredTokens(TokenSet("old"))
NEW: Final = StoredTokens(TokenSet("new"))


class TestAFaultyStoreWithoutFaults(StoreConformance):
    @pytest.fixture(autouse=True)
    def empty_store(self) -> None:
        self.store = FaultyStore(MemoryTokenStore())

    @asynccontextmanager
    async def open_store(self) -> AsyncIterator[TokenStore]:
        yield self.store
        await self.store.aclose()


class TestAFaultyStoreAroundFiles(StoreConformance):
    @pytest.fixture(autouse=True)
    def empty_directory(self, tmp_path: Path) -> None:
        self.directory = tmp_path / "tokens"

    @asynccontextmanager
    async def open_store(self) -> AsyncIterator[TokenStore]:
        store = FaultyStore(FileTokenStore(self.directory))
        yield store
        await store.aclose()


@pytest.fixture
def inner() -> MemoryTokenStore:
    return MemoryTokenStore()


@pytest.fixture
async def store(inner: MemoryTokenStore) -> FaultyStore:
    """A store that holds `OLD` for alice and bob."""
    for key in (ALICE, BOB):
        await inner.save(key, OLD)
    return FaultyStore(inner)


async def lease(store: FaultyStore, key: TokenKey = ALICE) -> None:
    async with store.lease(key, timeout=0):
        pass


async def keys(store: FaultyStore) -> list[TokenKey]:
    return [key async for key in store.keys("idp")]


CALLS: Final[dict[StoreOperation, Callable[[FaultyStore], Awaitable[object]]]] = {
    "load": lambda store: store.load(ALICE),
    "save": lambda store: store.save(ALICE, NEW),
    "replace": lambda store: store.replace(ALICE, NEW, expected=OLD.version),
    "delete": lambda store: store.delete(ALICE),
    "lease": lease,
    "release": lease,
    "keys": keys,
}
WRITTEN: Final[dict[StoreOperation, StoredTokens | None]] = {"save": NEW, "replace": NEW, "delete": None}
"""The record of alice once each write has happened."""

each_operation = pytest.mark.parametrize("operation", CALLS)
before_and_after = pytest.mark.parametrize("after", [False, True], ids=["before", "after"])


# What a fault does


@each_operation
@before_and_after
async def test_an_operation_fails_until_the_store_recovers(
    store: FaultyStore, operation: StoreOperation, after: bool
) -> None:
    store.fail(operation, after=after)
    for _ in range(2):
        with pytest.raises(StoreUnavailable, match=operation):
            await CALLS[operation](store)
        if operation in {"replace", "delete"}:
            await store.save(ALICE, OLD)
    store.recover()
    await CALLS[operation](store)


@pytest.mark.parametrize("operation", WRITTEN)
async def test_a_write_that_fails_has_not_happened_and_one_that_fails_after_it_has(
    store: FaultyStore, inner: MemoryTokenStore, operation: StoreOperation
) -> None:
    store.fail(operation, times=1)
    store.fail(operation, after=True)
    with pytest.raises(StoreUnavailable):
        await CALLS[operation](store)
    assert await inner.load(ALICE) == OLD
    with pytest.raises(StoreUnavailable):
        await CALLS[operation](store)
    assert await inner.load(ALICE) == WRITTEN[operation]


async def test_a_call_fails_with_the_error_that_is_asked_for_and_with_a_new_one_each_time(store: FaultyStore) -> None:
    store.fail("load", error=ConnectionResetError)
    failures = []
    for _ in range(2):
        with pytest.raises(ConnectionResetError) as caught:
            await store.load(ALICE)
        failures.append(caught.value)
    assert failures[0] is not failures[1]


async def test_what_the_inner_store_raises_is_raised(store: FaultyStore) -> None:
    with pytest.raises(StoreConflict):
        await store.replace(ALICE, NEW, expected=None)
    async with store.lease(ALICE, timeout=0):
        with pytest.raises(LeaseTimeout):
            await lease(store)


@each_operation
@before_and_after
async def test_a_call_that_hangs_ends_when_it_is_cancelled(
    store: FaultyStore, operation: StoreOperation, after: bool
) -> None:
    store.hang(operation, times=1, after=after)
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.01):
            await CALLS[operation](store)
    await store.save(ALICE, OLD)
    async with asyncio.timeout(5):
        await CALLS[operation](store)


async def test_a_delayed_call_happens_later(store: FaultyStore, inner: MemoryTokenStore) -> None:
    store.delay("save", 0.01, times=1)
    saving = asyncio.create_task(store.save(ALICE, NEW))
    await asyncio.sleep(0)
    assert await inner.load(ALICE) == OLD
    await saving
    assert await inner.load(ALICE) == NEW


async def test_a_call_delayed_after_it_happened_returns_later(store: FaultyStore, inner: MemoryTokenStore) -> None:
    store.delay("save", 0.01, times=1, after=True)
    saving = asyncio.create_task(store.save(ALICE, NEW))
    await asyncio.sleep(0)
    assert await inner.load(ALICE) == NEW
    assert not saving.done()
    await saving


# Gates


@pytest.mark.parametrize("operation", WRITTEN)
async def test_a_gate_holds_a_call_before_it_happens(
    store: FaultyStore, inner: MemoryTokenStore, operation: StoreOperation
) -> None:
    with store.hold(operation) as gate:
        call = asyncio.ensure_future(CALLS[operation](store))
        await gate.reached()
        assert await inner.load(ALICE) == OLD
    await call
    assert await inner.load(ALICE) == WRITTEN[operation]


@pytest.mark.parametrize("operation", WRITTEN)
async def test_a_gate_may_hold_a_call_once_it_has_happened(
    store: FaultyStore, inner: MemoryTokenStore, operation: StoreOperation
) -> None:
    with store.hold(operation, after=True) as gate:
        call = asyncio.ensure_future(CALLS[operation](store))
        await gate.reached()
        assert await inner.load(ALICE) == WRITTEN[operation]
        assert not call.done()
    await call


@before_and_after
async def test_a_gate_may_hold_the_next_calls_only(store: FaultyStore, after: bool) -> None:
    with store.hold("load", times=2, after=after) as gate:
        held = [asyncio.create_task(store.load(ALICE)) for _ in range(2)]
        await gate.reached(2)
        assert await store.load(ALICE) == OLD
        assert not any(call.done() for call in held)
    assert await asyncio.gather(*held) == [OLD, OLD]


@before_and_after
async def test_a_held_call_fails_when_the_gate_opens(store: FaultyStore, after: bool) -> None:
    with store.hold("save", after=after) as gate:
        call = asyncio.create_task(store.save(ALICE, NEW))
        await gate.reached()
        store.fail("save", after=after)
    with pytest.raises(StoreUnavailable):
        await call


async def test_recovery_opens_no_gate(store: FaultyStore) -> None:
    with store.hold("load") as gate:
        store.recover()
        call = asyncio.create_task(store.load(ALICE))
        await gate.reached()
        assert not call.done()
    assert await call == OLD


# Which calls are struck


@each_operation
async def test_a_fault_strikes_so_many_calls(store: FaultyStore, operation: StoreOperation) -> None:
    store.fail(operation, times=2)
    for _ in range(2):
        with pytest.raises(StoreUnavailable):
            await CALLS[operation](store)
    await CALLS[operation](store)


async def test_a_fault_strikes_no_other_operation(store: FaultyStore) -> None:
    store.fail("save")
    for operation in CALLS:
        if operation != "save":
            await CALLS[operation](store)


async def test_a_fault_may_be_one_users_alone(store: FaultyStore) -> None:
    store.fail("load", user_id="alice")
    store.fail("lease", user_id="alice")
    assert await store.load(BOB) == OLD
    await lease(store, BOB)
    with pytest.raises(StoreUnavailable):
        await store.load(ALICE)
    with pytest.raises(StoreUnavailable):
        await lease(store, ALICE)


async def test_of_several_faults_the_first_one_is_used_up_first(store: FaultyStore) -> None:
    store.fail("load", times=1, error=OSError)
    store.delay("load", 0.0, times=1)
    store.fail("load", times=1)
    with pytest.raises(OSError, match=r"^$"):
        await store.load(ALICE)
    with pytest.raises(StoreUnavailable):  # the delay and what comes after it
        await store.load(ALICE)
    assert await store.load(ALICE) == OLD


# Leases


@before_and_after
async def test_a_lease_that_fails_is_free_again(store: FaultyStore, after: bool) -> None:
    store.fail("lease", times=1, after=after)
    with pytest.raises(StoreUnavailable):
        await lease(store)
    assert store.calls("release") == 0
    await lease(store)


@pytest.mark.parametrize(("after", "is_free"), [(False, False), (True, True)], ids=["before", "after"])
async def test_a_lease_whose_end_is_held_is_given_back_before_or_after_that(
    store: FaultyStore, inner: MemoryTokenStore, after: bool, is_free: bool
) -> None:
    with store.hold("release", after=after) as gate:
        holder = asyncio.create_task(lease(store))
        await gate.reached()
        try:
            async with inner.lease(ALICE, timeout=0):
                assert is_free
        except LeaseTimeout:
            assert not is_free
    await holder
    async with inner.lease(ALICE, timeout=0):
        pass


@before_and_after
async def test_a_lease_whose_end_fails_is_given_back(store: FaultyStore, after: bool) -> None:
    store.fail("release", times=1, after=after)
    with pytest.raises(StoreUnavailable):
        await lease(store)
    await lease(store)


async def test_the_body_of_a_lease_ends_with_its_own_error(store: FaultyStore) -> None:
    with pytest.raises(RuntimeError, match="the body"):
        async with store.lease(ALICE, timeout=0):
            raise RuntimeError("the body")
    assert store.calls("release") == 1
    await lease(store)


# Listing


async def test_a_listing_that_fails_after_it_has_given_its_keys(store: FaultyStore) -> None:
    store.fail("keys", after=True)
    listing = store.keys("idp")
    assert {await anext(listing), await anext(listing)} == {ALICE, BOB}
    with pytest.raises(StoreUnavailable):
        await anext(listing)


async def test_a_listing_that_ends_early_ends_that_of_the_inner_store() -> None:
    class Listing(MemoryTokenStore):
        ended = False

        async def keys(self, provider: str | None = None) -> AsyncIterator[TokenKey]:
            try:
                yield ALICE
                yield BOB
            finally:
                self.ended = True

    inner = Listing()
    async for _ in (listing := FaultyStore(inner).keys()):
        break
    await listing.aclose()  # type: ignore[attr-defined]  # the contract asks for an iterator; this is a generator
    assert inner.ended


# Counting, and wrong use


async def test_calls_are_counted_by_operation_and_user_failed_ones_too(store: FaultyStore) -> None:
    assert {operation: store.calls(operation) for operation in CALLS} == dict.fromkeys(CALLS, 0)
    store.fail("load", times=1)
    with pytest.raises(StoreUnavailable):
        await store.load(ALICE)
    await store.load(ALICE)
    await store.load(BOB)
    await keys(store)
    await lease(store)
    assert (store.calls("load"), store.calls("load", user_id="alice"), store.calls("load", user_id="bob")) == (3, 2, 1)
    assert store.calls("load", user_id="carol") == 0
    assert (store.calls("keys"), store.calls("lease"), store.calls("release"), store.calls("save")) == (1, 1, 1, 0)


async def test_closing_it_closes_the_inner_store() -> None:
    class Closing(MemoryTokenStore):
        closed = False

        async def aclose(self) -> None:
            self.closed = True

    inner = Closing()
    await FaultyStore(inner).aclose()
    assert inner.closed


def test_its_repr_names_the_inner_store() -> None:
    assert repr(FaultyStore(FaultyStore(MemoryTokenStore()))).startswith("<FaultyStore around <FaultyStore around <")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"operation": "loads"}, "operation must be one of"),
        ({"operation": "load", "times": 0}, "times must be at least 1"),
        ({"operation": "keys", "user_id": "alice"}, "keys is not about a user"),
    ],
)
def test_a_fault_that_can_strike_nothing_is_a_clear_error(arguments: dict[str, Any], message: str) -> None:
    store = FaultyStore(MemoryTokenStore())
    with pytest.raises(ConfigurationError, match=message):
        store.fail(**arguments)
    with pytest.raises(ConfigurationError, match=message):
        store.delay(seconds=0, **arguments)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"operation": "loads"}, "operation must be one of"),
        ({"operation": "keys", "user_id": "alice"}, "keys is not about a user"),
    ],
)
def test_a_gate_and_a_count_of_nothing_are_a_clear_error(arguments: dict[str, Any], message: str) -> None:
    store = FaultyStore(MemoryTokenStore())
    with pytest.raises(ConfigurationError, match=message):
        store.hold(**arguments)
    with pytest.raises(ConfigurationError, match=message):
        store.calls(**arguments)
