"""The lease of a Redis store: waiters hear of its release, holders extend it, and the dead lose it."""

import asyncio
import time
from typing import Final

import pytest
from redis.asyncio import RedisCluster

from kit import redis_store_worker
from kit.redis_commands import Commands, until_waiting
from kit.redis_server import RedisServer, lossy_connection, running_server
from kit.stores import KEY, is_free, take, until
from kit.workers import line_of, worker
from tokenflight import (
    LeaseTimeout,
    TokenKey,
)
from tokenflight.stores.redis import RedisTokenStore
from tokenflight.stores.redis._limits import RedisLimits

LEASE: Final = "tokenflight:{idp:alice}:lease"


async def test_waiters_share_one_connection_and_do_not_ask_until_the_lease_is_released(
    server: RedisServer, store: RedisTokenStore
) -> None:
    waiting_store = RedisTokenStore(server.url, _limits=RedisLimits(poll_seconds=600))
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


async def test_a_waiter_whose_connection_was_lost_still_gets_the_lease(
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
    server: RedisServer, store: RedisTokenStore
) -> None:
    waiting_store = RedisTokenStore(server.url, _limits=RedisLimits(poll_seconds=600))
    others = TokenKey("idp", "others")

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


async def test_without_permission_to_publish_waiters_ask_now_and_then(server: RedisServer) -> None:
    with server.client() as client:
        client.execute_command("ACL SETUSER limited on >pass ~* +@all -info -subscribe resetchannels")
    url = server.url.replace("unix://", "unix://limited:pass@")
    store, other = RedisTokenStore(url), RedisTokenStore(url, _limits=RedisLimits(poll_seconds=0.01))
    async with store.lease(KEY, timeout=0):
        waiter = asyncio.create_task(take(other))
        await asyncio.sleep(0.05)
        assert not waiter.done()
    await waiter
    await store.aclose()
    await other.aclose()


async def test_a_store_without_waiters_does_not_listen(server: RedisServer, store: RedisTokenStore) -> None:
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
        client.set(LEASE, "another owner, without an end")
    commands = Commands(server)
    with commands.watched(), pytest.raises(LeaseTimeout):
        await take(store, timeout=0.5)
    assert commands.names.count("EVALSHA") < 6


async def test_a_wait_for_a_lease_ends_when_its_time_is_over(server: RedisServer, store: RedisTokenStore) -> None:
    other = RedisTokenStore(server.url, _limits=RedisLimits(poll_seconds=5.0))
    async with store.lease(KEY, timeout=0):
        async with asyncio.timeout(3):
            with pytest.raises(LeaseTimeout):
                await take(other, timeout=0.5)
    await other.aclose()


async def test_x3_a_lease_is_extended_while_it_is_held(server: RedisServer) -> None:
    store, other = RedisTokenStore(server.url, lease_duration=0.4), RedisTokenStore(server.url)
    async with store.lease(KEY, timeout=0) as lease:
        await asyncio.sleep(1)
        assert lease.is_held()
        assert not await is_free(other)
    assert not lease.is_held()
    await take(other, timeout=0)
    await store.aclose()
    await other.aclose()


async def test_a_failed_extension_is_tried_again(server: RedisServer) -> None:
    store = RedisTokenStore(server.url, lease_duration=0.8)
    async with store.lease(KEY, timeout=0) as lease:
        with server.paused():
            await asyncio.sleep(0.5)
        await asyncio.sleep(0.6)
        assert lease.is_held()
    await store.aclose()


async def test_x3_an_extension_that_hangs_is_given_up_and_tried_again(server: RedisServer) -> None:
    hung, go_on = asyncio.Event(), asyncio.Event()

    async def hang() -> None:
        hung.set()
        await go_on.wait()

    limits = RedisLimits(cancellation_seconds=0.05)
    async with lossy_connection(server) as connection:
        store = RedisTokenStore(connection.url, lease_duration=1.6, _limits=limits)
        async with store.lease(KEY, timeout=0) as lease:
            connection.lose_the_next_reply(hang)
            await asyncio.sleep(2)
            assert hung.is_set()
            assert lease.is_held()
        go_on.set()
        await store.aclose()


async def test_a_lease_that_the_server_has_lost_is_known_to_be_lost_at_the_next_extension(server: RedisServer) -> None:
    store = RedisTokenStore(server.url, lease_duration=4)
    async with store.lease(KEY, timeout=0) as lease:
        with server.client() as client:
            client.delete(LEASE)
        began = time.monotonic()
        await until(lambda: not lease.is_held())
        assert time.monotonic() - began < 2.5
    await store.aclose()


async def test_x4_a_holder_whose_lease_lapsed_knows_it_and_never_frees_its_successors(
    server: RedisServer, caplog: pytest.LogCaptureFixture
) -> None:
    store, other = RedisTokenStore(server.url, lease_duration=0.3), RedisTokenStore(server.url)
    await store.load(KEY)
    context = store.lease(KEY, timeout=0)
    lease = await context.__aenter__()
    with server.paused():
        await asyncio.sleep(0.4)
        assert not lease.is_held()
    async with other.lease(KEY, timeout=10) as successor:
        await until(lambda: "lapsed while it was held" in caplog.text)
        assert not lease.is_held()
        await context.__aexit__(None, None, None)
        assert successor.is_held()
        assert not await is_free(store)
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
    async with worker(redis_store_worker, server.url, "1") as holder:
        assert await line_of(holder) == "held"
        assert not await is_free(store)
        holder.kill()
        killed_at = time.monotonic()
        await take(store, timeout=10)
        assert time.monotonic() - killed_at < 3


async def test_an_attempt_cancelled_before_its_reply_leaves_no_lease(
    server: RedisServer, store: RedisTokenStore
) -> None:
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
