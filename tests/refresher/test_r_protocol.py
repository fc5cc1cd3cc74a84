"""R: what a reply changes, and what a reply that will not do leaves as it was."""

import asyncio

import httpx
import pytest
import time_machine

from kit.support import NOW, login
from tokenflight import (
    InvalidProviderResponse,
    OIDCProvider,
    ProviderMisconfigured,
    TokenRefresher,
    TokenSet,
    TokenStore,
)
from tokenflight.testing import FakeProvider, GarbageReply, HTMLReply, HugeReply, Redirect


async def test_r1_a_reply_without_refresh_token_and_scope_keeps_the_old_ones(
    fake: FakeProvider, refresher: TokenRefresher
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
    fake: FakeProvider, provider: OIDCProvider, store: TokenStore, clock: time_machine.Traveller
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


@pytest.mark.parametrize(
    "fault",
    [HTMLReply(), GarbageReply(), HugeReply(2_000_000), GarbageReply(b""), GarbageReply(b"[]")],
    ids=repr,
)
async def test_r6_a_reply_that_makes_no_sense_changes_nothing_that_is_stored(
    fake: FakeProvider, refresher: TokenRefresher, fault: HTMLReply
) -> None:
    tokens = login(fake, "alice", life_left=-1)
    await refresher.save_tokens("alice", tokens)
    fake.fail(fault)
    with pytest.raises(InvalidProviderResponse) as caught:
        await refresher.get_valid_token("alice")
    assert caught.value.user_id == "alice"
    assert await refresher.load_tokens("alice") == tokens


async def test_r7_a_redirect_is_not_followed_with_the_refresh_token_in_it(
    fake: FakeProvider, refresher: TokenRefresher
) -> None:
    await refresher.save_tokens("alice", login(fake, "alice", life_left=-1))
    fake.fail(Redirect(fake.api_url))
    with pytest.raises(ProviderMisconfigured) as caught:
        await refresher.get_valid_token("alice")
    assert caught.value.code == "redirected"
    assert fake.api_calls() == 0


async def test_r8_the_refresh_is_seen_neither_by_the_api_clients_hooks_nor_in_its_history(
    fake: FakeProvider, refresher: TokenRefresher
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


async def test_r12_the_last_issued_refresh_token_is_the_one_kept(fake: FakeProvider, refresher: TokenRefresher) -> None:
    await refresher.save_tokens("alice", login(fake, "alice", life_left=-1))
    for _ in range(5):
        await refresher.refresh_token("alice")
        stored = await refresher.load_tokens("alice")
        assert stored is not None
        assert stored.refresh_token == fake.current_refresh_token("alice")
    assert fake.reuses() == 0


async def test_a_provider_that_returns_no_token_set_is_told_so() -> None:
    class Wrong:
        name = "wrong"

        async def renew(self, user_id: str, tokens: TokenSet | None) -> TokenSet:
            return {"access_token": "a"}  # type: ignore[return-value] # the point of the test

    async with TokenRefresher(Wrong()) as refresher:
        with pytest.raises(InvalidProviderResponse, match="must return a TokenSet"):
            await refresher.get_valid_token("alice")
