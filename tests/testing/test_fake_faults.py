"""Faults: what a client gets of each, and whether the provider acted."""

import asyncio
import dataclasses
import json
from typing import Any

import httpx
import pytest
import time_machine

from tokenflight import (
    ClientSecretBasic,
    ConfigurationError,
    InvalidProviderResponse,
    OIDCProvider,
    ProviderMisconfigured,
    ProviderUnavailable,
    TokenRefreshError,
    TokenSet,
)
from tokenflight.testing import (
    Delay,
    DropReply,
    DropRequest,
    Endpoint,
    FakeProvider,
    Fault,
    GarbageReply,
    HTMLReply,
    HugeReply,
    OAuthError,
    RateLimited,
    Redirect,
    ServerError,
    WrongIssuer,
)


async def refresh(fake: FakeProvider, user_id: str = "alice") -> httpx.Response:
    form = {"grant_type": "refresh_token", "refresh_token": fake.current_refresh_token(user_id)}
    async with fake.client(auth=httpx.BasicAuth("app", "s3cret")) as http:
        return await http.post("/token", data=form)


def provider_with(*users: str) -> FakeProvider:
    fake = FakeProvider()
    for user_id in users or ("alice",):
        fake.login(user_id)
    return fake


ANSWERS: list[tuple[Fault, int, dict[str, str], bytes]] = [
    (ServerError(), 500, {}, b"Server error"),
    (ServerError(status=503), 503, {}, b"Server error"),
    (RateLimited(), 429, {}, b"Too many requests"),
    (RateLimited(30), 429, {"retry-after": "30"}, b"Too many requests"),
    (
        RateLimited("Wed, 21 Oct 2026 07:28:00 GMT"),
        429,
        {"retry-after": "Wed, 21 Oct 2026 07:28:00 GMT"},
        b"Too many requests",
    ),
    (
        HTMLReply(),
        200,
        {"content-type": "text/html; charset=utf-8"},
        b"<!doctype html><title>Please sign in</title>",
    ),
    (GarbageReply(), 200, {"content-type": "application/json"}, b"\x00\xff not json"),
    (GarbageReply(b""), 200, {"content-type": "application/json"}, b""),
    (Redirect("https://elsewhere.example/token"), 307, {"location": "https://elsewhere.example/token"}, b"Elsewhere"),
    (OAuthError("invalid_scope"), 400, {"content-type": "application/json"}, b'{"error": "invalid_scope"}'),
    (
        OAuthError("invalid_client", "who?", status=401),
        401,
        {"www-authenticate": 'Basic realm="fake provider"'},
        b'{"error": "invalid_client", "error_description": "who?"}',
    ),
]


@pytest.mark.parametrize(("fault", "status", "headers", "body"), ANSWERS, ids=repr)
async def test_a_fault_that_is_a_reply_spends_no_refresh_token(
    fault: Fault, status: int, headers: dict[str, str], body: bytes
) -> None:
    fake = provider_with()
    before = fake.current_refresh_token("alice")
    fake.fail(fault, times=1)
    reply = await refresh(fake)
    assert (reply.status_code, reply.content) == (status, body)
    assert headers.items() <= reply.headers.items()
    assert ("retry-after" in reply.headers) == ("retry-after" in headers)
    assert fake.current_refresh_token("alice") == before
    assert (fake.requests("alice"), fake.refreshes("alice")) == (1, 0)
    assert (await refresh(fake)).status_code == 200


@pytest.mark.parametrize(
    ("fault", "headers", "body"),
    [
        (RateLimited(30.5), {"retry-after": "30.5"}, b"Too many requests"),
        (RateLimited(30, "Retry-After date"), {"retry-after": "Fri, 15 Jan 2027 08:00:30 GMT"}, b"Too many requests"),
        (RateLimited(29.5, "X-Rate-Limit-Reset"), {"x-rate-limit-reset": "1800000030"}, b"Too many requests"),
        (RateLimited(30, "X-RateLimit-Reset-After"), {"x-ratelimit-reset-after": "30"}, b"Too many requests"),
        (RateLimited(30, "RateLimit-Reset"), {"ratelimit-reset": "30"}, b"Too many requests"),
        (RateLimited(29.5, "RateLimit"), {"ratelimit": '"default";r=0;t=30'}, b"Too many requests"),
        (RateLimited(0.5, "body"), {}, b'{"message": "Too many requests", "retry_after": 0.5}'),
        (RateLimited("soon", "X-Rate-Limit-Reset"), {"x-rate-limit-reset": "soon"}, b"Too many requests"),
        (RateLimited(None, "body"), {}, b"Too many requests"),
    ],
    ids=repr,
)
async def test_v6_a_429_says_in_one_of_many_forms_for_how_long_to_wait(
    clock: time_machine.Traveller, fault: RateLimited, headers: dict[str, str], body: bytes
) -> None:
    fake = provider_with()
    fake.fail(fault)
    reply = await refresh(fake)
    assert (reply.status_code, reply.content) == (429, body)
    told = {name: value for name, value in reply.headers.items() if "retry" in name or "limit" in name}
    assert told == headers


async def test_a_huge_reply_is_a_token_reply_with_nothing_wrong_but_its_size() -> None:
    fake = provider_with()
    fake.fail(HugeReply(size_bytes=100_000))
    reply = await refresh(fake)
    assert len(reply.content) > 100_000
    assert TokenSet.from_response(reply.json()).access_token == "at_huge"
    assert HugeReply().size_bytes == 10 * 1024 * 1024


async def test_a_dropped_request_was_counted_and_not_acted_on() -> None:
    fake = provider_with()
    before = fake.current_refresh_token("alice")
    fake.fail(DropRequest(), times=1)
    with pytest.raises(httpx.RemoteProtocolError, match="Server disconnected without sending a response"):
        await refresh(fake)
    assert fake.current_refresh_token("alice") == before
    assert (fake.requests("alice"), fake.refreshes("alice")) == (1, 0)


async def test_a_dropped_reply_was_acted_on() -> None:
    fake = provider_with()
    before = fake.current_refresh_token("alice")
    fake.fail(DropReply(), times=1)
    with pytest.raises(httpx.RemoteProtocolError, match="Server disconnected without sending a response"):
        await refresh(fake)
    assert fake.current_refresh_token("alice") != before
    assert (fake.requests("alice"), fake.refreshes("alice")) == (1, 1)


async def test_a_delayed_request_is_acted_on_late() -> None:
    fake = provider_with()
    before = fake.current_refresh_token("alice")
    fake.fail(Delay(0.05))
    request = asyncio.create_task(refresh(fake))
    await asyncio.sleep(0.01)
    assert fake.requests("alice") == 1
    assert fake.current_refresh_token("alice") == before
    assert (await request).status_code == 200
    assert fake.current_refresh_token("alice") != before


async def test_a_delayed_request_is_acted_on_even_if_its_client_gives_up() -> None:
    fake = provider_with()
    fake.fail(Delay(0.02))
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.01):
            await refresh(fake)
    assert fake.refreshes("alice") == 0
    await asyncio.sleep(0.03)
    assert fake.refreshes("alice") == 1


async def test_a_wrong_issuer_is_the_true_discovery_document_but_for_the_issuer() -> None:
    fake = FakeProvider()
    async with fake.client() as http:
        true = (await http.get("/.well-known/openid-configuration")).json()
        fake.fail(WrongIssuer("https://evil.example"), endpoint="discovery")
        wrong = (await http.get("/.well-known/openid-configuration")).json()
    assert wrong == {**true, "issuer": "https://evil.example"}
    assert fake.discoveries == 2


@pytest.mark.parametrize("endpoint", ["token", "api"])
def test_a_wrong_issuer_anywhere_else_is_a_clear_error(endpoint: Endpoint) -> None:
    with pytest.raises(ConfigurationError, match='say endpoint="discovery"'):
        FakeProvider().fail(WrongIssuer(), endpoint=endpoint)


# --- which requests, and how many ------------------------------------------------------------------------------------


async def test_a_fault_lasts_until_recover() -> None:
    fake = provider_with()
    fake.fail(ServerError())
    assert [(await refresh(fake)).status_code for _ in range(3)] == [500] * 3
    fake.recover()
    assert (await refresh(fake)).status_code == 200


async def test_faults_with_a_count_follow_one_another_in_the_order_they_were_set() -> None:
    fake = provider_with()
    fake.fail(ServerError(), times=2)
    fake.fail(RateLimited(1), times=1)
    assert [(await refresh(fake)).status_code for _ in range(4)] == [500, 500, 429, 200]


async def test_a_fault_without_a_count_hides_the_ones_after_it() -> None:
    fake = provider_with()
    fake.fail(ServerError())
    fake.fail(RateLimited(1), times=1)
    assert [(await refresh(fake)).status_code for _ in range(2)] == [500, 500]


async def test_a_delay_and_the_fault_after_it_happen_to_the_same_request() -> None:
    fake = provider_with()
    fake.fail(Delay(0.01), times=1)
    fake.fail(ServerError(), times=1)
    request = asyncio.create_task(refresh(fake))
    await asyncio.sleep(0)
    assert not request.done()
    assert (await request).status_code == 500
    assert (await refresh(fake)).status_code == 200


async def test_a_fault_lifted_during_a_delay_does_not_happen() -> None:
    fake = provider_with()
    fake.fail(Delay(0.02))
    fake.fail(ServerError())
    request = asyncio.create_task(refresh(fake))
    await asyncio.sleep(0.01)
    fake.recover()
    assert (await request).status_code == 200


async def test_a_fault_used_up_by_another_request_during_a_delay_does_not_happen_again() -> None:
    fake = provider_with("alice", "bob")
    fake.fail(Delay(0.02), user_id="alice")
    fake.fail(ServerError(), times=1)
    slow = asyncio.create_task(refresh(fake, "alice"))
    await asyncio.sleep(0.01)
    assert (await refresh(fake, "bob")).status_code == 500
    assert (await slow).status_code == 200


async def test_a_fault_may_be_one_users_alone() -> None:
    fake = provider_with("alice", "bob")
    fake.fail(ServerError(), times=1, user_id="alice")
    assert (await refresh(fake, "bob")).status_code == 200
    assert (await refresh(fake, "alice")).status_code == 500
    assert (await refresh(fake, "alice")).status_code == 200


async def test_a_fault_strikes_only_the_endpoint_it_is_for() -> None:
    fake = provider_with()
    access_token = fake.login("alice")["access_token"]
    fake.fail(ServerError(503), endpoint="api")
    fake.fail(ServerError(502), endpoint="discovery")
    async with fake.client() as http:
        api = await http.get("/api", headers={"Authorization": f"Bearer {access_token}"})
        discovery = await http.get("/.well-known/openid-configuration")
    assert (api.status_code, discovery.status_code) == (503, 502)
    assert (await refresh(fake)).status_code == 200


async def test_an_oauth_error_of_the_api_is_a_challenge() -> None:
    fake = provider_with()
    headers = {"Authorization": f"Bearer {fake.login('alice')['access_token']}"}
    fake.fail(OAuthError("insufficient_scope", "ask for more", status=403), endpoint="api", user_id="alice")
    async with fake.client() as http:
        reply = await http.get("/api", headers=headers)
    assert reply.status_code == 403
    expected = 'Bearer error="insufficient_scope", error_description="ask for more"'
    assert reply.headers["www-authenticate"] == expected


@pytest.mark.parametrize("not_a_fault", [DropReply, "DropReply", None, 500])
def test_what_is_no_fault_is_a_clear_error(not_a_fault: Any) -> None:
    with pytest.raises(ConfigurationError, match=r"fault must be a fault such as DropReply\(\)"):
        FakeProvider().fail(not_a_fault)


@pytest.mark.parametrize(
    ("settings", "problem"),
    [
        ({"times": 0}, "times must be at least 1"),
        ({"endpoint": "tokens"}, "endpoint must be one of"),
        ({"endpoint": "discovery", "user_id": "alice"}, "discovery is not about a user"),
    ],
)
def test_a_fault_that_could_never_happen_is_a_clear_error(settings: Any, problem: str) -> None:
    with pytest.raises(ConfigurationError, match=problem):
        FakeProvider().fail(ServerError(), **settings)


def test_faults_are_plain_values() -> None:
    assert Delay(1) == Delay(1)
    assert repr(RateLimited(5)) == "RateLimited(retry_after=5, told_by='Retry-After')"
    assert json.dumps(dataclasses.asdict(OAuthError("slow_down"))) == (
        '{"error": "slow_down", "description": null, "status": 400}'
    )
    with pytest.raises(dataclasses.FrozenInstanceError):
        Delay(1).seconds = 2  # type: ignore[misc]


# --- what the library makes of them ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("fault", "error", "code"),
    [
        (DropRequest(), ProviderUnavailable, "outcome_unknown"),
        (DropReply(), ProviderUnavailable, "outcome_unknown"),
        (ServerError(502), ProviderUnavailable, "server_error"),
        (RateLimited(7), ProviderUnavailable, "rate_limited"),
        (HTMLReply(), InvalidProviderResponse, "outcome_unknown"),
        (GarbageReply(), InvalidProviderResponse, "outcome_unknown"),
        (HugeReply(), InvalidProviderResponse, "outcome_unknown"),
        (Redirect("https://elsewhere.example"), ProviderMisconfigured, "redirected"),
        (OAuthError("unauthorized_client"), ProviderMisconfigured, "unauthorized_client"),
    ],
    ids=repr,
)
async def test_the_library_meets_each_fault_as_an_error_of_its_own_tree(
    fault: Fault, error: type[TokenRefreshError], code: str
) -> None:
    fake = FakeProvider()
    login = TokenSet.from_response(fake.login("alice"))
    fake.fail(fault)
    async with fake.client() as http:
        provider = OIDCProvider(fake.issuer, ClientSecretBasic("app", "s3cret"), http_client=http)
        with pytest.raises(error) as caught:
            await provider.renew("alice", login)
    assert caught.value.code == code
