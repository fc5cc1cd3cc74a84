"""Processes of the version before share a server with those of this one, which tell of logouts and of former holders.

What the version before sends is a few plain commands, though it sent them as scripts.
"""

from typing import Final

import redis

from kit.redis_server import RedisServer
from kit.stores import KEY, is_free, keys_of
from tokenflight import StoredTokens, TokenSet
from tokenflight.stores.codec import encode_record
from tokenflight.stores.redis import RedisTokenStore

RECORD: Final = "tokenflight:{idp:alice}:tokens"
LEASE: Final = "tokenflight:{idp:alice}:lease"


def saved_before(client: redis.Redis, tokens: TokenSet) -> StoredTokens:
    """Save a record as the version before does."""
    record = StoredTokens(tokens)
    client.delete(RECORD)
    data = encode_record(KEY, record)
    client.hset(RECORD, mapping={"version": record.version, "saved": record.version, "record": data})
    return record


async def test_a_lease_has_one_holder_whichever_version_the_processes_are(
    server: RedisServer, store: RedisTokenStore
) -> None:
    with server.client() as client:
        assert client.set(LEASE, "owner", nx=True, px=60_000)
        assert not await is_free(store)
        client.delete(LEASE)
        async with store.lease(KEY, timeout=0) as lease:
            assert lease.unreleased_for() is None
            assert not client.set(LEASE, "owner", nx=True, px=60_000)


async def test_what_one_version_writes_the_other_reads_writes_and_deletes(
    server: RedisServer, store: RedisTokenStore
) -> None:
    with server.client() as client:
        before = saved_before(client, TokenSet("before"))
        assert await store.load(KEY) == before
        await store.replace(KEY, renewed := StoredTokens(TokenSet("renewed")), expected=before.version)
        assert client.hget(RECORD, "version") == renewed.version.encode()
        await store.save(KEY, StoredTokens(TokenSet("login")))
        before = saved_before(client, TokenSet("login before"))
        assert await store.delete(KEY) is True
        assert not client.exists(RECORD)

        # A login of the version before leaves the marker of a logout where it is.
        before = saved_before(client, TokenSet("login after a logout"))
        assert await store.load(KEY) == before
        assert await keys_of(store) == [KEY]
        await store.save(KEY, last := StoredTokens(TokenSet("last")))
        assert await store.load(KEY) == last
        assert client.delete(RECORD) == 1
        assert await store.delete(KEY) is False
