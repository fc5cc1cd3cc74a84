"""Every snippet of the guide and of the page about stores runs, and the table of the policy tells the truth."""

import dataclasses
import inspect
import json
import re
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any, Final

import httpx
import pytest
import respx
from sqlalchemy.ext.asyncio import create_async_engine

from kit.snippets import Page
from kit.support import login
from tokenflight import (
    MemoryTokenStore,
    OAuth2Provider,
    RefreshPolicy,
    StoredTokens,
    TokenKey,
    TokenRefresher,
    TokenSet,
    TokenStore,
)
from tokenflight.providers import BaseProvider
from tokenflight.stores.codec import encode_record
from tokenflight.stores.encryption import new_key
from tokenflight.testing import FakeProvider, RateLimited

GUIDE: Final = Page("docs/guide.md")
STORES: Final = Page("docs/stores.md")


@pytest.fixture
async def issuer(fake: FakeProvider) -> AsyncIterator[str]:
    async with fake.serve() as base_url:
        yield base_url


async def test_the_example_of_a_caller_that_keeps_token_sets_itself(
    fake: FakeProvider, refresher: TokenRefresher
) -> None:
    row = {"user_id": "alice", "tokens": login(fake, "alice", life_left=-1).to_dict()}
    access_token = await GUIDE.run("token_for")["token_for"](refresher, row)
    assert TokenSet.from_dict(row["tokens"]).access_token == access_token  # type: ignore[arg-type] # a dict by now


async def test_the_web_app(fake: FakeProvider, issuer: str, tmp_path: Path) -> None:
    names = GUIDE.run("lifespan", issuer=issuer, directory=tmp_path)
    app = names["app"]
    async with app.router.lifespan_context(app) as state:
        await state["refresher"].save_tokens("alice", login(fake, "alice", life_left=-1))

        async def with_state(scope: Any, receive: Any, send: Any) -> None:
            await app({**scope, "state": dict(state)}, receive, send)

        transport = httpx.ASGITransport(app=with_state)
        async with httpx.AsyncClient(transport=transport, base_url="http://app.example") as browser:
            assert (await browser.get("/accounts/alice")).status_code == 200
            assert (await browser.get("/accounts/nobody")).status_code == 401
            await state["refresher"].save_tokens("bob", login(fake, "bob", life_left=-1))
            fake.fail(RateLimited(retry_after=30))
            unavailable = await browser.get("/accounts/bob")
            assert (unavailable.status_code, unavailable.headers["Retry-After"]) == (503, "30")
    assert fake.refreshes("alice") == 1


async def test_system_b_the_cron_job_goes_on_after_one_users_failure(
    fake: FakeProvider, refresher: TokenRefresher, capsys: pytest.CaptureFixture[str]
) -> None:
    for user_id in ("alice", "bob", "carol"):
        await refresher.save_tokens(user_id, login(fake, user_id, life_left=-1))
    fake.revoke("bob")
    assert await GUIDE.run("keep_alive")["keep_alive"](refresher) == ["bob"]
    assert "3 users, 2 renewed" in capsys.readouterr().out


async def test_a_provider_without_refresh_tokens(fake: FakeProvider, issuer: str) -> None:
    async with httpx.AsyncClient() as http:
        provider = GUIDE.run("ClientCredentials", issuer=issuer)["ClientCredentials"](http)
        async with TokenRefresher(provider) as refresher:
            tokens = await refresher.get_valid_token("alice")
            assert await refresher.get_valid_token("alice") == tokens
            again = await refresher.get_valid_token("alice", rejected=tokens.access_token)
        reply = await http.get(fake.api_url, headers={"Authorization": f"Bearer {again.access_token}"})
    assert reply.json()["user_id"] == "alice"
    assert again.access_token != tokens.access_token
    assert fake.requests() == 2


async def test_stores_that_several_hosts_share(tmp_path: Path) -> None:
    names = STORES.run("sql_store")
    assert repr(names["redis_store"]([new_key()])) == "<RedisTokenStore 'tokenflight'>"
    engine = create_async_engine(f"sqlite+aiosqlite:///{tmp_path / 'app.db'}")
    store = await names["sql_store"](engine)
    key = TokenKey("idp", "alice")
    await store.save(key, StoredTokens(TokenSet("access")))
    assert (await store.load(key)).tokens == TokenSet("access")
    await engine.dispose()


async def test_encrypted_records_and_a_change_of_the_key(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    names = STORES.run("change_the_key", directory=tmp_path / "tokens")
    old, new = new_key(), new_key()
    key = TokenKey("idp", "alice")
    monkeypatch.setenv("TOKEN_KEYS", old)
    await names["encrypted_store"]().save(key, StoredTokens(TokenSet("access")))
    monkeypatch.setenv("TOKEN_KEYS", new)
    assert await names["change_the_key"]() == {"alice": "unknown_key"}
    monkeypatch.setenv("TOKEN_KEYS", f"{new} {old}")
    assert await names["change_the_key"]() == {}
    monkeypatch.setenv("TOKEN_KEYS", new)
    assert (await names["encrypted_store"]().load(key)).tokens == TokenSet("access")


async def test_the_conformance_suite_of_a_store() -> None:
    suite = STORES.run("TestMyStore")["TestMyStore"]
    tests = [name for name, _ in inspect.getmembers(suite, inspect.iscoroutinefunction) if name.startswith("test_")]
    assert len(tests) > 20
    for name in tests:
        conformance = suite()
        conformance.store = MemoryTokenStore()
        await getattr(conformance, name)()


async def test_a_client_authentication_of_ones_own(fake: FakeProvider, respx_mock: respx.MockRouter) -> None:
    route = respx_mock.post("https://idp.example/token").respond(json=fake.login("alice"))
    client = GUIDE.run("APIKey")["APIKey"]("app", "s3cret")
    provider = OAuth2Provider("https://idp.example/token", client, name="idp")
    await provider.renew("alice", TokenSet("access", refresh_token="refresh"))
    request = route.calls.last.request
    assert request.headers["X-API-Key"] == "s3cret"
    assert b"client_id=app" in request.content
    assert "s3cret" not in repr(client)
    await provider.aclose()


def test_the_policy_table_has_each_field_and_its_default() -> None:
    text = Page("docs/renewal.md").text
    rows = dict(re.findall(r"^\| `(\w+)` \| ([\d.,]+) \|", text, re.MULTILINE))
    defaults = {field.name: field.default for field in dataclasses.fields(RefreshPolicy)}
    assert {name: float(value.replace(",", "")) for name, value in rows.items()} == defaults


def test_the_table_of_a_provider_has_each_member_of_the_base_class() -> None:
    rows = re.findall(r"^\| (`\w+`(?:, `\w+`)*) \| [^|]+ \| [^|]+ \|$", GUIDE.text, re.MULTILINE)
    members = {name for name in vars(BaseProvider) if name[0] != "_"}
    assert {name.strip("`") for row in rows for name in row.split(", ")} == members


def test_the_table_of_a_store_has_each_method_of_the_contract() -> None:
    rows = set(re.findall(r"^\| `(\w+)\([^|]*\)` \| [^|]+ \|$", STORES.text, re.MULTILINE))
    assert rows == {name for name in vars(TokenStore) if name[0] != "_"}


def test_the_table_of_a_record_has_each_member() -> None:
    record = json.loads(encode_record(TokenKey("idp", "alice"), StoredTokens(TokenSet("access"))))
    rows = re.findall(r"^\| (`\w+`(?:, `\w+`)*) \| [^|]+ \|$", STORES.text, re.MULTILINE)
    assert {name.strip("`") for row in rows for name in row.split(", ")} == record.keys()


@pytest.mark.parametrize("page", [GUIDE, STORES], ids=lambda page: page.name)
def test_every_snippet_has_a_test_here(page: Page) -> None:
    assert page.snippets_not_run_in(__file__) == []
