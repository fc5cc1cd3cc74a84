"""W4: a pause keeps requests from the provider, and nobody from the store or from the reason of the pause."""

import pytest
import time_machine

from kit.support import login
from tokenflight import (
    ClientSecretBasic,
    OIDCProvider,
    ProviderMisconfigured,
    ProviderUnavailable,
    ReauthenticationRequired,
    RefreshPolicy,
    StoredTokens,
    StoreUnavailable,
    TokenKey,
    TokenRefresher,
)
from tokenflight.testing import FakeProvider, FaultyStore, RateLimited

POLICY = RefreshPolicy(cache_ttl=10)


async def test_w4_a_logout_elsewhere_is_seen_during_a_pause_within_the_cache_ttl(
    fake: FakeProvider, provider: OIDCProvider, store: FaultyStore, clock: time_machine.Traveller
) -> None:
    async with TokenRefresher(provider, store, policy=POLICY) as here, TokenRefresher(provider, store) as there:
        due = login(fake, "alice", life_left=200)
        await here.save_tokens("alice", due)
        fake.fail(RateLimited(3600))
        assert await here.get_valid_token("alice") == due
        await there.delete_tokens("alice")
        clock.shift(11)
        with pytest.raises(ReauthenticationRequired) as caught:
            await here.get_valid_token("alice")
        assert caught.value.reason == "no_tokens"
    assert fake.requests() == 1


async def test_w4_a_login_elsewhere_is_seen_during_a_pause_within_the_cache_ttl(
    fake: FakeProvider, provider: OIDCProvider, store: FaultyStore, clock: time_machine.Traveller
) -> None:
    async with TokenRefresher(provider, store, policy=POLICY) as here, TokenRefresher(provider, store) as there:
        due = login(fake, "alice", life_left=200)
        await here.save_tokens("alice", due)
        fake.fail(RateLimited(3600))
        assert await here.get_valid_token("alice") == due
        fresh = login(fake, "alice")
        await there.save_tokens("alice", fresh)
        assert await here.get_valid_token("alice") == due
        clock.shift(11)
        assert await here.get_valid_token("alice") == fresh
    assert fake.requests() == 1


async def test_w4_in_a_pause_the_store_is_read_once_in_the_cache_ttl(
    fake: FakeProvider, provider: OIDCProvider, store: FaultyStore, clock: time_machine.Traveller
) -> None:
    async with TokenRefresher(provider, store, policy=POLICY) as refresher:
        await refresher.save_tokens("alice", login(fake, "alice", life_left=250))
        fake.fail(RateLimited(3600))
        await refresher.get_valid_token("alice")
        before = store.calls("load")
        for _ in range(30):
            clock.shift(5)
            for _ in range(10):
                await refresher.get_valid_token("alice")
        assert 10 <= store.calls("load") - before <= 20
    assert fake.requests() == 1


async def test_w4_in_a_pause_a_valid_token_is_served_although_the_store_fails(
    fake: FakeProvider, provider: OIDCProvider, store: FaultyStore, clock: time_machine.Traveller
) -> None:
    async with TokenRefresher(provider, store, policy=POLICY) as refresher:
        due = login(fake, "alice", life_left=200)
        await refresher.save_tokens("alice", due)
        fake.fail(RateLimited(3600))
        assert await refresher.get_valid_token("alice") == due
        store.fail("load")
        clock.shift(11)
        assert await refresher.get_valid_token("alice") == due


async def test_w4_in_a_pause_a_misconfiguration_stays_one_for_all_its_callers(
    fake: FakeProvider, provider: OIDCProvider, store: FaultyStore, clock: time_machine.Traveller
) -> None:
    async with fake.client() as http:
        wrong = OIDCProvider(fake.issuer, ClientSecretBasic("app", "wrong"), http_client=http)
        async with TokenRefresher(wrong, store) as refresher:
            await refresher.save_tokens("alice", login(fake, "alice", life_left=-1))
            with pytest.raises(ProviderMisconfigured):
                await refresher.get_valid_token("alice")
            for _ in range(3):
                with pytest.raises(ProviderMisconfigured, match=r"paused after a failure .*invalid_client") as caught:
                    await refresher.get_valid_token("alice")
                assert (caught.value.code, caught.value.user_id) == ("invalid_client", "alice")
    assert fake.requests() == 1


async def test_w4_in_the_providers_pause_another_user_hears_its_reason_and_nothing_of_whose_it_was(
    fake: FakeProvider, refresher: TokenRefresher
) -> None:
    for user_id in ("alice", "bob"):
        await refresher.save_tokens(user_id, login(fake, user_id, life_left=-1))
    fake.fail(RateLimited(30), times=1)
    with pytest.raises(ProviderUnavailable):
        await refresher.get_valid_token("alice")
    with pytest.raises(ProviderUnavailable) as caught:
        await refresher.get_valid_token("bob")
    assert (caught.value.code, caught.value.user_id) == ("rate_limited", "bob")
    assert caught.value.retry_after == pytest.approx(30, abs=1)
    assert "bob" in str(caught.value)
    assert "alice" not in str(caught.value)


async def test_w4_the_cause_of_a_failure_is_told_during_its_pause(store: FaultyStore) -> None:
    class Odd:
        name = "odd"

        async def renew(self, user_id: str, tokens: object) -> None:
            raise ZeroDivisionError("a bug of the provider's")

    async with TokenRefresher(Odd(), store) as refresher:  # type: ignore[arg-type] # on purpose
        for _ in range(3):
            with pytest.raises(Exception, match="ZeroDivisionError") as caught:
                await refresher.get_valid_token("alice")
            assert isinstance(caught.value.__cause__, ZeroDivisionError)


async def test_w4_the_pause_after_a_failure_of_the_store_tells_of_the_store(
    fake: FakeProvider, provider: OIDCProvider, store: FaultyStore, clock: time_machine.Traveller
) -> None:
    key = TokenKey(provider.name, "alice")
    await store.save(key, StoredTokens(login(fake, "alice", life_left=10)))
    async with TokenRefresher(provider, store) as refresher:
        store.fail("lease")
        await refresher.get_valid_token("alice")
        with pytest.raises(StoreUnavailable):
            await refresher.refresh_token("alice")
    assert fake.requests() == 0
