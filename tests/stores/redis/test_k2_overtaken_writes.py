"""K2: a login or logout that was late in the network does not undo a later one."""

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Final

import pytest

from kit.redis_server import RedisServer, lossy_connection
from kit.stores import until
from tokenflight import StoreConflict, StoredTokens, StoreUnavailable, TokenKey, TokenSet
from tokenflight.stores.codec import JSONCodec
from tokenflight.stores.redis import RedisTokenStore
from tokenflight.stores.redis._limits import RedisLimits

KEY: Final = TokenKey("idp", "alice")
FIRST: Final = StoredTokens(TokenSet("first", refresh_token="first"))
LATE: Final = StoredTokens(TokenSet("late", refresh_token="late"))
LAST: Final = StoredTokens(TokenSet("last", refresh_token="last"))

Write = Callable[[RedisTokenStore], Awaitable[object]]


async def log_in_late(store: RedisTokenStore) -> None:
    await store.save(KEY, LATE)


async def log_in_last(store: RedisTokenStore) -> None:
    await store.save(KEY, LAST)


async def log_out(store: RedisTokenStore) -> None:
    await store.delete(KEY)


@asynccontextmanager
async def kept_back(server: RedisServer, write: Write) -> AsyncIterator[Callable[[], Awaitable[None]]]:
    """Let the request of `write` be late, and its caller give up; give what lets it arrive."""
    async with lossy_connection(server) as connection:
        late = RedisTokenStore(connection.url, _limits=RedisLimits(cancellation_seconds=0.05))
        await late.load(KEY)
        connection.keep_back_the_next_request(after=1)  # the one before fetches the ticket
        writing = asyncio.ensure_future(write(late))
        await until(lambda: connection.keeps_one_back)
        writing.cancel()
        await asyncio.wait([writing])
        yield connection.deliver
        await late.aclose()


@pytest.mark.parametrize("existed", [True, False], ids=["after a login", "at first"])
@pytest.mark.parametrize(
    ("late", "last", "expected"),
    [
        pytest.param(log_in_late, log_out, None, id="a login does not undo a logout"),
        pytest.param(log_in_late, log_in_last, LAST, id="a login does not undo a login"),
        pytest.param(log_out, log_in_last, LAST, id="a logout does not undo a login"),
    ],
)
async def test_k2_what_was_overtaken_does_not_land(
    server: RedisServer,
    store: RedisTokenStore,
    late: Write,
    last: Write,
    expected: StoredTokens | None,
    *,
    existed: bool,
) -> None:
    if existed:
        await store.save(KEY, FIRST)
    async with kept_back(server, late) as deliver:
        await last(store)
        await deliver()
    assert await store.load(KEY) == expected


async def test_k2_what_is_late_lands_where_nothing_has_overtaken_it(
    server: RedisServer, store: RedisTokenStore
) -> None:
    await store.save(KEY, FIRST)
    async with kept_back(server, log_in_late) as deliver:
        await store.replace(KEY, LAST, expected=FIRST.version)  # a renewal of the grant before is no later login
        await deliver()
    assert await store.load(KEY) == LATE


async def test_k2_a_renewal_of_a_login_is_not_undone_by_a_login_that_was_late(
    server: RedisServer, store: RedisTokenStore
) -> None:
    async with kept_back(server, log_in_late) as deliver:
        await store.save(KEY, FIRST)
        await store.replace(KEY, LAST, expected=FIRST.version)
        await deliver()
    assert await store.load(KEY) == LAST


async def test_k2_a_clock_of_the_server_that_was_set_back_keeps_no_login_out(
    server: RedisServer, store: RedisTokenStore
) -> None:
    await store.save(KEY, FIRST)
    with server.client() as client:
        in_a_year = client.time()[0] * 1_000_000 + 365 * 86_400 * 1_000_000
        client.hset("tokenflight:{idp:alice}:tokens", "ticket", str(in_a_year))
    await store.save(KEY, LAST)
    assert await store.load(KEY) == LAST
    assert await store.delete(KEY) is True
    assert await store.load(KEY) is None


async def test_a_deletion_whose_reply_was_lost_says_that_there_was_a_record(
    server: RedisServer, store: RedisTokenStore
) -> None:
    async def nothing() -> None:
        pass

    await store.save(KEY, FIRST)
    async with lossy_connection(server) as connection:
        lossy = RedisTokenStore(connection.url)
        await lossy.load(KEY)  # connects, which takes more replies with some versions of redis-py than with others
        connection.lose_the_next_reply(nothing, after=1)
        assert await lossy.delete(KEY) is True
        await lossy.aclose()


async def test_k5_a_second_logout_does_not_let_the_marker_vanish_earlier(
    server: RedisServer, store: RedisTokenStore
) -> None:
    await store.save(KEY, FIRST)
    await store.delete(KEY)
    await store.delete(KEY)
    with server.client() as client:
        assert 86_300_000 < client.pttl("tokenflight:{idp:alice}:logout") <= 86_400_000


async def test_k5_a_logout_of_a_record_that_can_not_be_read_now_leaves_a_marker(
    server: RedisServer, store: RedisTokenStore
) -> None:
    class CutOff(JSONCodec):
        def decode(self, key: TokenKey, data: bytes) -> StoredTokens:
            raise StoreUnavailable("the service that keeps the keys can't be reached")

    await store.save(KEY, FIRST)
    cut_off = RedisTokenStore(server.url, codec=CutOff())
    assert await cut_off.delete(KEY) is True
    with pytest.raises(StoreConflict) as caught:
        await store.replace(KEY, StoredTokens(TokenSet("old", issued_at=time.time() - 3600)), expected=None)
    assert caught.value.code == "logged_out"
    await cut_off.aclose()


async def test_k5_a_logout_ends_the_grant_that_a_renewal_has_stored_since_it_began(
    server: RedisServer, store: RedisTokenStore
) -> None:
    class RenewedMeanwhile(JSONCodec):
        def decode(self, key: TokenKey, data: bytes) -> StoredTokens:
            with server.client() as client:
                renewed = {"version": LAST.version, "record": self.encode(key, LAST)}
                client.hset("tokenflight:{idp:alice}:tokens", mapping=renewed)
            return super().decode(key, data)

    await store.save(KEY, FIRST)
    other = RedisTokenStore(server.url, codec=RenewedMeanwhile())
    assert await other.delete(KEY) is True
    await other.aclose()
    with pytest.raises(StoreConflict) as caught:
        await store.replace(KEY, StoredTokens(LAST.tokens), expected=None)
    assert caught.value.code == "logged_out"


async def test_k5_a_server_without_memory_left_takes_a_logout_and_keeps_its_marker(
    server: RedisServer, store: RedisTokenStore
) -> None:
    await store.save(KEY, FIRST)
    with server.client() as client:
        client.config_set("maxmemory", 1)
    assert await store.delete(KEY) is True
    with pytest.raises(StoreConflict) as caught:
        await store.replace(KEY, StoredTokens(FIRST.tokens), expected=None)
    assert caught.value.code == "logged_out"


async def test_k5_a_marker_vanishes_after_a_day(server: RedisServer, store: RedisTokenStore) -> None:
    await store.save(KEY, FIRST)
    await store.delete(KEY)
    with server.client() as client:
        assert client.keys() == [b"tokenflight:{idp:alice}:logout"]
        assert 86_300_000 < client.pttl("tokenflight:{idp:alice}:logout") <= 86_400_000
        assert b"first" not in b"".join(client.hgetall("tokenflight:{idp:alice}:logout").values())
