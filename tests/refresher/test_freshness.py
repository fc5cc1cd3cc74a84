"""R4, V4: which token a caller gets at once, and which it waits for."""

import time
from dataclasses import replace

import time_machine

from kit.support import let_others_run, login
from tokenflight import OIDCProvider, StoredTokens, TokenEvent, TokenKey, TokenRefresher, TokenSet, TokenStore
from tokenflight.testing import FakeProvider


async def test_a_fresh_token_is_returned_without_a_request(
    fake: FakeProvider, refresher: TokenRefresher, clock: time_machine.Traveller
) -> None:
    tokens = login(fake, "alice", life_left=1800)
    await refresher.save_tokens("alice", tokens)
    clock.shift(59)
    assert await refresher.get_valid_token("alice") is tokens
    assert fake.requests() == 0


async def renewed_by(refresher: TokenRefresher, user_id: str) -> TokenSet:
    """The token set after whatever renewal is under way has ended."""
    await let_others_run()
    return await refresher.get_valid_token(user_id)


async def test_an_aging_token_is_returned_at_once_and_renewed_in_the_background(
    fake: FakeProvider, refresher: TokenRefresher, clock: time_machine.Traveller
) -> None:
    aging = login(fake, "alice", life_left=301)
    await refresher.save_tokens("alice", aging)
    with fake.hold() as gate:
        callers = [await refresher.get_valid_token("alice") for _ in range(10)]
        await gate.reached()
    assert callers == [aging] * 10
    assert (await renewed_by(refresher, "alice")).access_token != aging.access_token
    assert fake.requests() == 1


async def test_an_aging_token_that_is_not_cached_is_renewed_in_the_background_too(
    fake: FakeProvider, provider: OIDCProvider, store: TokenStore, clock: time_machine.Traveller
) -> None:
    aging = login(fake, "alice", life_left=301)
    await store.save(TokenKey(provider.name, "alice"), StoredTokens(aging))
    async with TokenRefresher(provider, store) as here, TokenRefresher(provider, store) as there:
        with fake.hold() as gate:
            assert await here.get_valid_token("alice") == aging
            await gate.reached()
            assert await there.get_valid_token("alice") == aging
        renewed = await renewed_by(here, "alice")
        assert renewed != aging
        assert await renewed_by(there, "alice") == renewed
    assert fake.requests() == 1


async def test_a_due_token_is_waited_for_and_kept_for_its_life(
    fake: FakeProvider, refresher: TokenRefresher, clock: time_machine.Traveller
) -> None:
    await refresher.save_tokens("alice", login(fake, "alice", life_left=299))
    renewed = await refresher.get_valid_token("alice")
    clock.shift(2900)
    assert await refresher.get_valid_token("alice") == renewed
    assert fake.requests() == 1


async def test_r4_a_token_that_lives_shorter_than_the_buffer_is_not_renewed_on_every_call(
    fake: FakeProvider, refresher: TokenRefresher, clock: time_machine.Traveller
) -> None:
    fake.lifetime = 30
    await refresher.save_tokens("alice", login(fake, "alice", life_left=-1))
    for _ in range(10):
        await refresher.get_valid_token("alice")
    assert fake.requests() == 1
    clock.shift(29)
    await refresher.get_valid_token("alice")
    assert fake.requests() == 2


async def test_min_validity_renews_a_fresh_token_that_lives_too_short_for_this_caller(
    fake: FakeProvider, refresher: TokenRefresher, clock: time_machine.Traveller
) -> None:
    tokens = login(fake, "alice", life_left=1800)
    await refresher.save_tokens("alice", tokens)
    assert await refresher.get_valid_token("alice", min_validity=1799) is tokens
    long_lived = await refresher.get_valid_token("alice", min_validity=1801)
    assert long_lived.access_token != tokens.access_token
    assert await refresher.get_valid_token("alice", min_validity=1801) == long_lived
    assert fake.requests() == 1


async def test_min_validity_beyond_any_lifetime_gets_the_newest_without_a_renewal_on_every_call(
    fake: FakeProvider, refresher: TokenRefresher, clock: time_machine.Traveller
) -> None:
    await refresher.save_tokens("alice", login(fake, "alice", life_left=1800))
    for _ in range(10):
        tokens = await refresher.get_valid_token("alice", min_validity=86_400)
        assert tokens.refresh_token == fake.current_refresh_token("alice")
    assert fake.requests() == 1


async def test_v4_a_token_without_known_expiry_lives_for_as_long_as_the_policy_assumes(
    fake: FakeProvider, provider: OIDCProvider, store: TokenStore, clock: time_machine.Traveller
) -> None:
    fake.lifetime = None
    key = TokenKey(provider.name, "alice")
    await store.save(key, StoredTokens(replace(login(fake, "alice"), expires_at=None, issued_at=time.time() - 3600)))
    async with TokenRefresher(provider, store) as refresher:
        first = await refresher.get_valid_token("alice")
        assert fake.requests() == 1
        for _ in range(5):
            clock.shift(61)
            assert await refresher.get_valid_token("alice") == first
        assert fake.requests() == 1
        second = await refresher.get_valid_token("alice", rejected=first.access_token)
        assert fake.requests() == 2
        clock.shift(3600)
        assert await refresher.get_valid_token("alice") != second
        assert fake.requests() == 3


async def test_v4_a_restart_renews_no_token_whose_expiry_is_only_assumed(
    fake: FakeProvider, provider: OIDCProvider, store: TokenStore, clock: time_machine.Traveller
) -> None:
    fake.lifetime = None
    await store.save(TokenKey(provider.name, "alice"), StoredTokens(TokenSet.from_response(fake.login("alice"))))
    for _ in range(5):
        async with TokenRefresher(provider, store) as refresher:
            await refresher.get_valid_token("alice")
        clock.shift(60)
    assert fake.requests() == 0


async def test_a_token_that_never_expires_and_can_not_be_renewed_is_served(
    provider: OIDCProvider, store: TokenStore, events: list[TokenEvent], refresher: TokenRefresher
) -> None:
    tokens = TokenSet("a-token-for-ever")
    await store.save(TokenKey(provider.name, "alice"), StoredTokens(tokens))
    assert await refresher.get_valid_token("alice") == tokens
    assert events == []


async def test_a_clock_set_back_does_not_keep_an_old_cached_entry_alive(
    fake: FakeProvider, provider: OIDCProvider, store: TokenStore, clock: time_machine.Traveller
) -> None:
    async with TokenRefresher(provider, store) as here, TokenRefresher(provider, store) as there:
        await here.save_tokens("alice", login(fake, "alice"))
        await here.get_valid_token("alice")
        newer = login(fake, "alice")
        await there.save_tokens("alice", newer)
        clock.shift(-30)  # by more, and the token set itself would be one issued in the future
        assert await here.get_valid_token("alice") == newer


class Silent:
    """A provider that says nothing about times."""

    name = "silent"

    def __init__(self) -> None:
        self.requests = 0

    async def renew(self, user_id: str, tokens: TokenSet | None) -> TokenSet:
        self.requests += 1
        return TokenSet(f"access-{self.requests}", refresh_token="refresh")


async def test_v4_a_renewed_token_set_without_any_time_is_good_for_the_assumed_lifetime(
    clock: time_machine.Traveller,
) -> None:
    provider = Silent()
    async with TokenRefresher(provider) as refresher:
        await refresher.save_tokens("alice", TokenSet("access-0", refresh_token="refresh", expires_at=1))
        for _ in range(5):
            assert (await refresher.get_valid_token("alice")).access_token == "access-1"
            clock.shift(600)
        clock.shift(600)
        assert (await refresher.get_valid_token("alice")).access_token == "access-2"
    assert provider.requests == 2
