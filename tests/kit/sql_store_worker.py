"""A process of its own that uses a SQL store; its arguments are the task, the URL, the table and the lease duration."""

import asyncio
import sys

from tokenflight import StoredTokens, TokenKey, TokenSet
from tokenflight.stores.sql import SQLTokenStore

KEY = TokenKey("idp", "alice")


async def hold(store: SQLTokenStore) -> None:
    """Hold the lease until standard input ends; for each line of it, say whether it is held."""
    async with store.lease(KEY, timeout=10) as lease:
        print("held", flush=True)  # noqa: T201
        while await asyncio.to_thread(sys.stdin.readline):
            print(lease.is_held(), flush=True)  # noqa: T201
    print("released", flush=True)  # noqa: T201


async def count_up(store: SQLTokenStore) -> None:
    """Raise the number in the record by ten, one by one, under the lease."""
    for _ in range(10):
        async with store.lease(KEY, timeout=30):
            record = await store.load(KEY)
            assert record is not None
            number = int(record.tokens.access_token.removeprefix("access-"))
            await store.replace(KEY, StoredTokens(TokenSet(f"access-{number + 1}")), expected=record.version)


async def main(task: str, url: str, table: str, lease_duration: str) -> None:
    store = SQLTokenStore(url, table=table, lease_duration=float(lease_duration))
    await {"hold": hold, "count_up": count_up}[task](store)
    await store.aclose()


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
