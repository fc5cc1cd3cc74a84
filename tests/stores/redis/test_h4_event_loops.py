"""Clients of the app's that were used on another event loop before."""

import asyncio
from typing import Any, Final

import pytest
from redis.asyncio import BlockingConnectionPool, Redis
from redis.asyncio import sentinel as sentinels

from kit import redis_next_loop_process
from kit.redis_server import RedisServer
from kit.stores import KEY
from kit.workers import line_of, worker
from tokenflight import ConfigurationError, StoredTokens, TokenSet
from tokenflight.stores.redis import RedisTokenStore

Sentinel: Any = sentinels.Sentinel  # its methods have no types
SAVED: Final = StoredTokens(TokenSet("on the first event loop"))


@pytest.mark.parametrize("first_user", ["store", "app"])
@pytest.mark.parametrize("kind", ["redis", "single", pytest.param("cluster", marks=pytest.mark.long)])
async def test_h4_a_client_with_connections_of_a_closed_event_loop_is_refused_at_each_call_and_sent_nothing(
    server: RedisServer, request: pytest.FixtureRequest, kind: str, first_user: str
) -> None:
    url = f"redis://127.0.0.1:{request.getfixturevalue('cluster_port')}" if kind == "cluster" else server.url
    async with worker(redis_next_loop_process, kind, url, first_user) as process:
        assert await line_of(process) == ", ".join(["wrong_event_loop"] * 6)
    if kind != "cluster":
        with server.client() as client:
            assert client.keys() == []


async def test_h4_a_client_that_the_app_uses_on_another_event_loop_is_refused_at_the_first_call(
    server: RedisServer,
) -> None:
    async with Redis(unix_socket_path=str(server.socket)) as client:
        await client.ping()
        with pytest.raises(ConfigurationError, match="give the store a URL instead") as caught:
            await asyncio.to_thread(asyncio.run, RedisTokenStore(client).save(KEY, SAVED))
        assert caught.value.code == "wrong_event_loop"
        assert await RedisTokenStore(client).load(KEY) is None


async def test_h4_a_client_whose_store_was_closed_is_still_refused_on_another_event_loop(server: RedisServer) -> None:
    async with Redis(unix_socket_path=str(server.socket)) as client:
        store = RedisTokenStore(client)
        await store.save(KEY, SAVED)
        await store.aclose()
        with pytest.raises(ConfigurationError) as caught:
            await asyncio.to_thread(asyncio.run, store.load(KEY))
        assert caught.value.code == "wrong_event_loop"
        assert await store.load(KEY) == SAVED


async def test_h4_a_client_whose_sentinel_has_connections_of_another_event_loop_is_refused(server: RedisServer) -> None:
    async with Redis(unix_socket_path=str(server.socket)) as watcher:
        sentinel = Sentinel([])
        sentinel.sentinels = [watcher]
        await watcher.ping()
        async with sentinel.master_for("tokens") as client:
            with pytest.raises(ConfigurationError) as caught:
                await asyncio.to_thread(asyncio.run, RedisTokenStore(client).load(KEY))
    assert caught.value.code == "wrong_event_loop"


def test_h4_a_client_that_the_app_closes_with_each_event_loop_serves_the_next_also_when_the_app_was_there_first(
    server: RedisServer,
) -> None:
    client = Redis.from_pool(BlockingConnectionPool.from_url(server.url, max_connections=4))
    store = RedisTokenStore(client)

    async def task(number: int) -> None:
        async with client:
            await client.ping()
            await store.save(KEY, StoredTokens(TokenSet(str(number))))
            records = await asyncio.gather(*(store.load(KEY) for _ in range(3)))
            assert [record and record.tokens.access_token for record in records] == [str(number)] * 3
            await store.aclose()

    for number in range(3):
        asyncio.run(task(number))
