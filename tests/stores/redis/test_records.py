"""What a Redis store keeps under which keys, and what each operation costs."""

import asyncio
import json
from typing import Final

import pytest
from redis.asyncio import Redis
from redis.crc import key_slot

from kit.format1 import check_that_all_is_read_and_written_again, redis_hashes
from kit.redis_commands import Commands
from kit.redis_server import RedisServer
from kit.stores import KEY, keys_of
from kit.support import login
from tokenflight import (
    OIDCProvider,
    StoreConflict,
    StoreCorrupted,
    StoredTokens,
    StoreError,
    TokenKey,
    TokenRefresher,
    TokenSet,
    Version,
)
from tokenflight.stores.redis import RedisTokenStore
from tokenflight.stores.redis._names import KeyNames
from tokenflight.testing import FakeProvider

TOKENS: Final = TokenSet("access-secret", expires_at=1_800_000_000, refresh_token="refresh-secret")
RECORD: Final = "tokenflight:{idp:alice}:tokens"
LEASE: Final = "tokenflight:{idp:alice}:lease"
HOLDERS: Final = "tokenflight:{idp:alice}:holders"


async def test_a_record_is_one_hash_and_its_lease_and_holders_are_keys_beside_it(
    server: RedisServer, store: RedisTokenStore
) -> None:
    await store.save(KEY, record := StoredTokens(TOKENS))
    with server.client() as client:
        async with store.lease(KEY, timeout=0):
            assert sorted(client.keys()) == sorted([LEASE.encode(), HOLDERS.encode(), RECORD.encode()])
            assert 0 < client.pttl(LEASE) <= 7_000
            assert 0 < client.pttl(HOLDERS) <= 3_607_000
        assert client.keys() == [RECORD.encode()]
        assert client.pttl(RECORD) == -1
        assert client.hget(RECORD, "version") == record.version.encode()
        assert json.loads(client.hget(RECORD, "record") or "")["version"] == record.version


@pytest.mark.parametrize("text", ["{}", "}{", "a}b{c", ":", "a:b", "*", "\x00", "\ud800", "%7B", "ü", "x" * 3000])
def test_p6_a_record_and_its_lease_share_a_cluster_slot_and_their_name_gives_the_key(text: str) -> None:
    names = KeyNames(f"{{}}*{text}")
    for key in (TokenKey(text, "alice"), TokenKey("idp", text)):
        record, lease = names.record(key), names.lease(key)
        assert record != lease
        assert key_slot(record.encode()) == key_slot(lease.encode())
        assert names.key_of(record) == key
        assert record.isascii()
        assert not set(record) & set("*?[]\\\x00 ")


async def test_n15_keys_of_other_programs_are_no_records_and_are_told(
    server: RedisServer, store: RedisTokenStore, caplog: pytest.LogCaptureFixture
) -> None:
    names = ["tokenflight:{idp:a:b}:tokens", "tokenflight:{idp}:tokens", "tokenflight:{idp:%ff}:tokens", "tokenflight"]
    names += ["tokenflight:{idp:}:tokens", "tokenflight:{:alice}:tokens"]
    with server.client() as client:
        for name in (*names, b"tokenflight:{idp:\xff}:tokens", "tokenflight2:{idp:alice}:tokens"):
            client.set(name, "something")
    await store.save(KEY, StoredTokens(TOKENS))
    assert await keys_of(store) == [KEY]
    assert "passed over tokenflight:{:alice}:tokens, which is not the name of a user's record" in caplog.messages
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


async def test_a_name_of_another_program_that_a_decoding_client_can_not_read_is_told(server: RedisServer) -> None:
    with server.client() as client:
        client.set(b"tokenflight:{idp:\xff}:tokens", "x")
    async with Redis.from_url(server.url, decode_responses=True) as decoding, Redis.from_url(server.url) as plain:
        with pytest.raises(StoreError, match="does not decode responses"):
            await keys_of(RedisTokenStore(decoding))
        assert await keys_of(RedisTokenStore(plain)) == []


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


async def test_replacing_with_an_empty_version_is_a_conflict(store: RedisTokenStore) -> None:
    with pytest.raises(StoreConflict):
        await store.replace(KEY, StoredTokens(TOKENS), expected=Version(""))


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
