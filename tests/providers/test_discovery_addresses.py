"""R10: where the metadata is looked for, in which order, and how an issuer that is none is told."""

import asyncio
from typing import Final

import httpx
import pytest
import respx
import time_machine

from tokenflight.errors import (
    ConfigurationError,
    InvalidProviderResponse,
    ProviderMisconfigured,
    ProviderUnavailable,
    TokenflightError,
)
from tokenflight.providers._http import ProviderClient
from tokenflight.providers.discovery import COOL_DOWN_SECONDS, MAX_AGE_SECONDS, Discovery, require_issuer

ISSUER: Final = "https://idp.example/tenant"
BELOW: Final = "https://idp.example/tenant/.well-known/openid-configuration"
OAUTH: Final = "https://idp.example/.well-known/oauth-authorization-server/tenant"
OPENID: Final = "https://idp.example/.well-known/openid-configuration/tenant"
DOCUMENT: Final = {"issuer": ISSUER, "token_endpoint": "https://idp.example/token"}


@pytest.fixture
def addresses(router: respx.MockRouter) -> dict[str, respx.Route]:
    """The three addresses in their order, with nothing at any of them."""
    return {url: router.get(url).respond(404) for url in (BELOW, OAUTH, OPENID)}


def discovery_of(
    http_client: httpx.AsyncClient, *, issuer: str = ISSUER, metadata_url: str | None = None, timeout: float = 5.0
) -> Discovery:
    send = ProviderClient("idp", http_client, timeout=5).send
    return Discovery(issuer, send, provider="idp", timeout=timeout, metadata_url=metadata_url)


@pytest.fixture
def discovery(http_client: httpx.AsyncClient) -> Discovery:
    return discovery_of(http_client)


def asked(router: respx.MockRouter) -> list[str]:
    return [str(call.request.url) for call in router.calls]


async def failure_of(discovery: Discovery) -> TokenflightError:
    with pytest.raises(TokenflightError) as caught:
        await discovery.metadata()
    return caught.value


@pytest.mark.parametrize(
    ("found", "requests"), [(BELOW, [BELOW]), (OAUTH, [BELOW, OAUTH]), (OPENID, [BELOW, OAUTH, OPENID])]
)
async def test_r10_each_address_is_asked_if_there_is_nothing_at_those_before_it(
    found: str,
    requests: list[str],
    discovery: Discovery,
    addresses: dict[str, respx.Route],
    router: respx.MockRouter,
) -> None:
    addresses[found].respond(json=DOCUMENT)
    documents = await asyncio.gather(*(discovery.metadata() for _ in range(100)))

    assert {document.token_endpoint for document in documents} == {"https://idp.example/token"}
    assert asked(router) == requests


async def test_r10_an_issuer_without_a_path_has_two_addresses(
    http_client: httpx.AsyncClient, router: respx.MockRouter
) -> None:
    router.get("https://idp.example/.well-known/openid-configuration").respond(404)
    oauth = router.get("https://idp.example/.well-known/oauth-authorization-server")
    oauth.respond(json={**DOCUMENT, "issuer": "https://idp.example"})

    assert (await discovery_of(http_client, issuer="https://idp.example").metadata()).issuer == "https://idp.example"
    assert len(router.calls) == 2


async def test_r10_where_there_is_nothing_at_all_all_addresses_are_told_and_nothing_is_asked_again_for_a_while(
    discovery: Discovery,
    addresses: dict[str, respx.Route],
    router: respx.MockRouter,
    clock: time_machine.Traveller,
) -> None:
    errors = [await failure_of(discovery) for _ in range(10)]

    assert {type(error) for error in errors} == {ProviderMisconfigured}
    assert {error.code for error in errors} == {"discovery_failed"}
    assert f"found nothing at {BELOW} or {OAUTH} or {OPENID}; check the issuer" in str(errors[0])
    assert asked(router) == [BELOW, OAUTH, OPENID]
    clock.shift(COOL_DOWN_SECONDS)
    addresses[BELOW].respond(json=DOCUMENT)
    assert (await discovery.metadata()).issuer == ISSUER


@pytest.mark.parametrize("status", [301, 400, 401, 403, 405, 410, 429, 500, 503])
async def test_r10_any_status_but_a_404_is_the_answer(
    status: int, discovery: Discovery, addresses: dict[str, respx.Route], router: respx.MockRouter
) -> None:
    addresses[BELOW].respond(status)
    addresses[OAUTH].respond(json=DOCUMENT)

    assert (await failure_of(discovery)).code == "discovery_failed"
    assert asked(router) == [BELOW]


@pytest.mark.parametrize(
    ("document", "kind"),
    [
        ({**DOCUMENT, "issuer": "https://evil.example"}, ProviderMisconfigured),
        ({**DOCUMENT, "token_endpoint": "http://idp.example/token"}, ProviderMisconfigured),
        ("Sign in", InvalidProviderResponse),
    ],
    ids=["issuer", "endpoint", "text"],
)
async def test_r11_a_bad_document_is_the_answer_and_no_other_is_looked_for(
    document: object,
    kind: type[TokenflightError],
    discovery: Discovery,
    addresses: dict[str, respx.Route],
    router: respx.MockRouter,
) -> None:
    addresses[OAUTH].respond(json=document)
    addresses[OPENID].respond(json=DOCUMENT)

    assert type(await failure_of(discovery)) is kind
    assert asked(router) == [BELOW, OAUTH]


@pytest.mark.parametrize("found", [BELOW, OAUTH, OPENID])
async def test_r11_with_a_document_at_hand_no_other_address_is_asked_even_if_it_disappears(
    found: str,
    discovery: Discovery,
    addresses: dict[str, respx.Route],
    router: respx.MockRouter,
    clock: time_machine.Traveller,
) -> None:
    addresses[found].respond(json=DOCUMENT)
    await discovery.metadata()
    for address in addresses.values():
        address.respond(json={**DOCUMENT, "token_endpoint": "https://evil.example/token"})
    addresses[found].respond(404)
    router.calls.clear()
    for _ in range(3):
        clock.shift(MAX_AGE_SECONDS)
        assert (await discovery.metadata()).token_endpoint == "https://idp.example/token"

    assert asked(router) == [found] * 3


async def test_s6_all_addresses_together_take_no_longer_than_the_timeout(
    http_client: httpx.AsyncClient, addresses: dict[str, respx.Route], router: respx.MockRouter
) -> None:
    reached: list[str] = []

    async def hang(request: httpx.Request) -> httpx.Response:
        reached.append(str(request.url))
        await asyncio.Event().wait()
        return httpx.Response(404)

    addresses[OAUTH].mock(side_effect=hang)
    error = await failure_of(discovery_of(http_client, timeout=0.05))

    assert (type(error), error.code) == (ProviderUnavailable, "discovery_failed")
    assert (asked(router), reached) == ([BELOW], [OAUTH])


# An address of its own


@pytest.mark.parametrize(
    ("issuer", "metadata_url"),
    [
        pytest.param(
            "https://login.microsoftonline.com/{tenantid}/v2.0",
            "https://login.microsoftonline.com/common/v2.0/.well-known/openid-configuration",
            id="for many tenants",
        ),
        pytest.param(
            "https://shop.b2clogin.com/775527ff-9a37-4307-8b3d-cc311f58d925/v2.0/",
            "https://shop.b2clogin.com/shop.onmicrosoft.com/v2.0/.well-known/openid-configuration?p=b2c_1_signin",
            id="for one policy",
        ),
    ],
)
async def test_r10_metadata_elsewhere_is_asked_for_there_alone(
    issuer: str, metadata_url: str, http_client: httpx.AsyncClient, router: respx.MockRouter
) -> None:
    router.get(metadata_url).respond(json={**DOCUMENT, "issuer": issuer})
    require_issuer(issuer)
    metadata = await discovery_of(http_client, issuer=issuer, metadata_url=metadata_url).metadata()

    assert metadata.issuer == issuer
    assert asked(router) == [metadata_url]


async def test_r10_where_nothing_is_at_the_address_that_was_given_no_other_is_asked(
    http_client: httpx.AsyncClient, router: respx.MockRouter
) -> None:
    router.get("https://idp.example/metadata").respond(404)
    error = await failure_of(discovery_of(http_client, metadata_url="https://idp.example/metadata"))

    assert "found nothing at https://idp.example/metadata;" in str(error)
    assert len(router.calls) == 1


@pytest.mark.parametrize(
    "named",
    [
        "https://login.microsoftonline.com/72f988bf-86f1-41af-91ab-2d7cd011db47/v2.0",
        "https://login.microsoftonline.com/{tenant}/v2.0",
        "https://login.microsoftonline.com//v2.0",
        "https://evil.example/v2.0",
    ],
)
async def test_r11_the_issuer_of_many_tenants_stands_for_no_other_text(
    named: str, http_client: httpx.AsyncClient, router: respx.MockRouter
) -> None:
    url = "https://login.microsoftonline.com/common/v2.0/.well-known/openid-configuration"
    router.get(url).respond(json={**DOCUMENT, "issuer": named})
    issuer = "https://login.microsoftonline.com/{tenantid}/v2.0"
    error = await failure_of(discovery_of(http_client, issuer=issuer, metadata_url=url))

    assert error.code == "issuer_mismatch"


# What is no issuer


@pytest.mark.parametrize(
    ("url", "issuer"),
    [
        ("https://idp.example/.well-known/openid-configuration", "https://idp.example"),
        (BELOW, ISSUER),
        (OAUTH, ISSUER),
        (OPENID, ISSUER),
        ("https://idp.example:8443/a/b/.well-known/openid-configuration?p=x", "https://idp.example:8443/a/b"),
        ("https://idp.example/.well-known/", "https://idp.example"),
    ],
)
def test_r10_the_address_of_metadata_is_no_issuer_and_the_error_says_what_is(url: str, issuer: str) -> None:
    with pytest.raises(ConfigurationError) as caught:
        require_issuer(url)

    assert f"pass '{issuer}'. If" in str(caught.value)
    assert str(caught.value).endswith(f"'{url}' as metadata_url")


@pytest.mark.parametrize("issuer", ["https://idp.example?tenant=a", "https://idp.example/tenant?"])
def test_n13_an_issuer_has_no_query(issuer: str) -> None:
    with pytest.raises(ConfigurationError, match="issuer must have no query"):
        require_issuer(issuer)


@pytest.mark.parametrize("issuer", [f" {ISSUER}", f"{ISSUER}\n", f"\t{ISSUER} "])
def test_r10_white_space_around_an_issuer_is_told_with_the_issuer_to_pass(issuer: str) -> None:
    with pytest.raises(
        ConfigurationError, match=f"issuer must have no white space around it; pass exactly: '{ISSUER}'"
    ):
        require_issuer(issuer)
