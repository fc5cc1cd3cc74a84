"""Servers that are down or hang, connections that are lost, and errors that show no secret."""

import asyncio
from collections.abc import Callable
from typing import Any, Final

import pytest
from redis.asyncio import Redis
from redis.asyncio import sentinel as sentinels
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff

from kit.redis_server import RedisServer, free_port, lossy_connection, running_server
from kit.stores import KEY, keys_of, take
from tokenflight import (
    StoredTokens,
    StoreUnavailable,
    TokenSet,
)
from tokenflight.stores.redis import RedisTokenStore
from tokenflight.stores.redis._limits import RedisLimits

Sentinel: Any = sentinels.Sentinel  # its methods have no types
TOKENS: Final = TokenSet("access-secret", expires_at=1_800_000_000, refresh_token="refresh-secret")


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
        connection.lose_the_next_reply(renew, after=1)
        await lossy.save(KEY, login)
        record = await store.load(KEY)
        assert record is not None
        assert record.tokens == TokenSet("renewed")

        await store.delete(KEY)
        connection.lose_the_next_reply(renew, after=1)  # the one before tells of the logout
        await lossy.replace(KEY, login, expected=None)
        record = await store.load(KEY)
        assert record is not None
        assert record.tokens == TokenSet("renewed")
        await lossy.aclose()


async def test_p7_listing_the_users_of_a_server_that_hangs_is_given_up(server: RedisServer) -> None:
    async with Redis.from_url(server.url, socket_timeout=None) as client:
        store = RedisTokenStore(client, _limits=RedisLimits(search_timeout_seconds=0.2))
        await store.save(KEY, StoredTokens(TOKENS))
        with server.paused(), pytest.raises(StoreUnavailable, match="did not reply within") as failure:
            await keys_of(store)
    assert failure.value.code == "timeout"


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


async def test_a_cancelled_write_that_was_sent_ends_before_its_call_does(
    server: RedisServer, store: RedisTokenStore
) -> None:
    await store.save(KEY, old := StoredTokens(TokenSet("old")))
    with server.paused():
        saving = asyncio.create_task(store.replace(KEY, StoredTokens(TokenSet("new")), expected=old.version))
        await asyncio.sleep(0.05)
        saving.cancel()
        await asyncio.sleep(0.05)
        assert not saving.done()
    with pytest.raises(asyncio.CancelledError):
        await saving
    record = await store.load(KEY)
    assert record is not None
    assert record.tokens == TokenSet("new")


async def test_a_cancelled_save_does_not_wait_for_a_server_that_hangs(server: RedisServer) -> None:
    store = RedisTokenStore(server.url, _limits=RedisLimits(cancellation_seconds=0.05))
    await store.load(KEY)
    with server.paused():
        saving = asyncio.create_task(store.save(KEY, StoredTokens(TOKENS)))
        await asyncio.sleep(0.05)
        saving.cancel()
        async with asyncio.timeout(5):
            with pytest.raises(asyncio.CancelledError):
                await saving
    await store.aclose()


@pytest.mark.parametrize("given", [False, True], ids=["url", "given_client_without_timeout"])
async def test_l3_a_cancelled_lease_attempt_does_not_wait_for_a_server_that_hangs(
    server: RedisServer, given: bool
) -> None:
    async with Redis(unix_socket_path=str(server.socket), socket_timeout=None) as client:
        limits = RedisLimits(cancellation_seconds=0.2)
        store = RedisTokenStore(client if given else server.url, lease_duration=1, _limits=limits)
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
    server: RedisServer,
) -> None:
    async with Redis(unix_socket_path=str(server.socket), socket_timeout=None) as client:
        store = RedisTokenStore(client, _limits=RedisLimits(command_timeout_seconds=0.2))
        await store.load(KEY)
        with server.paused():
            for operation in (store.load(KEY), store.save(KEY, StoredTokens(TOKENS)), take(store)):
                async with asyncio.timeout(5):
                    with pytest.raises(StoreUnavailable, match="did not reply") as caught:
                        await operation
                assert caught.value.code == "timeout"
        await store.aclose()


async def test_l3_each_of_several_commands_that_hang_is_given_up_in_its_time(
    server: RedisServer,
) -> None:
    async with Redis(unix_socket_path=str(server.socket), socket_timeout=None) as client:
        store = RedisTokenStore(client, _limits=RedisLimits(command_timeout_seconds=0.2))
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


async def test_x7_an_attempt_whose_reply_never_came_keeps_no_lease(server: RedisServer) -> None:
    store = RedisTokenStore(server.url, _limits=RedisLimits(command_timeout_seconds=0.2))
    other = RedisTokenStore(server.url)
    await store.load(KEY)
    with server.paused(), pytest.raises(StoreUnavailable):
        await take(store)
    await take(other, timeout=5)
    await store.aclose()
    await other.aclose()


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


async def test_l1_an_error_about_sentinels_that_can_not_be_reached_says_no_password_of_theirs() -> None:
    sentinel = Sentinel(
        [("127.0.0.1", free_port())], sentinel_kwargs={"password": "pass-secret", "retry": Retry(NoBackoff(), 0)}
    )
    async with sentinel.master_for("tokens", password="word-secret") as client:
        store = RedisTokenStore(client)
        for operation in (store.load(KEY), keys_of(store)):
            with pytest.raises(StoreUnavailable) as caught:
                await operation
            assert str(caught.value) == "Redis can't be reached: No master found for 'tokens'"
            assert caught.value.__cause__ is None
            assert caught.value.__context__ is None
        await store.aclose()
