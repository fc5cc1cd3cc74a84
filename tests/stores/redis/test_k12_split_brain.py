"""K12: a replica becomes the primary while the former one still takes writes, and each has users who are due."""

import asyncio
from collections.abc import Iterator
from typing import Final

import pytest

from kit.redis_server import RedisServer, lossy_connection, running_pair
from kit.stores import until
from kit.support import login
from tokenflight import OIDCProvider, StoreUnavailable, TokenRefresher, TokenSet
from tokenflight.stores.redis import RedisTokenStore
from tokenflight.testing import FakeProvider

USERS: Final = [f"user-{number}" for number in range(10)]


@pytest.fixture
def pair() -> Iterator[tuple[RedisServer, RedisServer]]:
    """A primary that does not write without its replica, and that replica."""
    with running_pair() as (primary, replica):
        with primary.client() as client:
            client.config_set("min-replicas-to-write", 1)
        yield primary, replica


async def tokens_of_all(refresher: TokenRefresher) -> list[TokenSet | BaseException]:
    return list(
        await asyncio.gather(*(refresher.get_valid_token(user_id) for user_id in USERS), return_exceptions=True)
    )


async def test_k12_no_grant_is_revoked_when_two_primaries_were_asked_at_the_same_moment(
    pair: tuple[RedisServer, RedisServer], fake: FakeProvider, provider: OIDCProvider
) -> None:
    primary, replica = pair
    async with (
        lossy_connection(primary) as connection,
        TokenRefresher(provider, RedisTokenStore(connection.url)) as cut_off,
        TokenRefresher(provider, RedisTokenStore(replica.url)) as moved,
    ):
        for user_id in USERS:
            await cut_off.save_tokens(user_id, login(fake, user_id, life_left=-1))
        with primary.client() as client, replica.client() as new:
            client.wait(1, 5000)
            new.replicaof("NO", "ONE")
            await until(lambda: client.info("replication")["connected_slaves"] == 0)
            refused = await tokens_of_all(cut_off)
            assert {type(each) for each in refused} == {StoreUnavailable}
            renewed = await tokens_of_all(moved)
            client.replicaof("127.0.0.1", replica.port)
            connection.lead_to(replica)
        assert await tokens_of_all(cut_off) == renewed
    assert fake.requests() == len(USERS)
    assert fake.reuses() == 0
