"""The five systems the library generalises: what each of them does, done here.

System A has a file of its own, `test_ensure_valid_token.py`; the files of system D are tested in
`stores/file/test_file_store.py`.
"""

import asyncio
import logging
from pathlib import Path

import httpx
import pytest
import time_machine
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.routing import Route

from kit.support import login
from tokenflight import (
    ClientSecretBasic,
    FileTokenStore,
    OIDCProvider,
    PublicClient,
    ReauthenticationRequired,
    RefreshPolicy,
    StoredTokens,
    TokenKey,
    TokenRefresher,
    TokenSet,
    TokenStore,
)
from tokenflight.httpx import BearerAuth
from tokenflight.testing import FakeProvider, OAuthError


async def test_system_b_data_routes_ask_before_each_call_and_the_callback_route_establishes_tokens(
    fake: FakeProvider, refresher: TokenRefresher
) -> None:
    async def callback(request: Request) -> JSONResponse:
        user_id = request.path_params["user_id"]
        await refresher.save_tokens(user_id, login(fake, user_id, life_left=-1))
        return JSONResponse({})

    async def accounts(request: Request) -> JSONResponse:
        try:
            tokens = await refresher.get_valid_token(request.path_params["user_id"])
        except ReauthenticationRequired as error:
            return JSONResponse({"login": error.reason}, status_code=401)
        return JSONResponse({"expires_at": tokens.expires_at})

    app = Starlette(routes=[Route("/callback/{user_id}", callback), Route("/accounts/{user_id}", accounts)])
    async with httpx.AsyncClient(transport=httpx.ASGITransport(app=app), base_url="http://app.example") as browser:
        assert (await browser.get("/accounts/alice")).json() == {"login": "no_tokens"}
        await browser.get("/callback/alice")
        assert fake.requests() == 0
        replies = await asyncio.gather(*(browser.get("/accounts/alice") for _ in range(8)))
    assert {reply.status_code for reply in replies} == {200}
    assert fake.requests() == 1


class TestSystemC:
    """A token refresher for a JMAP client."""

    @pytest.fixture
    def fake(self) -> FakeProvider:
        return FakeProvider(rotation="never", client_secret=None, client_id="jmap")

    @staticmethod
    def make_refresher(fake: FakeProvider, http: httpx.AsyncClient, store: TokenStore) -> TokenRefresher:
        """Its factory function: a line."""
        provider = OIDCProvider(fake.issuer, PublicClient("jmap"), http_client=http)
        return TokenRefresher(provider, store, policy=RefreshPolicy(expiry_buffer=60, refresh_ahead=0))

    async def test_system_c_one_shared_future_a_sixty_second_buffer_and_the_old_refresh_token_kept(
        self, fake: FakeProvider, http: httpx.AsyncClient, store: TokenStore, clock: time_machine.Traveller
    ) -> None:
        async with self.make_refresher(fake, http, store) as refresher:
            tokens = login(fake, "alice", life_left=61)
            await refresher.save_tokens("alice", tokens)
            assert await refresher.get_valid_token("alice") == tokens
            clock.shift(2)
            results = await asyncio.gather(*(refresher.get_valid_token("alice") for _ in range(10)))
        assert len({renewed.access_token for renewed in results}) == 1
        assert results[0].refresh_token == tokens.refresh_token
        assert fake.requests() == 1

    async def test_system_c_discovery_is_asked_for_once(
        self, fake: FakeProvider, http: httpx.AsyncClient, store: TokenStore
    ) -> None:
        async with self.make_refresher(fake, http, store) as refresher:
            for user_id in ("alice", "bob"):
                await refresher.save_tokens(user_id, login(fake, user_id))
            for _ in range(3):
                await asyncio.gather(refresher.refresh_token("alice"), refresher.refresh_token("bob"))
        assert fake.discoveries == 1
        assert fake.refreshes() == 6


class TestSystemD:
    """A token manager for scripts."""

    async def test_system_d_tokens_saved_by_one_run_of_a_script_are_there_for_the_next(
        self, fake: FakeProvider, provider: OIDCProvider, tmp_path: Path
    ) -> None:
        tokens = login(fake, "alice")
        async with TokenRefresher(provider, FileTokenStore(tmp_path)) as first_run:
            await first_run.save_tokens("alice", tokens)
        async with TokenRefresher(provider, FileTokenStore(tmp_path)) as second_run:
            assert await second_run.load_tokens("alice") == tokens
            assert await second_run.get_valid_token("alice") == tokens
            renewed = await second_run.refresh_token("alice")
        async with TokenRefresher(provider, FileTokenStore(tmp_path)) as third_run:
            assert await third_run.load_tokens("alice") == renewed

    @pytest.mark.parametrize("expiry", [{}, {"expires_at": "soon"}, {"expires_in": 3600}], ids=str)
    async def test_system_d_a_missing_or_malformed_expiry_counts_as_expired(
        self, fake: FakeProvider, refresher: TokenRefresher, store: TokenStore, provider: OIDCProvider, expiry: object
    ) -> None:
        assert isinstance(expiry, dict)
        grant = fake.login("alice")
        old = {"access_token": grant["access_token"], "refresh_token": grant["refresh_token"], **expiry}
        await store.save(TokenKey(provider.name, "alice"), StoredTokens(TokenSet.from_dict(old)))
        assert (await refresher.get_valid_token("alice")).access_token != grant["access_token"]
        assert fake.requests() == 1

    async def test_system_d_when_another_process_won_the_race_its_token_is_tried_once(
        self, fake: FakeProvider, provider: OIDCProvider, refresher: TokenRefresher, store: TokenStore
    ) -> None:
        await refresher.save_tokens("alice", login(fake, "alice", life_left=-1))
        fake.fail(OAuthError("invalid_grant"), times=1)
        with fake.hold() as gate:
            caller = asyncio.create_task(refresher.get_valid_token("alice"))
            await gate.reached()
            await store.save(TokenKey(provider.name, "alice"), StoredTokens(login(fake, "alice", life_left=-1)))
        assert (await caller).refresh_token == fake.current_refresh_token("alice")
        assert fake.requests() == 2

    async def test_system_d_the_error_has_the_providers_details(
        self, fake: FakeProvider, refresher: TokenRefresher
    ) -> None:
        await refresher.save_tokens("alice", login(fake, "alice", life_left=-1))
        fake.fail(OAuthError("invalid_grant", "the consent ended on Monday"))
        with pytest.raises(ReauthenticationRequired) as caught:
            await refresher.get_valid_token("alice")
        error = caught.value
        assert (error.user_id, error.provider) == ("alice", fake.issuer)
        assert (error.error, error.error_description) == ("invalid_grant", "the consent ended on Monday")

    async def test_system_d_logs_have_account_provider_and_outcome(
        self, fake: FakeProvider, refresher: TokenRefresher, caplog: pytest.LogCaptureFixture
    ) -> None:
        await refresher.save_tokens("alice", login(fake, "alice", life_left=-1))
        await refresher.get_valid_token("alice")
        (record,) = (record for record in caplog.records if record.name == "tokenflight")
        told = vars(record)
        assert (told["user_id"], told["provider"], told["outcome"]) == ("alice", fake.issuer, "renewed")
        assert told["duration"] >= 0
        assert record.levelno == logging.INFO


async def test_system_e_a_real_socket_a_file_store_and_an_httpx_client(fake: FakeProvider, tmp_path: Path) -> None:
    async with fake.serve() as issuer:
        provider = OIDCProvider(issuer, ClientSecretBasic("app", "s3cret"))
        async with TokenRefresher(provider, FileTokenStore(tmp_path)) as refresher:
            for user_id in ("alice", "bob"):
                await refresher.save_tokens(user_id, login(fake, user_id, life_left=-1))
            async with httpx.AsyncClient() as api:
                calls = [
                    api.get(fake.api_url, auth=BearerAuth(refresher, user_id))
                    for user_id in ("alice", "bob")
                    for _ in range(25)
                ]
                replies = await asyncio.gather(*calls)
    assert [reply.json()["user_id"] for reply in replies] == ["alice"] * 25 + ["bob"] * 25
    assert (fake.refreshes("alice"), fake.refreshes("bob"), fake.discoveries) == (1, 1, 1)
