"""Every recipe runs, the table of error codes agrees with the source, and no link between the pages is dead."""

import json
import os
import re
import subprocess
import sys
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any, Final
from urllib.parse import parse_qs

import httpx
import pytest
import respx
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.routing import Route

from kit.error_codes import ERRORS, codes_in_source
from kit.snippets import ROOT, Page
from kit.support import login
from tokenflight import (
    ClientSecretBasic,
    MemoryTokenStore,
    OIDCProvider,
    ReauthenticationRequired,
    TokenEvent,
    TokenflightError,
    TokenKey,
    TokenRefresher,
    TokenSet,
    TokenStore,
)
from tokenflight.testing import FakeProvider, RateLimited

RECIPES: Final = Page("docs/recipes.md")
DISCOVERY: Final = Page("docs/discovery.md")
run: Final = RECIPES.run
SWEEP: Final = ROOT / "examples" / "sweep.py"
ERRORS_PAGE: Final = Page("docs/errors.md")
PAGES: Final = ("README.md", *sorted(f"docs/{path.name}" for path in (ROOT / "docs").glob("*.md")))


async def test_errors_become_replies_on_all_routes(fake: FakeProvider, refresher: TokenRefresher) -> None:
    async def account(request: Request) -> JSONResponse:
        tokens = await refresher.get_valid_token(request.path_params["user_id"])
        return JSONResponse({"expires_at": tokens.expires_at})

    app = Starlette(routes=[Route("/{user_id}", account)])
    run("add_token_errors")["add_token_errors"](app)
    async with httpx.AsyncClient(transport=httpx.ASGITransport(app=app), base_url="http://app.example") as browser:
        nobody = await browser.get("/nobody")
        assert (nobody.status_code, nobody.json()) == (401, {"login": "/login", "reason": "no_tokens"})
        await refresher.save_tokens("alice", login(fake, "alice", life_left=-1))
        fake.fail(RateLimited(retry_after=30))
        alice = await browser.get("/alice")
        assert (alice.status_code, alice.headers["Retry-After"]) == (503, "30")


async def test_the_example_test_of_an_app() -> None:
    await run("test_my_app_backs_off")["test_my_app_backs_off"]()


@pytest.mark.filterwarnings("ignore:Using .httpx. with .starlette.testclient. is deprecated")
def test_the_example_test_of_a_web_app() -> None:
    run("create_app")["test_an_expired_token_is_renewed_once"]()


async def test_the_example_test_of_a_store_that_is_down() -> None:
    await run("test_a_renewal_survives_a_store_that_is_down")["test_a_renewal_survives_a_store_that_is_down"]()


async def test_the_example_test_of_a_vendors_replies() -> None:
    await run("test_my_app_gets_on_with_its_vendor")["test_my_app_gets_on_with_its_vendor"]()


async def test_rows_move_in_once(fake: FakeProvider, refresher: TokenRefresher) -> None:
    names = run("move_in")
    reply = fake.login("alice")
    expires_at = datetime.fromtimestamp(time.time() + 3600, tz=UTC)
    row = names["Row"]("alice", reply["access_token"], reply["refresh_token"], expires_at)
    await names["move_in"](refresher, [row])
    assert await refresher.load_tokens("alice") == TokenSet(
        reply["access_token"], refresh_token=reply["refresh_token"], expires_at=expires_at.timestamp()
    )
    renewed = await refresher.refresh_token("alice")
    await names["move_in"](refresher, [row])
    assert await refresher.load_tokens("alice") == renewed


async def test_the_tokens_of_another_program_move_in_once(
    fake: FakeProvider, refresher: TokenRefresher, tmp_path: Path
) -> None:
    configuration = tmp_path / "rclone.conf"
    token = json.dumps(fake.login("alice") | {"expiry": "2040-01-01T00:00:00Z"})
    configuration.write_text(f"[alice]\ntype = drive\ntoken = {token}\n", encoding="utf-8")
    move_in = run("move_in_from_rclone")["move_in_from_rclone"]
    await move_in(refresher, os.fspath(configuration))
    renewed = await refresher.refresh_token("alice")
    await move_in(refresher, os.fspath(configuration))
    assert await refresher.load_tokens("alice") == renewed


async def test_several_providers_share_a_store() -> None:
    store = MemoryTokenStore()
    refreshers: dict[str, TokenRefresher] = run("refreshers")["refreshers"](store)
    for name, refresher in refreshers.items():
        await refresher.save_tokens("alice", TokenSet(f"access token at {name}"))
    for name, refresher in refreshers.items():
        record = await store.load(TokenKey(name, "alice"))
        assert record is not None
        assert record.tokens.access_token == f"access token at {name}"
        await refresher.aclose()


async def test_each_vendor_with_quirks_is_asked_in_its_own_way(respx_mock: respx.MockRouter) -> None:
    issuer = "https://example.okta.com"
    respx_mock.get(f"{issuer}/.well-known/openid-configuration").respond(
        json={"issuer": issuer, "token_endpoint": f"{issuer}/oauth2/v1/token"}
    )
    tokens_at = {"intranet": "data"}
    providers: list[OIDCProvider] = run("vendors")["vendors"]("s3cret")
    for provider in providers:
        members: dict[str, object] = {"access_token": f"from {provider.name}"}
        reply = {tokens_at[provider.name]: members} if provider.name in tokens_at else members
        endpoint = respx_mock.post(path__regex="token|oauth").respond(json=reply)
        tokens = await provider.renew("alice", TokenSet("at", refresh_token="rt"))
        assert (tokens.access_token, endpoint.call_count) == (f"from {provider.name}", 1)
        await provider.aclose()
        endpoint.reset()
    assert [provider.name for provider in providers] == ["slack", "zoho", "reddit", "intranet", issuer]


async def test_a_new_issuer_orphans_records_without_a_name_and_refuses_those_with_one(fake: FakeProvider) -> None:
    async def code_after_the_move(name: str | None) -> str:
        store = MemoryTokenStore()
        async with moved(fake, store, "https://old.example", name) as refresher:
            await refresher.save_tokens("alice", login(fake, "alice", life_left=-1))
        async with moved(fake, store, "https://new.example", name) as refresher:
            with pytest.raises(TokenflightError) as caught:
                await refresher.get_valid_token("alice")
        return caught.value.code

    assert await code_after_the_move(None) == "no_tokens"
    assert await code_after_the_move("idp") == "issuer_mismatch"
    assert fake.requests() == 0


async def test_a_logout_is_told_to_the_provider(fake: FakeProvider, refresher: TokenRefresher) -> None:
    revoked: list[str] = []

    def revoke(request: httpx.Request) -> httpx.Response:
        form = parse_qs(request.content.decode())
        assert form["token_type_hint"] == ["refresh_token"]
        assert request.headers["Authorization"].startswith("Basic ")
        revoked.extend(form["token"])
        return httpx.Response(200)

    log_out = run("log_out")["log_out"]
    await refresher.save_tokens("alice", login(fake, "alice"))
    async with httpx.AsyncClient(transport=httpx.MockTransport(revoke)) as http:
        await log_out(refresher, http, "alice")
        assert await refresher.load_tokens("alice") is None
        await log_out(refresher, http, "alice")
    assert revoked == [fake.current_refresh_token("alice")]


async def test_events_are_counted(fake: FakeProvider, provider: OIDCProvider) -> None:
    names = run("count")
    async with TokenRefresher(provider, on_event=names["count"]) as refresher:
        await refresher.save_tokens("alice", login(fake, "alice"))
        await refresher.refresh_token("alice")
        fake.revoke("alice")
        with pytest.raises(ReauthenticationRequired):
            await refresher.refresh_token("alice")
    assert names["outcomes"] == {(provider.name, "renewed", ""): 1, (provider.name, "failed", "refused"): 1}


def test_the_table_of_outcomes_has_each_one() -> None:
    outcomes = {kind.outcome for kind in TokenEvent.__subclasses__()}
    assert set(re.findall(r"^\| `(\w+)` \| [^|]+ \|$", RECIPES.text, re.MULTILINE)) == outcomes


@pytest.mark.parametrize(
    ("directory", "client_id", "complaint"),
    [("nowhere", "app", "nowhere is no directory"), (".", "", "CLIENT_ID is not set")],
)
def test_the_sweep_example_tells_what_it_lacks(tmp_path: Path, directory: str, client_id: str, complaint: str) -> None:
    outcome = subprocess.run(
        [sys.executable, "-W", "error", os.fspath(SWEEP), os.fspath(tmp_path / directory), "https://idp.example"],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "CLIENT_ID": client_id},
    )
    assert outcome.returncode == 2
    assert complaint in outcome.stderr


async def test_each_server_apart_from_its_issuer_is_asked_where_its_metadata_is(respx_mock: respx.MockRouter) -> None:
    providers: list[OIDCProvider] = DISCOVERY.run("providers")["providers"]("s3cret")
    for provider in providers:
        endpoint = f"http://keycloak/token/{provider.name}" if provider.name == "keycloak" else "https://idp.example/"
        document = respx_mock.get(path__regex=r"/\.well-known/openid-configuration$").respond(
            json={"issuer": provider.issuer, "token_endpoint": endpoint}
        )
        respx_mock.post(endpoint).respond(json={"access_token": f"from {provider.name}"})
        tokens = await provider.renew("alice", TokenSet("at", refresh_token="rt"))
        assert (tokens.access_token, document.call_count) == (f"from {provider.name}", 1)
        await provider.aclose()
        respx_mock.clear()
    assert [provider.name for provider in providers] == ["entra", "b2c", "keycloak"]


@pytest.mark.parametrize("page", [RECIPES, DISCOVERY], ids=lambda page: page.name)
def test_every_recipe_has_a_test_here(page: Page) -> None:
    assert page.snippets_not_run_in(__file__) == []


def test_the_error_table_has_each_error() -> None:
    rows = set(re.findall(r"^\| [│├└ ]*`(\w+)` \|", ERRORS_PAGE.text, re.MULTILINE))
    assert ERRORS.keys() <= rows


def test_the_table_of_error_codes_is_that_of_the_source() -> None:
    rows = re.findall(r"^\| `([\w<>]+)` \| `(\w+)` \|", ERRORS_PAGE.text, re.MULTILINE)
    assert len(rows) == len(set(rows))
    assert {(error, code) for code, error in rows} == codes_in_source()


@pytest.mark.parametrize("page", PAGES)
def test_links_within_the_repository_lead_somewhere(page: str) -> None:
    folder = (ROOT / page).parent
    links = re.findall(r"\]\((?!https?:)([^)#]*)(?:#([^)]*))?\)", (ROOT / page).read_text(encoding="utf-8"))
    for path, heading in links:
        target = (folder / path) if path else ROOT / page
        assert target.exists(), path
        assert not heading or heading in headings_of(target.read_text(encoding="utf-8")), heading


def test_the_changelog_begins_with_what_is_not_released_and_then_this_version() -> None:
    changelog = (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
    versions = re.findall(r"^## \[(.+?)\]", changelog, re.MULTILINE)
    assert versions[:2] == ["Unreleased", version("tokenflight")]


@asynccontextmanager
async def moved(fake: FakeProvider, store: TokenStore, issuer: str, name: str | None) -> AsyncIterator[TokenRefresher]:
    """A refresher for the provider as it is called after a move, or before."""
    options: dict[str, Any] = {"name": name, "http_client": fake.client()}
    async with TokenRefresher(OIDCProvider(issuer, ClientSecretBasic("app", "s3cret"), **options), store) as refresher:
        yield refresher


def headings_of(markdown: str) -> set[str]:
    """The headings of a page, as links name them."""
    headings = re.findall(r"^#+ (.+)$", markdown, re.MULTILINE)
    return {re.sub(r"[^\w -]", "", heading).strip().lower().replace(" ", "-") for heading in headings}
