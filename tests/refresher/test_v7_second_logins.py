"""V7: a second login whose reply has no refresh token keeps the first one's."""

import asyncio
import base64
import json
import logging
from pathlib import Path

import pytest

from kit.support import NOW, let_others_run, login
from tokenflight import FileTokenStore, OIDCProvider, StoredTokens, TokenKey, TokenRefresher, TokenSet, TokenStore
from tokenflight.testing import FakeProvider


def id_token(subject: str) -> str:
    parts = ({"alg": "none"}, {"sub": subject, "iss": "https://idp.example"})
    return ".".join(base64.urlsafe_b64encode(json.dumps(part).encode()).decode().rstrip("=") for part in parts) + ".x"


def second_login(id_token: str | None = None) -> TokenSet:
    return TokenSet("second", expires_at=NOW * 2, id_token=id_token)


async def test_v7_the_refresh_token_of_the_first_login_is_kept(fake: FakeProvider, refresher: TokenRefresher) -> None:
    first = login(fake, "alice")
    await refresher.save_tokens("alice", first)
    await refresher.save_tokens("alice", second_login())

    tokens = await refresher.get_valid_token("alice")
    assert (tokens.access_token, tokens.refresh_token) == ("second", first.refresh_token)
    assert await refresher.load_tokens("alice") == tokens
    assert (await refresher.refresh_token("alice")).refresh_token == fake.current_refresh_token("alice")


async def test_v7_it_is_kept_where_the_id_tokens_name_the_same_user_and_not_where_they_name_two(
    refresher: TokenRefresher,
) -> None:
    for subject, kept in (("alice", "first"), ("mallory", None)):
        await refresher.save_tokens("alice", TokenSet("at", refresh_token="first", id_token=id_token("alice")))
        await refresher.save_tokens("alice", second_login(id_token=id_token(subject)))
        tokens = await refresher.load_tokens("alice")
        assert tokens is not None
        assert tokens.refresh_token == kept


async def test_v7_a_refresh_token_that_was_refused_is_not_kept(
    fake: FakeProvider, refresher: TokenRefresher, store: TokenStore
) -> None:
    key = TokenKey(fake.issuer, "alice")
    await store.save(key, StoredTokens(login(fake, "alice"), refused=True))
    await refresher.save_tokens("alice", second_login())
    record = await store.load(key)
    assert record is not None
    assert (record.tokens.refresh_token, record.refused) == (None, False)


async def test_v7_a_login_without_a_refresh_token_where_none_is_stored_is_a_warning(
    refresher: TokenRefresher, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.WARNING)
    await refresher.save_tokens("alice", second_login())
    assert "brought no refresh token" in caplog.text


async def test_v7_a_renewal_under_way_loses_no_rotated_refresh_token_to_a_login_that_brings_none(
    fake: FakeProvider, refresher: TokenRefresher
) -> None:
    await refresher.save_tokens("alice", login(fake, "alice", life_left=-1))
    with fake.hold() as gate:
        caller = asyncio.create_task(refresher.get_valid_token("alice"))
        await gate.reached()
        saving = asyncio.create_task(refresher.save_tokens("alice", second_login()))
        await let_others_run()
    await asyncio.gather(caller, saving)

    tokens = await refresher.load_tokens("alice")
    assert tokens is not None
    assert (tokens.access_token, tokens.refresh_token) == ("second", fake.current_refresh_token("alice"))


async def test_v7_p4_a_login_still_overwrites_a_damaged_record(
    fake: FakeProvider, provider: OIDCProvider, tmp_path: Path
) -> None:
    async with TokenRefresher(provider, FileTokenStore(tmp_path / "tokens")) as refresher:
        await refresher.save_tokens("alice", login(fake, "alice"))
        [record] = (tmp_path / "tokens").rglob("alice.json")
        record.write_bytes(b"{")
        await refresher.save_tokens("alice", second_login())
        assert await refresher.load_tokens("alice") == second_login()
