"""K11: a server that has as many clients as it takes."""

import asyncio
import socket
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Final

import pytest
import time_machine

from kit.minting import Minting, renewed_of, stored
from kit.redis_server import RedisServer
from tokenflight import StoreUnavailable, TokenKey, TokenRefresher
from tokenflight.stores.redis import RedisTokenStore

USERS: Final = [f"user{number}" for number in range(40)]


@contextmanager
def crowded(server: RedisServer, *, room: int) -> Iterator[None]:
    """Others have taken all connections that the server takes but `room`."""
    with server.client() as client, ExitStack() as others:
        before: int = client.config_get("maxclients")["maxclients"]
        client.config_set("maxclients", len(client.client_list()) + room + 10)
        try:
            for _ in range(10):
                other = others.enter_context(socket.socket(socket.AF_UNIX))
                other.connect(str(server.socket))
                other.sendall(b"PING\r\n")
                assert other.recv(100) == b"+PONG\r\n"
            yield
        finally:
            client.config_set("maxclients", before)


@pytest.mark.parametrize("room", [0, 3])
async def test_k11_a_server_at_its_maxclients_loses_no_token_set_and_each_user_is_renewed_once(
    server: RedisServer, clock: time_machine.Traveller, room: int
) -> None:
    provider = Minting()
    before = RedisTokenStore(server.url)
    await stored(before, *USERS)
    await before.aclose()
    store = RedisTokenStore(server.url)
    async with TokenRefresher(provider, store) as refresher:
        with crowded(server, room=room):
            results = await asyncio.gather(*map(refresher.get_valid_token, USERS), return_exceptions=True)
        assert {type(result) for result in results if isinstance(result, BaseException)} == {StoreUnavailable}
        tokens = await asyncio.gather(*map(refresher.get_valid_token, USERS))
    assert tokens == [renewed_of(user_id) for user_id in USERS]
    assert provider.requests == len(USERS)
    for user_id in USERS:
        record = await store.load(TokenKey(provider.name, user_id))
        assert record is not None
        assert record.tokens == renewed_of(user_id)
    await store.aclose()


async def test_k11_connections_that_the_store_has_go_on_working_at_maxclients(
    server: RedisServer, clock: time_machine.Traveller
) -> None:
    provider = Minting()
    store = RedisTokenStore(server.url)
    await stored(store, "alice")
    async with TokenRefresher(provider, store) as refresher:
        with crowded(server, room=0):
            assert await refresher.get_valid_token("alice") == renewed_of("alice")
    await store.aclose()
