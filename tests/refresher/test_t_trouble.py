"""T1, T2, T4, H8: trouble at the provider is no logout, a valid token is served, and every waiter gets an answer."""

import asyncio
import time
from collections.abc import AsyncIterator
from typing import Any

import httpx
import pytest
import time_machine

from kit.minting import EXPIRED
from kit.support import login
from tokenflight import (
    ClientSecretBasic,
    MemoryTokenStore,
    OIDCProvider,
    ProviderMisconfigured,
    ProviderUnavailable,
    RenewalFailed,
    StoreUnavailable,
    TokenEvent,
    TokenKey,
    TokenRefresher,
    TokenRefreshError,
    TokenSet,
    TokenStore,
)
from tokenflight.testing import Delay, DropReply, FakeProvider, FaultyStore, OAuthError, RateLimited, ServerError


@pytest.mark.parametrize(
    "fault",
    [ServerError(), ServerError(503), RateLimited(), DropReply(), OAuthError("invalid_grant", status=500)],
    ids=repr,
)
async def test_t1_a_struggling_provider_is_no_logout(
    fake: FakeProvider, refresher: TokenRefresher, fault: ServerError
) -> None:
    tokens = login(fake, "alice", life_left=-1)
    await refresher.save_tokens("alice", tokens)
    fake.fail(fault)
    with pytest.raises(ProviderUnavailable):
        await refresher.get_valid_token("alice")
    assert await refresher.load_tokens("alice") == tokens


async def test_t1_a_timeout_is_no_logout(fake: FakeProvider, store: TokenStore) -> None:
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
    fake: FakeProvider, http: httpx.AsyncClient
) -> None:
    provider = OIDCProvider(fake.issuer, ClientSecretBasic("app", "wrong"), http_client=http)
    async with TokenRefresher(provider) as refresher:
        await refresher.save_tokens("alice", login(fake, "alice", life_left=-1))
        with pytest.raises(ProviderMisconfigured) as caught:
            await refresher.get_valid_token("alice")
        assert caught.value.code == caught.value.error == "invalid_client"
        with pytest.raises(ProviderMisconfigured, match="paused after a failure") as caught:
            await refresher.get_valid_token("alice")
        assert caught.value.code == caught.value.error == "invalid_client"
    assert fake.requests() == 1


async def test_t4_a_token_that_is_still_valid_is_served_while_its_renewal_fails(
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
    fake: FakeProvider, refresher: TokenRefresher
) -> None:
    await refresher.save_tokens("alice", login(fake, "alice"))
    fake.fail(ServerError())
    with pytest.raises(ProviderUnavailable):
        await refresher.refresh_token("alice")


async def test_t4_a_cancellation_inside_a_custom_provider_is_a_failure_like_any_other() -> None:
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


async def test_t6_a_flight_that_waits_for_an_outdated_one_that_fails_does_not_ask_right_after_it(
    fake: FakeProvider, refresher: TokenRefresher, store: FaultyStore
) -> None:
    store.fail("delete")
    await refresher.save_tokens("alice", login(fake, "alice", life_left=-1))
    fake.fail(ServerError(), times=1)
    with fake.hold() as gate:
        asking = asyncio.create_task(refresher.get_valid_token("alice"))
        await gate.reached()
        with pytest.raises(StoreUnavailable):
            await refresher.delete_tokens("alice")
    with pytest.raises(ProviderUnavailable, match="paused after a failure"):
        await asking
    assert fake.requests() == 1


async def test_an_exception_of_a_custom_provider_reaches_every_waiter_inside_the_error_tree() -> None:
    class Broken:
        name = "broken"

        async def renew(self, user_id: str, tokens: TokenSet | None) -> TokenSet:
            raise KeyError("a bug")

    async with TokenRefresher(Broken()) as refresher:
        callers = (refresher.get_valid_token("alice") for _ in range(3))
        outcomes = await asyncio.gather(*callers, return_exceptions=True)
    assert all(type(outcome) is TokenRefreshError for outcome in outcomes)
    assert isinstance(outcomes[0], TokenRefreshError)
    assert isinstance(outcomes[0].__cause__, KeyError)


async def test_a_store_that_lets_foreign_exceptions_through_still_fails_inside_the_error_tree(
    provider: OIDCProvider,
) -> None:
    store = FaultyStore(MemoryTokenStore())
    store.fail("load", error=ConnectionResetError)
    async with TokenRefresher(provider, store) as refresher:
        with pytest.raises(StoreUnavailable) as caught:
            await refresher.get_valid_token("alice")
    assert isinstance(caught.value.__cause__, ConnectionResetError)


class Abrupt(BaseException):
    """What is no `Exception`, as SystemExit and KeyboardInterrupt are not."""


class AbruptProvider:
    name = "abrupt"

    async def renew(self, user_id: str, tokens: TokenSet | None) -> TokenSet:
        raise Abrupt


@pytest.fixture
async def reports() -> AsyncIterator[list[dict[str, Any]]]:
    """What the event loop's exception handler is told."""
    told: list[dict[str, Any]] = []
    loop = asyncio.get_running_loop()
    loop.set_exception_handler(lambda _, context: told.append(context))
    yield told
    loop.set_exception_handler(None)


async def test_h8_an_exception_that_is_no_exception_leaves_no_waiter_hanging_and_is_reported(
    store: TokenStore, reports: list[dict[str, Any]], clock: time_machine.Traveller
) -> None:
    async with TokenRefresher(AbruptProvider(), store) as refresher, asyncio.timeout(5):
        await refresher.save_tokens("alice", EXPIRED)
        callers = [refresher.get_valid_token("alice") for _ in range(3)]
        outcomes = await asyncio.gather(*callers, return_exceptions=True)
        assert [getattr(outcome, "code", None) for outcome in outcomes] == ["unexpected"] * 3
        assert [type(report["exception"]) for report in reports] == [Abrupt]
        async with store.lease(TokenKey("abrupt", "alice"), timeout=0):
            pass
