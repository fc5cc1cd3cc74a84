"""A process that uses a client of its own on one event loop, closes that, and gives the client to a store on the next.

Its arguments are the kind of the client (``redis``, ``single`` connection or ``cluster``), its URL, and who used it on
the first event loop (``store`` or ``app``). It prints how each call of the store ended on the second. The connections
that the first event loop leaves behind complain when they are collected, in a process of its own.
"""

import asyncio
import os
import sys
from collections.abc import Awaitable, Callable

from redis.asyncio import Redis, RedisCluster

from kit.stores import KEY, keys_of, take
from tokenflight import StoredTokens, TokenflightError, TokenSet
from tokenflight.stores.redis import RedisTokenStore

RECORD = StoredTokens(TokenSet("on the second event loop"))


def new_client(kind: str, url: str) -> Redis | RedisCluster:
    if kind == "cluster":
        return RedisCluster.from_url(url)
    return Redis.from_url(url, single_connection_client=kind == "single")


def main(kind: str, url: str, first_user: str) -> None:
    client = new_client(kind, url)
    store = RedisTokenStore(client)

    async def first() -> None:
        if first_user == "store":
            await store.load(KEY)
        else:
            await client.get("a key of the app's")

    async def second() -> None:
        calls: list[Callable[[], Awaitable[object]]] = [
            lambda: store.save(KEY, RECORD),
            lambda: store.replace(KEY, RECORD, expected=None),
            lambda: store.delete(KEY),
            lambda: take(store, timeout=0),
            lambda: store.load(KEY),
            lambda: keys_of(store),
        ]
        outcomes: list[str] = []
        for call in calls:
            try:
                await call()
            except TokenflightError as exc:
                outcomes.append(exc.code)
            except Exception as exc:  # noqa: BLE001 - the test shows it
                outcomes.append(repr(exc))
            else:
                outcomes.append("done")
        print(*outcomes, sep=", ")  # noqa: T201

    asyncio.run(first())
    asyncio.run(second())
    sys.stdout.flush()
    os._exit(0)


if __name__ == "__main__":
    main(*sys.argv[1:])
