"""The Redis store on real servers: the contract, and what happens when connections, servers and holders fail."""

import asyncio
import json
import logging
import os
import sys
import threading
import time
import uuid
from asyncio.subprocess import PIPE
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from typing import Any, Final

import pytest
from redis.asyncio import Redis, RedisCluster
from redis.crc import key_slot

from kit.codecs import CODECS
from kit.format1 import check_that_all_is_read_and_written_again, redis_hashes
from kit.redis_server import RedisServer, lossy_connection, running_cluster, running_server
from kit.support import login
from tokenflight import (
    ConfigurationError,
    LeaseTimeout,
    OIDCProvider,
    StoreConflict,
    StoreCorrupted,
    StoredTokens,
    StoreError,
    StoreUnavailable,
    TokenKey,
    TokenRefresher,
    TokenSet,
    TokenStore,
    Version,
)
from tokenflight.stores.codec import RecordCodec
from tokenflight.stores.redis import RedisTokenStore
from tokenflight.stores.redis import _session as _redis_session
from tokenflight.stores.redis import _store as redis_store
from tokenflight.testing import FakeProvider
from tokenflight.testing.conformance import StoreConformance

KEY: Final = TokenKey("idp", "alice")
TOKENS: Final = TokenSet("access-secret", expires_at=1_800_000_000, refresh_token="refresh-secret")
RECORD: Final = "tokenflight:{idp:alice}:tokens"
LEASE: Final = "tokenflight:{idp:alice}:lease"

HOLDER: Final = """
import asyncio, sys
from tokenflight import TokenKey
from tokenflight.stores.redis import RedisTokenStore

async def hold():
    async with RedisTokenStore(sys.argv[1], lease_duration=1).lease(TokenKey("idp", "alice"), timeout=0):
        print("held", flush=True)
        await asyncio.sleep(60)

asyncio.run(hold())
"""


@pytest.fixture(scope="module")
def shared_server() -> Iterator[RedisServer]:
    with running_server() as server:
        yield server


@pytest.fixture
def server(shared_server: RedisServer) -> RedisServer:
    """A server with an empty database and its own settings."""
    with shared_server.client() as client:
        client.flushall()
        client.config_set("maxmemory", 0)
        client.config_set("maxmemory-policy", "noeviction")
    return shared_server


@pytest.fixture(scope="module")
def named_url() -> Iterator[str]:
    """The server named in the environment, or one of our own."""
    if url := os.environ.get("TOKENFLIGHT_TEST_REDIS_URL"):
        yield url
    else:
        with running_server() as server:
            yield server.url


@pytest.fixture(scope="module")
def cluster_port() -> Iterator[int]:
    with running_cluster() as port:
        yield port


@pytest.fixture
async def store(server: RedisServer) -> AsyncIterator[RedisTokenStore]:
    store = RedisTokenStore(server.url)
    yield store
    await store.aclose()


class TestRedisTokenStore(StoreConformance):
    @pytest.fixture(autouse=True, params=CODECS, ids=lambda codec: type(codec).__name__)
    def new_prefix(self, named_url: str, request: pytest.FixtureRequest) -> None:
        self.url = named_url
        self.prefix = f"tokenflight-test:{uuid.uuid4()}"
        self.codec: RecordCodec = request.param

    @asynccontextmanager
    async def open_store(self) -> AsyncIterator[TokenStore]:
        store = RedisTokenStore(self.url, prefix=self.prefix, codec=self.codec)
        yield store
        await store.aclose()


@pytest.mark.long
class TestRedisTokenStoreOnACluster(StoreConformance):
    @pytest.fixture(autouse=True)
    def new_prefix(self, cluster_port: int) -> None:
        self.port = cluster_port
        self.prefix = f"tokenflight-test:{uuid.uuid4()}"

    @asynccontextmanager
    async def open_store(self) -> AsyncIterator[TokenStore]:
        async with RedisCluster(host="127.0.0.1", port=self.port) as client:
            store = RedisTokenStore(client, prefix=self.prefix)
            yield store
            await store.aclose()


@pytest.mark.long
async def test_on_a_cluster_whose_client_has_no_channels_waiters_ask_now_and_then(
    cluster_port: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delattr(RedisCluster, "pubsub")  # as before redis-py 8
    async with RedisCluster(host="127.0.0.1", port=cluster_port) as client:
        store, other = RedisTokenStore(client), RedisTokenStore(client)
        async with store.lease(KEY, timeout=0):
            waiter = asyncio.create_task(take(other))
            await asyncio.sleep(0.2)
        await waiter
        await store.aclose()
        await other.aclose()


class Commands:
    """What was sent to a server while its `watched` context lasted."""

    def __init__(self, server: RedisServer) -> None:
        self.names: list[str] = []
        self._server = server

    @contextmanager
    def watched(self) -> Iterator[None]:
        with self._server.client() as client, client.monitor() as monitor:
            client.echo("begin")
            while monitor.next_command()["command"] != "ECHO begin":
                pass
            yield
            client.echo("end")
            while (seen := monitor.next_command())["command"] != "ECHO end":
                if seen["client_type"] != "lua":
                    self.names.append(seen["command"].split()[0].upper())


async def until(what: Callable[[], object]) -> None:
    """Wait until `what`, which nobody tells of, is so."""
    async with asyncio.timeout(10):
        while not what():  # noqa: ASYNC110
            await asyncio.sleep(0.005)


async def until_waiting(server: RedisServer) -> None:
    """Wait until somebody listens for released leases."""
    with server.client() as client:
        await until(lambda: client.pubsub_numsub("tokenflight:released")[0][1])


async def keys_of(store: TokenStore, provider: str | None = None) -> list[TokenKey]:
    return [key async for key in store.keys(provider)]


async def take(store: RedisTokenStore, *, key: TokenKey = KEY, timeout: float = 20) -> None:
    async with store.lease(key, timeout=timeout):
        pass


# What is stored


async def test_a_record_is_one_hash_and_its_lease_one_key_beside_it(
    server: RedisServer, store: RedisTokenStore
) -> None:
    await store.save(KEY, record := StoredTokens(TOKENS))
    with server.client() as client:
        async with store.lease(KEY, timeout=0):
            assert sorted(client.keys()) == [LEASE.encode(), RECORD.encode()]
            assert 0 < client.pttl(LEASE) <= 60_000
        assert client.keys() == [RECORD.encode()]
        assert client.pttl(RECORD) == -1
        assert client.hget(RECORD, "version") == record.version.encode()
        assert json.loads(client.hget(RECORD, "record") or "")["version"] == record.version


@pytest.mark.parametrize("text", ["{}", "}{", "a}b{c", ":", "a:b", "*", "\x00", "\ud800", "%7B", "ü", "x" * 3000])
def test_p6_a_record_and_its_lease_share_a_cluster_slot_and_their_name_gives_the_key(text: str) -> None:
    store = RedisTokenStore("redis://nowhere.example", prefix=f"{{}}*{text}")
    for key in (TokenKey(text, "alice"), TokenKey("idp", text)):
        record, lease = store._record_name(key), store._name(key, "lease")
        assert record != lease
        assert key_slot(record.encode()) == key_slot(lease.encode())
        assert store._key_of(record) == key
        assert record.isascii()
        assert not set(record) & set("*?[]\\\x00 ")


async def test_keys_of_other_programs_are_no_records(server: RedisServer, store: RedisTokenStore) -> None:
    names = ["tokenflight:{idp:a:b}:tokens", "tokenflight:{idp}:tokens", "tokenflight:{idp:%ff}:tokens", "tokenflight"]
    with server.client() as client:
        for name in (*names, b"tokenflight:{idp:\xff}:tokens", "tokenflight2:{idp:alice}:tokens"):
            client.set(name, "something")
    await store.save(KEY, StoredTokens(TOKENS))
    assert await keys_of(store) == [KEY]
    assert await keys_of(store, "idp") == [KEY]


async def test_stores_with_other_prefixes_are_apart(server: RedisServer) -> None:
    stores = [RedisTokenStore(server.url, prefix=prefix) for prefix in ("a", "a:b", "*", "{a}")]
    for number, store in enumerate(stores):
        await store.save(TokenKey("idp", str(number)), StoredTokens(TOKENS))
    for number, store in enumerate(stores):
        assert await keys_of(store) == [TokenKey("idp", str(number))]
        await store.aclose()


async def test_more_keys_than_one_scan_gives_are_all_found(server: RedisServer, store: RedisTokenStore) -> None:
    with server.client() as client, client.pipeline() as pipeline:
        for number in range(3000):
            pipeline.hset(f"tokenflight:{{idp:{number}}}:tokens", "version", "1")
        pipeline.execute()
    assert {key.user_id for key in await keys_of(store, "idp")} == {str(number) for number in range(3000)}


async def test_system_d_records_of_format_1_are_read_and_written_in_format_2(
    server: RedisServer, store: RedisTokenStore
) -> None:
    with server.client() as client:
        for name, fields in redis_hashes().items():
            client.hset(name, mapping=fields)

        async def stored() -> list[bytes]:
            return [client.hget(name, "record") for name in client.scan_iter()]

        await check_that_all_is_read_and_written_again(store, "redis", stored)


@pytest.mark.parametrize("damage", ["not_json", "no_version", "other_version", "other_type"])
async def test_p4_a_damaged_record_is_reported_left_alone_and_overwritten_by_a_login(
    server: RedisServer, store: RedisTokenStore, damage: str
) -> None:
    await store.save(KEY, saved := StoredTokens(TOKENS))
    with server.client() as client:
        if damage == "not_json":
            client.hset(RECORD, "record", "{")
        elif damage == "no_version":
            client.hdel(RECORD, "version")
        elif damage == "other_version":
            client.hset(RECORD, "version", "other")
        else:
            client.delete(RECORD)
            client.set(RECORD, "something")
        before = client.dump(RECORD)
        with pytest.raises(StoreCorrupted):
            await store.load(KEY)
        if damage != "not_json":
            with pytest.raises(StoreConflict):
                await store.replace(KEY, StoredTokens(TOKENS), expected=saved.version)
        assert client.dump(RECORD) == before
    await store.save(KEY, StoredTokens(TOKENS))
    record = await store.load(KEY)
    assert record is not None
    assert record.tokens == TOKENS


async def test_a_record_vanishes_only_where_it_was_given_a_lifetime(server: RedisServer) -> None:
    mortal, immortal = RedisTokenStore(server.url, record_lifetime=1000), RedisTokenStore(server.url)
    with server.client() as client:
        await immortal.save(KEY, saved := StoredTokens(TOKENS))
        await mortal.replace(KEY, replaced := StoredTokens(TOKENS), expected=saved.version)
        assert 990_000 < client.pttl(RECORD) <= 1_000_000
        await immortal.replace(KEY, StoredTokens(TOKENS), expected=replaced.version)
        assert client.pttl(RECORD) == -1
        await mortal.save(KEY, StoredTokens(TOKENS))
        assert 990_000 < client.pttl(RECORD) <= 1_000_000
        client.pexpire(RECORD, 1)
        client.set("something", "else", px=1)
        await asyncio.sleep(0.01)
        assert await mortal.load(KEY) is None
        await immortal.save(KEY, StoredTokens(TOKENS))
        assert client.pttl(RECORD) == -1
    await mortal.aclose()
    await immortal.aclose()


# What it costs


async def test_a_renewal_takes_four_round_trips_and_a_cold_read_one(
    server: RedisServer, store: RedisTokenStore, fake: FakeProvider, provider: OIDCProvider
) -> None:
    await store.save(TokenKey(provider.name, "warm-up"), StoredTokens(TOKENS))
    async with TokenRefresher(provider, store) as refresher:
        await refresher.save_tokens("alice", login(fake, "alice", life_left=-1))
        await refresher.get_valid_token("alice")  # now the server knows the scripts
        await refresher.save_tokens("alice", login(fake, "alice", life_left=-1))
        renewal = Commands(server)
        with renewal.watched():
            await refresher.get_valid_token("alice")
    async with TokenRefresher(provider, store) as refresher:
        await refresher.load_tokens("warm-up")  # the first refresher has closed the store's connections
        cold_read = Commands(server)
        with cold_read.watched():
            await refresher.get_valid_token("alice")
    assert renewal.names == ["EVALSHA", "HMGET", "EVALSHA", "EVALSHA"]
    assert cold_read.names == ["HMGET"]
    assert fake.requests() == 2


async def test_a_server_that_forgot_the_scripts_is_told_them_again(server: RedisServer, store: RedisTokenStore) -> None:
    await store.save(KEY, record := StoredTokens(TOKENS))
    with server.client() as client:
        client.script_flush()
    commands = Commands(server)
    with commands.watched():
        await store.replace(KEY, StoredTokens(TOKENS), expected=record.version)
    assert commands.names == ["EVALSHA", "EVAL"]


async def test_waiters_share_one_connection_and_do_not_ask_until_the_lease_is_released(
    server: RedisServer, store: RedisTokenStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(redis_store, "POLL_SECONDS", 600)
    waiting_store = RedisTokenStore(server.url)
    async with store.lease(KEY, timeout=0):
        waiters = [asyncio.create_task(take(waiting_store)) for _ in range(20)]
        await until_waiting(server)
        await asyncio.sleep(0.3)  # each asks once more when it is subscribed
        commands = Commands(server)
        with commands.watched():
            await asyncio.sleep(0.1)
        assert commands.names == []
        with server.client() as client:
            assert len(client.client_list(_type="pubsub")) == 1
    async with asyncio.timeout(10):
        await asyncio.gather(*waiters)
    await waiting_store.aclose()


# Leases


async def test_a_waiter_whose_connection_was_lost_gets_the_lease_all_the_same(
    server: RedisServer, store: RedisTokenStore
) -> None:
    other = RedisTokenStore(server.url)
    async with store.lease(KEY, timeout=0):
        waiter = asyncio.create_task(take(other))
        await until_waiting(server)
        with server.client() as client:
            client.execute_command("CLIENT KILL TYPE pubsub")
    await waiter
    await other.aclose()


async def test_a_release_while_one_begins_to_wait_beside_another_is_not_missed(
    server: RedisServer, store: RedisTokenStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(redis_store, "POLL_SECONDS", 600)
    waiting_store, others = RedisTokenStore(server.url), TokenKey("idp", "others")

    async def pass_on(key: TokenKey, held: asyncio.Event) -> None:
        async with store.lease(key, timeout=0):
            held.set()
            await asyncio.sleep(0)

    async with store.lease(others, timeout=0):
        listening = asyncio.create_task(take(waiting_store, key=others))
        await until_waiting(server)
        for number in range(20):
            key, held = TokenKey("idp", f"user-{number}"), asyncio.Event()
            holder = asyncio.create_task(pass_on(key, held))
            await held.wait()
            await take(waiting_store, key=key)
            await holder
    await listening
    await waiting_store.aclose()


async def test_without_permission_to_publish_waiters_ask_now_and_then(
    server: RedisServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(redis_store, "POLL_SECONDS", 0.01)
    with server.client() as client:
        client.execute_command("ACL SETUSER limited on >pass ~* +@all -info -subscribe resetchannels")
    url = server.url.replace("unix://", "unix://limited:pass@")
    store, other = RedisTokenStore(url), RedisTokenStore(url)
    async with store.lease(KEY, timeout=0):
        waiter = asyncio.create_task(take(other))
        await asyncio.sleep(0.05)
        assert not waiter.done()
    await waiter
    await store.aclose()
    await other.aclose()


async def test_x3_a_lease_is_extended_while_it_is_held(server: RedisServer) -> None:
    store, other = RedisTokenStore(server.url, lease_duration=0.4), RedisTokenStore(server.url)
    async with store.lease(KEY, timeout=0) as lease:
        await asyncio.sleep(1)
        assert lease.is_held()
        with pytest.raises(LeaseTimeout):
            await take(other, timeout=0)
    assert not lease.is_held()
    await take(other, timeout=0)
    await store.aclose()
    await other.aclose()


async def test_x4_a_holder_whose_lease_lapsed_knows_it_and_never_frees_its_successors(
    server: RedisServer, caplog: pytest.LogCaptureFixture
) -> None:
    store, other = RedisTokenStore(server.url, lease_duration=0.3), RedisTokenStore(server.url)
    await store.load(KEY)
    async with store.lease(KEY, timeout=0) as lease:
        with server.paused():
            await asyncio.sleep(0.4)
            assert not lease.is_held()
        async with other.lease(KEY, timeout=10) as successor:
            await until(lambda: "lapsed while it was held" in caplog.text)
            assert not lease.is_held()
            await lease.release()  # type: ignore[attr-defined] # as at the end of its context
            assert successor.is_held()
            with pytest.raises(LeaseTimeout):
                await take(store, timeout=0)
    await store.aclose()
    await other.aclose()


async def test_time_that_passes_before_the_lease_is_given_counts(server: RedisServer) -> None:
    store = RedisTokenStore(server.url, lease_duration=0.3)
    await store.load(KEY)
    context = store.lease(KEY, timeout=0)
    with server.paused():
        taking = asyncio.create_task(context.__aenter__())
        await asyncio.sleep(0.35)
    lease = await taking
    assert not lease.is_held()
    await context.__aexit__(None, None, None)
    await store.aclose()


async def test_x7_the_lease_of_a_killed_process_is_free_after_its_duration(
    server: RedisServer, store: RedisTokenStore
) -> None:
    holder = await asyncio.create_subprocess_exec(
        *(sys.executable, "-c", HOLDER, server.url),
        stdout=PIPE,
        # A killed process would leave half a coverage file.
        env={name: value for name, value in os.environ.items() if not name.startswith("COVERAGE_")},
    )
    assert holder.stdout is not None
    assert await holder.stdout.readline() == b"held\n"
    with pytest.raises(LeaseTimeout):
        await take(store, timeout=0)
    holder.kill()
    killed_at = time.monotonic()
    await take(store, timeout=10)
    assert time.monotonic() - killed_at < 3
    await holder.communicate()


async def test_a_take_cancelled_before_its_reply_leaves_no_lease(server: RedisServer, store: RedisTokenStore) -> None:
    await store.load(KEY)
    with server.paused():
        taking = asyncio.create_task(take(store))
        await asyncio.sleep(0.05)
        taking.cancel()
        await asyncio.sleep(0.05)
    with pytest.raises(asyncio.CancelledError):
        await taking
    await take(store, timeout=0)


async def test_a_lease_goes_on_when_the_store_is_closed_as_by_one_of_two_refreshers(server: RedisServer) -> None:
    store, other = RedisTokenStore(server.url, lease_duration=0.4), RedisTokenStore(server.url)
    async with store.lease(KEY, timeout=0) as lease:
        await store.aclose()
        await asyncio.sleep(0.5)
        assert lease.is_held()
        waiter = asyncio.create_task(take(other))
        await until_waiting(server)
        await other.aclose()
    await waiter
    await store.aclose()
    await other.aclose()
    with server.client() as client:
        await until(lambda: len(client.client_list()) == 1)


async def test_a_failed_extension_is_tried_again(server: RedisServer) -> None:
    store = RedisTokenStore(server.url, lease_duration=0.8)
    async with store.lease(KEY, timeout=0) as lease:
        with server.paused():
            await asyncio.sleep(0.5)
        await asyncio.sleep(0.6)
        assert lease.is_held()
    await store.aclose()


async def test_a_release_cancelled_twice_happens(server: RedisServer, store: RedisTokenStore) -> None:
    context = store.lease(KEY, timeout=0)
    await context.__aenter__()
    with server.paused():
        releasing = asyncio.ensure_future(context.__aexit__(None, None, None))
        for _ in range(2):
            await asyncio.sleep(0.05)
            releasing.cancel()
        with pytest.raises(asyncio.CancelledError):
            await releasing
    await take(store, timeout=5)
    with server.client() as client:
        assert client.keys() == []


async def test_an_error_under_a_lease_is_not_hidden_by_a_release_that_fails() -> None:
    with running_server() as server:
        store = RedisTokenStore(server.url)

        async def hold() -> None:
            async with store.lease(KEY, timeout=0):
                server.stop()
                raise ZeroDivisionError

        with pytest.raises(ZeroDivisionError):
            await hold()
        await store.aclose()
        server.start()


# Connections and servers that fail


async def test_p7_an_outage_is_reported_and_the_records_are_there_after_it() -> None:
    with running_server("--appendonly", "yes", "--appendfsync", "always") as server:
        store = RedisTokenStore(server.url)
        await store.save(KEY, saved := StoredTokens(TOKENS))
        server.stop()
        operations: list[Callable[[], Any]] = [
            lambda: store.load(KEY),
            lambda: store.save(KEY, StoredTokens(TOKENS)),
            lambda: store.replace(KEY, StoredTokens(TOKENS), expected=saved.version),
            lambda: store.delete(KEY),
            lambda: take(store),
            lambda: anext(store.keys()),
        ]
        results = await asyncio.gather(*(operation() for operation in operations), return_exceptions=True)
        assert [type(result) for result in results] == [StoreUnavailable] * len(operations)
        server.start()
        record = await store.load(KEY)
        assert record is not None
        assert (record.tokens, record.version) == (TOKENS, saved.version)
        await take(store, timeout=0)
        await store.aclose()


async def test_connections_killed_again_and_again_lose_no_write(server: RedisServer, store: RedisTokenStore) -> None:
    await store.save(KEY, last := StoredTokens(TokenSet("0")))
    with server.client() as client:
        for number in range(1, 60):
            client.execute_command("CLIENT KILL TYPE normal SKIPME yes")
            expected, last = last.version, StoredTokens(TokenSet(str(number)))
            await store.replace(KEY, last, expected=expected)
            async with store.lease(KEY, timeout=0):
                assert await store.load(KEY) == last


async def test_a_write_or_lease_whose_reply_was_lost_is_sent_again_and_counts_once(
    server: RedisServer, store: RedisTokenStore
) -> None:
    async def nothing() -> None:
        pass

    async with lossy_connection(server) as connection:
        lossy = RedisTokenStore(connection.url)
        await lossy.save(KEY, StoredTokens(TokenSet("saved")))
        await lossy.delete(KEY)
        connection.lose_the_next_reply(nothing)
        await lossy.replace(KEY, created := StoredTokens(TokenSet("created")), expected=None)
        connection.lose_the_next_reply(nothing)
        await lossy.replace(KEY, StoredTokens(TokenSet("replaced")), expected=created.version)

        connection.lose_the_next_reply(nothing)
        async with lossy.lease(KEY, timeout=0) as lease:
            assert lease.is_held()
            connection.lose_the_next_reply(nothing)
        await take(store, timeout=0)

        async def renew() -> None:
            record = await store.load(KEY)
            assert record is not None
            assert record.tokens == TokenSet("login")
            await store.replace(KEY, StoredTokens(TokenSet("renewed")), expected=record.version)

        login = StoredTokens(TokenSet("login"))
        connection.lose_the_next_reply(renew)
        await lossy.save(KEY, login)
        record = await store.load(KEY)
        assert record is not None
        assert record.tokens == TokenSet("renewed")

        await store.delete(KEY)
        connection.lose_the_next_reply(renew)
        await lossy.replace(KEY, login, expected=None)
        record = await store.load(KEY)
        assert record is not None
        assert record.tokens == TokenSet("renewed")
        await lossy.aclose()


async def test_p7_listing_the_users_of_a_server_that_hangs_is_given_up(
    server: RedisServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_redis_session, "SEARCH_TIMEOUT_SECONDS", 0.2)
    async with Redis.from_url(server.url, socket_timeout=None) as client:
        store = RedisTokenStore(client)
        await store.save(KEY, StoredTokens(TOKENS))
        with server.paused(), pytest.raises(StoreUnavailable, match="did not reply within") as failure:
            await keys_of(store)
    assert failure.value.code == "timeout"


async def test_a_name_of_another_program_that_a_decoding_client_can_not_read_is_told(server: RedisServer) -> None:
    with server.client() as client:
        client.set(b"tokenflight:{idp:\xff}:tokens", "x")
    async with Redis.from_url(server.url, decode_responses=True) as decoding, Redis.from_url(server.url) as plain:
        with pytest.raises(StoreError, match="does not decode responses"):
            await keys_of(RedisTokenStore(decoding))
        assert await keys_of(RedisTokenStore(plain)) == []


async def test_a_cancelled_save_that_was_sent_ends_before_its_call_does(
    server: RedisServer, store: RedisTokenStore
) -> None:
    await store.save(KEY, StoredTokens(TokenSet("old")))
    with server.paused():
        saving = asyncio.create_task(store.save(KEY, StoredTokens(TokenSet("new"))))
        await asyncio.sleep(0.05)
        saving.cancel()
        await asyncio.sleep(0.05)
        assert not saving.done()
    with pytest.raises(asyncio.CancelledError):
        await saving
    record = await store.load(KEY)
    assert record is not None
    assert record.tokens == TokenSet("new")


async def test_a_cancelled_save_does_not_wait_for_a_server_that_hangs(
    server: RedisServer, store: RedisTokenStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tokenflight.stores._cancellation.CANCELLATION_SECONDS", 0.05)
    await store.load(KEY)
    with server.paused():
        saving = asyncio.create_task(store.save(KEY, StoredTokens(TOKENS)))
        await asyncio.sleep(0.05)
        saving.cancel()
        async with asyncio.timeout(5):
            with pytest.raises(asyncio.CancelledError):
                await saving


@pytest.mark.parametrize("given", [False, True], ids=["url", "given_client_without_timeout"])
async def test_l3_a_cancelled_lease_attempt_does_not_wait_for_a_server_that_hangs(
    server: RedisServer, given: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tokenflight.stores._cancellation.CANCELLATION_SECONDS", 0.2)
    async with Redis(unix_socket_path=str(server.socket), socket_timeout=None) as client:
        store = RedisTokenStore(client if given else server.url, lease_duration=1)
        await store.load(KEY)
        with server.paused():
            attempt = asyncio.create_task(take(store))
            await asyncio.sleep(0.05)
            attempt.cancel()
            async with asyncio.timeout(2):
                await asyncio.wait([attempt])
            assert attempt.cancelled()
        await take(store)
        await store.aclose()


async def test_l3_a_server_that_hangs_is_given_up_also_by_a_client_without_timeout(
    server: RedisServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_redis_session, "COMMAND_TIMEOUT_SECONDS", 0.2)
    async with Redis(unix_socket_path=str(server.socket), socket_timeout=None) as client:
        store = RedisTokenStore(client)
        await store.load(KEY)
        with server.paused():
            for operation in (store.load(KEY), store.save(KEY, StoredTokens(TOKENS)), take(store)):
                async with asyncio.timeout(5):
                    with pytest.raises(StoreUnavailable, match="did not reply") as caught:
                        await operation
                assert caught.value.code == "timeout"
        await store.aclose()


# Clients and event loops


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


# What is said


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


async def test_l1_no_error_says_a_token_a_password_or_a_url() -> None:
    with running_server("--rename-command", "EVALSHA", "", "--requirepass", "pass-secret") as server:
        store = RedisTokenStore(f"{server.url}?password=pass-secret")
        with pytest.raises(StoreUnavailable, match="unknown command") as refused:
            await store.save(KEY, StoredTokens(TOKENS))
        locked_out = RedisTokenStore(f"{server.url}?password=wrong-secret")
        with pytest.raises(StoreUnavailable) as denied:
            await locked_out.save(KEY, StoredTokens(TOKENS))
        for error in (refused.value, denied.value):
            told: list[BaseException] = [error]
            while (before := told[-1].__cause__ or told[-1].__context__) is not None:
                told.append(before)
            assert not any("secret" in repr(each) + str(each) for each in told)
        assert "secret" not in repr(store)
        await store.aclose()
        await locked_out.aclose()


async def test_replacing_with_an_empty_version_is_a_conflict(store: RedisTokenStore) -> None:
    with pytest.raises(StoreConflict):
        await store.replace(KEY, StoredTokens(TOKENS), expected=Version(""))


async def test_nobody_listens_when_nobody_waits_any_more(server: RedisServer, store: RedisTokenStore) -> None:
    other = RedisTokenStore(server.url)
    async with store.lease(KEY, timeout=0):
        waiter = asyncio.create_task(take(other))
        await until_waiting(server)
    await waiter
    with server.client() as client:
        await until(lambda: client.pubsub_numsub("tokenflight:released")[0][1] == 0)
    await other.aclose()


async def test_a_lease_key_without_an_end_is_not_asked_for_without_a_pause(
    server: RedisServer, store: RedisTokenStore
) -> None:
    with server.client() as client:
        client.set(LEASE, "somebody without an end")
    commands = Commands(server)
    with commands.watched(), pytest.raises(LeaseTimeout):
        await take(store, timeout=0.5)
    assert commands.names.count("EVALSHA") < 6


async def test_a_wait_for_a_lease_ends_when_its_time_is_over(
    server: RedisServer, store: RedisTokenStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(redis_store, "POLL_SECONDS", 5.0)
    other = RedisTokenStore(server.url)
    async with store.lease(KEY, timeout=0):
        waiting = asyncio.create_task(take(other, timeout=0.5))
        async with asyncio.timeout(3):
            await asyncio.wait([waiting])
        with pytest.raises(LeaseTimeout):
            await waiting
    await other.aclose()


async def test_l3_each_of_several_commands_that_hang_is_given_up_in_its_time(
    server: RedisServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_redis_session, "COMMAND_TIMEOUT_SECONDS", 0.2)
    async with Redis(unix_socket_path=str(server.socket), socket_timeout=None) as client:
        store = RedisTokenStore(client)
        await store.load(KEY)
        with server.paused():
            first = asyncio.create_task(store.load(KEY))
            await asyncio.sleep(0.1)
            second = asyncio.create_task(store.load(KEY))
            for operation in (first, second):
                with pytest.raises(StoreUnavailable, match="did not reply"):
                    async with asyncio.timeout(3):
                        await operation
        await store.aclose()


async def test_x7_an_attempt_whose_reply_never_came_keeps_no_lease(
    server: RedisServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    store, other = RedisTokenStore(server.url), RedisTokenStore(server.url)
    monkeypatch.setattr(_redis_session, "COMMAND_TIMEOUT_SECONDS", 0.2)
    await store.load(KEY)
    with server.paused(), pytest.raises(StoreUnavailable):
        await take(store)
    monkeypatch.undo()
    await take(other, timeout=5)
    await store.aclose()
    await other.aclose()


async def test_a_lease_that_the_server_has_lost_is_known_to_be_lost_at_the_next_extension(server: RedisServer) -> None:
    store = RedisTokenStore(server.url, lease_duration=4)
    async with store.lease(KEY, timeout=0) as lease:
        with server.client() as client:
            client.delete(LEASE)
        began = time.monotonic()
        await until(lambda: not lease.is_held())
        assert time.monotonic() - began < 2.5
    await store.aclose()


async def test_x3_an_extension_that_hangs_is_given_up_and_tried_again(
    server: RedisServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = RedisTokenStore(server.url, lease_duration=1.6)
    async with store.lease(KEY, timeout=0) as lease:
        hung: list[bool] = []
        extend = lease._extend_once  # type: ignore[attr-defined]

        async def hang_once() -> bool:
            if not hung:
                hung.append(True)
                await asyncio.Event().wait()
            return bool(await extend())

        lease.released()  # type: ignore[attr-defined]
        lease.acquired(redis_store.lease_clock(), hang_once)  # type: ignore[attr-defined]
        await asyncio.sleep(2)
        assert hung
        assert lease.is_held()
    await store.aclose()
