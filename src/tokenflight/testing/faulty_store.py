"""A store that fails, hangs and waits on demand."""

import asyncio
from collections import Counter
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager
from functools import partial
from typing import Literal, TypeAlias, get_args

from tokenflight.errors import ConfigurationError, StoreUnavailable
from tokenflight.stores.base import Lease, StoredTokens, TokenStore, Version
from tokenflight.testing.fault_plan import FaultPlan, Selector
from tokenflight.testing.gates import Gate
from tokenflight.tokens import TokenKey

StoreOperation: TypeAlias = Literal["load", "save", "replace", "delete", "lease", "release", "keys"]
"""The operations that `FaultyStore` can disturb and count: the methods of `TokenStore`, and the end of a lease."""


class FaultyStore(TokenStore):
    """A store around `inner` that fails, holds, hangs and delays its operations on demand.

    Without a fault it behaves as `inner` does. A test sets faults, lets the app run, and counts the calls that reached
    the store::

        async def test_a_renewal_is_stored_once_the_store_is_back() -> None:
            store = FaultyStore(MemoryTokenStore())
            async with TokenRefresher(provider, store) as refresher:
                await refresher.save_tokens("alice", login)
                store.fail("replace", times=2)
                await refresher.refresh_token("alice")
            assert store.calls("replace") == 3

    A test sets each fault for one operation. With `user_id`, the fault strikes calls for that user alone. With `times`,
    it strikes that many calls; without, all until `recover`, and a gate holds all until it is opened. A fault strikes
    before the operation happens. With `after`, it strikes once the operation has happened: a write is stored, and its
    reply is lost. Of several faults, the one set first comes first. The next one follows when the first is used up; a
    delay and the next fault strike the same call.

    The operation ``"lease"`` is the wait for a lease, and ``"release"`` the end of one. The inner store gets its lease
    back even if the release fails or is cancelled: no test has to wait until the lease expires.

    The methods that set faults raise `ConfigurationError` for an unknown operation, and if `times` is less than 1.
    """

    def __init__(self, inner: TokenStore) -> None:
        self._inner = inner
        self._plan = FaultPlan[Callable[[], Awaitable[object]]]()
        self._calls: Counter[tuple[StoreOperation, str | None]] = Counter()

    def __repr__(self) -> str:
        return f"<FaultyStore around {self._inner!r}>"

    def calls(self, operation: StoreOperation, *, user_id: str | None = None) -> int:
        """Return the number of calls of `operation`, failed ones too: those for `user_id`, or all."""
        _check(operation, user_id)
        return sum(
            count for (name, caller), count in self._calls.items() if name == operation and user_id in {None, caller}
        )

    def fail(
        self,
        operation: StoreOperation,
        *,
        error: Callable[[], Exception] | None = None,
        times: int | None = None,
        user_id: str | None = None,
        after: bool = False,
    ) -> None:
        """Let calls of `operation` raise what `error` returns, by default `StoreUnavailable`."""
        if error is None:
            error = partial(StoreUnavailable, f"the test lets {operation} fail")
        self._add_fault(partial(_raise, error), operation, user_id, times=times, after=after)

    def hang(
        self,
        operation: StoreOperation,
        *,
        times: int | None = None,
        user_id: str | None = None,
        after: bool = False,
    ) -> None:
        """Let calls of `operation` never return. A call that hangs ends only when it is cancelled."""
        self._add_fault(_hang, operation, user_id, times=times, after=after)

    def delay(
        self,
        operation: StoreOperation,
        seconds: float,
        *,
        times: int | None = None,
        user_id: str | None = None,
        after: bool = False,
    ) -> None:
        """Let calls of `operation` take `seconds` longer."""
        self._add_fault(partial(asyncio.sleep, seconds), operation, user_id, times=times, after=after)

    def recover(self) -> None:
        """Clear all faults. A call that hangs or is delayed stays so, and a gate stays closed."""
        self._plan.clear_faults()

    def hold(
        self,
        operation: StoreOperation,
        *,
        times: int | None = None,
        user_id: str | None = None,
        after: bool = False,
    ) -> Gate:
        """Return a gate that holds calls of `operation` until it is opened, before they happen and before they fail.

        With `after`, it holds them once they have happened, before they return::

            with store.hold("replace", after=True) as gate:
                caller = asyncio.create_task(refresher.refresh_token("alice"))
                await gate.reached()
                caller.cancel()
        """
        _check(operation, user_id)
        return self._plan.add_gate(Selector(operation, user_id, after), times=times)

    async def load(self, key: TokenKey) -> StoredTokens | None:
        """See `TokenStore.load`."""
        await self._begin("load", key.user_id)
        record = await self._inner.load(key)
        await self._end("load", key.user_id)
        return record

    async def save(self, key: TokenKey, record: StoredTokens) -> None:
        """See `TokenStore.save`."""
        await self._begin("save", key.user_id)
        await self._inner.save(key, record)
        await self._end("save", key.user_id)

    async def replace(self, key: TokenKey, record: StoredTokens, *, expected: Version | None) -> None:
        """See `TokenStore.replace`."""
        await self._begin("replace", key.user_id)
        await self._inner.replace(key, record, expected=expected)
        await self._end("replace", key.user_id)

    async def delete(self, key: TokenKey) -> bool:
        """See `TokenStore.delete`."""
        await self._begin("delete", key.user_id)
        was_there = await self._inner.delete(key)
        await self._end("delete", key.user_id)
        return was_there

    def lease(self, key: TokenKey, *, timeout: float) -> AbstractAsyncContextManager[Lease]:
        """See `TokenStore.lease`."""
        return self._lease(key, timeout)

    async def keys(self, provider: str | None = None) -> AsyncIterator[TokenKey]:
        """See `TokenStore.keys`."""
        await self._begin("keys", None)
        keys = self._inner.keys(provider)
        try:
            async for key in keys:
                yield key
        finally:
            # Closed now, not when it is collected: it may hold a connection of the inner store.
            if isinstance(keys, AsyncGenerator):
                await keys.aclose()
        await self._end("keys", None)

    async def aclose(self) -> None:
        """Close the inner store."""
        await self._inner.aclose()

    @asynccontextmanager
    async def _lease(self, key: TokenKey, timeout: float) -> AsyncIterator[Lease]:
        async with AsyncExitStack() as after_release, AsyncExitStack() as release:
            await self._begin("lease", key.user_id)
            lease = await release.enter_async_context(self._inner.lease(key, timeout=timeout))
            await self._end("lease", key.user_id)
            # Registered only now: a lease that the caller never got has no end that could fail.
            after_release.push_async_callback(self._end, "release", key.user_id)
            release.push_async_callback(self._begin, "release", key.user_id)
            yield lease

    async def _begin(self, operation: StoreOperation, user_id: str | None) -> None:
        self._calls[operation, user_id] += 1
        await self._strike(operation, user_id, after=False)

    async def _end(self, operation: StoreOperation, user_id: str | None) -> None:
        await self._strike(operation, user_id, after=True)

    async def _strike(self, operation: StoreOperation, user_id: str | None, *, after: bool) -> None:
        await self._plan.wait_at_gates(operation, user_id, after=after)
        for fault in self._plan.faults_of(operation, user_id, after=after):
            await fault()

    def _add_fault(
        self,
        fault: Callable[[], Awaitable[object]],
        operation: StoreOperation,
        user_id: str | None,
        *,
        times: int | None,
        after: bool,
    ) -> None:
        _check(operation, user_id)
        self._plan.add_fault(fault, Selector(operation, user_id, after), times=times)


def _check(operation: StoreOperation, user_id: str | None) -> None:
    if operation not in get_args(StoreOperation):
        raise ConfigurationError(f"operation must be one of {get_args(StoreOperation)}, not {operation!r}")
    if operation == "keys" and user_id is not None:
        raise ConfigurationError("keys is not about a user: leave user_id out")


async def _raise(error: Callable[[], Exception]) -> None:
    raise error()


async def _hang() -> None:
    await asyncio.Event().wait()
