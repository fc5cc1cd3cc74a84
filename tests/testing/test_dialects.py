"""What the library makes of vendors' dialects, from the fake provider to the caller."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
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
from tokenflight.testing import FakeProvider, ReplyForm, VendorError, dialects


@asynccontextmanager
async def refresher_at(fake: FakeProvider, **settings: Any) -> AsyncIterator[TokenRefresher]:
    async with fake.client() as http:
        provider = OIDCProvider(fake.issuer, ClientSecretBasic("app", "s3cret"), http_client=http, **settings)
        async with TokenRefresher(provider) as refresher:
            yield refresher


@pytest.mark.parametrize(
    ("form", "settings"),
    [
        (dialects.SLACK_BOT, {}),
        (dialects.SLACK_USER, {"profile": "slack_user"}),
        (dialects.WITHINGS, {"profile": "withings"}),
        (dialects.EBAY, {}),
        (dialects.ZOHO, {}),
        (dialects.ENTRA_V1, {}),
        (dialects.QUICKBOOKS, {}),
        (dialects.GITHUB, {}),
        (dialects.GZIP, {}),
        (dialects.DEFLATE, {}),
        (dialects.RAW_DEFLATE, {}),
        (dialects.IDENTITY_IN_CAPITALS, {}),
        (dialects.BYTE_ORDER_MARK, {}),
        (dialects.UTF_16, {}),
        (dialects.LATIN_1, {}),
        (dialects.FORM_ENCODED, {}),
        (dialects.CAMEL_CASE, {}),
        (dialects.NO_TOKEN_TYPE, {}),
        (dialects.TOKEN_TYPE_N_A, {}),
        (dialects.EXPIRY_AS_TEXT, {}),
        (dialects.EXPIRY_AS_DATE, {}),
        (dialects.NEWLINE_AFTER_TOKENS, {}),
        (dialects.REPEATED_MEMBER, {}),
    ],
    ids=repr,
)
async def test_v1_v2_a_reply_in_a_dialect_serves_the_caller(
    clock: time_machine.Traveller, form: ReplyForm, settings: dict[str, Any]
) -> None:
    fake = FakeProvider(reply_form=form)
    async with refresher_at(fake, **settings) as refresher, fake.client() as http:
        await refresher.save_tokens("alice", login(fake, "alice", life_left=-1))
        for renewals in (1, 2):
            tokens = await refresher.refresh_token("alice")
            assert (tokens.lifetime, tokens.refresh_token) == (3600, fake.current_refresh_token("alice"))
            assert fake.refreshes("alice") == renewals
            headers = {"Authorization": f"{tokens.token_type} {tokens.access_token}"}
            assert (await http.get(fake.api_url, headers=headers)).json()["user_id"] == "alice"


@pytest.mark.parametrize(
    ("error", "settings"),
    [
        (dialects.GITHUB_REFUSAL, {}),
        (dialects.SLACK_REFUSAL, {}),
        (dialects.ZOHO_REFUSAL, {"profile": "zoho"}),
        (dialects.FITBIT_REFUSAL, {}),
        (dialects.STRAVA_REFUSAL, {}),
        (dialects.HUBSPOT_REFUSAL, {}),
        (dialects.ATLASSIAN_REFUSAL, {}),
        (dialects.NESTED_REFUSAL, {}),
        (dialects.GOOGLE_SESSION_CONTROL, {}),
    ],
    ids=repr,
)
async def test_v3_a_refusal_in_a_dialect_sends_the_user_through_login(
    error: VendorError, settings: dict[str, Any]
) -> None:
    fake = FakeProvider()
    async with refresher_at(fake, **settings) as refresher:
        await refresher.save_tokens("alice", login(fake, "alice", life_left=-1))
        fake.fail(error)
        for _ in range(2):
            with pytest.raises(ReauthenticationRequired):
                await refresher.get_valid_token("alice")
    assert fake.requests() == 1


@pytest.mark.parametrize(
    ("error", "pause"),
    [(dialects.SLACK_RATE_LIMIT, 20), (dialects.FACEBOOK_TRANSIENT, None)],
    ids=repr,
)
async def test_v6_a_passing_error_in_a_dialect_costs_nothing_but_time(
    clock: time_machine.Traveller, error: VendorError, pause: float | None
) -> None:
    fake = FakeProvider()
    async with refresher_at(fake) as refresher:
        await refresher.save_tokens("alice", login(fake, "alice", life_left=-1))
        fake.fail(error, times=1)
        with pytest.raises(ProviderUnavailable) as caught:
            await refresher.get_valid_token("alice")
        assert caught.value.retry_after == pause
        clock.shift(60)
        assert (await refresher.get_valid_token("alice")).refresh_token == fake.current_refresh_token("alice")


async def test_a_provider_that_finds_a_renewal_too_early_leaves_the_caller_with_the_token_at_hand(
    clock: time_machine.Traveller,
) -> None:
    fake = FakeProvider()
    async with refresher_at(fake, profile="exact_online") as refresher:
        tokens = login(fake, "alice", life_left=60)
        await refresher.save_tokens("alice", tokens)
        fake.fail(dialects.EXACT_ONLINE_TOO_EARLY, times=1)
        assert (await refresher.get_valid_token("alice")).access_token == tokens.access_token
