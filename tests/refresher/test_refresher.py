"""What a refresher hands out, keeps, and says."""

import asyncio
import time
from dataclasses import replace

import httpx
import pytest
import time_machine

from kit.support import NOW, login
from tokenflight import (
    ClientSecretBasic,
    InvalidProviderResponse,
    LeaseTimeout,
    OIDCProvider,
    ProviderMisconfigured,
    ProviderUnavailable,
    ReauthenticationRequired,
    RefreshPolicy,
    RenewalDiscarded,
    RenewalFailed,
    StoredTokens,
    TokenAdopted,
    TokenEvent,
    TokenKey,
    TokenRefresher,
    TokenSet,
    TokenStore,
)
from tokenflight._core.limits import Limits
from tokenflight.testing import (
    Delay,
    DropReply,
    FakeProvider,
    GarbageReply,
    HTMLReply,
    HugeReply,
    OAuthError,
    RateLimited,
    Redirect,
    ServerError,
)


async def renewed_by(refresher: TokenRefresher, user_id: str) -> TokenSet:
    """The token set after whatever renewal is under way has ended."""
    for _ in range(50):
        await asyncio.sleep(0)
    return await refresher.get_valid_token(user_id)


class TestFreshness:
    async def test_a_fresh_token_is_returned_without_asking_anybody(
        self, fake: FakeProvider, refresher: TokenRefresher, clock: time_machine.Traveller
    ) -> None:
        tokens = login(fake, "alice", life_left=1800)
        await refresher.save_tokens("alice", tokens)
        clock.shift(59)
        assert await refresher.get_valid_token("alice") is tokens
        assert fake.requests() == 0

    async def test_an_aging_token_is_returned_at_once_and_renewed_in_the_background(
        self, fake: FakeProvider, refresher: TokenRefresher, clock: time_machine.Traveller
    ) -> None:
        aging = login(fake, "alice", life_left=301)
        await refresher.save_tokens("alice", aging)
        with fake.hold() as gate:
            callers = [await refresher.get_valid_token("alice") for _ in range(10)]
            await gate.reached()
        assert callers == [aging] * 10
        assert (await renewed_by(refresher, "alice")).access_token != aging.access_token
        assert fake.requests() == 1

    async def test_an_aging_token_that_is_not_in_memory_is_renewed_in_the_background_too(
        self, fake: FakeProvider, provider: OIDCProvider, store: TokenStore, clock: time_machine.Traveller
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

    async def test_an_aging_token_that_a_sibling_has_renewed_meanwhile_is_not_renewed_once_more(
        self, fake: FakeProvider, provider: OIDCProvider, store: TokenStore, clock: time_machine.Traveller
    ) -> None:
        await store.save(TokenKey(provider.name, "alice"), StoredTokens(login(fake, "alice", life_left=301)))
        policy = RefreshPolicy(cache_ttl=0)
        async with (
            TokenRefresher(provider, store) as sibling,
            TokenRefresher(provider, store, policy=policy) as refresher,
        ):
            await refresher.get_valid_token("alice")  # starts a renewal that nobody waits for
            renewed = await sibling.refresh_token("alice")
            clock.shift(0.001)
            assert await renewed_by(refresher, "alice") == renewed
        assert fake.requests() == 1

    async def test_a_due_token_is_waited_for_and_kept_for_its_life(
        self, fake: FakeProvider, refresher: TokenRefresher, clock: time_machine.Traveller
    ) -> None:
        await refresher.save_tokens("alice", login(fake, "alice", life_left=299))
        renewed = await refresher.get_valid_token("alice")
        clock.shift(2900)
        assert await refresher.get_valid_token("alice") == renewed
        assert fake.requests() == 1

    async def test_r4_a_token_that_lives_shorter_than_the_buffer_is_not_renewed_on_every_call(
        self, fake: FakeProvider, refresher: TokenRefresher, clock: time_machine.Traveller
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
        self, fake: FakeProvider, refresher: TokenRefresher, clock: time_machine.Traveller
    ) -> None:
        tokens = login(fake, "alice", life_left=1800)
        await refresher.save_tokens("alice", tokens)
        assert await refresher.get_valid_token("alice", min_validity=1799) is tokens
        long_lived = await refresher.get_valid_token("alice", min_validity=1801)
        assert long_lived.access_token != tokens.access_token
        assert await refresher.get_valid_token("alice", min_validity=1801) == long_lived
        assert fake.requests() == 1

    async def test_min_validity_beyond_any_lifetime_gets_the_newest_without_a_renewal_on_every_call(
        self, fake: FakeProvider, refresher: TokenRefresher, clock: time_machine.Traveller
    ) -> None:
        await refresher.save_tokens("alice", login(fake, "alice", life_left=1800))
        for _ in range(10):
            tokens = await refresher.get_valid_token("alice", min_validity=86_400)
            assert tokens.refresh_token == fake.current_refresh_token("alice")
        assert fake.requests() == 1

    async def test_v4_a_token_without_known_expiry_lives_for_as_long_as_the_policy_assumes(
        self, fake: FakeProvider, provider: OIDCProvider, store: TokenStore, clock: time_machine.Traveller
    ) -> None:
        fake.lifetime = None
        key = TokenKey(provider.name, "alice")
        await store.save(
            key, StoredTokens(replace(login(fake, "alice"), expires_at=None, issued_at=time.time() - 3600))
        )
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
        self, fake: FakeProvider, provider: OIDCProvider, store: TokenStore, clock: time_machine.Traveller
    ) -> None:
        fake.lifetime = None
        await store.save(TokenKey(provider.name, "alice"), StoredTokens(TokenSet.from_response(fake.login("alice"))))
        for _ in range(5):
            async with TokenRefresher(provider, store) as refresher:
                await refresher.get_valid_token("alice")
            clock.shift(60)
        assert fake.requests() == 0

    async def test_a_token_that_never_expires_and_can_not_be_renewed_is_served(
        self, provider: OIDCProvider, store: TokenStore, events: list[TokenEvent], refresher: TokenRefresher
    ) -> None:
        tokens = TokenSet("a-token-for-ever")
        await store.save(TokenKey(provider.name, "alice"), StoredTokens(tokens))
        assert await refresher.get_valid_token("alice") == tokens
        assert events == []

    async def test_refresh_token_renews_whatever_the_expiry_and_joins_a_renewal_under_way(
        self, fake: FakeProvider, refresher: TokenRefresher
    ) -> None:
        tokens = login(fake, "alice")
        await refresher.save_tokens("alice", tokens)
        results = await asyncio.gather(*(refresher.refresh_token("alice") for _ in range(10)))
        assert {renewed.access_token for renewed in results}.isdisjoint({tokens.access_token})
        assert fake.requests() == 1
        await refresher.refresh_token("alice")
        assert fake.requests() == 2

    async def test_refresh_token_does_not_take_a_cold_read_for_a_renewal(
        self, fake: FakeProvider, provider: OIDCProvider, store: TokenStore
    ) -> None:
        tokens = login(fake, "alice")
        await store.save(TokenKey(provider.name, "alice"), StoredTokens(tokens))
        async with TokenRefresher(provider, store) as refresher:
            _, renewed = await asyncio.gather(refresher.get_valid_token("alice"), refresher.refresh_token("alice"))
        assert renewed.access_token != tokens.access_token
        assert fake.requests() == 1

    async def test_a_clock_set_back_does_not_keep_an_old_copy_alive(
        self, fake: FakeProvider, provider: OIDCProvider, store: TokenStore, clock: time_machine.Traveller
    ) -> None:
        async with TokenRefresher(provider, store) as here, TokenRefresher(provider, store) as there:
            await here.save_tokens("alice", login(fake, "alice"))
            await here.get_valid_token("alice")
            newer = login(fake, "alice")
            await there.save_tokens("alice", newer)
            clock.shift(-30)  # by more, and the token set itself would be one issued in the future
            assert await here.get_valid_token("alice") == newer


class TestSharedStore:
    async def test_a_renewal_elsewhere_is_seen_when_the_copy_in_memory_is_too_old(
        self, fake: FakeProvider, provider: OIDCProvider, store: TokenStore, clock: time_machine.Traveller
    ) -> None:
        async with TokenRefresher(provider, store) as here, TokenRefresher(provider, store) as there:
            tokens = login(fake, "alice")
            await here.save_tokens("alice", tokens)
            assert await there.get_valid_token("alice") == tokens
            renewed = await here.refresh_token("alice")
            clock.shift(60)
            assert await there.get_valid_token("alice") == tokens
            clock.shift(1)
            assert await there.get_valid_token("alice") == renewed

    async def test_a_logout_elsewhere_is_seen_when_the_copy_in_memory_is_too_old(
        self, fake: FakeProvider, provider: OIDCProvider, store: TokenStore, clock: time_machine.Traveller
    ) -> None:
        async with TokenRefresher(provider, store) as here, TokenRefresher(provider, store) as there:
            await here.save_tokens("alice", login(fake, "alice"))
            await there.get_valid_token("alice")
            await here.delete_tokens("alice")
            clock.shift(61)
            with pytest.raises(ReauthenticationRequired) as caught:
                await there.get_valid_token("alice")
            assert caught.value.reason == "no_tokens"

    async def test_with_no_cache_ttl_the_copy_is_trusted_until_it_is_due(
        self, fake: FakeProvider, provider: OIDCProvider, store: TokenStore, clock: time_machine.Traveller
    ) -> None:
        async with (
            TokenRefresher(provider, store) as here,
            TokenRefresher(provider, store, policy=RefreshPolicy(cache_ttl=None)) as there,
        ):
            tokens = login(fake, "alice")
            await here.save_tokens("alice", tokens)
            await there.get_valid_token("alice")
            await here.refresh_token("alice")
            clock.shift(2000)
            assert await there.get_valid_token("alice") == tokens

    async def test_two_refreshers_renew_once_and_the_second_adopts(
        self, fake: FakeProvider, provider: OIDCProvider, store: TokenStore
    ) -> None:
        told: list[TokenEvent] = []
        async with (
            TokenRefresher(provider, store) as here,
            TokenRefresher(provider, store, on_event=told.append) as there,
        ):
            await here.save_tokens("alice", login(fake, "alice", life_left=-1))
            with fake.hold() as gate:
                ours = asyncio.create_task(here.get_valid_token("alice"))
                await gate.reached()
                theirs = asyncio.create_task(there.get_valid_token("alice"))
                await asyncio.sleep(0.01)
            assert await ours == await theirs
        assert fake.requests() == 1
        assert [type(event) for event in told] == [TokenAdopted]

    async def test_r11_a_record_bound_to_another_issuer_is_neither_sent_nor_handed_out(
        self, fake: FakeProvider, http: httpx.AsyncClient, store: TokenStore
    ) -> None:
        client = ClientSecretBasic("app", "s3cret")
        old = OIDCProvider("https://old.example", client, name="idp")
        new = OIDCProvider(fake.issuer, client, name="idp", http_client=http)
        async with TokenRefresher(old, store) as refresher:
            await refresher.save_tokens("alice", login(fake, "alice"))
        async with TokenRefresher(new, store) as refresher:
            with pytest.raises(ProviderMisconfigured) as caught:
                await refresher.get_valid_token("alice")
            assert caught.value.code == "issuer_mismatch"
            assert "https://old.example" in str(caught.value)
            await refresher.save_tokens("alice", login(fake, "alice", life_left=-1))
            assert (await refresher.get_valid_token("alice")).access_token
        assert fake.requests() == 1

    async def test_x5_a_wait_for_the_lease_that_is_too_long_ends_with_what_a_sibling_stored_meanwhile(
        self, fake: FakeProvider, provider: OIDCProvider, store: TokenStore
    ) -> None:
        key = TokenKey(provider.name, "alice")
        async with TokenRefresher(provider, store, _limits=Limits(lease_timeout=0.05)) as refresher:
            await refresher.save_tokens("alice", login(fake, "alice", life_left=-1))
            async with store.lease(key, timeout=1):
                caller = asyncio.create_task(refresher.get_valid_token("alice"))
                await asyncio.sleep(0)
                stored_by_sibling = login(fake, "alice")
                await store.save(key, StoredTokens(stored_by_sibling))
                assert await caller == stored_by_sibling
        assert fake.requests() == 0

    async def test_x5_a_wait_for_the_lease_that_brings_nothing_is_a_transient_error(
        self, fake: FakeProvider, provider: OIDCProvider, store: TokenStore
    ) -> None:
        async with TokenRefresher(provider, store, _limits=Limits(lease_timeout=0.05)) as refresher:
            await refresher.save_tokens("alice", login(fake, "alice", life_left=-1))
            async with store.lease(TokenKey(provider.name, "alice"), timeout=1):
                with pytest.raises(LeaseTimeout):
                    await refresher.get_valid_token("alice")
            assert (await refresher.get_valid_token("alice")).access_token
        assert fake.requests() == 1

    async def test_t3_a_refusal_that_a_sibling_met_while_this_one_waited_is_not_asked_for_again(
        self, fake: FakeProvider, provider: OIDCProvider, store: TokenStore
    ) -> None:
        async with TokenRefresher(provider, store) as here, TokenRefresher(provider, store) as there:
            await here.save_tokens("alice", login(fake, "alice", life_left=-1))
            fake.revoke("alice")
            with fake.hold() as gate:
                callers = [asyncio.create_task(here.get_valid_token("alice"))]
                await gate.reached()
                callers.append(asyncio.create_task(there.get_valid_token("alice")))
                await asyncio.sleep(0.01)
            errors = await asyncio.gather(*callers, return_exceptions=True)
        assert [type(error) for error in errors] == [ReauthenticationRequired] * 2
        assert fake.requests() == 1

    async def test_x6_the_loser_of_a_race_adopts_what_the_winner_stored(
        self, fake: FakeProvider, provider: OIDCProvider, store: TokenStore
    ) -> None:
        key = TokenKey(provider.name, "alice")
        async with TokenRefresher(provider, store) as refresher:
            await refresher.save_tokens("alice", login(fake, "alice", life_left=-1))
            winner = login(fake, "alice")
            fake.fail(OAuthError("invalid_grant"), times=1)
            with fake.hold() as gate:
                caller = asyncio.create_task(refresher.get_valid_token("alice"))
                await gate.reached()
                await store.save(key, StoredTokens(winner))
            assert (await caller) == winner

    async def test_t3_a_refused_refresh_token_is_never_sent_again_not_even_after_a_restart(
        self, fake: FakeProvider, provider: OIDCProvider, store: TokenStore
    ) -> None:
        async with TokenRefresher(provider, store) as refresher:
            await refresher.save_tokens("alice", login(fake, "alice", life_left=-1))
            fake.revoke("alice")
            for _ in range(3):
                with pytest.raises(ReauthenticationRequired) as caught:
                    await refresher.get_valid_token("alice")
                assert caught.value.reason == "refused"
        async with TokenRefresher(provider, store) as restarted:
            with pytest.raises(ReauthenticationRequired) as caught:
                await restarted.get_valid_token("alice")
            assert fake.requests() == 1
            await restarted.save_tokens("alice", login(fake, "alice", life_left=-1))
            assert (await restarted.get_valid_token("alice")).access_token
        assert fake.requests() == 2

    async def test_x9_a_logout_during_a_renewal_stays_a_logout(
        self, fake: FakeProvider, provider: OIDCProvider, store: TokenStore, events: list[TokenEvent]
    ) -> None:
        async with (
            TokenRefresher(provider, store, on_event=events.append) as here,
            TokenRefresher(provider, store) as there,
        ):
            await here.save_tokens("alice", login(fake, "alice", life_left=-1))
            with fake.hold() as gate:
                caller = asyncio.create_task(here.get_valid_token("alice"))
                await gate.reached()
                await there.delete_tokens("alice")
            with pytest.raises(ReauthenticationRequired) as caught:
                await caller
            assert caught.value.reason == "no_tokens"
            assert await there.load_tokens("alice") is None
        # The caller looks again after the logout, and finds nothing.
        assert [type(event) for event in events] == [RenewalDiscarded, RenewalFailed]

    @pytest.mark.parametrize("where", ["here", "there"])
    async def test_x10_a_login_during_a_renewal_wins(
        self, fake: FakeProvider, provider: OIDCProvider, store: TokenStore, where: str
    ) -> None:
        async with TokenRefresher(provider, store) as here, TokenRefresher(provider, store) as there:
            await here.save_tokens("alice", login(fake, "alice", life_left=-1))
            with fake.hold() as gate:
                caller = asyncio.create_task(here.get_valid_token("alice"))
                await gate.reached()
                latest = login(fake, "alice")
                await {"here": here, "there": there}[where].save_tokens("alice", latest)
            assert await caller == latest
            assert await here.get_valid_token("alice") == latest
            assert await here.load_tokens("alice") == latest

    async def test_a_logout_here_during_a_renewal_is_what_the_waiters_hear_of(
        self, fake: FakeProvider, refresher: TokenRefresher
    ) -> None:
        await refresher.save_tokens("alice", login(fake, "alice", life_left=-1))
        with fake.hold() as gate:
            caller = asyncio.create_task(refresher.get_valid_token("alice"))
            await gate.reached()
            assert await refresher.delete_tokens("alice")
        with pytest.raises(ReauthenticationRequired):
            await caller
        assert await refresher.load_tokens("alice") is None


class TestTrouble:
    @pytest.mark.parametrize(
        "fault",
        [ServerError(), ServerError(503), RateLimited(), DropReply(), OAuthError("invalid_grant", status=500)],
        ids=repr,
    )
    async def test_t1_a_struggling_provider_is_no_logout(
        self, fake: FakeProvider, refresher: TokenRefresher, fault: ServerError
    ) -> None:
        tokens = login(fake, "alice", life_left=-1)
        await refresher.save_tokens("alice", tokens)
        fake.fail(fault)
        with pytest.raises(ProviderUnavailable):
            await refresher.get_valid_token("alice")
        assert await refresher.load_tokens("alice") == tokens

    async def test_t1_a_timeout_is_no_logout(self, fake: FakeProvider, store: TokenStore) -> None:
        async with fake.serve() as issuer:
            provider = OIDCProvider(issuer, ClientSecretBasic("app", "s3cret"), timeout=0.2)
            async with TokenRefresher(provider, store) as refresher:
                tokens = login(fake, "alice", life_left=-1)
                await refresher.save_tokens("alice", tokens)
                fake.fail(Delay(5))
                with pytest.raises(ProviderUnavailable) as caught:
                    await refresher.get_valid_token("alice")
                assert caught.value.code == "outcome_unknown"
                assert await refresher.load_tokens("alice") == tokens

    async def test_t2_wrong_client_credentials_are_a_misconfiguration_and_not_sent_on_every_call(
        self, fake: FakeProvider, http: httpx.AsyncClient
    ) -> None:
        provider = OIDCProvider(fake.issuer, ClientSecretBasic("app", "wrong"), http_client=http)
        async with TokenRefresher(provider) as refresher:
            await refresher.save_tokens("alice", login(fake, "alice", life_left=-1))
            with pytest.raises(ProviderMisconfigured) as caught:
                await refresher.get_valid_token("alice")
            assert caught.value.code == caught.value.error == "invalid_client"
            with pytest.raises(ProviderUnavailable, match="paused after a failure"):
                await refresher.get_valid_token("alice")
        assert fake.requests() == 1

    async def test_t4_a_token_that_is_still_valid_is_served_while_its_renewal_fails(
        self,
        fake: FakeProvider,
        refresher: TokenRefresher,
        events: list[TokenEvent],
        clock: time_machine.Traveller,
    ) -> None:
        tokens = login(fake, "alice", life_left=120)
        await refresher.save_tokens("alice", tokens)
        fake.fail(ServerError())
        for _ in range(20):
            assert await refresher.get_valid_token("alice") == tokens
            clock.shift(5)
        clock.shift(16)
        with pytest.raises(ProviderUnavailable):
            await refresher.get_valid_token("alice")
        failures = [event for event in events if isinstance(event, RenewalFailed)]
        assert len(failures) == fake.requests() < 10
        assert failures[0].served
        assert failures[0].code == "server_error"

    async def test_t4_a_forced_renewal_says_that_it_failed_though_the_token_is_valid(
        self, fake: FakeProvider, refresher: TokenRefresher
    ) -> None:
        await refresher.save_tokens("alice", login(fake, "alice"))
        fake.fail(ServerError())
        with pytest.raises(ProviderUnavailable):
            await refresher.refresh_token("alice")

    async def test_t4_a_refused_users_token_is_served_to_its_end(
        self, fake: FakeProvider, refresher: TokenRefresher, clock: time_machine.Traveller
    ) -> None:
        tokens = login(fake, "alice", life_left=100)
        await refresher.save_tokens("alice", tokens)
        fake.revoke("alice")
        for _ in range(9):
            assert await refresher.get_valid_token("alice") == tokens
            clock.shift(10)
        clock.shift(6)
        with pytest.raises(ReauthenticationRequired) as caught:
            await refresher.get_valid_token("alice")
        assert caught.value.reason == "refused"
        assert fake.requests() == 1

    async def test_t5_retry_after_is_honoured_for_the_whole_provider(
        self, fake: FakeProvider, refresher: TokenRefresher, clock: time_machine.Traveller
    ) -> None:
        for user_id in ("alice", "bob"):
            await refresher.save_tokens(user_id, login(fake, user_id, life_left=-1))
        fake.fail(RateLimited(30), times=1)
        with pytest.raises(ProviderUnavailable) as caught:
            await refresher.get_valid_token("alice")
        assert caught.value.retry_after == 30
        clock.shift(29)
        with pytest.raises(ProviderUnavailable):
            await refresher.get_valid_token("bob")
        assert fake.requests() == 1
        clock.shift(2)
        assert (await refresher.get_valid_token("bob")).access_token

    @pytest.mark.parametrize(
        "fault",
        [HTMLReply(), GarbageReply(), HugeReply(2_000_000), GarbageReply(b""), GarbageReply(b"[]")],
        ids=repr,
    )
    async def test_r6_a_reply_that_makes_no_sense_changes_nothing_that_is_stored(
        self, fake: FakeProvider, refresher: TokenRefresher, fault: HTMLReply
    ) -> None:
        tokens = login(fake, "alice", life_left=-1)
        await refresher.save_tokens("alice", tokens)
        fake.fail(fault)
        with pytest.raises(InvalidProviderResponse) as caught:
            await refresher.get_valid_token("alice")
        assert caught.value.user_id == "alice"
        assert await refresher.load_tokens("alice") == tokens

    async def test_r7_a_redirect_is_not_followed_with_the_refresh_token_in_it(
        self, fake: FakeProvider, refresher: TokenRefresher
    ) -> None:
        await refresher.save_tokens("alice", login(fake, "alice", life_left=-1))
        fake.fail(Redirect(fake.api_url))
        with pytest.raises(ProviderMisconfigured) as caught:
            await refresher.get_valid_token("alice")
        assert caught.value.code == "redirected"
        assert fake.api_calls() == 0

    async def test_a_user_without_tokens_has_to_log_in(self, fake: FakeProvider, refresher: TokenRefresher) -> None:
        with pytest.raises(ReauthenticationRequired) as caught:
            await refresher.get_valid_token("nobody")
        assert (caught.value.reason, caught.value.user_id) == ("no_tokens", "nobody")
        assert fake.requests() == fake.discoveries == 0

    async def test_a_provider_that_returns_no_token_set_is_told_so(self) -> None:
        class Wrong:
            name = "wrong"

            async def renew(self, user_id: str, tokens: TokenSet | None) -> TokenSet:
                return {"access_token": "a"}  # type: ignore[return-value] # the point of the test

        async with TokenRefresher(Wrong()) as refresher:
            with pytest.raises(InvalidProviderResponse, match="must return a TokenSet"):
                await refresher.get_valid_token("alice")


class TestReplies:
    async def test_r1_a_reply_without_refresh_token_and_scope_keeps_the_old_ones(
        self, fake: FakeProvider, refresher: TokenRefresher
    ) -> None:
        fake.rotation = "never"
        tokens = login(fake, "alice", life_left=-1, scope="accounts payments")
        await refresher.save_tokens("alice", tokens)
        renewed = await refresher.get_valid_token("alice")
        assert renewed.access_token != tokens.access_token
        assert (renewed.refresh_token, renewed.scope) == (tokens.refresh_token, "accounts payments")
        stored = await refresher.load_tokens("alice")
        assert stored == renewed

    async def test_r2_the_expiry_counts_from_when_the_request_was_sent_and_survives_a_restart(
        self, fake: FakeProvider, provider: OIDCProvider, store: TokenStore, clock: time_machine.Traveller
    ) -> None:
        async with TokenRefresher(provider, store) as refresher:
            await refresher.save_tokens("alice", login(fake, "alice", life_left=-1))
            with fake.hold(after=True) as gate:
                caller = asyncio.create_task(refresher.get_valid_token("alice"))
                await gate.reached()
                clock.shift(25)
            renewed = await caller
        assert (renewed.issued_at, renewed.expires_at) == (NOW, NOW + 3600)
        async with TokenRefresher(provider, store) as restarted:
            clock.shift(100)
            assert (await restarted.get_valid_token("alice")).expires_at == renewed.expires_at

    async def test_r8_the_refresh_is_seen_neither_by_the_api_clients_hooks_nor_in_its_history(
        self, fake: FakeProvider, refresher: TokenRefresher
    ) -> None:
        from tokenflight.httpx import BearerAuth

        seen: list[str] = []

        async def hook(request: httpx.Request) -> None:
            seen.append(request.url.path)

        await refresher.save_tokens("alice", login(fake, "alice", life_left=-1))
        async with fake.client(auth=BearerAuth(refresher, "alice")) as api:
            api.event_hooks["request"].append(hook)
            reply = await api.get("/api")
        assert seen == ["/api"]
        assert reply.history == []

    async def test_r12_the_last_issued_refresh_token_is_the_one_kept(
        self, fake: FakeProvider, refresher: TokenRefresher
    ) -> None:
        await refresher.save_tokens("alice", login(fake, "alice", life_left=-1))
        for _ in range(5):
            await refresher.refresh_token("alice")
            stored = await refresher.load_tokens("alice")
            assert stored is not None
            assert stored.refresh_token == fake.current_refresh_token("alice")
        assert fake.reuses() == 0


async def test_s11_the_current_token_stays_rejected_however_many_older_ones_are_rejected_after_it(
    fake: FakeProvider, refresher: TokenRefresher
) -> None:
    await refresher.save_tokens("alice", login(fake, "alice"))
    older = []
    for _ in range(5):
        older.append((await refresher.get_valid_token("alice")).access_token)
        await refresher.refresh_token("alice")
    current = (await refresher.get_valid_token("alice")).access_token
    fake.fail(ServerError())
    for rejected in (current, *older):
        with pytest.raises(ProviderUnavailable):
            await refresher.get_valid_token("alice", rejected=rejected)


async def test_t4_a_cancellation_inside_somebodys_provider_is_a_failure_like_any_other() -> None:
    class Cancelling:
        name = "idp"
        asked = 0

        async def renew(self, _user_id: str, _tokens: TokenSet | None) -> TokenSet:
            self.asked += 1
            inner = asyncio.ensure_future(asyncio.sleep(10))
            await asyncio.sleep(0)
            inner.cancel()
            await inner
            raise AssertionError

    provider = Cancelling()
    due = TokenSet("access", refresh_token="refresh", expires_at=time.time() + 200, issued_at=time.time() - 3400)
    async with TokenRefresher(provider) as refresher:
        await refresher.save_tokens("alice", due)
        assert [await refresher.get_valid_token("alice") for _ in range(3)] == [due] * 3
    assert provider.asked == 1


@pytest.mark.parametrize("stored", [None, TokenSet("access", expires_at=1.0)], ids=["nobody", "no refresh token"])
async def test_t5_a_pause_of_the_provider_does_not_hide_that_a_user_has_to_log_in(
    fake: FakeProvider, refresher: TokenRefresher, stored: TokenSet | None
) -> None:
    await refresher.save_tokens("bob", login(fake, "bob", life_left=-1))
    fake.fail(RateLimited(retry_after=3600), times=1)
    with pytest.raises(ProviderUnavailable):
        await refresher.get_valid_token("bob")
    if stored is not None:
        await refresher.save_tokens("alice", stored)
        await refresher.delete_tokens("nobody")
        refresher._state.cache.forget("alice")
    with pytest.raises(ReauthenticationRequired):
        await refresher.get_valid_token("alice")
    assert fake.requests() == 1
