"""K5: after a logout, no process takes an older token set for a login."""

import asyncio
import time
from dataclasses import replace

import pytest

from kit.support import login
from tokenflight import (
    OIDCProvider,
    ReauthenticationRequired,
    StoredTokens,
    TokenKey,
    TokenRefresher,
    TokenStore,
)
from tokenflight.testing import FakeProvider


async def test_k5_a_row_that_a_logout_elsewhere_has_ended_is_not_sent_and_logs_nobody_in(
    fake: FakeProvider, provider: OIDCProvider, store: TokenStore
) -> None:
    async with TokenRefresher(provider, store) as here, TokenRefresher(provider, store) as there:
        row = login(fake, "alice", life_left=60)
        await here.save_tokens("alice", row)
        await here.delete_tokens("alice")
        with pytest.raises(ReauthenticationRequired) as caught:
            await there.ensure_valid_token("alice", row)
        assert caught.value.reason == "logged_out"
        assert "alice" in str(caught.value)
        assert fake.requests() == 0
        assert await here.load_tokens("alice") is None


async def test_k5_a_row_from_before_the_last_renewal_is_not_sent_after_a_logout_elsewhere(
    fake: FakeProvider, provider: OIDCProvider, store: TokenStore
) -> None:
    async with TokenRefresher(provider, store) as here, TokenRefresher(provider, store) as there:
        row = login(fake, "alice", life_left=-1)
        await here.save_tokens("alice", row)
        await here.get_valid_token("alice")
        await here.delete_tokens("alice")
        sent = fake.requests()
        with pytest.raises(ReauthenticationRequired) as caught:
            await there.ensure_valid_token("alice", row)
        assert caught.value.reason == "logged_out"
        assert fake.requests() == sent


async def test_k5_the_row_of_a_login_after_the_logout_is_renewed(
    fake: FakeProvider, provider: OIDCProvider, store: TokenStore
) -> None:
    async with TokenRefresher(provider, store) as here, TokenRefresher(provider, store) as there:
        await here.save_tokens("alice", login(fake, "alice", life_left=60))
        await here.delete_tokens("alice")
        row = replace(login(fake, "alice"), issued_at=time.time(), expires_at=time.time())
        result = await there.ensure_valid_token("alice", row)
        assert result.should_update
        assert fake.requests() == 1


async def test_k5_a_first_renewal_without_a_record_does_not_overwrite_a_login(
    fake: FakeProvider, provider: OIDCProvider, store: TokenStore
) -> None:
    of_the_login = login(fake, "alice")
    key = TokenKey(provider.name, "alice")
    async with TokenRefresher(provider, store) as here:
        row = login(fake, "alice", life_left=-1)
        with fake.hold() as gate:
            caller = asyncio.create_task(here.ensure_valid_token("alice", row))
            await gate.reached()
            await store.save(key, StoredTokens(of_the_login))
        result = await caller
        assert result.tokens == of_the_login
        record = await store.load(key)
        assert record is not None
        assert record.tokens == of_the_login
