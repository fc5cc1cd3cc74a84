"""A change of the key: while the store is in use, with failures on the way, and with a key too few."""
# Tests look at files as they please:
# ruff: noqa: ASYNC240

import asyncio
from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager, aclosing, asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Final

import pytest

from kit.stores import KEY
from kit.support import login
from tokenflight import (
    ConfigurationError,
    FileTokenStore,
    LeaseTimeout,
    MemoryTokenStore,
    OIDCProvider,
    StoreCorrupted,
    StoredTokens,
    StoreUnavailable,
    Target,
    TokenKey,
    TokenRefresher,
    TokenSet,
    TokenStore,
    Version,
)
from tokenflight.stores import Lease
from tokenflight.stores.codec import decode_record
from tokenflight.stores.encryption import EncryptedCodec, new_key, reencrypt
from tokenflight.testing import FakeProvider, FaultyStore

OLD, NEW = new_key(), new_key()
TOKENS: Final = TokenSet("access", refresh_token="refresh")


@pytest.fixture
async def old(directory: Path) -> AsyncIterator[FileTokenStore]:
    """A store with the old key alone."""
    store = FileTokenStore(directory, codec=EncryptedCodec([OLD]))
    yield store
    await store.aclose()


@pytest.fixture
async def both(directory: Path) -> AsyncIterator[FileTokenStore]:
    """The same store, writing with the new key and reading with both."""
    store = FileTokenStore(directory, codec=EncryptedCodec([NEW, OLD]))
    yield store
    await store.aclose()


@pytest.fixture
async def new(directory: Path) -> AsyncIterator[FileTokenStore]:
    """The same store with the new key alone."""
    store = FileTokenStore(directory, codec=EncryptedCodec([NEW]))
    yield store
    await store.aclose()


async def outcomes_of(store: TokenStore, provider: str | None = None) -> dict[str, str | None]:
    """Re-encrypt `store`: the code of the error of each user, or None."""
    return {
        key.user_id: None if error is None else error.code
        async for key, error in reencrypt(store, provider, lease_timeout=10)
    }


# The records


async def test_the_old_key_reads_until_all_is_written_with_the_new_one(
    old: FileTokenStore, both: FileTokenStore, new: FileTokenStore
) -> None:
    written = {user_id: StoredTokens(TokenSet(user_id)) for user_id in ("alice", "bob")}
    for user_id, record in written.items():
        await old.save(TokenKey("idp", user_id), record)
    await both.replace(KEY, StoredTokens(TokenSet("alice, later")), expected=written["alice"].version)
    assert (await new.load(KEY)) is not None
    with pytest.raises(StoreCorrupted, match="give that one too"):
        await new.load(TokenKey("idp", "bob"))
    assert await outcomes_of(both) == {"alice": None, "bob": None}
    for user_id, access_token in (("alice", "alice, later"), ("bob", "bob")):
        found = await new.load(TokenKey("idp", user_id))
        assert found is not None
        assert found.tokens.access_token == access_token
        with pytest.raises(StoreCorrupted) as raised:
            await old.load(TokenKey("idp", user_id))
        assert raised.value.code == "unknown_key"


async def test_all_but_the_version_of_a_record_stays(both: FileTokenStore) -> None:
    access_tokens = {Target(resource="https://billing.example"): TokenSet("billing")}
    before = StoredTokens(TOKENS, issuer="https://idp.example", refused=True, access_tokens=access_tokens)
    await both.save(KEY, before)
    assert await outcomes_of(both) == {"alice": None}
    after = await both.load(KEY)
    assert after is not None
    assert after.version != before.version
    assert replace(after, version=before.version) == before


async def test_the_records_of_other_providers_are_left_alone(both: FileTokenStore) -> None:
    await both.save(TokenKey("other", "alice"), saved := StoredTokens(TOKENS))
    await both.save(KEY, StoredTokens(TOKENS))
    assert await outcomes_of(both, "idp") == {"alice": None}
    record = await both.load(TokenKey("other", "alice"))
    assert record is not None
    assert record.version == saved.version


async def test_a_plain_store_becomes_an_encrypted_one(directory: Path, path: Path, new: FileTokenStore) -> None:
    plain = FileTokenStore(directory)
    await plain.save(KEY, StoredTokens(TOKENS))
    await plain.aclose()
    assert decode_record(KEY, path.read_bytes()).tokens == TOKENS
    accepting = FileTokenStore(directory, codec=EncryptedCodec([NEW], accept_plain=True))
    assert await outcomes_of(accepting) == {"alice": None}
    await accepting.aclose()
    record = await new.load(KEY)
    assert record is not None
    assert record.tokens == TOKENS


async def test_system_d_files_that_older_programs_left_are_encrypted_too(path: Path, new: FileTokenStore) -> None:
    path.parent.mkdir(mode=0o700, parents=True)
    path.parents[1].chmod(0o700)
    path.write_bytes(b'{"accessToken": "older", "refreshToken": "refresh"}')
    path.chmod(0o600)
    accepting = FileTokenStore(path.parents[1], codec=EncryptedCodec([NEW], accept_plain=True))
    assert await outcomes_of(accepting) == {"alice": None}
    await accepting.aclose()
    record = await new.load(KEY)
    assert record is not None
    assert (record.tokens.access_token, record.tokens.refresh_token) == ("older", "refresh")


class Relisting(MemoryTokenStore):
    """Lists a record again whenever it has been written again, as some directories do while they are read."""

    async def keys(self, provider: str | None = None) -> AsyncIterator[TokenKey]:
        listed: set[Version] = set()
        while fresh := {key for key, record in self._records.items() if record.version not in listed}:
            listed |= {record.version for record in self._records.values()}
            for key in fresh:
                yield key


async def test_a_record_written_again_does_not_come_again() -> None:
    store = Relisting()
    for user_id in ("alice", "bob"):
        await store.save(TokenKey("idp", user_id), StoredTokens(TOKENS))
    done: list[str] = []
    async for key, _ in reencrypt(store):
        done.append(key.user_id)
        assert len(done) <= 2
    assert sorted(done) == ["alice", "bob"]


# Failures


async def test_one_users_failure_stops_no_other(both: FileTokenStore, path: Path) -> None:
    for user_id in ("alice", "bob", "carol", "dave"):
        await both.save(TokenKey("idp", user_id), StoredTokens(TOKENS))
    path.write_bytes(b"damaged")
    stranger = FileTokenStore(path.parents[1], codec=EncryptedCodec([new_key()]))
    await stranger.save(TokenKey("idp", "bob"), StoredTokens(TOKENS))
    await stranger.aclose()
    bobs = path.with_name("bob.json").read_bytes()
    assert await outcomes_of(both) == {
        "alice": "store_corrupted",
        "bob": "unknown_key",
        "carol": None,
        "dave": None,
    }
    assert path.read_bytes() == b"damaged"
    assert path.with_name("bob.json").read_bytes() == bobs


async def test_a_user_who_is_being_renewed_for_too_long_is_left_alone(both: FileTokenStore, path: Path) -> None:
    await both.save(KEY, StoredTokens(TOKENS))
    before = path.read_bytes()
    async with both.lease(KEY, timeout=0):
        ((key, error),) = [outcome async for outcome in reencrypt(both, lease_timeout=0.02)]
    assert key == KEY
    assert isinstance(error, LeaseTimeout)
    assert path.read_bytes() == before


async def test_it_can_be_stopped_after_any_user_and_run_again(
    old: FileTokenStore, both: FileTokenStore, new: FileTokenStore
) -> None:
    keys = {TokenKey("idp", user_id) for user_id in ("alice", "bob", "carol")}
    for key in keys:
        await old.save(key, StoredTokens(TOKENS))
    async with aclosing(reencrypt(both)) as outcomes:
        async for key, _ in outcomes:
            async with new.lease(key, timeout=0):  # reencrypt holds none between two records
                assert await new.load(key) is not None
            break
    assert set(await outcomes_of(both)) == {key.user_id for key in keys}
    for key in keys:
        assert await new.load(key) is not None


class Overtaken(MemoryTokenStore):
    """Loses each race: the user logs in or out just before it replaces a record."""

    login: TokenSet | None = None

    async def replace(self, key: TokenKey, record: StoredTokens, *, expected: Version | None) -> None:
        if self.login is None:
            await self.delete(key)
        else:
            await self.save(key, StoredTokens(self.login))
        await super().replace(key, record, expected=expected)


@pytest.mark.parametrize("then", [None, TokenSet("after a login")], ids=["logout", "login"])
async def test_x9_x10_a_login_or_logout_before_the_write_wins(then: TokenSet | None) -> None:
    store = Overtaken()
    store.login = then
    await store.save(KEY, StoredTokens(TOKENS))
    assert await outcomes_of(store) == {"alice": None}
    record = await store.load(KEY)
    assert (record and record.tokens) == then


async def test_x9_a_logout_since_the_start_stays_a_logout(both: FileTokenStore) -> None:
    for user_id in ("alice", "bob"):
        await both.save(TokenKey("idp", user_id), StoredTokens(TOKENS))
    done = []
    async for key, error in reencrypt(both):
        assert error is None
        done.append(key.user_id)
        await both.delete(TokenKey("idp", "alice" if done[0] == "bob" else "bob"))
    assert await outcomes_of(both) == {done[0]: None}


class Lapsing(MemoryTokenStore):
    """Gives leases that lapse at once."""

    def lease(self, key: TokenKey, *, timeout: float) -> AbstractAsyncContextManager[Lease]:
        return self._lapsed()

    @asynccontextmanager
    async def _lapsed(self) -> AsyncIterator[Lease]:
        yield LapsedLease()


class LapsedLease(Lease):
    """Another process may have it by now."""

    def is_held(self) -> bool:
        return False


async def test_x3_nothing_is_written_under_a_lease_that_has_lapsed() -> None:
    store = Lapsing()
    await store.save(KEY, saved := StoredTokens(TOKENS))
    assert await outcomes_of(store) == {"alice": "lease_timeout"}
    record = await store.load(KEY)
    assert record is not None
    assert record.version == saved.version


async def test_a_store_that_cant_be_listed_is_an_error(both: FileTokenStore, directory: Path) -> None:
    directory.write_text("a file")
    with pytest.raises(StoreUnavailable):
        await outcomes_of(both)


async def test_a_lease_timeout_is_a_number_of_seconds(both: FileTokenStore) -> None:
    with pytest.raises(ConfigurationError, match="lease_timeout"):
        await anext(reencrypt(both, lease_timeout=-1))


# Renewals at the same time


async def test_x2_a_flight_under_way_is_waited_for_and_loses_nothing(
    fake: FakeProvider, provider: OIDCProvider, old: FileTokenStore, both: FileTokenStore, new: FileTokenStore
) -> None:
    async with TokenRefresher(provider, old) as refresher:
        await refresher.save_tokens("alice", login(fake, "alice", life_left=-1))
        with fake.hold() as gate:
            renewal = asyncio.create_task(refresher.get_valid_token("alice"))
            await gate.reached()
            reencryption = asyncio.create_task(outcomes_of(both))
            await asyncio.sleep(0.05)
            assert not reencryption.done()
        renewed = await renewal
        assert await reencryption == {"alice": None}
    record = await new.load(TokenKey(provider.name, "alice"))
    assert record is not None
    assert record.tokens == renewed
    async with TokenRefresher(provider, new) as refresher:
        await refresher.get_valid_token("alice", rejected=renewed.access_token)
    assert (fake.refreshes("alice"), fake.reuses("alice")) == (2, 0)


async def test_x1_a_flight_waits_for_a_record_that_is_being_written_again(
    fake: FakeProvider, provider: OIDCProvider, directory: Path, both: FileTokenStore
) -> None:
    store = FaultyStore(FileTokenStore(directory, codec=EncryptedCodec([NEW, OLD])))
    async with TokenRefresher(provider, both) as refresher:
        await refresher.save_tokens("alice", login(fake, "alice", life_left=-1))
        with store.hold("replace") as gate:
            reencryption = asyncio.create_task(outcomes_of(store))
            await gate.reached()
            renewal = asyncio.create_task(refresher.get_valid_token("alice"))
            await asyncio.sleep(0.05)
            assert fake.requests() == 0
        assert await reencryption == {"alice": None}
        renewed = await renewal
        assert await refresher.load_tokens("alice") == renewed
    assert (fake.refreshes("alice"), fake.reuses("alice")) == (1, 0)
    await store.aclose()


async def test_x2_renewals_and_changes_of_the_key_at_the_same_time_lose_no_refresh_token(
    fake: FakeProvider, provider: OIDCProvider, directory: Path, both: FileTokenStore
) -> None:
    users = [f"user-{number}" for number in range(4)]
    sibling = FileTokenStore(directory, codec=EncryptedCodec([OLD, NEW]))
    refreshers = [TokenRefresher(provider, both), TokenRefresher(provider, sibling)]
    for user_id in users:
        await refreshers[0].save_tokens(user_id, login(fake, user_id))

    async def renew(refresher: TokenRefresher, user_id: str) -> None:
        for _ in range(8):
            await refresher.refresh_token(user_id)

    async def reencrypt_again_and_again() -> None:
        for store in (both, sibling) * 8:
            assert set((await outcomes_of(store)).values()) == {None}

    async with asyncio.TaskGroup() as tasks:
        tasks.create_task(reencrypt_again_and_again())
        for refresher in refreshers:
            for user_id in users:
                tasks.create_task(renew(refresher, user_id))
    for user_id in users:
        assert fake.refreshes(user_id) >= 8
        assert fake.reuses(user_id) == 0
        record = await both.load(TokenKey(provider.name, user_id))
        assert record is not None
        assert record.tokens.refresh_token == fake.current_refresh_token(user_id)
    for refresher in refreshers:
        await refresher.aclose()


# A refresher without the key


async def test_a_refresher_without_the_key_says_so_sends_nothing_and_a_login_overwrites(
    fake: FakeProvider, provider: OIDCProvider, old: FileTokenStore, new: FileTokenStore, directory: Path
) -> None:
    async with TokenRefresher(provider, old) as refresher:
        await refresher.save_tokens("alice", login(fake, "alice", life_left=-1))
    (file,) = directory.rglob("*.json")
    before = file.read_bytes()
    async with TokenRefresher(provider, new) as refresher:
        for ask in (refresher.get_valid_token, refresher.refresh_token, refresher.load_tokens):
            with pytest.raises(StoreCorrupted, match=r"is encrypted with the key .* give that one too") as raised:
                await ask("alice")
            assert raised.value.code == "unknown_key"
        assert file.read_bytes() == before
        assert fake.requests() == 0
        await refresher.save_tokens("alice", login(fake, "alice", life_left=-1))
        await refresher.get_valid_token("alice")
    assert fake.refreshes("alice") == 1
