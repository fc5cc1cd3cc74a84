"""K12: a primary that takes writes which a failover would lose."""

import asyncio
import logging
import socket
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager

import pytest
from redis.asyncio import RedisCluster

from kit.redis_server import RedisServer
from kit.stores import KEY, keys_of, take, until
from tokenflight import StoredTokens, StoreUnavailable, TokenKey, TokenSet
from tokenflight.stores.redis import RedisTokenStore


@asynccontextmanager
async def attached_replica(server: RedisServer) -> AsyncIterator[None]:
    """A connection on which the server replicates, as to a replica that is still loading."""
    with socket.socket(socket.AF_UNIX) as replica, server.client() as client:
        replica.connect(str(server.socket))
        replica.sendall(b"SYNC\r\n")
        await until(lambda: client.info("replication")["connected_slaves"] == 1)
        yield
    with server.client() as client:
        await until(lambda: client.info("replication")["connected_slaves"] == 0)


@contextmanager
def min_replicas_to_write(server: RedisServer, number: int) -> Iterator[None]:
    with server.client() as client:
        client.config_set("min-replicas-to-write", number)
        try:
            yield
        finally:
            client.config_set("min-replicas-to-write", 0)


def warnings_in(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [
        record.getMessage()
        for record in caplog.records
        if record.name == "tokenflight" and record.levelno == logging.WARNING
    ]


async def test_k12_a_primary_that_takes_writes_which_no_replica_gets_is_warned_of_once(
    server: RedisServer, store: RedisTokenStore, caplog: pytest.LogCaptureFixture
) -> None:
    async with attached_replica(server):
        await asyncio.gather(*(store.load(KEY) for _ in range(3)))
        await store.load(KEY)
    [warning] = warnings_in(caplog)
    assert "Set min-replicas-to-write to 1" in warning


async def test_k12_no_warning_where_the_primary_counts_its_replicas(
    server: RedisServer, store: RedisTokenStore, caplog: pytest.LogCaptureFixture
) -> None:
    with min_replicas_to_write(server, 1):
        async with attached_replica(server):
            await store.load(KEY)
    assert warnings_in(caplog) == []


async def test_k12_no_warning_of_a_server_without_replicas(
    store: RedisTokenStore, caplog: pytest.LogCaptureFixture
) -> None:
    await store.load(KEY)
    assert warnings_in(caplog) == []


async def test_k12_a_user_of_the_server_who_must_not_ask_it_can_use_the_store_all_the_same(
    server: RedisServer, caplog: pytest.LogCaptureFixture
) -> None:
    with server.client() as client:
        client.execute_command("ACL SETUSER app on nopass ~* &* +@all -info")
    async with attached_replica(server):
        store = RedisTokenStore(f"{server.url}?username=app&password=any")
        assert await store.load(KEY) is None
        await store.aclose()
    assert warnings_in(caplog) == []


@pytest.mark.parametrize("operation", ["save", "create", "replace", "delete", "acquire"])
async def test_k12_a_primary_that_has_lost_its_replicas_writes_nothing(
    server: RedisServer, store: RedisTokenStore, operation: str
) -> None:
    await store.save(KEY, old := StoredTokens(TokenSet("old")))
    new = StoredTokens(TokenSet("new"))
    operations: dict[str, Callable[[], Awaitable[object]]] = {
        "save": lambda: store.save(KEY, new),
        "create": lambda: store.replace(TokenKey("idp", "bob"), new, expected=None),
        "replace": lambda: store.replace(KEY, new, expected=old.version),
        "delete": lambda: store.delete(KEY),
        "acquire": lambda: take(store, timeout=0),
    }
    with min_replicas_to_write(server, 1):
        with pytest.raises(StoreUnavailable, match="min-replicas-to-write"):
            await operations[operation]()
        assert await keys_of(store) == [KEY]
        assert await store.load(KEY) == old
        assert server.client().keys("*:lease") == []
    await operations[operation]()


async def test_k12_a_lease_that_a_primary_without_replicas_can_not_extend_lapses(
    server: RedisServer, store: RedisTokenStore
) -> None:
    hasty = RedisTokenStore(server.url, lease_duration=0.3)
    async with hasty.lease(KEY, timeout=0) as lease:
        with min_replicas_to_write(server, 1):
            await until(lambda: not lease.is_held())
    await take(store)
    await hasty.aclose()


@pytest.mark.long
async def test_k12_a_cluster_that_has_lost_its_replicas_is_still_read(cluster_port: int) -> None:
    async with RedisCluster(host="127.0.0.1", port=cluster_port) as client:
        store = RedisTokenStore(client)
        await store.save(KEY, record := StoredTokens(TokenSet("old")))
        await client.config_set("min-replicas-to-write", 1)
        try:
            assert await store.load(KEY) == record
            with pytest.raises(StoreUnavailable, match="min-replicas-to-write"):
                await store.save(KEY, StoredTokens(TokenSet("new")))
        finally:
            await client.config_set("min-replicas-to-write", 0)
        await store.aclose()
