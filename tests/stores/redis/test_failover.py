"""Failovers: the primary that the connections lead to becomes a replica, and another server the primary."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from typing import Final

import pytest
from redis.asyncio import Redis

from kit.redis_server import LossyConnection, RedisServer, free_port, lossy_connection, running_server
from kit.stores import KEY, is_free, keys_of, take, until
from tokenflight import StoredTokens, StoreUnavailable, TokenKey, TokenSet
from tokenflight.stores.redis import RedisTokenStore

OLD: Final = StoredTokens(TokenSet("old-access", refresh_token="old-refresh"))
USERS: Final = [TokenKey("idp", f"user-{number}") for number in range(12)]


@pytest.fixture(scope="module")
def two_servers() -> Iterator[tuple[RedisServer, RedisServer]]:
    """Two servers that tests make the replica of each other, or of nobody."""
    with running_server() as one, running_server() as other:
        yield one, other


@pytest.fixture
def primary(two_servers: tuple[RedisServer, RedisServer]) -> RedisServer:
    """The server that is the primary at first; empty."""
    return _reset(two_servers[0])


@pytest.fixture
def successor(two_servers: tuple[RedisServer, RedisServer]) -> RedisServer:
    """The server that becomes the primary; empty."""
    return _reset(two_servers[1])


@pytest.fixture
async def connection(primary: RedisServer) -> AsyncIterator[LossyConnection]:
    """What stands for the name of the primary."""
    async with lossy_connection(primary) as connection:
        yield connection


@pytest.fixture(params=["url", "given", "given_single_connection"])
async def store(request: pytest.FixtureRequest, connection: LossyConnection) -> AsyncIterator[RedisTokenStore]:
    """A store on the name of the primary: with a client of its own, or with the app's."""
    path = connection.url.removeprefix("unix://")
    if request.param == "url":
        store = RedisTokenStore(connection.url)
        yield store
        await store.aclose()
        return
    async with Redis(unix_socket_path=path, single_connection_client="single" in request.param) as client:
        store = RedisTokenStore(client)
        yield store
        await store.aclose()


def _reset(server: RedisServer) -> RedisServer:
    with server.client() as client:
        client.replicaof("NO", "ONE")
        client.config_set("replica-serve-stale-data", "yes")
        client.config_set("min-replicas-to-write", 0)
        client.flushall()
    return server


def demote(server: RedisServer) -> None:
    """Make it a replica that has not heard of its primary yet, and so shows what it had before."""
    with server.client() as client:
        client.replicaof("127.0.0.1", free_port())


def fail_over(connection: LossyConnection, primary: RedisServer, successor: RedisServer) -> None:
    """Give the successor what the primary has, demote that one, and let the name lead to the successor."""
    with primary.client() as old, successor.client() as new:
        for name in old.scan_iter():
            new.restore(name, max(old.pttl(name), 0), old.dump(name))
    demote(primary)
    connection.lead_to(successor)


async def fill_pool(store: RedisTokenStore) -> None:
    """Let the store open several connections."""
    await asyncio.gather(*(store.load(key) for key in USERS))


async def test_h1_all_operations_go_on_when_the_primary_became_a_replica(
    store: RedisTokenStore, connection: LossyConnection, primary: RedisServer, successor: RedisServer
) -> None:
    await store.save(KEY, OLD)
    await fill_pool(store)
    fail_over(connection, primary, successor)
    await asyncio.gather(*(store.save(key, StoredTokens(TokenSet(key.user_id))) for key in USERS))
    for key in USERS:
        record = await store.load(key)
        assert record is not None
        assert record.tokens.access_token == key.user_id
    await store.replace(KEY, renewed := StoredTokens(TokenSet("new")), expected=OLD.version)
    assert await store.load(KEY) == renewed
    async with store.lease(KEY, timeout=0) as lease:
        assert lease.is_held()
    assert await is_free(store)
    assert await store.delete(KEY)


@pytest.mark.parametrize("operation", ["save", "create", "replace", "delete", "acquire"])
async def test_h1_the_first_write_after_a_failover_leaves_no_connection_to_the_former_primary(
    connection: LossyConnection, primary: RedisServer, successor: RedisServer, operation: str
) -> None:
    store = RedisTokenStore(connection.url)
    await store.save(KEY, OLD)
    await fill_pool(store)
    fail_over(connection, primary, successor)
    new = StoredTokens(TokenSet("new"))
    operations: dict[str, Callable[[], Awaitable[object]]] = {
        "save": lambda: store.save(KEY, new),
        "create": lambda: store.replace(TokenKey("idp", "bob"), new, expected=None),
        "replace": lambda: store.replace(KEY, new, expected=OLD.version),
        "delete": lambda: store.delete(KEY),
        "acquire": lambda: take(store, timeout=0),
    }
    await operations[operation]()
    with primary.client() as old:
        await until(lambda: len(old.client_list()) == 1)
    await store.aclose()


async def test_h1_a_lease_outlives_the_failover_to_a_replica_that_knows_of_it(
    connection: LossyConnection, primary: RedisServer, successor: RedisServer
) -> None:
    store, other = RedisTokenStore(connection.url, lease_duration=2), RedisTokenStore(successor.url)
    async with store.lease(KEY, timeout=0) as lease:
        fail_over(connection, primary, successor)
        await asyncio.sleep(0.7)  # it is extended every half second
        assert lease.is_held()
        assert not await is_free(other)
        with successor.client() as client:
            assert client.pttl("tokenflight:{idp:alice}:lease") > 1400
    assert await is_free(other)
    await store.aclose()
    await other.aclose()


async def test_h1_a_former_primary_is_not_asked_whether_a_record_has_changed(
    connection: LossyConnection, primary: RedisServer, successor: RedisServer
) -> None:
    store, other = RedisTokenStore(connection.url), RedisTokenStore(successor.url)
    await store.save(KEY, OLD)
    fail_over(connection, primary, successor)
    await other.replace(KEY, renewed := StoredTokens(TokenSet("renewed")), expected=OLD.version)
    # The former primary has the old version, and would take this for a conflict.
    await store.replace(KEY, StoredTokens(TokenSet("renewed again")), expected=renewed.version)
    await store.aclose()
    await other.aclose()


async def test_h1_a_former_primary_is_not_asked_to_release_a_lease_it_never_knew(
    connection: LossyConnection, primary: RedisServer, successor: RedisServer
) -> None:
    store, other = RedisTokenStore(connection.url), RedisTokenStore(successor.url)
    async with store.lease(KEY, timeout=0):
        fail_over(connection, primary, successor)
        with primary.client() as client:
            client.replicaof("NO", "ONE")
            client.flushall()
        demote(primary)
    assert await is_free(other)
    await store.aclose()
    await other.aclose()


async def test_h1_a_name_that_still_leads_to_a_replica_is_tried_once_more_and_reported(
    store: RedisTokenStore, primary: RedisServer
) -> None:
    await store.save(KEY, OLD)
    demote(primary)
    with pytest.raises(StoreUnavailable, match="is a replica"):
        await store.save(KEY, StoredTokens(TokenSet("new")))
    with primary.client() as client:
        client.replicaof("NO", "ONE")
    assert await store.load(KEY) == OLD
    await store.save(KEY, StoredTokens(TokenSet("new")))


async def test_h1_a_replica_that_has_lost_its_primary_and_shows_nothing_is_left(
    store: RedisTokenStore, connection: LossyConnection, primary: RedisServer, successor: RedisServer
) -> None:
    await store.save(KEY, OLD)
    with primary.client() as client:
        client.config_set("replica-serve-stale-data", "no")
    fail_over(connection, primary, successor)
    assert await store.load(KEY) == OLD


async def test_h1_listing_the_users_leaves_a_replica_that_shows_nothing_for_the_next_time(
    store: RedisTokenStore, connection: LossyConnection, primary: RedisServer, successor: RedisServer
) -> None:
    await store.save(KEY, OLD)
    with primary.client() as client:
        client.config_set("replica-serve-stale-data", "no")
    fail_over(connection, primary, successor)
    with pytest.raises(StoreUnavailable, match="is a replica"):
        await keys_of(store)
    assert await keys_of(store) == [KEY]


async def test_h1_the_app_can_use_its_client_while_the_store_leaves_a_replica(
    connection: LossyConnection, primary: RedisServer, successor: RedisServer
) -> None:
    async with Redis(unix_socket_path=connection.url.removeprefix("unix://")) as client:
        store = RedisTokenStore(client)
        await store.save(KEY, OLD)
        reading = asyncio.ensure_future(client.blpop(["nothing"], timeout=1))
        async with client.pubsub() as listener:
            await listener.subscribe("news")
            fail_over(connection, primary, successor)
            await store.save(KEY, StoredTokens(TokenSet("new")))
        await asyncio.wait([reading])
        await client.set("app", "works")
        with successor.client() as new:
            assert new.get("app") == b"works"
        await store.aclose()


async def test_h1_too_few_replicas_is_told_as_such(store: RedisTokenStore, primary: RedisServer) -> None:
    await store.save(KEY, OLD)
    with primary.client() as client:
        client.config_set("min-replicas-to-write", 1)
    with pytest.raises(StoreUnavailable, match="min-replicas-to-write"):
        await store.delete(KEY)
    assert await store.load(KEY) == OLD


async def test_h1_a_former_primary_that_has_lost_its_replicas_but_not_heard_of_its_successor_is_left(
    store: RedisTokenStore, connection: LossyConnection, primary: RedisServer, successor: RedisServer
) -> None:
    await store.save(KEY, OLD)
    await fill_pool(store)
    fail_over(connection, primary, successor)
    with primary.client() as client:
        client.replicaof("NO", "ONE")
        client.config_set("min-replicas-to-write", 1)
    await store.replace(KEY, renewed := StoredTokens(TokenSet("new")), expected=OLD.version)
    assert await store.load(KEY) == renewed
    await take(store, timeout=0)


@pytest.mark.parametrize(
    ("reply", "words"),
    [
        (b"-MOVED 3999 127.0.0.1:6381", "give the store a RedisCluster client"),
        (b"-ASK 3999 127.0.0.1:6381", "give the store a RedisCluster client"),
        (b"-TRYAGAIN Multiple keys request during rehashing of slot", "Multiple keys request"),
        (b"-CLUSTERDOWN Hash slot not served", "Hash slot not served"),
        (b"-MISCONF Redis is configured to save RDB snapshots", "MISCONF"),
    ],
    ids=lambda value: value[1:8].decode() if isinstance(value, bytes) else "",
)
async def test_h1_a_refusal_is_an_error_that_says_what_to_do(
    connection: LossyConnection, primary: RedisServer, reply: bytes, words: str
) -> None:
    store = RedisTokenStore(connection.url)
    await store.save(KEY, OLD)
    connection.replace_the_next_reply(reply)
    with pytest.raises(StoreUnavailable, match=words) as caught:
        await store.save(KEY, StoredTokens(TokenSet("new")))
    assert "new" not in str(caught.value)
    await store.aclose()


@pytest.mark.parametrize(
    "reply",
    [
        b"-READONLY You can't write against a read only replica.",
        b"-READONLY You can't write against a read only replica. script: 7b555b, on @user_script:1.",
        b"-ERR Error running script (call to f_7b): @user_script:1: @user_script: 1: -READONLY You can't write",
        b"-MASTERDOWN Link with MASTER is down and replica-serve-stale-data is set to 'no'.",
        b"-NOREPLICAS Not enough good replicas to write. script: 71, on @user_script:1.",
        b"-LOADING Redis is loading the dataset in memory",
    ],
    ids=["plain", "script_of_redis_7", "script_of_redis_6", "masterdown", "noreplicas", "loading"],
)
async def test_h1_each_word_for_a_server_that_cannot_serve_now_leads_to_one_more_try(
    connection: LossyConnection, primary: RedisServer, reply: bytes
) -> None:
    store = RedisTokenStore(connection.url)
    await store.save(KEY, OLD)
    connection.replace_the_next_reply(reply)
    await store.replace(KEY, StoredTokens(TokenSet("new")), expected=OLD.version)
    await store.aclose()


async def test_h1_a_healthy_primary_counts_no_errors_of_the_stores_scripts(server: RedisServer) -> None:
    with server.client() as client:
        client.config_resetstat()
    store = RedisTokenStore(server.url, lease_duration=0.2)
    async with store.lease(KEY, timeout=0):
        await store.save(KEY, OLD)
        await store.replace(KEY, StoredTokens(TokenSet("new")), expected=OLD.version)
        await asyncio.sleep(0.1)  # the lease is extended meanwhile
    with server.client() as client:
        assert "errorstat_WRONGTYPE" not in client.info("errorstats")
    await store.aclose()
