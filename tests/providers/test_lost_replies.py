"""T6 by vendor: a lost reply is asked for again where the vendor takes a refresh token a second time."""

import asyncio
from collections.abc import Callable

import httpx
import pytest
import respx
import time_machine

from kit.loopback import Answer, answering, http_reply, resetting, serving
from kit.routes import forms
from kit.support import NOW
from tokenflight import profiles
from tokenflight.errors import InvalidProviderResponse, ProviderUnavailable, TokenRefreshError
from tokenflight.profiles import Profile
from tokenflight.providers import OAuth2Provider, OIDCProvider, PublicClient
from tokenflight.tokens import TokenSet

URL = "https://idp.example/token"
HELD = TokenSet("at", refresh_token="rt", expires_at=NOW)
REPLY = http_reply(b'{"access_token": "at2", "refresh_token": "rt2"}')

NEVER = Profile(name="never", rotation="never")
GRACE = Profile(name="grace", rotation="always", grace=60.0)
STRICT = Profile(name="strict", rotation="always")
PATIENT = [NEVER, GRACE, profiles.ENTRA, profiles.XERO]
IMPATIENT = [profiles.STANDARD, STRICT, profiles.GITHUB, profiles.OKTA]


def losing_first(*lost: Answer) -> Answer:
    """Answer with each of `lost` once, and then with tokens."""
    answers = [*lost, answering(REPLY)]

    async def answer(writer: asyncio.StreamWriter) -> None:
        await (answers.pop(0) if len(answers) > 1 else answers[0])(writer)

    return answer


def at(url: str, profile: Profile, *, timeout: float = 5.0) -> OAuth2Provider:
    return OAuth2Provider(url, PublicClient("app"), name="idp", profile=profile, timeout=timeout)


LOST: dict[str, Callable[[], Answer]] = {
    "reset": lambda: resetting,
    "an empty reply": lambda: answering(http_reply(b"")),
    "a web page": lambda: answering(http_reply(b"<html>sign in</html>")),
}


@pytest.mark.parametrize("lost", LOST.values(), ids=LOST)
@pytest.mark.parametrize("profile", PATIENT, ids=lambda profile: profile.name)
async def test_t6_a_lost_reply_is_asked_for_again_at_once_where_that_is_safe(
    profile: Profile, lost: Callable[[], Answer]
) -> None:
    async with serving(losing_first(lost())) as server:
        provider = at(server.url, profile)
        tokens = await provider.renew("alice", HELD)
        await provider.aclose()

    assert tokens.refresh_token == "rt2"
    assert len(server.requests) == 2
    assert all(b"refresh_token=rt&" in request for request in server.requests)


@pytest.mark.parametrize("lost", LOST.values(), ids=LOST)
@pytest.mark.parametrize("profile", IMPATIENT, ids=lambda profile: profile.name)
async def test_t6_a_lost_reply_is_not_asked_for_again_where_the_grant_could_be_revoked(
    profile: Profile, lost: Callable[[], Answer]
) -> None:
    async with serving(losing_first(lost())) as server:
        provider = at(server.url, profile)
        with pytest.raises(TokenRefreshError) as caught:
            await provider.renew("alice", HELD)
        await provider.aclose()

    assert caught.value.code == "outcome_unknown"
    assert len(server.requests) == 1


async def test_t6_a_reply_lost_twice_is_not_asked_for_a_third_time() -> None:
    async with serving(losing_first(resetting, resetting)) as server:
        provider = at(server.url, NEVER)
        with pytest.raises(ProviderUnavailable) as caught:
            await provider.renew("alice", HELD)
        await provider.aclose()

    assert caught.value.code == "outcome_unknown"
    assert len(server.requests) == 2


async def test_t6_a_grace_that_has_passed_is_over() -> None:
    async with serving(losing_first(resetting)) as server:
        provider = at(server.url, Profile(name="brief", rotation="always", grace=1e-9))
        with pytest.raises(ProviderUnavailable) as caught:
            await provider.renew("alice", HELD)
        await provider.aclose()

    assert caught.value.code == "outcome_unknown"
    assert len(server.requests) == 1


async def test_t6_a_provider_that_hangs_for_the_whole_timeout_is_not_asked_again() -> None:
    async def hang(_: asyncio.StreamWriter) -> None:
        await server.closing.wait()

    async with serving(losing_first(hang)) as server:
        provider = at(server.url, NEVER, timeout=0.2)
        with pytest.raises(ProviderUnavailable) as caught:
            await provider.renew("alice", HELD)
        await provider.aclose()

    assert caught.value.code == "outcome_unknown"
    assert len(server.requests) == 1


async def test_t6_a_second_request_that_never_left_leaves_the_outcome_unknown(
    router: respx.MockRouter, http_client: httpx.AsyncClient
) -> None:
    endpoint = router.post(URL).mock(side_effect=[httpx.ReadError, *[httpx.ConnectError] * 3])
    provider = OAuth2Provider(URL, PublicClient("app"), name="idp", http_client=http_client, profile=NEVER)

    with pytest.raises(ProviderUnavailable) as caught:
        await provider.renew("alice", HELD)
    assert caught.value.code == "outcome_unknown"
    assert endpoint.call_count == 4


async def test_t6_the_answer_to_the_second_request_counts(
    router: respx.MockRouter, http_client: httpx.AsyncClient
) -> None:
    busy = httpx.Response(503, headers={"Retry-After": "9"})
    router.post(URL).mock(side_effect=[httpx.ReadError, busy])
    provider = OAuth2Provider(URL, PublicClient("app"), name="idp", http_client=http_client, profile=NEVER)

    with pytest.raises(ProviderUnavailable) as caught:
        await provider.renew("alice", HELD)
    assert (caught.value.code, caught.value.retry_after) == ("server_error", 9)


async def test_v1_a_refresh_token_that_was_found_is_no_lost_reply(
    router: respx.MockRouter, http_client: httpx.AsyncClient
) -> None:
    endpoint = router.post(URL).respond(json={"refresh_token": "rt2"})
    provider = OAuth2Provider(URL, PublicClient("app"), name="idp", http_client=http_client, profile=GRACE)

    with pytest.raises(Exception, match="is kept for the next renewal"):
        await provider.renew("alice", HELD)
    assert endpoint.call_count == 1


async def test_v10_t6_an_endpoint_that_moved_and_then_loses_a_reply_is_asked_again(
    router: respx.MockRouter, http_client: httpx.AsyncClient, clock: time_machine.Traveller
) -> None:
    old, new = f"{URL}/old", f"{URL}/new"
    documents = [{"issuer": "https://idp.example", "token_endpoint": url} for url in (old, new)]
    router.get(path="/.well-known/openid-configuration").mock(
        side_effect=[httpx.Response(200, json=document) for document in documents]
    )
    router.post(old).respond(404)
    moved = router.post(new).mock(side_effect=[httpx.ReadError, httpx.Response(200, json={"access_token": "at2"})])
    provider = OIDCProvider("https://idp.example", PublicClient("app"), http_client=http_client, profile=NEVER)

    assert (await provider.renew("alice", HELD)).access_token == "at2"
    assert [form["refresh_token"] for form in forms(moved)] == ["rt", "rt"]


async def test_v1_a_success_that_can_not_be_read_is_no_outage(
    router: respx.MockRouter, http_client: httpx.AsyncClient
) -> None:
    router.post(URL).respond(200, content=b"")
    provider = OAuth2Provider(URL, PublicClient("app"), name="idp", http_client=http_client)

    with pytest.raises(InvalidProviderResponse, match="may be spent"):
        await provider.renew("alice", HELD)
