"""R10, R11: whatever a provider or its configuration turns into, a refresh token goes only where it came from."""

import asyncio
import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx
import pytest
import time_machine

from kit.support import login
from tokenflight import (
    ClientSecretBasic,
    FileTokenStore,
    OAuth2Provider,
    OIDCProvider,
    ProviderMisconfigured,
    ProviderUnavailable,
    ReauthenticationRequired,
    StoredTokens,
    TokenKey,
    TokenRefresher,
    TokenRefreshError,
    TokenSet,
    TokenStore,
)
from tokenflight.providers.base import Provider
from tokenflight.providers.discovery import COOL_DOWN_SECONDS, MAX_AGE_SECONDS
from tokenflight.testing import (
    FakeProvider,
    Fault,
    GarbageReply,
    HTMLReply,
    RateLimited,
    Redirect,
    ServerError,
    WrongIssuer,
)

CLIENT = ClientSecretBasic("app", "s3cret")


class Internet(httpx.AsyncBaseTransport):
    """Hosts that are providers, all others out of reach; it notes which URLs were given a refresh token."""

    def __init__(self) -> None:
        self.hosts: dict[str, FakeProvider] = {}
        self.given_refresh_tokens: list[str] = []

    def provider_at(self, *hosts: str) -> FakeProvider:
        """A new provider, reached at all `hosts` and named after the first."""
        fake = FakeProvider(issuer=f"https://{hosts[0]}")
        self.hosts |= dict.fromkeys(hosts, fake)
        return fake

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        if b"refresh_token" in await request.aread():
            self.given_refresh_tokens.append(str(request.url))
        if request.url.host not in self.hosts:
            raise httpx.ConnectError("no such host")
        return await httpx.ASGITransport(app=self.hosts[request.url.host]).handle_async_request(request)


@pytest.fixture
def internet() -> Internet:
    return Internet()


@pytest.fixture
async def http(internet: Internet) -> AsyncIterator[httpx.AsyncClient]:
    async with httpx.AsyncClient(transport=internet) as client:
        yield client


@pytest.fixture
def fake(internet: Internet) -> FakeProvider:
    return internet.provider_at("idp.example", "login.idp.example")


@pytest.fixture
async def store(tmp_path: Path) -> AsyncIterator[TokenStore]:
    store = FileTokenStore(tmp_path)
    yield store
    await store.aclose()


def document(fake: FakeProvider, **changes: object) -> GarbageReply:
    """A discovery document of `fake` with `changes`."""
    members = {"issuer": fake.issuer, "token_endpoint": fake.token_endpoint, "jwks_uri": f"{fake.issuer}/jwks"}
    return GarbageReply(json.dumps(members | changes).encode())


async def record_of(store: TokenStore, provider: Provider, user_id: str = "alice") -> StoredTokens:
    record = await store.load(TokenKey(provider.name, user_id))
    assert record is not None
    return record


async def failure_of(refresher: TokenRefresher, user_id: str = "alice") -> TokenRefreshError:
    with pytest.raises(TokenRefreshError) as caught:
        await refresher.get_valid_token(user_id)
    return caught.value


class TestDiscovery:
    """The server says something else about itself."""

    async def test_r10_a_token_endpoint_that_moved_is_used_once_the_document_is_a_day_old(
        self, fake: FakeProvider, internet: Internet, refresher: TokenRefresher, clock: time_machine.Traveller
    ) -> None:
        await refresher.save_tokens("alice", login(fake, "alice", life_left=-1))
        await refresher.refresh_token("alice")
        fake.fail(document(fake, token_endpoint="https://login.idp.example/token"), endpoint="discovery")
        clock.shift(MAX_AGE_SECONDS - 1)
        await refresher.refresh_token("alice")
        clock.shift(1)
        renewed = await refresher.refresh_token("alice")
        assert renewed.refresh_token == fake.current_refresh_token("alice")
        old = "https://idp.example/token"
        assert internet.given_refresh_tokens == [old, old, "https://login.idp.example/token"]

    async def test_v10_a_token_endpoint_that_is_gone_is_found_again_within_the_same_flight(
        self, fake: FakeProvider, internet: Internet, refresher: TokenRefresher
    ) -> None:
        await refresher.save_tokens("alice", login(fake, "alice", life_left=-1))
        await refresher.refresh_token("alice")
        fake.fail(document(fake, token_endpoint="https://login.idp.example/token"), endpoint="discovery")
        fake.fail(ServerError(404), times=1)
        results = await asyncio.gather(*(refresher.refresh_token("alice") for _ in range(100)))
        assert {tokens.refresh_token for tokens in results} == {fake.current_refresh_token("alice")}
        old = "https://idp.example/token"
        assert internet.given_refresh_tokens == [old, old, "https://login.idp.example/token"]
        assert (fake.refreshes("alice"), fake.reuses("alice")) == (2, 0)

    @pytest.mark.parametrize(
        "changes",
        [
            {"token_endpoint": "http://login.idp.example/token"},
            {"token_endpoint": "http://127.0.0.1.evil.example/token"},
            {"token_endpoint": None},
            {"issuer": "https://evil.example", "token_endpoint": "https://evil.example/token"},
            {"issuer": "https://idp.example/", "token_endpoint": "https://evil.example/token"},
            {"issuer": None},
        ],
        ids=str,
    )
    async def test_r11_a_document_that_turned_bad_sends_no_refresh_token_anywhere_new(
        self,
        fake: FakeProvider,
        internet: Internet,
        refresher: TokenRefresher,
        clock: time_machine.Traveller,
        changes: dict[str, Any],
    ) -> None:
        internet.provider_at("evil.example", "127.0.0.1.evil.example")
        await refresher.save_tokens("alice", login(fake, "alice", life_left=-1))
        await refresher.get_valid_token("alice")
        fake.fail(document(fake, **changes), endpoint="discovery")
        for _ in range(3):
            clock.shift(MAX_AGE_SECONDS)
            renewed = await refresher.get_valid_token("alice")  # by the document from before
            assert renewed.refresh_token == fake.current_refresh_token("alice")
        assert fake.discoveries == 4
        assert set(internet.given_refresh_tokens) == {"https://idp.example/token"}

    @pytest.mark.parametrize(
        ("fault", "code"),
        [
            (WrongIssuer("https://evil.example"), "issuer_mismatch"),
            (WrongIssuer("https://idp.example/"), "issuer_mismatch"),
            (WrongIssuer("https://IDP.example"), "issuer_mismatch"),
            (Redirect("https://evil.example/.well-known/openid-configuration"), "discovery_failed"),
            (
                GarbageReply(b'{"issuer": "https://idp.example", "token_endpoint": "http://a.example"}'),
                "insecure_endpoint",
            ),
            (ServerError(404), "discovery_failed"),
        ],
        ids=repr,
    )
    async def test_r11_a_server_that_is_another_one_after_a_restart_gets_nothing_and_changes_nothing(
        self,
        fake: FakeProvider,
        internet: Internet,
        http: httpx.AsyncClient,
        store: TokenStore,
        clock: time_machine.Traveller,
        fault: Fault,
        code: str,
    ) -> None:
        internet.provider_at("evil.example")
        provider = OIDCProvider(fake.issuer, CLIENT, http_client=http)
        async with TokenRefresher(provider, store) as before:
            await before.save_tokens("alice", login(fake, "alice", life_left=-1))
        record = await record_of(store, provider)
        fake.fail(fault, endpoint="discovery")
        restarted = OIDCProvider(fake.issuer, CLIENT, http_client=http)
        async with TokenRefresher(restarted, store) as refresher:
            error = await failure_of(refresher)
            assert (type(error), error.code, error.user_id) == (ProviderMisconfigured, code, "alice")
            assert await record_of(store, provider) == record
            assert internet.given_refresh_tokens == []
            fake.recover()
            clock.shift(COOL_DOWN_SECONDS)
            assert (await refresher.get_valid_token("alice")).access_token
        assert internet.given_refresh_tokens == ["https://idp.example/token"]

    @pytest.mark.parametrize("fault", [ServerError(404), ServerError(503), RateLimited(60), HTMLReply()], ids=repr)
    async def test_r10_renewals_go_on_though_the_document_disappears(
        self, fake: FakeProvider, refresher: TokenRefresher, clock: time_machine.Traveller, fault: Fault
    ) -> None:
        await refresher.save_tokens("alice", login(fake, "alice", life_left=-1))
        await refresher.get_valid_token("alice")
        fake.fail(fault, endpoint="discovery")
        for _ in range(3):
            clock.shift(MAX_AGE_SECONDS)
            renewed = await refresher.get_valid_token("alice")
            assert renewed.refresh_token == fake.current_refresh_token("alice")
        assert fake.refreshes("alice") == 4

    async def test_r10_a_new_server_whose_document_is_not_there_yet_is_asked_again_soon(
        self, fake: FakeProvider, internet: Internet, refresher: TokenRefresher, clock: time_machine.Traveller
    ) -> None:
        await refresher.save_tokens("alice", login(fake, "alice", life_left=-1))
        fake.fail(ServerError(503), endpoint="discovery")
        assert type(await failure_of(refresher)) is ProviderUnavailable
        fake.recover()
        clock.shift(COOL_DOWN_SECONDS)
        assert (await refresher.get_valid_token("alice")).access_token
        assert fake.discoveries == 2


class TestConfiguration:
    """The app says something else about the server."""

    async def test_r11_tokens_of_the_issuer_configured_before_stay_here_until_a_login_at_the_new_one(
        self, fake: FakeProvider, internet: Internet, http: httpx.AsyncClient, store: TokenStore
    ) -> None:
        other = internet.provider_at("new.example")
        old = OIDCProvider(fake.issuer, CLIENT, name="idp", http_client=http)
        new = OIDCProvider(other.issuer, CLIENT, name="idp", http_client=http)
        async with TokenRefresher(old, store) as refresher:
            await refresher.save_tokens("alice", login(fake, "alice"))
            await refresher.save_tokens("bob", login(fake, "bob", life_left=-1))
        record = await record_of(store, old)
        async with TokenRefresher(new, store) as refresher:
            for ask in (refresher.get_valid_token, refresher.refresh_token, refresher.load_tokens):
                for user_id in ("alice", "bob"):
                    for _ in range(2):
                        with pytest.raises(ProviderMisconfigured, match=r"issued by https://idp\.example") as caught:
                            await ask(user_id)
                        assert caught.value.code == "issuer_mismatch"
            assert await record_of(store, old) == record
            assert (internet.given_refresh_tokens, fake.discoveries, other.discoveries) == ([], 0, 0)

            await refresher.save_tokens("alice", login(other, "alice", life_left=-1))
            renewed = await refresher.get_valid_token("alice")
            assert renewed.refresh_token == other.current_refresh_token("alice")
            assert await refresher.delete_tokens("bob")
        assert (await record_of(store, new)).issuer == other.issuer
        assert internet.given_refresh_tokens == ["https://new.example/token"]

    async def test_r11_going_back_to_the_issuer_configured_before_mends_it_too(
        self, fake: FakeProvider, internet: Internet, http: httpx.AsyncClient, store: TokenStore
    ) -> None:
        right = OIDCProvider(fake.issuer, CLIENT, name="idp", http_client=http)
        mistyped = OIDCProvider("https://idp.example/", CLIENT, name="idp", http_client=http)
        async with TokenRefresher(right, store) as refresher:
            await refresher.save_tokens("alice", login(fake, "alice", life_left=-1))
        async with TokenRefresher(mistyped, store) as refresher:
            assert (await failure_of(refresher)).code == "issuer_mismatch"
        async with TokenRefresher(right, store) as refresher:
            assert (await refresher.get_valid_token("alice")).refresh_token == fake.current_refresh_token("alice")
        assert fake.reuses() == 0

    async def test_r11_a_login_at_the_new_issuer_while_the_old_one_renews_is_not_bound_to_the_old(
        self, fake: FakeProvider, internet: Internet, http: httpx.AsyncClient, store: TokenStore
    ) -> None:
        other = internet.provider_at("new.example")
        old = OIDCProvider(fake.issuer, CLIENT, name="idp", http_client=http)
        new = OIDCProvider(other.issuer, CLIENT, name="idp", http_client=http)
        latest = login(other, "alice")
        async with TokenRefresher(old, store) as before, TokenRefresher(new, store) as after:
            await before.save_tokens("alice", login(fake, "alice", life_left=-1))
            with fake.hold() as gate:
                caller = asyncio.create_task(before.get_valid_token("alice"))
                await gate.reached()
                await after.save_tokens("alice", latest)
            with pytest.raises(ProviderMisconfigured) as caught:
                await caller
            assert caught.value.code == "issuer_mismatch"
            assert await after.get_valid_token("alice") == latest
        assert (await record_of(store, new)).issuer == other.issuer

    async def test_r11_a_provider_under_another_name_does_not_find_the_records_of_the_old_one(
        self, fake: FakeProvider, internet: Internet, http: httpx.AsyncClient, store: TokenStore
    ) -> None:
        old = OIDCProvider(fake.issuer, CLIENT, name="idp", http_client=http)
        renamed = OIDCProvider(fake.issuer, CLIENT, name="identity", http_client=http)
        async with TokenRefresher(old, store) as refresher:
            await refresher.save_tokens("alice", login(fake, "alice", life_left=-1))
        record = await record_of(store, old)
        async with TokenRefresher(renamed, store) as refresher:
            error = await failure_of(refresher)
            assert isinstance(error, ReauthenticationRequired)
            assert error.reason == "no_tokens"
            assert internet.given_refresh_tokens == []
            await refresher.save_tokens("alice", login(fake, "alice"))
        assert await record_of(store, old) == record

    @pytest.mark.parametrize(
        "endpoint",
        [
            "https://evil.example/token",
            "https://login.idp.example/token",
            "https://idp.example:8443/token",
            "http://localhost/token",
        ],
    )
    async def test_r11_a_fixed_endpoint_at_another_origin_is_given_none_of_the_old_ones_tokens(
        self, fake: FakeProvider, internet: Internet, http: httpx.AsyncClient, store: TokenStore, endpoint: str
    ) -> None:
        old = OAuth2Provider("https://idp.example/token", CLIENT, name="idp", http_client=http)
        moved = OAuth2Provider(endpoint, CLIENT, name="idp", http_client=http)
        async with TokenRefresher(old, store) as refresher:
            await refresher.save_tokens("alice", login(fake, "alice", life_left=-1))
        record = await record_of(store, old)
        async with TokenRefresher(moved, store) as refresher:
            error = await failure_of(refresher)
        assert (type(error), error.code) == (ProviderMisconfigured, "issuer_mismatch")
        assert internet.given_refresh_tokens == []
        assert await record_of(store, old) == record

    async def test_r11_a_fixed_endpoint_may_move_within_its_origin(
        self, fake: FakeProvider, internet: Internet, http: httpx.AsyncClient, store: TokenStore
    ) -> None:
        old = OAuth2Provider("https://idp.example/oauth/token", CLIENT, name="idp", http_client=http)
        moved = OAuth2Provider("https://idp.example/token", CLIENT, name="idp", http_client=http)
        async with TokenRefresher(old, store) as refresher:
            await refresher.save_tokens("alice", login(fake, "alice", life_left=-1))
        async with TokenRefresher(moved, store) as refresher:
            assert (await refresher.get_valid_token("alice")).refresh_token == fake.current_refresh_token("alice")

    async def test_r11_a_record_that_names_no_issuer_is_bound_by_its_first_renewal(
        self, fake: FakeProvider, internet: Internet, http: httpx.AsyncClient, store: TokenStore
    ) -> None:
        provider = OIDCProvider(fake.issuer, CLIENT, name="idp", http_client=http)
        await store.save(TokenKey("idp", "alice"), StoredTokens(login(fake, "alice", life_left=-1)))
        async with TokenRefresher(provider, store) as refresher:
            await refresher.get_valid_token("alice")
        assert (await record_of(store, provider)).issuer == fake.issuer


async def test_r11_two_providers_that_share_a_store_and_user_ids_stay_apart(
    fake: FakeProvider, internet: Internet, http: httpx.AsyncClient, store: TokenStore
) -> None:
    other = internet.provider_at("other.example")
    users = ("alice", "bob")
    async with (
        TokenRefresher(OIDCProvider(fake.issuer, CLIENT, http_client=http), store) as here,
        TokenRefresher(OIDCProvider(other.issuer, CLIENT, http_client=http), store) as there,
    ):
        for user_id in users:
            await here.save_tokens(user_id, login(fake, user_id, life_left=-1))
            await there.save_tokens(user_id, login(other, user_id, life_left=-1))
        other.revoke("alice")
        await there.delete_tokens("bob")
        for user_id in users:
            renewed: TokenSet = await here.get_valid_token(user_id)
            assert renewed.refresh_token == fake.current_refresh_token(user_id)
        for user_id, reason in (("alice", "refused"), ("bob", "no_tokens")):
            error = await failure_of(there, user_id)
            assert isinstance(error, ReauthenticationRequired)
            assert error.reason == reason
        for user_id in users:
            assert (await here.refresh_token(user_id)).refresh_token == fake.current_refresh_token(user_id)
    assert (fake.refreshes(), fake.reuses(), other.reuses()) == (4, 0, 0)
    assert internet.given_refresh_tokens.count("https://other.example/token") == 1


async def test_r11_a_record_bound_to_another_issuer_is_neither_sent_nor_handed_out(
    fake: FakeProvider, http: httpx.AsyncClient, store: TokenStore
) -> None:
    client = ClientSecretBasic("app", "s3cret")
    old = OIDCProvider("https://old.example", client, name="idp")
    new = OIDCProvider(fake.issuer, client, name="idp", http_client=http)
    async with TokenRefresher(old, store) as refresher:
        await refresher.save_tokens("alice", login(fake, "alice"))
    async with TokenRefresher(new, store) as refresher:
        with pytest.raises(ProviderMisconfigured) as caught:
            await refresher.get_valid_token("alice")
        assert caught.value.code == "issuer_mismatch"
        assert "https://old.example" in str(caught.value)
        await refresher.save_tokens("alice", login(fake, "alice", life_left=-1))
        assert (await refresher.get_valid_token("alice")).access_token
    assert fake.requests() == 1
