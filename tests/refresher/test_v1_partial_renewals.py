"""V1: a refresh token in a reply that will not do is stored before the error is raised."""

import asyncio
from collections.abc import AsyncIterator
from dataclasses import replace

import pytest

from kit.support import NOW
from tokenflight import (
    BaseProvider,
    InvalidProviderResponse,
    RenewalFailed,
    SaveFailed,
    StoredTokens,
    TokenEvent,
    TokenKey,
    TokenRefresher,
    TokenSet,
)
from tokenflight.providers.base import PartialRenewal
from tokenflight.testing import FaultyStore

KEY = TokenKey("odd", "alice")
STORED = TokenSet("access-0", refresh_token="refresh-0", issued_at=NOW - 3500, expires_at=NOW + 100)


class OddProvider(BaseProvider):
    """Rotates, in replies without an access token."""

    name = "odd"

    def __init__(self) -> None:
        self.sent: list[str | None] = []

    async def renew(self, user_id: str, tokens: TokenSet | None) -> TokenSet:
        assert tokens is not None
        self.sent.append(tokens.refresh_token)
        kept = replace(tokens, refresh_token=f"refresh-{len(self.sent)}")
        raise PartialRenewal(kept, InvalidProviderResponse("no access token", user_id=user_id, provider=self.name))


@pytest.fixture
def odd() -> OddProvider:
    return OddProvider()


@pytest.fixture
async def refresher(odd: OddProvider, store: FaultyStore, events: list[TokenEvent]) -> AsyncIterator[TokenRefresher]:
    async with TokenRefresher(odd, store, on_event=events.append) as refresher:
        yield refresher


async def test_v1_the_new_refresh_token_is_stored_beside_the_access_token_known_so_far(
    odd: OddProvider, store: FaultyStore, refresher: TokenRefresher, events: list[TokenEvent], clock: object
) -> None:
    await store.save(KEY, StoredTokens(replace(STORED, expires_at=NOW - 1)))
    with pytest.raises(InvalidProviderResponse) as caught:
        await refresher.get_valid_token("alice")
    assert "refresh" not in str(caught.value)

    assert await refresher.load_tokens("alice") == replace(STORED, expires_at=NOW - 1, refresh_token="refresh-1")
    assert [(type(event), getattr(event, "code", None)) for event in events] == [(RenewalFailed, "invalid_response")]


async def test_v1_the_next_renewal_sends_the_new_refresh_token(
    odd: OddProvider, store: FaultyStore, refresher: TokenRefresher, clock: object
) -> None:
    await store.save(KEY, StoredTokens(replace(STORED, expires_at=NOW - 1)))
    async with TokenRefresher(odd, store) as other:
        for each in (refresher, other):
            with pytest.raises(InvalidProviderResponse):
                await each.refresh_token("alice")
    assert odd.sent == ["refresh-0", "refresh-1"]


async def test_v1_a_caller_whose_token_is_still_valid_is_served(
    odd: OddProvider, store: FaultyStore, refresher: TokenRefresher, clock: object
) -> None:
    await store.save(KEY, StoredTokens(STORED))
    for _ in range(3):
        assert (await refresher.get_valid_token("alice")).access_token == "access-0"
    assert odd.sent == ["refresh-0"]


async def test_v1_p1_a_refresh_token_that_can_not_be_stored_yet_is_kept_like_a_renewal(
    odd: OddProvider, store: FaultyStore, refresher: TokenRefresher, events: list[TokenEvent], clock: object
) -> None:
    await store.save(KEY, StoredTokens(STORED))
    store.fail("replace")
    assert (await refresher.get_valid_token("alice")).access_token == "access-0"
    assert [type(event) for event in events] == [SaveFailed, RenewalFailed]
    store.recover()
    await refresher.aclose()
    record = await store.load(KEY)
    assert record is not None
    assert record.tokens.refresh_token == "refresh-1"


async def test_v1_x10_a_login_wins_over_a_refresh_token_that_was_found_in_a_reply(
    odd: OddProvider, store: FaultyStore, refresher: TokenRefresher, clock: object
) -> None:
    await store.save(KEY, StoredTokens(replace(STORED, expires_at=NOW - 1)))
    login = TokenSet("login", refresh_token="refresh-login", issued_at=NOW, expires_at=NOW + 3600)
    with store.hold("replace", times=1) as gate:
        caller = asyncio.create_task(refresher.get_valid_token("alice"))
        await gate.reached()
        await store.save(KEY, StoredTokens(login))
    assert await caller == login
