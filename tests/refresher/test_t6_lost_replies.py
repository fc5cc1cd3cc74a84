"""T6: a reply that was lost after the provider acted, at vendors that forgive a second use and at those that do not."""

from typing import Any

import pytest
import time_machine

from kit.support import login
from tokenflight import (
    ClientSecretBasic,
    OIDCProvider,
    ProviderUnavailable,
    ReauthenticationRequired,
    TokenRefresher,
)
from tokenflight.profiles import Profile
from tokenflight.testing import DropReply, FakeProvider

FORGIVING: dict[str, tuple[dict[str, Any], Profile]] = {
    "never rotates": ({"rotation": "never"}, Profile(name="never", rotation="never")),
    "keeps the previous one": ({"rotation": "keeps_previous"}, Profile(name="keeps", rotation="keeps_previous")),
    "has a grace period": ({"grace": 30.0}, Profile(name="grace", rotation="always", grace=30.0)),
}


def provider_at(fake: FakeProvider, http: Any, profile: Profile | None) -> OIDCProvider:
    return OIDCProvider(fake.issuer, ClientSecretBasic("app", "s3cret"), http_client=http, profile=profile)


@pytest.mark.parametrize(("settings", "profile"), FORGIVING.values(), ids=FORGIVING)
async def test_t6_a_lost_reply_costs_nothing_where_the_vendor_forgives(
    settings: dict[str, Any], profile: Profile, clock: time_machine.Traveller
) -> None:
    fake = FakeProvider(**settings)
    async with fake.client() as http, TokenRefresher(provider_at(fake, http, profile)) as refresher:
        await refresher.save_tokens("alice", login(fake, "alice", life_left=-1))
        fake.fail(DropReply(), times=1)
        tokens = await refresher.get_valid_token("alice")

        assert tokens.refresh_token == fake.current_refresh_token("alice")
        assert fake.requests() == 2


async def test_t6_a_lost_reply_is_left_alone_where_a_second_use_revokes_the_grant(
    fake: FakeProvider, clock: time_machine.Traveller
) -> None:
    async with fake.client() as http, TokenRefresher(provider_at(fake, http, None)) as refresher:
        await refresher.save_tokens("alice", login(fake, "alice", life_left=-1))
        fake.fail(DropReply(), times=1)
        with pytest.raises(ProviderUnavailable) as caught:
            await refresher.get_valid_token("alice")
        assert (caught.value.code, fake.requests()) == ("outcome_unknown", 1)

        clock.shift(5)
        with pytest.raises(ReauthenticationRequired):
            await refresher.get_valid_token("alice")
