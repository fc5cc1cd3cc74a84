"""The auth flow itself, which knows no HTTP library: where tokens go, what carries them, and one replay."""

import time
from collections.abc import Callable, Iterable
from contextlib import aclosing, suppress
from dataclasses import dataclass, field, replace
from types import SimpleNamespace

import pytest

from kit.support import login
from tokenflight import BaseProvider, ConfigurationError, ReauthenticationRequired, TokenRefresher, TokenSet
from tokenflight.bearer import BearerFlow, OriginPolicy, headers_for
from tokenflight.providers import AccessTokenHeader
from tokenflight.testing import FakeProvider


@dataclass
class Destination:
    scheme: str = "https"
    host: str | None = "api.example"
    port: int | None = None


@dataclass
class Request:
    url: Destination = field(default_factory=Destination)
    method: str = "GET"
    headers: dict[str, str] = field(default_factory=dict)


@dataclass
class Response:
    request: Request
    status_code: int = 200
    headers: dict[str, str] = field(default_factory=dict)


class API:
    """Answers each request with the next of `statuses`, and keeps the headers that came."""

    def __init__(self, *statuses: int) -> None:
        self.statuses = list(statuses)
        self.received: list[dict[str, str]] = []

    async def send(self, request: Request) -> Response:
        self.received.append(dict(request.headers))
        return Response(request, self.statuses.pop(0))


async def call(flow: BearerFlow[Request], api: API, request: Request | None = None) -> Response:
    """Drive the flow as a client middleware does."""
    async with aclosing(flow.run(request or Request())) as steps:
        response = await api.send(await anext(steps))
        with suppress(StopAsyncIteration):
            response = await api.send(await steps.asend(response))
        return response


def flow_of(
    refresher: TokenRefresher,
    *,
    origins: Iterable[str] | None = None,
    can_resend: Callable[[Request], bool] = lambda request: True,
) -> BearerFlow[Request]:
    return BearerFlow(refresher, "alice", origins=origins, can_resend=can_resend)


def bearer(tokens: TokenSet | None) -> dict[str, str]:
    assert tokens is not None
    return {"Authorization": f"Bearer {tokens.access_token}"}


async def test_a_middleware_sends_each_request_once_and_with_its_token(
    fake: FakeProvider, refresher: TokenRefresher
) -> None:
    tokens = login(fake, "alice")
    await refresher.save_tokens("alice", tokens)
    flow, api = flow_of(refresher), API(200, 404, 200)
    assert [(await call(flow, api)).status_code for _ in range(3)] == [200, 404, 200]
    assert api.received == [bearer(tokens)] * 3


class Vendor(BaseProvider):
    """A provider whose API takes tokens in a `header` of its own."""

    name = "vendor"

    def __init__(self, header: AccessTokenHeader) -> None:
        self._header = header

    @property
    def access_token_header(self) -> AccessTokenHeader:
        return self._header

    async def renew(self, user_id: str, tokens: TokenSet | None) -> TokenSet:
        return TokenSet("access-2", refresh_token="refresh-2", expires_at=time.time() + 3600)


@pytest.mark.parametrize(
    ("header", "sent"),
    [
        (AccessTokenHeader(scheme="Zoho-oauthtoken"), {"Authorization": "Zoho-oauthtoken access-{}"}),
        (AccessTokenHeader("X-Shopify-Access-Token", None), {"X-Shopify-Access-Token": "access-{}"}),
    ],
)
async def test_a_token_goes_into_the_header_that_the_api_wants_also_when_it_is_renewed(
    header: AccessTokenHeader, sent: dict[str, str]
) -> None:
    async with TokenRefresher(Vendor(header)) as refresher:
        tokens = TokenSet("access-1", refresh_token="refresh-1", expires_at=time.time() + 3600)
        await refresher.save_tokens("alice", tokens)
        flow, api = flow_of(refresher), API(200, 401, 200, 200)
        for _ in range(3):
            assert (await call(flow, api)).status_code == 200
    assert api.received == [{name: value.format(n) for name, value in sent.items()} for n in (1, 1, 2, 2)]


async def test_a_rejected_token_is_renewed_and_the_request_sent_again_with_the_new_one(
    fake: FakeProvider, refresher: TokenRefresher
) -> None:
    tokens = login(fake, "alice")
    await refresher.save_tokens("alice", tokens)
    api = API(401, 200)
    assert (await call(flow_of(refresher), api)).status_code == 200
    assert api.received == [bearer(tokens), bearer(await refresher.load_tokens("alice"))]
    assert fake.requests() == 1


async def test_a1_a_request_that_can_not_be_sent_again_is_not_replayed_but_the_token_is_renewed(
    fake: FakeProvider, refresher: TokenRefresher
) -> None:
    await refresher.save_tokens("alice", login(fake, "alice"))
    api = API(401)
    assert (await call(flow_of(refresher, can_resend=lambda request: False), api)).status_code == 401
    assert fake.requests() == 1


async def test_a2_a_replay_that_is_rejected_too_is_the_last(fake: FakeProvider, refresher: TokenRefresher) -> None:
    await refresher.save_tokens("alice", login(fake, "alice"))
    api = API(401, 401)
    assert (await call(flow_of(refresher), api)).status_code == 401
    assert fake.requests() == 1


async def test_a4_without_a_token_the_flow_yields_no_request(refresher: TokenRefresher) -> None:
    api = API()
    with pytest.raises(ReauthenticationRequired):
        await call(flow_of(refresher), api)
    assert api.received == []


async def test_each_login_is_sent_from_the_next_request_on(fake: FakeProvider, refresher: TokenRefresher) -> None:
    flow, api = flow_of(refresher), API(200, 200, 200)
    logins = [login(fake, "alice") for _ in range(3)]
    for tokens in logins:
        await refresher.save_tokens("alice", tokens)
        await call(flow, api)
    assert api.received == [bearer(tokens) for tokens in logins]


async def test_a4_a_token_sent_as_a_bearer_token_is_not_sent_any_more_once_it_is_of_another_type(
    fake: FakeProvider, refresher: TokenRefresher
) -> None:
    tokens = login(fake, "alice")
    flow, api = flow_of(refresher), API(200)
    await refresher.save_tokens("alice", tokens)
    await call(flow, api)
    await refresher.save_tokens("alice", replace(tokens, token_type="DPoP"))
    with pytest.raises(ConfigurationError):
        await call(flow, api)
    assert len(api.received) == 1


async def test_a3_a_request_elsewhere_is_checked_whatever_was_allowed_before(
    fake: FakeProvider, refresher: TokenRefresher
) -> None:
    await refresher.save_tokens("alice", login(fake, "alice"))
    flow, api = flow_of(refresher), API(200, 200)
    await call(flow, api, Request(Destination("http", "localhost")))
    with pytest.raises(ConfigurationError):
        await call(flow, api, Request(Destination("http", "api.example")))
    await call(flow, api, Request(Destination("http", "localhost")))
    assert len(api.received) == 2


@pytest.mark.parametrize(
    "other",
    [
        Destination("http", "127.0.0.1", 8443),
        Destination("https", "127.0.0.2", 8443),
        Destination("https", "127.0.0.1", 8444),
        Destination("https", "127.0.0.1", None),
        Destination("https", None, 8443),
    ],
    ids=str,
)
def test_a3_after_an_allowed_url_one_that_differs_in_scheme_host_or_port_is_checked_again(other: Destination) -> None:
    policy = OriginPolicy(["https://127.0.0.1:8443"])
    for _ in range(2):
        policy.require_allowed(Destination("https", "127.0.0.1", 8443))
        with pytest.raises(ConfigurationError) as caught:
            policy.require_allowed(other)
        assert caught.value.code == "foreign_origin"


def test_a3_a_refused_url_is_refused_each_time() -> None:
    policy = OriginPolicy(None)
    for _ in range(2):
        with pytest.raises(ConfigurationError):
            policy.require_allowed(Destination("http", "api.example"))


def test_a3_only_without_origins_is_all_of_https_allowed_unasked() -> None:
    assert OriginPolicy(None).unrestricted_scheme == "https"
    assert OriginPolicy(["https://api.example"]).unrestricted_scheme is None
    assert OriginPolicy([]).unrestricted_scheme is None


@pytest.mark.parametrize("token_type", ["Bearer", "bearer", "BEARER"])
def test_the_type_of_a_bearer_token_is_read_in_any_case(token_type: str) -> None:
    assert headers_for(TokenSet("at", token_type), "GET", Destination()) == {"Authorization": "Bearer at"}


def test_a_token_of_another_type_is_named_with_the_request_that_it_is_for() -> None:
    url = SimpleNamespace(scheme="https", host="api.example", port=None, query="secret=1")
    with pytest.raises(ConfigurationError, match=r"for POST https://api\.example is of type DPoP") as caught:
        headers_for(TokenSet("at", "DPoP"), "POST", url)
    assert "secret" not in str(caught.value)
