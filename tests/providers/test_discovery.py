"""R10: the provider's metadata is fetched once, shared, and kept only while it makes sense."""

import asyncio
import threading
from collections.abc import AsyncIterator
from typing import Any

import httpx
import pytest
import time_machine

from tokenflight.errors import InvalidProviderResponse, ProviderMisconfigured, ProviderUnavailable, TokenflightError
from tokenflight.providers._http import ProviderClient
from tokenflight.providers.metadata import COOL_DOWN_SECONDS, MAX_AGE_SECONDS, Discovery

ISSUER = "https://idp.example/tenant"
HOUR = 3600.0


class Metadata:
    """The provider's metadata endpoint: what it answers, and how often it was asked."""

    def __init__(self) -> None:
        self.fetches = 0
        self.urls: set[str] = set()
        self.status = 200
        self.members: dict[str, Any] = {"issuer": ISSUER, "token_endpoint": "https://idp.example/token"}
        self.may_answer = asyncio.Event()
        self.may_answer.set()

    async def __call__(self, request: httpx.Request) -> httpx.Response:
        self.fetches += 1
        self.urls.add(str(request.url))
        await self.may_answer.wait()
        return httpx.Response(self.status, json=self.members)

    async def asked(self, times: int) -> None:
        async with asyncio.timeout(5):
            while self.fetches < times:  # noqa: ASYNC110 - a plain counter
                await asyncio.sleep(0)


@pytest.fixture
def metadata() -> Metadata:
    return Metadata()


@pytest.fixture
async def discovery(metadata: Metadata) -> AsyncIterator[Discovery]:
    async with httpx.AsyncClient(transport=httpx.MockTransport(metadata)) as http:
        yield Discovery(ISSUER, ProviderClient("idp", http, timeout=5).send, provider="idp")


async def failure_of(discovery: Discovery) -> TokenflightError:
    with pytest.raises(TokenflightError) as caught:
        await discovery.metadata()
    return caught.value


async def test_r10_the_document_says_where_the_token_endpoint_is(discovery: Discovery, metadata: Metadata) -> None:
    assert (await discovery.metadata()).token_endpoint == "https://idp.example/token"
    assert metadata.urls == {"https://idp.example/tenant/.well-known/openid-configuration"}


@pytest.mark.parametrize(
    ("issuer", "url"),
    [
        ("https://idp.example", "https://idp.example/.well-known/openid-configuration"),
        ("https://idp.example/", "https://idp.example/.well-known/openid-configuration"),
        ("https://idp.example/a/", "https://idp.example/a/.well-known/openid-configuration"),
    ],
)
async def test_r10_a_slash_at_the_end_of_the_issuer_is_kept_in_the_name_but_not_doubled_in_the_url(
    issuer: str, url: str, metadata: Metadata
) -> None:
    metadata.members["issuer"] = issuer
    async with httpx.AsyncClient(transport=httpx.MockTransport(metadata)) as http:
        document = await Discovery(issuer, ProviderClient("idp", http, timeout=5).send, provider="idp").metadata()

    assert document.issuer == issuer
    assert metadata.urls == {url}


async def test_r10_a_hundred_callers_share_one_fetch(discovery: Discovery, metadata: Metadata) -> None:
    documents = await asyncio.gather(*(discovery.metadata() for _ in range(100)))

    assert {document.token_endpoint for document in documents} == {"https://idp.example/token"}
    assert metadata.fetches == 1


async def test_r10_a_document_is_not_fetched_again_for_each_refresh(
    discovery: Discovery, metadata: Metadata, clock: time_machine.Traveller
) -> None:
    for _ in range(10):
        await discovery.metadata()
        clock.shift(HOUR)

    assert metadata.fetches == 1


async def test_r10_a_document_is_fetched_again_after_a_day(
    discovery: Discovery, metadata: Metadata, clock: time_machine.Traveller
) -> None:
    await discovery.metadata()
    metadata.members["token_endpoint"] = "https://idp.example/v2/token"
    clock.shift(MAX_AGE_SECONDS - 1)
    assert (await discovery.metadata()).token_endpoint == "https://idp.example/token"
    clock.shift(1)

    assert (await discovery.metadata()).token_endpoint == "https://idp.example/v2/token"
    assert metadata.fetches == 2


async def test_r10_a_clock_set_back_does_not_keep_a_document_for_longer(
    discovery: Discovery, metadata: Metadata, clock: time_machine.Traveller
) -> None:
    await discovery.metadata()
    clock.shift(-365 * 24 * HOUR)
    await discovery.metadata()

    assert metadata.fetches == 2


async def test_r10_a_failure_is_shared_by_all_callers_each_with_an_error_of_its_own(
    discovery: Discovery, metadata: Metadata
) -> None:
    metadata.status = 503
    errors = await asyncio.gather(*(failure_of(discovery) for _ in range(100)))

    assert {type(error) for error in errors} == {ProviderUnavailable}
    assert len({id(error) for error in errors}) == 100
    assert metadata.fetches == 1


async def test_r10_a_failure_is_the_answer_during_the_cool_down_and_no_longer(
    discovery: Discovery, metadata: Metadata, clock: time_machine.Traveller
) -> None:
    metadata.status = 503
    first = await failure_of(discovery)
    clock.shift(COOL_DOWN_SECONDS - 1)
    second = await failure_of(discovery)
    assert (str(first), metadata.fetches) == (str(second), 1)
    assert first is not second

    metadata.status = 200
    clock.shift(1)
    assert (await discovery.metadata()).issuer == ISSUER
    assert metadata.fetches == 2


async def test_r10_a_clock_set_back_ends_the_cool_down(
    discovery: Discovery, metadata: Metadata, clock: time_machine.Traveller
) -> None:
    metadata.status = 503
    await failure_of(discovery)
    metadata.status = 200
    clock.shift(-HOUR)

    assert (await discovery.metadata()).issuer == ISSUER


@pytest.mark.parametrize("status", [503, 404, 302])
async def test_r10_a_stale_document_survives_an_outage(
    status: int, discovery: Discovery, metadata: Metadata, clock: time_machine.Traveller
) -> None:
    await discovery.metadata()
    metadata.status = status
    for _ in range(5):
        clock.shift(MAX_AGE_SECONDS)
        assert (await discovery.metadata()).issuer == ISSUER


async def test_r10_during_an_outage_a_stale_document_is_not_asked_for_on_every_call(
    discovery: Discovery, metadata: Metadata, clock: time_machine.Traveller
) -> None:
    await discovery.metadata()
    metadata.status = 503
    clock.shift(MAX_AGE_SECONDS)
    for _ in range(10):
        await discovery.metadata()

    assert metadata.fetches == 2


async def test_r10_after_an_outage_a_stale_document_is_soon_replaced(
    discovery: Discovery, metadata: Metadata, clock: time_machine.Traveller
) -> None:
    await discovery.metadata()
    metadata.status = 503
    clock.shift(MAX_AGE_SECONDS)
    await discovery.metadata()
    metadata.status = 200
    metadata.members["token_endpoint"] = "https://idp.example/v2/token"
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
    metadata: Metadata,
    clock: time_machine.Traveller,
) -> None:
    valid = dict(metadata.members)
    metadata.members |= changes
    assert type(await failure_of(discovery)) is kind

    metadata.members = valid
    clock.shift(COOL_DOWN_SECONDS)
    assert (await discovery.metadata()).token_endpoint == "https://idp.example/token"


async def test_r10_html_is_refused_and_not_kept(clock: time_machine.Traveller) -> None:
    replies = [httpx.Response(200, html="<h1>Sign in</h1>")]
    replies += [httpx.Response(200, json={"issuer": ISSUER, "token_endpoint": "https://idp.example/token"})]
    async with httpx.AsyncClient(transport=httpx.MockTransport(lambda _: replies.pop(0))) as http:
        discovery = Discovery(ISSUER, ProviderClient("idp", http, timeout=5).send, provider="idp")
        assert type(await failure_of(discovery)) is InvalidProviderResponse
        clock.shift(COOL_DOWN_SECONDS)

        assert (await discovery.metadata()).issuer == ISSUER


async def test_r10_an_invalid_document_does_not_replace_a_valid_one(
    discovery: Discovery, metadata: Metadata, clock: time_machine.Traveller
) -> None:
    await discovery.metadata()
    metadata.members["issuer"] = "https://evil.example"
    metadata.members["token_endpoint"] = "https://evil.example/token"
    clock.shift(MAX_AGE_SECONDS)

    assert (await discovery.metadata()).token_endpoint == "https://idp.example/token"


async def test_s3_a_cancelled_caller_does_not_cancel_the_fetch(discovery: Discovery, metadata: Metadata) -> None:
    metadata.may_answer.clear()
    first, second = asyncio.create_task(discovery.metadata()), asyncio.create_task(discovery.metadata())
    await metadata.asked(1)
    first.cancel()
    with pytest.raises(asyncio.CancelledError):
        await first
    metadata.may_answer.set()

    assert (await second).issuer == ISSUER
    assert metadata.fetches == 1


async def test_s3_a_fetch_whose_callers_are_all_gone_still_serves_the_next(
    discovery: Discovery, metadata: Metadata
) -> None:
    metadata.may_answer.clear()
    caller = asyncio.create_task(discovery.metadata())
    await metadata.asked(1)
    caller.cancel()
    await asyncio.gather(caller, return_exceptions=True)
    metadata.may_answer.set()

    assert (await discovery.metadata()).issuer == ISSUER
    assert metadata.fetches == 1


async def test_s10_a_fetch_under_way_on_another_event_loop_neither_fails_nor_blocks_this_one() -> None:
    fetches: list[str] = []
    asked, may_answer = threading.Event(), threading.Event()

    async def answer(_: httpx.Request) -> httpx.Response:
        fetches.append(threading.current_thread().name)
        if len(fetches) == 1:
            asked.set()
            await asyncio.to_thread(may_answer.wait, 5)
        return httpx.Response(200, json={"issuer": ISSUER, "token_endpoint": "https://idp.example/token"})

    http = httpx.AsyncClient(transport=httpx.MockTransport(answer))
    discovery = Discovery(ISSUER, ProviderClient("idp", http, timeout=5).send, provider="idp")
    elsewhere = asyncio.create_task(asyncio.to_thread(asyncio.run, discovery.metadata()))
    await asyncio.to_thread(asked.wait, 5)
    try:
        async with asyncio.timeout(5):
            here = await discovery.metadata()
    finally:
        may_answer.set()

    assert (await elsewhere).token_endpoint == here.token_endpoint == "https://idp.example/token"
    assert len(set(fetches)) == 2


async def test_an_unexpected_failure_is_an_error_of_the_tree_and_the_next_call_tries_again() -> None:
    replies: list[httpx.Response | Exception] = [
        ZeroDivisionError("a bug in somebody's transport"),
        httpx.Response(200, json={"issuer": ISSUER, "token_endpoint": "https://idp.example/token"}),
    ]

    def answer(_: httpx.Request) -> httpx.Response:
        reply = replies.pop(0)
        if isinstance(reply, Exception):
            raise reply
        return reply

    async with httpx.AsyncClient(transport=httpx.MockTransport(answer)) as http:
        discovery = Discovery(ISSUER, ProviderClient("idp", http, timeout=5).send, provider="idp")
        assert (await failure_of(discovery)).code == "unexpected"

        assert (await discovery.metadata()).issuer == ISSUER
