"""V4: how long a renewed token set counts as fresh whose provider says nothing about its life."""

import time_machine

from tokenflight import TokenRefresher, TokenSet


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
