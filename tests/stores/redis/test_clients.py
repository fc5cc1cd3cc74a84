"""Clients: the store's own or the app's, on one event loop or several; settings and warnings."""

import asyncio
import logging
import threading
from typing import Any, Final

import pytest
from redis.asyncio import ConnectionPool, Redis, UnixDomainSocketConnection

from kit.redis_commands import until_waiting
from kit.redis_server import RedisServer
from kit.stores import KEY, keys_of, take, until
from tokenflight import (
    ConfigurationError,
    StoredTokens,
    StoreUnavailable,
    TokenKey,
    TokenSet,
)
from tokenflight.stores.redis import RedisTokenStore

TOKENS: Final = TokenSet("access-secret", expires_at=1_800_000_000, refresh_token="refresh-secret")


@pytest.mark.parametrize("decode_responses", [False, True])
@pytest.mark.parametrize("protocol", [2, 3])
async def test_a_client_of_the_apps_is_used_as_it_is_and_left_open(
    server: RedisServer, decode_responses: bool, protocol: int
) -> None:
    client = Redis(
        unix_socket_path=str(server.socket), decode_responses=decode_responses, protocol=protocol, encoding="latin-1"
    )
    async with client:
        store = RedisTokenStore(client)
        tokens = TokenSet("€ü\x00")
        await store.save(KEY, saved := StoredTokens(tokens))
        await store.replace(KEY, StoredTokens(tokens), expected=saved.version)
        async with store.lease(KEY, timeout=0):
            waiter = asyncio.create_task(take(store))
            await until_waiting(server)
        await waiter
        record = await store.load(KEY)
        assert record is not None
        assert record.tokens == tokens
        assert await keys_of(store) == [KEY]
        await store.aclose()
        assert await client.ping()


async def test_s10_a_client_of_another_event_loop_is_refused(server: RedisServer) -> None:
    async with Redis(unix_socket_path=str(server.socket)) as client:
        store = RedisTokenStore(client)
        await store.save(KEY, StoredTokens(TOKENS))
        with pytest.raises(ConfigurationError, match="another event loop") as caught:
            await asyncio.to_thread(asyncio.run, store.load(KEY))
        assert caught.value.code == "wrong_event_loop"
        await store.aclose()


def test_a_client_that_is_closed_serves_another_event_loop_after_the_first_has_ended(server: RedisServer) -> None:
    client = Redis(unix_socket_path=str(server.socket))
    store = RedisTokenStore(client)

    async def save() -> None:
        await store.save(KEY, StoredTokens(TOKENS))
        await client.aclose()

    asyncio.run(save())
    asyncio.run(save())


def test_s10_one_store_with_a_url_serves_event_loops_in_several_threads(server: RedisServer) -> None:
    store = RedisTokenStore(server.url)

    async def count_up() -> None:
        for _ in range(10):
            async with store.lease(KEY, timeout=20):
                record = await store.load(KEY)
                assert record is not None
                number = int(record.tokens.access_token) + 1
                await store.replace(KEY, StoredTokens(TokenSet(str(number))), expected=record.version)
        await store.aclose()

    async def begin() -> None:
        await store.save(KEY, StoredTokens(TokenSet("0")))
        await store.aclose()

    async def end() -> str:
        record = await store.load(KEY)
        await store.aclose()
        assert record is not None
        return record.tokens.access_token

    asyncio.run(begin())
    threads = [threading.Thread(target=asyncio.run, args=[count_up()]) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert asyncio.run(end()) == "30"


async def test_a_burst_of_reads_queues_for_the_connections_there_are(server: RedisServer) -> None:
    store = RedisTokenStore(server.url)
    await asyncio.gather(*(store.load(TokenKey("idp", str(number))) for number in range(500)))
    with server.client() as client:
        assert len(client.client_list()) < 40
    await store.aclose()
    with server.client() as client:
        await until(lambda: len(client.client_list()) == 1)


@pytest.mark.parametrize("url", ["http://localhost", "localhost", "redis://:pass#word@localhost:port/0", ""])
def test_a_wrong_url_is_refused_without_quoting_it(url: str) -> None:
    with pytest.raises(ConfigurationError, match="no URL of a Redis server") as caught:
        RedisTokenStore(url)
    assert caught.value.__context__ is None


@pytest.mark.parametrize(
    "settings",
    [
        *({"lease_duration": seconds} for seconds in (0, -1, 101 * 365 * 86_400)),
        *({"record_lifetime": seconds} for seconds in (0, 101 * 365 * 86_400)),
        {"prefix": ""},
        {"client": 1},
    ],
    ids=str,
)
def test_wrong_settings_are_refused(settings: dict[str, Any]) -> None:
    with pytest.raises(ConfigurationError, match=next(iter(settings))):
        RedisTokenStore(**{"client": "redis://localhost"} | settings)


@pytest.mark.parametrize(
    ("policy", "limit", "record_lifetime", "words"),
    [
        ("allkeys-lru", "100mb", None, "it may drop a user's tokens"),
        ("volatile-ttl", "100mb", None, "it may drop a lease"),
        ("volatile-ttl", "100mb", 1000, "it may drop a user's tokens"),
        ("noeviction", "100mb", None, None),
        ("allkeys-lru", "0", None, None),
    ],
)
async def test_a_server_that_may_drop_keys_is_warned_of_once(
    server: RedisServer,
    policy: str,
    limit: str,
    record_lifetime: float | None,
    words: str | None,
    caplog: pytest.LogCaptureFixture,
) -> None:
    with server.client() as client:
        client.config_set("maxmemory-policy", policy)
        client.config_set("maxmemory", limit)
    store = RedisTokenStore(server.url, record_lifetime=record_lifetime)
    await asyncio.gather(*(store.load(KEY) for _ in range(3)))
    await take(store)
    await store.aclose()
    warnings = [each for each in caplog.records if each.name == "tokenflight" and each.levelno == logging.WARNING]
    assert len(warnings) == (words is not None)
    assert (words or "") in caplog.text


class ClosedWhileSending(UnixDomainSocketConnection):
    """A connection that another task closes while a script is sent on it, as the client of a cluster does."""

    async def send_packed_command(self, command: Any, check_health: bool = True) -> None:
        if b"EVALSHA" in b"".join(command):
            self.closing = asyncio.create_task(self.disconnect(nowait=True))
        await super().send_packed_command(command, check_health)


async def test_a_connection_that_is_closed_while_a_command_is_sent_is_trouble_with_the_store(
    server: RedisServer,
) -> None:
    pool = ConnectionPool(connection_class=ClosedWhileSending, path=str(server.socket))
    async with Redis.from_pool(pool) as client:
        store = RedisTokenStore(client)
        with pytest.raises(StoreUnavailable, match="can't be reached"):
            await store.save(KEY, StoredTokens(TOKENS))
