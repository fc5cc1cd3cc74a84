"""The fake provider in-process: its endpoints, and what it tells the test."""

import ast
import asyncio
import base64
import inspect
import textwrap
from collections.abc import AsyncIterator, Iterator
from typing import Any
from urllib.parse import quote_plus

import httpx
import pytest
import time_machine

import tokenflight
import tokenflight.testing
from tokenflight import (
    ClientSecretBasic,
    ClientSecretPost,
    ConfigurationError,
    OAuth2Provider,
    OIDCProvider,
    ProviderMisconfigured,
    PublicClient,
    ReauthenticationRequired,
    TokenSet,
)
from tokenflight.testing import FakeProvider

NOW = 1_700_000_000.0
CLIENT = {"client_id": "app", "client_secret": "s3cret"}


async def refresh(fake: FakeProvider, refresh_token: str, **parameters: str) -> httpx.Response:
    form = {"grant_type": "refresh_token", "refresh_token": refresh_token, **CLIENT, **parameters}
    async with fake.client() as http:
        return await http.post("/token", data=form)


async def call_api(fake: FakeProvider, access_token: str) -> httpx.Response:
    async with fake.client() as http:
        return await http.get("/api", headers={"Authorization": f"Bearer {access_token}"})


async def test_the_example_in_the_class_docstring_runs() -> None:
    _, _, example = inspect.cleandoc(FakeProvider.__doc__ or "").partition("::\n")
    example = textwrap.dedent(example.partition("\n\nIt is a plain ASGI 3 app")[0])
    names: dict[str, Any] = {**vars(tokenflight), **vars(tokenflight.testing), "asyncio": asyncio}
    exec(compile(ast.parse(example), "<docstring>", "exec"), names)
    await names["test_a_user_is_renewed_once"]()


def test_the_module_names_every_kind_of_fault() -> None:
    kinds = {kind.__name__ for kind in tokenflight.testing.Fault.__args__}
    assert kinds <= set(tokenflight.testing.__all__)
    assert tokenflight.testing.__all__ == sorted(tokenflight.testing.__all__)


async def test_discovery_names_the_endpoints() -> None:
    fake = FakeProvider()
    async with fake.client() as http:
        reply = await http.get("/.well-known/openid-configuration")
    metadata = reply.json()
    assert metadata["issuer"] == fake.issuer == "http://fake-provider.localhost"
    assert metadata["token_endpoint"] == fake.token_endpoint == "http://fake-provider.localhost/token"
    assert metadata["jwks_uri"] == "http://fake-provider.localhost/jwks"
    assert metadata["token_endpoint_auth_methods_supported"] == ["client_secret_basic", "client_secret_post"]
    assert fake.discoveries == 1


@pytest.mark.parametrize("path", ["/", "/nothing", "/token/", "/api/more", "/authorize"])
async def test_any_other_path_is_not_found(path: str) -> None:
    fake = FakeProvider()
    async with fake.client() as http:
        reply = await http.get(path)
    assert reply.status_code == 404
    assert (fake.requests(), fake.api_calls(), fake.discoveries) == (0, 0, 0)


@pytest.mark.parametrize("issuer", ["https://idp.example/realms/one", "https://idp.example/realms/one/"])
async def test_an_issuer_may_have_a_path(issuer: str) -> None:
    fake = FakeProvider(issuer=issuer)
    async with fake.client() as http:
        provider = OIDCProvider(issuer, ClientSecretBasic("app", "s3cret"), http_client=http)
        renewed = await provider.renew("alice", TokenSet.from_response(fake.login("alice")))
        api = await http.get(fake.api_url, headers={"Authorization": f"Bearer {renewed.access_token}"})
        outside = await http.get("https://idp.example/token")
    assert fake.api_url == "https://idp.example/realms/one/api"
    assert api.status_code == 200
    assert outside.status_code == 404


def test_an_issuer_that_no_client_would_accept_is_refused() -> None:
    with pytest.raises(ConfigurationError, match="issuer must be https"):
        FakeProvider(issuer="http://idp.example")


@time_machine.travel(NOW, tick=False)
async def test_a_login_gives_a_token_reply_as_from_a_token_endpoint() -> None:
    tokens = TokenSet.from_response(FakeProvider(lifetime=600).login("alice"))
    assert tokens.access_token.startswith("at_")
    assert tokens.refresh_token is not None
    assert tokens.refresh_token.startswith("rt_")
    assert tokens.expires_at == NOW + 600
    assert tokens.scope == "openid offline_access"


def test_a_login_may_have_a_lifetime_of_its_own() -> None:
    fake = FakeProvider(lifetime=600)
    assert fake.login("alice", lifetime=5)["expires_in"] == 5
    assert "expires_in" not in fake.login("alice", lifetime=None)
    assert fake.login("alice")["expires_in"] == 600


async def test_a_refresh_gives_new_tokens_that_nobody_may_cache() -> None:
    fake = FakeProvider()
    login = fake.login("alice", lifetime=1)
    reply = await refresh(fake, login["refresh_token"])
    assert reply.status_code == 200
    assert reply.headers["cache-control"] == "no-store"
    assert reply.headers["content-type"] == "application/json"
    renewed = reply.json()
    assert renewed["expires_in"] == 3600
    assert renewed["refresh_token"] == fake.current_refresh_token("alice") != login["refresh_token"]
    assert "scope" not in renewed
    assert (await call_api(fake, renewed["access_token"])).json()["user_id"] == "alice"


async def test_a_scope_that_was_asked_for_is_in_the_reply() -> None:
    fake = FakeProvider()
    reply = await refresh(fake, fake.login("alice")["refresh_token"], scope="openid")
    assert reply.json()["scope"] == "openid"


async def test_a_spent_refresh_token_that_comes_again_revokes_the_grant() -> None:
    fake = FakeProvider()
    spent = fake.login("alice")["refresh_token"]
    renewed = (await refresh(fake, spent)).json()
    assert not fake.revoked("alice")
    replay = await refresh(fake, spent)
    assert (replay.status_code, replay.json()["error"]) == (400, "invalid_grant")
    assert fake.revoked("alice")
    assert fake.reuses("alice") == fake.reuses() == 1
    assert (await call_api(fake, renewed["access_token"])).status_code == 401
    assert (await refresh(fake, renewed["refresh_token"])).json()["error"] == "invalid_grant"
    with pytest.raises(ConfigurationError, match="no refresh token that would be accepted"):
        fake.current_refresh_token("alice")


async def test_of_many_concurrent_refreshes_with_one_token_a_single_one_is_accepted() -> None:
    fake = FakeProvider(strict=False)
    refresh_token = fake.login("alice")["refresh_token"]
    replies = await asyncio.gather(*(refresh(fake, refresh_token) for _ in range(20)))
    assert sorted(reply.status_code for reply in replies) == [200] + [400] * 19
    assert (fake.refreshes(), fake.reuses(), fake.requests()) == (1, 19, 20)


async def test_rotation_strictness_and_lifetime_may_change_at_any_time() -> None:
    fake = FakeProvider()
    refresh_token = fake.login("alice")["refresh_token"]
    fake.rotation = "never"
    fake.lifetime = None
    reply = (await refresh(fake, refresh_token)).json()
    assert "refresh_token" not in reply
    assert "expires_in" not in reply
    fake.rotation = "always"
    fake.strict = False
    await refresh(fake, refresh_token)
    await refresh(fake, refresh_token)
    assert (fake.reuses("alice"), fake.revoked("alice")) == (1, False)


async def test_a_new_login_leaves_the_older_grants_alone_and_becomes_the_one_asked_about() -> None:
    fake = FakeProvider()
    older = fake.login("alice")
    newer = fake.login("alice")
    assert fake.current_refresh_token("alice") == newer["refresh_token"]
    fake.revoke("alice")
    assert fake.revoked("alice")
    assert (await call_api(fake, newer["access_token"])).status_code == 401
    assert (await call_api(fake, older["access_token"])).status_code == 200
    assert (await refresh(fake, older["refresh_token"])).status_code == 200


async def test_a_revoked_grant_gives_invalid_grant_and_an_api_that_says_no() -> None:
    fake = FakeProvider()
    login = fake.login("alice")
    fake.revoke("alice")
    assert (await refresh(fake, login["refresh_token"])).json()["error"] == "invalid_grant"
    assert (await call_api(fake, login["access_token"])).status_code == 401
    assert fake.reuses("alice") == 0


async def test_revoked_access_tokens_can_be_renewed() -> None:
    fake = FakeProvider()
    login = fake.login("alice")
    fake.revoke_access_tokens("alice")
    assert (await call_api(fake, login["access_token"])).status_code == 401
    renewed = (await refresh(fake, login["refresh_token"])).json()
    assert (await call_api(fake, renewed["access_token"])).status_code == 200
    assert not fake.revoked("alice")


@pytest.mark.parametrize("method", ["revoke", "revoke_access_tokens", "revoked", "current_refresh_token"])
def test_asking_about_a_user_who_never_logged_in_is_a_clear_error(method: str) -> None:
    with pytest.raises(ConfigurationError, match="'carol' has no grant here"):
        getattr(FakeProvider(), method)("carol")


# --- the API ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("method", ["GET", "POST", "PUT", "DELETE"])
async def test_the_api_answers_a_live_access_token(method: str) -> None:
    fake = FakeProvider()
    headers = {"Authorization": f"bearer {fake.login('alice')['access_token']}"}
    async with fake.client() as http:
        reply = await http.request(method, "/api", headers=headers, content=b"12345")
    assert reply.json() == {"user_id": "alice", "method": method, "body_bytes": 5}


async def test_the_api_reads_a_streamed_body_to_its_end() -> None:
    async def chunks() -> AsyncIterator[bytes]:
        for size in (1, 20, 300):
            yield b"x" * size

    fake = FakeProvider()
    headers = {"Authorization": f"Bearer {fake.login('alice')['access_token']}"}
    async with fake.client() as http:
        reply = await http.post("/api", headers=headers, content=chunks())
    assert reply.json()["body_bytes"] == 321


@pytest.mark.parametrize(
    ("headers", "challenge"),
    [
        ({}, "Bearer"),
        ({"Authorization": "Basic YXBwOnMzY3JldA=="}, "Bearer"),
        ({"Authorization": "Bearer at_unknown"}, 'Bearer error="invalid_token"'),
    ],
)
async def test_the_api_challenges_a_request_without_a_good_token(headers: dict[str, str], challenge: str) -> None:
    async with FakeProvider().client() as http:
        reply = await http.get("/api", headers=headers)
    assert (reply.status_code, reply.headers["www-authenticate"]) == (401, challenge)


async def test_the_api_refuses_an_access_token_from_the_moment_it_expires() -> None:
    fake = FakeProvider()
    with time_machine.travel(NOW, tick=False) as clock:
        access_token = fake.login("alice", lifetime=60)["access_token"]
        clock.move_to(NOW + 59)
        assert (await call_api(fake, access_token)).status_code == 200
        clock.move_to(NOW + 60)
        reply = await call_api(fake, access_token)
    assert (reply.status_code, reply.headers["www-authenticate"]) == (401, 'Bearer error="invalid_token"')


# --- client authentication --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("method", [ClientSecretBasic, ClientSecretPost])
@pytest.mark.parametrize("secret", ["s3cret", "a:b c+d%e&f=ü"])
async def test_a_client_may_prove_itself_by_basic_or_in_the_form(
    method: type[ClientSecretBasic | ClientSecretPost], secret: str
) -> None:
    fake = FakeProvider(client_id="my app:1", client_secret=secret)
    async with fake.client() as http:
        provider = OAuth2Provider(fake.token_endpoint, method("my app:1", secret), name="fake", http_client=http)
        await provider.renew("alice", TokenSet.from_response(fake.login("alice")))
    assert fake.refreshes("alice") == 1


async def test_a_public_client_only_names_itself() -> None:
    fake = FakeProvider(client_secret=None)
    async with fake.client() as http:
        provider = OIDCProvider(fake.issuer, PublicClient("app"), http_client=http)
        await provider.renew("alice", TokenSet.from_response(fake.login("alice")))
        metadata = (await http.get("/.well-known/openid-configuration")).json()
    assert fake.refreshes("alice") == 1
    assert metadata["token_endpoint_auth_methods_supported"] == ["none"]


def basic(credentials: str) -> dict[str, str]:
    return {"Authorization": f"Basic {base64.b64encode(credentials.encode()).decode()}"}


@pytest.mark.parametrize(
    ("client_secret", "headers", "parameters"),
    [
        ("s3cret", basic("app:wrong"), {}),
        ("s3cret", basic("other:s3cret"), {}),
        ("s3cret", basic("app"), CLIENT),
        ("s3cret", {"Authorization": "Basic ~~~"}, CLIENT),
        ("s3cret", {"Authorization": "Basic /////w=="}, CLIENT),
        ("s3cret", {}, {"client_id": "app", "client_secret": "wrong"}),
        ("s3cret", {}, {"client_id": "app"}),
        ("s3cret", {}, {}),
        ("a b", basic(f"app:{quote_plus('a b')}x"), {}),
        (None, {}, CLIENT),
        (None, {}, {"client_id": "other"}),
        (None, basic("app:"), {}),
    ],
)
async def test_a_client_that_does_not_prove_itself_is_refused_and_spends_nothing(
    client_secret: str | None, headers: dict[str, str], parameters: dict[str, str]
) -> None:
    fake = FakeProvider(client_secret=client_secret)
    refresh_token = fake.login("alice")["refresh_token"]
    form = {"grant_type": "refresh_token", "refresh_token": refresh_token, **parameters}
    async with fake.client() as http:
        reply = await http.post("/token", data=form, headers=headers)
    assert (reply.status_code, reply.json()) == (401, {"error": "invalid_client"})
    assert reply.headers["www-authenticate"].startswith("Basic ")
    assert fake.current_refresh_token("alice") == refresh_token
    assert (fake.requests("alice"), fake.refreshes("alice")) == (1, 0)


async def test_a_wrong_secret_is_what_the_library_calls_misconfigured() -> None:
    fake = FakeProvider()
    async with fake.client() as http:
        provider = OIDCProvider(fake.issuer, ClientSecretBasic("app", "wrong"), http_client=http)
        with pytest.raises(ProviderMisconfigured) as caught:
            await provider.renew("alice", TokenSet.from_response(fake.login("alice")))
    assert caught.value.code == "invalid_client"


# --- the token endpoint's errors --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("content", "error"),
    [
        (b"client_id=app&client_secret=s3cret", "invalid_request"),
        (b"client_id=app&client_secret=s3cret&grant_type=refresh_token", "invalid_request"),
        (b"client_id=app&client_secret=s3cret&grant_type=refresh_token&refresh_token=", "invalid_request"),
        (b"client_id=app&client_id=app&client_secret=s3cret&grant_type=client_credentials", "invalid_request"),
        (b"client_id=app&client_secret=s3cret&grant_type=password", "unsupported_grant_type"),
        (b"client_id=app&client_secret=s3cret&grant_type=refresh_token&refresh_token=rt_x", "invalid_grant"),
        (b"\xff\xfe\x00", "invalid_client"),
    ],
)
async def test_a_bad_token_request_gets_the_error_of_the_specification(content: bytes, error: str) -> None:
    fake = FakeProvider()
    headers = {"Content-Type": "application/x-www-form-urlencoded; charset=utf-8"}
    async with fake.client() as http:
        reply = await http.post("/token", content=content, headers=headers)
    assert reply.json()["error"] == error
    assert reply.status_code == (401 if error == "invalid_client" else 400)
    assert reply.headers["cache-control"] == "no-store"
    assert fake.requests() == 1


async def test_a_token_request_is_a_posted_form() -> None:
    fake = FakeProvider()
    form = {"grant_type": "refresh_token", "refresh_token": fake.login("alice")["refresh_token"], **CLIENT}
    async with fake.client() as http:
        replies = [await http.request("GET", "/token", data=form), await http.post("/token", json=form)]
    assert [reply.json()["error"] for reply in replies] == ["invalid_request"] * 2
    assert fake.refreshes() == 0


async def test_a_refused_refresh_token_is_what_the_library_calls_a_new_login() -> None:
    fake = FakeProvider()
    login = TokenSet.from_response(fake.login("alice"))
    fake.revoke("alice")
    async with fake.client() as http:
        provider = OIDCProvider(fake.issuer, ClientSecretBasic("app", "s3cret"), http_client=http)
        with pytest.raises(ReauthenticationRequired):
            await provider.renew("alice", login)


# --- client credentials -----------------------------------------------------------------------------------------------


async def test_client_credentials_give_an_access_token_for_a_named_user_and_no_refresh_token() -> None:
    fake = FakeProvider()
    form = {"grant_type": "client_credentials", "sub": "alice", "scope": "read", **CLIENT}
    async with fake.client() as http:
        reply = (await http.post("/token", data=form)).json()
    assert "refresh_token" not in reply
    assert (reply["expires_in"], reply["scope"]) == (3600, "read")
    assert (await call_api(fake, reply["access_token"])).json()["user_id"] == "alice"
    assert (fake.requests("alice"), fake.refreshes()) == (1, 0)
    with pytest.raises(ConfigurationError, match="no refresh token that would be accepted"):
        fake.current_refresh_token("alice")
    fake.revoke_access_tokens("alice")
    assert (await call_api(fake, reply["access_token"])).status_code == 401


async def test_client_credentials_without_a_user_are_for_the_client_itself() -> None:
    fake = FakeProvider()
    async with fake.client() as http:
        reply = (await http.post("/token", data={"grant_type": "client_credentials", **CLIENT})).json()
    assert (await call_api(fake, reply["access_token"])).json()["user_id"] == "app"
    assert fake.requests("app") == 1


# --- counting ---------------------------------------------------------------------------------------------------------


async def test_counts_are_per_user_and_in_total() -> None:
    fake = FakeProvider()
    alice, bob = fake.login("alice"), fake.login("bob")
    await refresh(fake, alice["refresh_token"])
    await refresh(fake, fake.current_refresh_token("alice"))
    await refresh(fake, bob["refresh_token"], client_secret="wrong")
    await refresh(fake, "rt_unknown")
    assert [fake.requests(user_id) for user_id in ("alice", "bob", "carol", None)] == [2, 1, 0, 4]
    assert [fake.refreshes(user_id) for user_id in ("alice", "bob", "carol", None)] == [2, 0, 0, 2]
    await call_api(fake, alice["access_token"])
    fake.revoke("bob")
    await call_api(fake, bob["access_token"])
    await call_api(fake, "at_unknown")
    assert [fake.api_calls(user_id) for user_id in ("alice", "bob", "carol", None)] == [1, 1, 0, 3]
    assert fake.discoveries == 0


# --- ASGI -------------------------------------------------------------------------------------------------------------


async def test_the_app_takes_part_in_the_lifespan_of_a_server() -> None:
    incoming = iter([{"type": "lifespan.startup"}, {"type": "lifespan.shutdown"}])
    sent = []

    async def receive() -> dict[str, Any]:
        return next(incoming)

    async def send(message: Any) -> None:
        sent.append(message["type"])

    await FakeProvider()({"type": "lifespan"}, receive, send)
    assert sent == ["lifespan.startup.complete", "lifespan.shutdown.complete"]


async def test_a_websocket_is_refused() -> None:
    async def receive() -> dict[str, Any]:
        raise AssertionError("nothing is to be received")

    async def send(message: Any) -> None:
        raise AssertionError("nothing is to be sent")

    with pytest.raises(ValueError, match="not websocket"):
        await FakeProvider()({"type": "websocket"}, receive, send)


async def test_a_request_that_never_arrives_whole_is_no_request() -> None:
    incoming: Iterator[dict[str, Any]] = iter(
        [{"type": "http.request", "body": b"grant_", "more_body": True}, {"type": "http.disconnect"}]
    )

    async def receive() -> dict[str, Any]:
        return next(incoming)

    async def send(message: Any) -> None:
        raise AssertionError("nobody is there to read a reply")

    fake = FakeProvider()
    await fake({"type": "http", "method": "POST", "path": "/token", "headers": []}, receive, send)
    assert fake.requests() == 0


async def test_a_client_can_carry_an_authentication() -> None:
    fake = FakeProvider(client_id="user", client_secret="word")
    async with fake.client(auth=httpx.BasicAuth("user", "word")) as http:
        reply = await http.post("/token", data={"grant_type": "client_credentials"})
    assert reply.status_code == 200


def test_a_repr_shows_the_issuer_and_no_secret() -> None:
    assert repr(FakeProvider()) == "<FakeProvider http://fake-provider.localhost>"
