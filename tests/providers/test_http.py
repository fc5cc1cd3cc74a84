"""Sending to a provider: what reaches its socket, what comes back, and which client it goes through."""

import asyncio
import gzip
import json
import re
from collections.abc import AsyncIterator, Generator
from dataclasses import replace

import httpx
import pytest

from kit.loopback import (
    CLIENT_SECRET,
    REFRESH_TOKEN,
    SECONDS,
    Server,
    answering,
    error_at,
    http_reply,
    provider_client,
    refresh_at,
    serving,
    unused_port_url,
)
from tokenflight.errors import ConfigurationError, InvalidProviderResponse, TokenflightError, TokenRefreshError
from tokenflight.providers._http import MAX_REPLY_BYTES, ProviderClient
from tokenflight.providers.requests import Request

# The exchange


async def test_a_form_is_posted_and_the_whole_reply_comes_back() -> None:
    async with (
        serving(answering(http_reply(b'{"a": 1}', "200 OK", "X-Any: Thing"))) as server,
        provider_client() as client,
    ):
        reply = await client.send(refresh_at(server.url))

    assert (reply.status, reply.body) == (200, b'{"a": 1}')
    assert reply.headers["x-any"] == "Thing"
    head, body = server.request.split(b"\r\n\r\n")
    assert head.startswith(b"POST /token HTTP/1.1\r\n")
    assert b"\r\nContent-Type: application/x-www-form-urlencoded" in head
    assert body == refresh_at(server.url).content


async def test_a_request_without_parameters_is_a_get() -> None:
    async with serving(answering(http_reply())) as server, provider_client() as client:
        await client.send(Request(server.url, {"Accept": "application/json"}))

    assert server.request.startswith(b"GET /token HTTP/1.1\r\n")
    assert b"\r\nAccept: application/json\r\n" in server.request


async def test_a_json_object_is_posted_where_the_request_says_so() -> None:
    async with serving(answering(http_reply())) as server, provider_client() as client:
        await client.send(Request(server.url, {"Content-Type": "application/json"}, {"a": "é"}, format="json"))

    head, body = server.request.split(b"\r\n\r\n")
    assert head.startswith(b"POST /token HTTP/1.1\r\n")
    assert json.loads(body) == {"a": "é"}


async def test_l1_parameters_in_a_query_reach_the_provider_and_no_log(caplog: pytest.LogCaptureFixture) -> None:
    async with serving(answering(http_reply())) as server, provider_client() as client:
        request = replace(refresh_at(server.url), format="query")
        await client.send(request)
        with pytest.raises(TokenRefreshError) as caught:
            await client.send(replace(request, url=unused_port_url()))

    target = server.request.split(b" ")[1].decode()
    assert dict(httpx.URL(target).params) == request.parameters
    assert server.request.startswith(b"GET ")
    assert b"content-length" not in server.request.lower()
    assert REFRESH_TOKEN not in f"{request!r} {caught.value} {vars(caught.value)}"
    assert "HTTP Request: GET http://127.0.0.1" in caplog.text
    assert REFRESH_TOKEN not in caplog.text
    assert CLIENT_SECRET not in caplog.text


async def test_a_request_names_the_app_where_its_headers_do() -> None:
    async with serving(answering(http_reply())) as server, provider_client() as client:
        for headers in ({}, {"user-agent": "an app"}):
            await client.send(Request(server.url, headers, {}))

    told = [re.findall(rb"(?i)\r\nuser-agent: (.*)\r\n", request) for request in server.requests]
    assert told == [[b"tokenflight"], [b"an app"]]


async def test_what_prepares_a_request_decides_what_is_sent() -> None:
    async def prove(request: Request) -> Request:
        return request.adding(headers={"Authorization": "Basic YXBwOnMzY3JldA=="})

    async with serving(answering(http_reply())) as server, provider_client() as client:
        await client.send(refresh_at(server.url), prepare=prove)

    assert b"\r\nAuthorization: Basic YXBwOnMzY3JldA==\r\n" in server.request


@pytest.mark.parametrize("status", ["400 Bad Request", "401 Unauthorized", "500 Internal Server Error"])
async def test_a_reply_of_any_status_is_a_reply(status: str) -> None:
    async with serving(answering(http_reply(b"no", status))) as server, provider_client() as client:
        reply = await client.send(refresh_at(server.url))

    assert (reply.status, reply.body) == (int(status[:3]), b"no")


async def test_a_connection_is_used_again() -> None:
    async with serving(answering(http_reply())) as server, provider_client() as client:
        for _ in range(3):
            await client.send(refresh_at(server.url))

    assert (server.connections, len(server.requests)) == (1, 3)


@pytest.mark.parametrize(
    "status", ["301 Moved Permanently", "302 Found", "307 Temporary Redirect", "308 Permanent Redirect"]
)
async def test_r7_a_redirect_is_not_followed(status: str) -> None:
    async with (
        serving(answering(http_reply(b"", status, "Location: /elsewhere"))) as server,
        httpx.AsyncClient(follow_redirects=True) as given,
    ):
        for http_client in (None, given):
            async with provider_client(http_client) as client:
                assert (await client.send(refresh_at(server.url))).status == int(status[:3])

    assert len(server.requests) == 2
    assert all(request.startswith(b"POST /token ") for request in server.requests)


async def test_r6_a_compressed_reply_is_not_asked_for_and_not_decompressed() -> None:
    packed = gzip.compress(b"x" * 20_000_000, compresslevel=1)
    async with (
        serving(answering(http_reply(packed, "200 OK", "Content-Encoding: gzip"))) as server,
        provider_client() as client,
    ):
        reply = await client.send(refresh_at(server.url))

    assert (reply.headers["content-encoding"], reply.body) == ("gzip", packed)
    assert b"\r\naccept-encoding: identity\r\n" in server.request.lower()


async def test_r6_a_reply_of_just_the_limit_is_read() -> None:
    async with serving(answering(http_reply(b"x" * MAX_REPLY_BYTES))) as server, provider_client() as client:
        assert len((await client.send(refresh_at(server.url))).body) == MAX_REPLY_BYTES


async def test_r6_a_reply_over_the_limit_is_an_invalid_response() -> None:
    async with serving(answering(http_reply(b"x" * (MAX_REPLY_BYTES + 1)))) as server:
        error = await error_at(server.url)

    assert type(error) is InvalidProviderResponse
    assert error.code == "outcome_unknown"
    assert str(MAX_REPLY_BYTES) in str(error)
    assert "may be spent" in str(error)


async def test_r6_a_reply_that_never_ends_is_cut_off_at_the_limit() -> None:
    async def endless(writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
        while True:
            writer.write(b"10000\r\n" + b"x" * 0x10000 + b"\r\n")
            await writer.drain()

    async with serving(endless) as server:
        error = await error_at(server.url)

    assert type(error) is InvalidProviderResponse
    assert (len(server.requests), server.disconnects) == (1, 1)


# A given client


class OtherAuth(httpx.Auth):
    """As a `BearerAuth` would, which comes back to the refresher from inside a flight."""

    def auth_flow(self, request: httpx.Request) -> Generator[httpx.Request, httpx.Response, None]:
        request.headers["Authorization"] = "Bearer other-canary"
        yield request


async def test_r8_s13_nothing_of_a_given_client_but_its_connections_reaches_the_provider() -> None:
    async with (
        serving(answering(http_reply())) as server,
        httpx.AsyncClient(
            auth=OtherAuth(),
            headers={"Authorization": "Bearer other-canary", "X-Api-Key": "other-canary", "User-Agent": "other-canary"},
            cookies={"session": "other-canary"},
            params={"key": "other-canary"},
            base_url="http://other-canary.example/api",
            timeout=0.000_001,
        ) as given,
        provider_client(given) as client,
    ):
        reply = await client.send(refresh_at(server.url))

    assert reply.status == 200
    assert b"canary" not in server.request.replace(REFRESH_TOKEN.encode(), b"").replace(CLIENT_SECRET.encode(), b"")
    assert b"authorization" not in server.request.lower()


async def test_r8_neither_hooks_nor_cookies_of_a_given_client_take_part() -> None:
    seen: list[object] = []

    async def see(message: httpx.Request | httpx.Response) -> None:
        seen.append(message)

    async with (
        serving(answering(http_reply(b"{}", "200 OK", "Set-Cookie: session=canary"))) as server,
        httpx.AsyncClient(cookies={"api": "canary"}, event_hooks={"request": [see], "response": [see]}) as given,
        provider_client(given) as client,
    ):
        await client.send(refresh_at(server.url))

        assert seen == []
        assert dict(given.cookies) == {"api": "canary"}
        assert len(given.event_hooks["request"]) == 1
    assert b"cookie" not in server.request.lower()


async def test_a_given_client_whose_transport_is_a_mock_works() -> None:
    mock = httpx.MockTransport(lambda _: httpx.Response(200, json={"a": 1}))
    async with httpx.AsyncClient(transport=mock) as given, provider_client(given) as client:
        assert (await client.send(refresh_at("https://idp.example/token"))).body == b'{"a":1}'


async def test_s9_a_cookie_set_during_one_users_renewal_is_not_sent_in_anothers() -> None:
    async with (
        serving(answering(http_reply(b"{}", "200 OK", "Set-Cookie: session=alice"))) as server,
        provider_client() as client,
    ):
        await client.send(refresh_at(server.url), user_id="alice")
        await client.send(refresh_at(server.url), user_id="bob")

    assert b"cookie" not in server.requests[1].lower()


async def test_a_given_client_is_never_closed() -> None:
    async with serving(answering(http_reply())) as server, httpx.AsyncClient() as given:
        async with provider_client(given) as client:
            await client.send(refresh_at(server.url))

        assert not given.is_closed
        assert (await given.get(server.url)).status_code == 200


async def test_a_given_client_that_was_closed_is_an_error_of_the_tree() -> None:
    given = httpx.AsyncClient()
    await given.aclose()

    with pytest.raises(ConfigurationError, match="http_client"):
        await ProviderClient("idp", given, timeout=SECONDS).send(refresh_at(unused_port_url()), user_id="alice")


async def test_a_header_that_cannot_be_sent_is_an_error_of_the_tree_and_nothing_is_sent() -> None:
    async with serving(answering(http_reply())) as server, provider_client() as client:
        with pytest.raises(TokenflightError) as caught:
            await client.send(Request(server.url, {"X-Assertion": "one\ntwo"}, {}))

    assert server.requests == []
    assert caught.value.code != "outcome_unknown"


# The own client


@pytest.fixture
async def proxy(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Server]:
    """A proxy that the environment names for everything."""
    for name in ("no_proxy", "NO_PROXY"):
        monkeypatch.delenv(name, raising=False)
    async with serving(answering(http_reply(b"", "502 Bad Gateway"))) as server:
        for name in ("http_proxy", "HTTP_PROXY", "https_proxy", "HTTPS_PROXY", "all_proxy", "ALL_PROXY"):
            monkeypatch.setenv(name, server.url.removesuffix("/token"))
        yield server


async def test_n6_plain_http_goes_through_no_proxy_of_the_environment(proxy: Server) -> None:
    async with serving(answering(http_reply())) as server, provider_client() as client:
        assert (await client.send(refresh_at(server.url))).status == 200

    assert (len(server.requests), proxy.requests) == (1, [])


async def test_n6_https_goes_through_the_proxy_of_the_environment_which_sees_no_secret(proxy: Server) -> None:
    await error_at("https://idp.example/token")

    assert {request.splitlines()[0] for request in proxy.requests} == {b"CONNECT idp.example:443 HTTP/1.1"}


async def test_p8_the_own_client_is_closed_only_after_all_requests_under_way_have_ended() -> None:
    may_answer = [asyncio.Event(), asyncio.Event()]

    async def answer_when_told(writer: asyncio.StreamWriter) -> None:
        await may_answer[len(server.requests) - 1].wait()
        writer.write(http_reply(b'{"access_token": "the successor"}'))

    async with serving(answer_when_told) as server, provider_client() as client:
        sending = []
        for number in (1, 2):
            sending.append(asyncio.create_task(client.send(refresh_at(server.url))))
            await server.received(number)
        closing = asyncio.create_task(client.aclose())
        may_answer[0].set()
        assert b"the successor" in (await sending[0]).body
        for _ in range(10):
            await asyncio.sleep(0)
        assert not closing.done()

        may_answer[1].set()
        assert b"the successor" in (await sending[1]).body
        await closing


async def test_closing_closes_the_connections() -> None:
    async with serving(answering(http_reply())) as server:
        async with provider_client() as client:
            await client.send(refresh_at(server.url))
            assert server.disconnects == 0

        async with asyncio.timeout(SECONDS):
            while not server.disconnects:  # noqa: ASYNC110 - a counter that the server keeps
                await asyncio.sleep(0)


async def test_l3_closing_again_after_a_close_that_was_cancelled_closes_the_connections() -> None:
    may_answer = asyncio.Event()

    async def answer_when_told(writer: asyncio.StreamWriter) -> None:
        await may_answer.wait()
        writer.write(http_reply())

    async with serving(answer_when_told) as server:
        client = ProviderClient("idp", None, timeout=SECONDS)
        sending = asyncio.create_task(client.send(refresh_at(server.url)))
        await server.received(1)
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0):
                await client.aclose()
        may_answer.set()
        await sending
        await client.aclose()

        for _ in range(100):
            await asyncio.sleep(0)
        assert server.disconnects == 1


async def test_a_client_that_was_closed_opens_again_when_used() -> None:
    async with serving(answering(http_reply())) as server, provider_client() as client:
        await client.send(refresh_at(server.url))
        await client.aclose()
        await client.send(refresh_at(server.url))

    assert (server.connections, len(server.requests)) == (2, 2)


async def test_closing_a_client_that_never_sent_anything_is_fine() -> None:
    client = ProviderClient("idp", None, timeout=SECONDS)

    await client.aclose()
    await client.aclose()


async def test_s10_a_client_shared_by_several_event_loops_works_on_each() -> None:
    async with serving(answering(http_reply(b'"hello"'))) as server, provider_client() as client:

        async def send_and_close() -> bytes:
            reply = await client.send(refresh_at(server.url))
            await client.aclose()
            return reply.body

        here = await client.send(refresh_at(server.url))
        elsewhere = [await asyncio.to_thread(asyncio.run, send_and_close()) for _ in range(2)]
        again = await client.send(refresh_at(server.url))

    assert [here.body, *elsewhere, again.body] == [b'"hello"'] * 4
    assert server.connections == 3


async def test_r6_replies_that_are_not_read_use_up_no_connections_of_a_given_client() -> None:
    async with (
        serving(answering(http_reply(b"x" * (MAX_REPLY_BYTES + 1)))) as server,
        httpx.AsyncClient(limits=httpx.Limits(max_connections=1)) as given,
    ):
        client = ProviderClient("idp", given, timeout=2.0)
        for _ in range(3):
            with pytest.raises(InvalidProviderResponse):
                await client.send(refresh_at(server.url))
