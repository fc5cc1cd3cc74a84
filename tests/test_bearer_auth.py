"""Fresh bearer tokens on the requests of an `httpx.AsyncClient`."""

import asyncio
from collections.abc import AsyncIterator, Callable
from dataclasses import replace
from io import BytesIO
from types import SimpleNamespace

import httpx
import pytest
import time_machine
from hypothesis import given
from hypothesis import strategies as st

from kit.support import login
from tokenflight import (
    ConfigurationError,
    ProviderUnavailable,
    ReauthenticationRequired,
    TokenflightError,
    TokenRefresher,
)
from tokenflight.bearer import OriginPolicy, means_invalid_token
from tokenflight.httpx import BearerAuth
from tokenflight.testing import FakeProvider, OAuthError, ServerError


async def chunks() -> AsyncIterator[bytes]:
    yield b"one "
    yield b"two"


@pytest.fixture
async def api(fake: FakeProvider, refresher: TokenRefresher) -> AsyncIterator[httpx.AsyncClient]:
    """A client of the API in the name of alice."""
    async with fake.client(auth=BearerAuth(refresher, "alice")) as client:
        yield client


async def test_system_e_each_request_carries_a_valid_token(
    fake: FakeProvider, refresher: TokenRefresher, api: httpx.AsyncClient
) -> None:
    await refresher.save_tokens("alice", login(fake, "alice", life_left=-1))
    replies = await asyncio.gather(*(api.get("/api") for _ in range(100)))
    assert {reply.status_code for reply in replies} == {200}
    assert {reply.json()["user_id"] for reply in replies} == {"alice"}
    assert fake.requests() == 1


async def test_a_401_about_the_token_is_answered_by_one_renewal_and_one_replay(
    fake: FakeProvider, refresher: TokenRefresher, api: httpx.AsyncClient
) -> None:
    await refresher.save_tokens("alice", login(fake, "alice"))
    fake.revoke_access_tokens("alice")
    replies = await asyncio.gather(*(api.post("/api", json={"amount": 1}) for _ in range(20)))
    assert {reply.status_code for reply in replies} == {200}
    assert {reply.json()["body_bytes"] for reply in replies} == {12}
    assert fake.requests() == 1


@pytest.mark.parametrize(
    "send",
    [
        lambda api: api.post("/api", content=chunks()),
        lambda api: api.post("/api", files={"file": BytesIO(b"upload")}),
    ],
    ids=["stream", "multipart"],
)
async def test_a1_a_body_that_can_not_be_sent_twice_gets_its_401_back_and_the_next_request_a_new_token(
    fake: FakeProvider,
    refresher: TokenRefresher,
    api: httpx.AsyncClient,
    send: Callable[[httpx.AsyncClient], "asyncio.Future[httpx.Response]"],
) -> None:
    await refresher.save_tokens("alice", login(fake, "alice"))
    fake.revoke_access_tokens("alice")
    assert (await send(api)).status_code == 401
    assert fake.api_calls() == 1
    assert fake.requests() == 1
    assert (await send(api)).status_code == 200


async def test_a2_an_api_that_always_answers_401_sees_one_replay(
    fake: FakeProvider, refresher: TokenRefresher, api: httpx.AsyncClient
) -> None:
    await refresher.save_tokens("alice", login(fake, "alice"))
    fake.fail(OAuthError("invalid_token", status=401), endpoint="api")
    assert (await api.get("/api")).status_code == 401
    assert fake.api_calls() == 2
    assert fake.requests() == 1


@pytest.mark.parametrize(
    "url",
    ["http://api.example/data", "http://localhost.example/", "http://192.0.2.1/", "ftp://api.example/", "/relative"],
)
async def test_a3_no_token_goes_out_in_clear_text(fake: FakeProvider, refresher: TokenRefresher, url: str) -> None:
    await refresher.save_tokens("alice", login(fake, "alice"))
    async with sending_nothing(BearerAuth(refresher, "alice")) as client:
        with pytest.raises(ConfigurationError) as caught:
            await client.get(url)
    assert caught.value.code == "insecure_origin"


@pytest.mark.parametrize(
    "url", ["https://evil.example/", "https://api.example:8443/", "https://api.example.evil.example/"]
)
async def test_a3_no_token_goes_to_an_origin_that_is_not_listed(
    fake: FakeProvider, refresher: TokenRefresher, url: str
) -> None:
    await refresher.save_tokens("alice", login(fake, "alice"))
    async with sending_nothing(BearerAuth(refresher, "alice", origins=["https://api.example"])) as client:
        with pytest.raises(ConfigurationError) as caught:
            await client.get(url)
    assert caught.value.code == "foreign_origin"


@pytest.mark.parametrize(
    ("origin", "url"),
    [
        ("https://api.example", "https://api.example/data"),
        ("https://api.example/", "https://API.example:443/data"),
        ("https://api.example:8443", "https://api.example:8443/data"),
        ("http://127.0.0.1:8000", "http://127.0.0.1:8000/data"),
        ("http://[::1]:8000", "http://[::1]:8000/data"),
        ("http://localhost", "http://localhost:80/data"),
    ],
)
async def test_a3_a_listed_origin_gets_its_token(
    fake: FakeProvider, refresher: TokenRefresher, origin: str, url: str
) -> None:
    tokens = login(fake, "alice")
    await refresher.save_tokens("alice", tokens)
    headers: list[str] = []

    def api(request: httpx.Request) -> httpx.Response:
        headers.append(request.headers["Authorization"])
        return httpx.Response(200)

    auth = BearerAuth(refresher, "alice", origins=[origin])
    async with httpx.AsyncClient(auth=auth, transport=httpx.MockTransport(api)) as client:
        await client.get(url)
    assert headers == [f"Bearer {tokens.access_token}"]


@pytest.mark.parametrize(
    "origins", ["https://api.example", ["api.example"], ["https://api.example/v1"], ["ftp://x"], [7], ["https://x:y"]]
)
def test_a3_origins_that_are_none_are_a_configuration_error(refresher: TokenRefresher, origins: list[str]) -> None:
    with pytest.raises(ConfigurationError, match="origins"):
        BearerAuth(refresher, "alice", origins=origins)


async def test_a3_a_redirect_to_another_host_takes_no_token_along(
    fake: FakeProvider, refresher: TokenRefresher
) -> None:
    await refresher.save_tokens("alice", login(fake, "alice"))
    seen: dict[str, bool] = {}

    def api(request: httpx.Request) -> httpx.Response:
        seen[request.url.host] = "Authorization" in request.headers
        if request.url.host == "api.example":
            return httpx.Response(302, headers={"Location": "https://elsewhere.example/"})
        return httpx.Response(200)

    auth = BearerAuth(refresher, "alice")
    async with httpx.AsyncClient(auth=auth, transport=httpx.MockTransport(api), follow_redirects=True) as client:
        await client.get("https://api.example/")
    assert seen == {"api.example": True, "elsewhere.example": False}


async def test_a4_without_a_token_the_error_is_raised_and_nothing_is_sent(
    fake: FakeProvider, refresher: TokenRefresher, api: httpx.AsyncClient
) -> None:
    with pytest.raises(ReauthenticationRequired):
        await api.get("/api")
    await refresher.save_tokens("alice", login(fake, "alice", life_left=-1))
    fake.fail(ServerError())
    with pytest.raises(ProviderUnavailable):
        await api.get("/api")
    assert fake.api_calls() == 0


async def test_a4_a_token_that_is_no_bearer_token_is_not_sent_as_one(
    fake: FakeProvider, refresher: TokenRefresher, api: httpx.AsyncClient
) -> None:
    await refresher.save_tokens("alice", replace(login(fake, "alice"), token_type="DPoP"))
    with pytest.raises(ConfigurationError) as caught:
        await api.get("/api")
    assert caught.value.code == "unsupported_token_type"
    assert fake.api_calls() == 0


@pytest.mark.parametrize(
    "challenge",
    [
        'Bearer error="insufficient_scope", scope="payments"',
        'Bearer realm="api", error="insufficient_scope"',
        'Basic realm="admin"',
        "Negotiate",
        'Digest realm="a", nonce="Bearer"',
        'Bearer error="invalid_request"',
    ],
)
async def test_a5_a_401_that_is_not_about_the_token_causes_no_renewal(
    fake: FakeProvider, refresher: TokenRefresher, challenge: str
) -> None:
    await refresher.save_tokens("alice", login(fake, "alice"))
    calls = 0

    def api(request: httpx.Request) -> httpx.Response:
        nonlocal calls
        calls += 1
        return httpx.Response(401, headers={"WWW-Authenticate": challenge}, request=request)

    auth = BearerAuth(refresher, "alice")
    async with httpx.AsyncClient(auth=auth, transport=httpx.MockTransport(api)) as client:
        assert (await client.get("https://api.example/")).status_code == 401
    assert calls == 1
    assert fake.requests() == 0


@pytest.mark.parametrize(
    "challenge",
    [
        "",
        "Bearer",
        "bearer",
        'Bearer realm="api"',
        'Bearer error="invalid_token", error_description="it \\"expired\\", sorry"',
        "Bearer error=invalid_token",
        'Basic realm="a", Bearer error="invalid_token"',
        'Bearer realm="a, b=c", error="invalid_token", Basic realm="x"',
        'Basic error="insufficient_scope", Bearer realm="api"',
    ],
)
def test_a5_a_challenge_about_the_token_is_recognised(challenge: str) -> None:
    assert means_invalid_token(challenge)


@given(st.text())
def test_a5_no_challenge_makes_the_reading_of_it_fail(challenge: str) -> None:
    assert means_invalid_token(challenge) in {True, False}


@given(st.text(), st.text(), st.integers(0, 65535) | st.none())
def test_a3_no_url_makes_the_rules_fail_outside_the_error_tree(scheme: str, host: str, port: int | None) -> None:
    try:
        OriginPolicy(["https://api.example"]).require_allowed(SimpleNamespace(scheme=scheme, host=host, port=port))
    except TokenflightError:
        return
    assert (scheme, host) == ("https", "api.example")


def test_the_blocking_client_is_refused_with_a_clear_error(refresher: TokenRefresher) -> None:
    with (
        httpx.Client(auth=BearerAuth(refresher, "alice")) as client,
        pytest.raises(ConfigurationError, match="AsyncClient"),
    ):
        client.get("https://api.example/")


def sending_nothing(auth: BearerAuth) -> httpx.AsyncClient:
    def refuse(request: httpx.Request) -> httpx.Response:
        raise AssertionError(f"a request to {request.url} was sent")

    return httpx.AsyncClient(auth=auth, transport=httpx.MockTransport(refuse))


async def test_a6_an_endpoint_that_answers_401_for_good_causes_one_renewal_and_its_401s_are_passed_on(
    fake: FakeProvider, refresher: TokenRefresher, clock: time_machine.Traveller
) -> None:
    await refresher.save_tokens("alice", login(fake, "alice"))
    never = httpx.MockTransport(lambda _: httpx.Response(401, headers={"WWW-Authenticate": "Bearer"}))
    async with httpx.AsyncClient(transport=never, auth=BearerAuth(refresher, "alice")) as api:
        for _ in range(29):
            assert (await api.get("https://api.example/data")).status_code == 401
            clock.shift(1)
    assert fake.refreshes() == 1
    assert (await refresher.get_valid_token("alice")).refresh_token == fake.current_refresh_token("alice")


async def test_a6_an_endpoint_polled_for_a_day_causes_ever_fewer_renewals(
    fake: FakeProvider, refresher: TokenRefresher, clock: time_machine.Traveller
) -> None:
    fake.lifetime = 10 * 86_400
    await refresher.save_tokens("alice", login(fake, "alice", life_left=3600))
    never = httpx.MockTransport(lambda _: httpx.Response(401, headers={"WWW-Authenticate": "Bearer"}))
    async with httpx.AsyncClient(transport=never, auth=BearerAuth(refresher, "alice")) as api:
        for _ in range(24 * 60):
            assert (await api.get("https://api.example/data")).status_code == 401
            clock.shift(60)
    assert fake.refreshes() <= 32


async def test_a7_a_401_of_another_host_that_a_redirect_leads_to_renews_nothing(
    fake: FakeProvider, refresher: TokenRefresher
) -> None:
    def reply(request: httpx.Request) -> httpx.Response:
        if request.url.host == "api.example":
            return httpx.Response(302, headers={"Location": "https://files.example/data"})
        assert "Authorization" not in request.headers
        return httpx.Response(401, headers={"WWW-Authenticate": 'Bearer error="invalid_token"'})

    tokens = login(fake, "alice")
    await refresher.save_tokens("alice", tokens)
    async with httpx.AsyncClient(
        transport=httpx.MockTransport(reply), auth=BearerAuth(refresher, "alice"), follow_redirects=True
    ) as api:
        assert (await api.get("https://api.example/data")).status_code == 401
    assert await refresher.get_valid_token("alice") == tokens
    assert fake.requests() == 0


async def test_a7_a_401_after_a_redirect_on_the_same_host_renews_the_token(
    fake: FakeProvider, refresher: TokenRefresher
) -> None:
    tokens = login(fake, "alice")
    await refresher.save_tokens("alice", tokens)

    def reply(request: httpx.Request) -> httpx.Response:
        if request.url.path == "/data":
            return httpx.Response(302, headers={"Location": "/moved"})
        is_old = request.headers["Authorization"] == f"Bearer {tokens.access_token}"
        return httpx.Response(401 if is_old else 200)

    async with httpx.AsyncClient(
        transport=httpx.MockTransport(reply), auth=BearerAuth(refresher, "alice"), follow_redirects=True
    ) as api:
        assert (await api.get("https://api.example/data")).status_code == 200
    assert fake.refreshes() == 1
