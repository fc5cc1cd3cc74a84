"""R10: the provider's metadata is fetched once, shared, and kept only while it makes sense."""

import asyncio
import threading

import httpx
import pytest
import respx
import time_machine

from tokenflight.errors import InvalidProviderResponse, ProviderMisconfigured, ProviderUnavailable, TokenflightError
from tokenflight.providers._http import ProviderClient
from tokenflight.providers.discovery import COOL_DOWN_SECONDS, MAX_AGE_SECONDS, Discovery

ISSUER = "https://idp.example/tenant"
HOUR = 3600.0


def members(**changes: str) -> dict[str, str]:
    return {"issuer": ISSUER, "token_endpoint": "https://idp.example/token", **changes}


@pytest.fixture
def metadata(router: respx.MockRouter) -> respx.Route:
    return router.get(f"{ISSUER}/.well-known/openid-configuration").respond(json=members())


class Gate:
    """Answers when it is opened."""

    def __init__(self) -> None:
        self.reached = asyncio.Event()
        self.open = asyncio.Event()

    async def __call__(self, _: httpx.Request) -> httpx.Response:
        self.reached.set()
        await self.open.wait()
        return httpx.Response(200, json=members())


def discovery_of(issuer: str, http_client: httpx.AsyncClient) -> Discovery:
    return Discovery(issuer, ProviderClient("idp", http_client, timeout=5).send, provider="idp", timeout=5)


@pytest.fixture
def discovery(http_client: httpx.AsyncClient) -> Discovery:
    return discovery_of(ISSUER, http_client)


async def failure_of(discovery: Discovery) -> TokenflightError:
    with pytest.raises(TokenflightError) as caught:
        await discovery.metadata()
    return caught.value


async def test_r10_the_metadata_says_where_the_token_endpoint_is(discovery: Discovery, metadata: respx.Route) -> None:
    assert (await discovery.metadata()).token_endpoint == "https://idp.example/token"
    assert metadata.call_count == 1


@pytest.mark.parametrize(
    ("issuer", "url"),
    [
        ("https://idp.example", "https://idp.example/.well-known/openid-configuration"),
        ("https://idp.example/", "https://idp.example/.well-known/openid-configuration"),
        ("https://idp.example/a/", "https://idp.example/a/.well-known/openid-configuration"),
    ],
)
async def test_r10_a_slash_at_the_end_of_the_issuer_is_kept_in_the_name_but_not_doubled_in_the_url(
    issuer: str, url: str, router: respx.MockRouter, http_client: httpx.AsyncClient
) -> None:
    router.get(url).respond(json=members(issuer=issuer))

    assert (await discovery_of(issuer, http_client).metadata()).issuer == issuer


async def test_r10_a_hundred_callers_share_one_fetch(discovery: Discovery, metadata: respx.Route) -> None:
    documents = await asyncio.gather(*(discovery.metadata() for _ in range(100)))

    assert {document.token_endpoint for document in documents} == {"https://idp.example/token"}
    assert metadata.call_count == 1


async def test_r10_a_document_is_not_fetched_again_for_each_refresh(
    discovery: Discovery, metadata: respx.Route, clock: time_machine.Traveller
) -> None:
    for _ in range(10):
        await discovery.metadata()
        clock.shift(HOUR)

    assert metadata.call_count == 1


async def test_r10_a_document_is_fetched_again_after_a_day(
    discovery: Discovery, metadata: respx.Route, clock: time_machine.Traveller
) -> None:
    await discovery.metadata()
    metadata.respond(json=members(token_endpoint="https://idp.example/v2/token"))
    clock.shift(MAX_AGE_SECONDS - 1)
    assert (await discovery.metadata()).token_endpoint == "https://idp.example/token"
    clock.shift(1)

    assert (await discovery.metadata()).token_endpoint == "https://idp.example/v2/token"
    assert metadata.call_count == 2


async def test_r10_a_clock_set_back_does_not_keep_a_document_for_longer(
    discovery: Discovery, metadata: respx.Route, clock: time_machine.Traveller
) -> None:
    await discovery.metadata()
    clock.shift(-365 * 24 * HOUR)
    await discovery.metadata()

    assert metadata.call_count == 2


async def test_r10_a_failure_is_shared_by_all_callers_each_with_an_error_of_its_own(
    discovery: Discovery, metadata: respx.Route
) -> None:
    metadata.respond(503)
    errors = await asyncio.gather(*(failure_of(discovery) for _ in range(100)))

    assert {type(error) for error in errors} == {ProviderUnavailable}
    assert len({id(error) for error in errors}) == 100
    assert metadata.call_count == 1


async def test_r10_a_failure_is_the_answer_during_the_cool_down_and_no_longer(
    discovery: Discovery, metadata: respx.Route, clock: time_machine.Traveller
) -> None:
    metadata.respond(503)
    first = await failure_of(discovery)
    clock.shift(COOL_DOWN_SECONDS - 1)
    second = await failure_of(discovery)
    assert (str(first), metadata.call_count) == (str(second), 1)
    assert first is not second

    metadata.respond(json=members())
    clock.shift(1)
    assert (await discovery.metadata()).issuer == ISSUER
    assert metadata.call_count == 2


async def test_r10_a_clock_set_back_ends_the_cool_down(
    discovery: Discovery, metadata: respx.Route, clock: time_machine.Traveller
) -> None:
    metadata.respond(503)
    await failure_of(discovery)
    metadata.respond(json=members())
    clock.shift(-HOUR)

    assert (await discovery.metadata()).issuer == ISSUER


@pytest.mark.parametrize("status", [503, 404, 302])
async def test_r10_a_stale_document_survives_an_outage(
    status: int, discovery: Discovery, metadata: respx.Route, clock: time_machine.Traveller
) -> None:
    await discovery.metadata()
    metadata.respond(status)
    for _ in range(5):
        clock.shift(MAX_AGE_SECONDS)
        assert (await discovery.metadata()).issuer == ISSUER


async def test_r10_during_an_outage_a_stale_document_is_not_asked_for_on_every_call(
    discovery: Discovery, metadata: respx.Route, clock: time_machine.Traveller
) -> None:
    await discovery.metadata()
    metadata.respond(503)
    clock.shift(MAX_AGE_SECONDS)
    for _ in range(10):
        await discovery.metadata()

    assert metadata.call_count == 2


async def test_r10_after_an_outage_a_stale_document_is_soon_replaced(
    discovery: Discovery, metadata: respx.Route, clock: time_machine.Traveller
) -> None:
    await discovery.metadata()
    metadata.respond(503)
    clock.shift(MAX_AGE_SECONDS)
    await discovery.metadata()
    metadata.respond(json=members(token_endpoint="https://idp.example/v2/token"))
    clock.shift(COOL_DOWN_SECONDS)

    assert (await discovery.metadata()).token_endpoint == "https://idp.example/v2/token"


@pytest.mark.parametrize(
    ("changes", "kind"),
    [
        ({"issuer": "https://evil.example"}, ProviderMisconfigured),
        ({"token_endpoint": "http://idp.example/token"}, ProviderMisconfigured),
    ],
)
async def test_r10_an_invalid_document_is_refused_and_not_kept(
    changes: dict[str, str],
    kind: type[TokenflightError],
    discovery: Discovery,
    metadata: respx.Route,
    clock: time_machine.Traveller,
) -> None:
    metadata.respond(json=members(**changes))
    assert type(await failure_of(discovery)) is kind

    metadata.respond(json=members())
    clock.shift(COOL_DOWN_SECONDS)
    assert (await discovery.metadata()).token_endpoint == "https://idp.example/token"


async def test_r10_html_is_refused_and_not_kept(
    discovery: Discovery, metadata: respx.Route, clock: time_machine.Traveller
) -> None:
    metadata.respond(html="<h1>Sign in</h1>")
    assert type(await failure_of(discovery)) is InvalidProviderResponse

    metadata.respond(json=members())
    clock.shift(COOL_DOWN_SECONDS)
    assert (await discovery.metadata()).issuer == ISSUER


async def test_r10_an_invalid_document_does_not_replace_a_valid_one(
    discovery: Discovery, metadata: respx.Route, clock: time_machine.Traveller
) -> None:
    await discovery.metadata()
    metadata.respond(json=members(issuer="https://evil.example", token_endpoint="https://evil.example/token"))
    clock.shift(MAX_AGE_SECONDS)

    assert (await discovery.metadata()).token_endpoint == "https://idp.example/token"


async def test_s3_a_cancelled_caller_does_not_cancel_the_fetch(discovery: Discovery, metadata: respx.Route) -> None:
    gate = Gate()
    metadata.mock(side_effect=gate)
    first, second = asyncio.create_task(discovery.metadata()), asyncio.create_task(discovery.metadata())
    await gate.reached.wait()
    first.cancel()
    with pytest.raises(asyncio.CancelledError):
        await first
    gate.open.set()

    assert (await second).issuer == ISSUER
    assert metadata.call_count == 1


async def test_s3_a_fetch_whose_callers_are_all_gone_still_serves_the_next(
    discovery: Discovery, metadata: respx.Route
) -> None:
    gate = Gate()
    metadata.mock(side_effect=gate)
    caller = asyncio.create_task(discovery.metadata())
    await gate.reached.wait()
    caller.cancel()
    await asyncio.gather(caller, return_exceptions=True)
    gate.open.set()

    assert (await discovery.metadata()).issuer == ISSUER
    assert metadata.call_count == 1


async def test_s10_a_fetch_under_way_on_another_event_loop_neither_fails_nor_blocks_this_one(
    discovery: Discovery, metadata: respx.Route
) -> None:
    fetches: list[str] = []
    asked, may_answer = threading.Event(), threading.Event()

    async def answer(_: httpx.Request) -> httpx.Response:
        fetches.append(threading.current_thread().name)
        if len(fetches) == 1:
            asked.set()
            await asyncio.to_thread(may_answer.wait, 5)
        return httpx.Response(200, json=members())

    metadata.mock(side_effect=answer)
    elsewhere = asyncio.create_task(asyncio.to_thread(asyncio.run, discovery.metadata()))
    await asyncio.to_thread(asked.wait, 5)
    try:
        async with asyncio.timeout(5):
            here = await discovery.metadata()
    finally:
        may_answer.set()

    assert (await elsewhere).token_endpoint == here.token_endpoint == "https://idp.example/token"
    assert len(set(fetches)) == 2


async def test_an_unexpected_failure_is_an_error_of_the_tree_and_the_next_call_tries_again(
    discovery: Discovery, metadata: respx.Route
) -> None:
    metadata.mock(side_effect=ZeroDivisionError("a bug in a transport of the app's"))
    assert (await failure_of(discovery)).code == "unexpected"

    metadata.respond(json=members())
    assert (await discovery.metadata()).issuer == ISSUER
