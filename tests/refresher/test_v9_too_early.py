"""V9: a provider that renews only in the last seconds of an access token's life."""

import time
from collections.abc import AsyncIterator

import pytest
import time_machine

from kit.support import NOW
from tokenflight import (
    BaseProvider,
    ProviderUnavailable,
    RenewalFailed,
    TokenEvent,
    TokenRefresher,
    TokenRenewed,
    TokenSet,
)

LIFE_SECONDS = 600.0
ALLOWED_SECONDS = 30.0


class LateProvider(BaseProvider):
    """Renews in the last half minute, and says when that begins unless it `keeps_quiet`."""

    name = "late"

    def __init__(self) -> None:
        self.asked: list[tuple[str, float]] = []
        self.keeps_quiet = False

    async def renew(self, user_id: str, tokens: TokenSet | None) -> TokenSet:
        assert tokens is not None
        assert tokens.expires_at is not None
        self.asked.append((user_id, time.time() - NOW))
        too_early = tokens.expires_at - ALLOWED_SECONDS - time.time()
        if too_early > 0:
            raise ProviderUnavailable("too early", code="not_yet", retry_after=None if self.keeps_quiet else too_early)
        return tokens_of(user_id)


def tokens_of(user_id: str, *, life_left: float = LIFE_SECONDS) -> TokenSet:
    expires_at = time.time() + life_left
    return TokenSet(
        f"access {user_id} {expires_at}",
        refresh_token=f"refresh {user_id}",
        expires_at=expires_at,
        issued_at=expires_at - LIFE_SECONDS,
    )


@pytest.fixture
def late() -> LateProvider:
    return LateProvider()


@pytest.fixture
async def refresher(late: LateProvider, events: list[TokenEvent]) -> AsyncIterator[TokenRefresher]:
    async with TokenRefresher(late, on_event=events.append) as refresher:
        yield refresher


async def test_v9_the_present_token_is_served_and_renewed_as_soon_as_the_provider_allows(
    late: LateProvider, refresher: TokenRefresher, events: list[TokenEvent], clock: time_machine.Traveller
) -> None:
    present = tokens_of("alice", life_left=100)
    await refresher.save_tokens("alice", present)
    for _ in range(7):
        assert await refresher.get_valid_token("alice") == present
        clock.shift(10)
    renewed = await refresher.get_valid_token("alice")

    assert renewed.expires_at == NOW + 70 + LIFE_SECONDS
    assert late.asked == [("alice", 0), ("alice", 70)]
    assert [type(event) for event in events] == [RenewalFailed, TokenRenewed]


async def test_v9_no_other_user_waits(
    late: LateProvider, refresher: TokenRefresher, clock: time_machine.Traveller
) -> None:
    await refresher.save_tokens("alice", tokens_of("alice", life_left=100))
    await refresher.save_tokens("bob", tokens_of("bob", life_left=20))
    await refresher.get_valid_token("alice")

    assert (await refresher.get_valid_token("bob")).expires_at == NOW + LIFE_SECONDS


async def test_v9_a_provider_that_does_not_say_when_is_asked_again_after_a_pause_that_grows(
    late: LateProvider, refresher: TokenRefresher, clock: time_machine.Traveller
) -> None:
    late.keeps_quiet = True
    present = tokens_of("alice", life_left=100)
    await refresher.save_tokens("alice", present)
    for _ in range(60):
        assert await refresher.get_valid_token("alice") == present
        clock.shift(1)

    assert 3 <= len(late.asked) <= 9


async def test_v9_a_caller_who_needs_another_token_hears_why_there_is_none(
    late: LateProvider, refresher: TokenRefresher, clock: time_machine.Traveller
) -> None:
    present = tokens_of("alice", life_left=100)
    await refresher.save_tokens("alice", present)
    with pytest.raises(ProviderUnavailable) as caught:
        await refresher.get_valid_token("alice", rejected=present.access_token)

    assert (caught.value.code, caught.value.retry_after) == ("not_yet", 70)
