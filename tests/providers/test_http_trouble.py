"""Trouble on the way to a provider: what each becomes, how often is sent, and what the error shows."""

import asyncio
import ssl
import traceback
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack
from typing import Any

import httpx
import pytest
import trustme

from kit.loopback import (
    BRIEF_SECONDS,
    CLIENT_SECRET,
    REFRESH_TOKEN,
    SECONDS,
    Answer,
    Server,
    answering,
    answering_then_closing,
    error_at,
    http_reply,
    provider_client,
    refresh_at,
    resetting,
    serving,
    unused_port_url,
)
from tokenflight.errors import ProviderMisconfigured, ProviderUnavailable
from tokenflight.providers._http import MAX_SENDS, ProviderClient

NEW_TOKEN = "at-canary-0123"


@pytest.fixture
def unused_url() -> str:
    return unused_port_url()


class CountingTransport(httpx.AsyncHTTPTransport):
    """The real transport; counts how often it is asked to send, and tells when it could not."""

    def __init__(self, on_failure: Callable[[], Awaitable[None]] | None = None, **options: Any) -> None:
        super().__init__(**options)
        self.sends = 0
        self._on_failure = on_failure

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        self.sends += 1
        try:
            return await super().handle_async_request(request)
        except httpx.TransportError:
            if self._on_failure is not None:
                await self._on_failure()
            raise


def secrets_shown_by(error: BaseException) -> list[str]:
    """The secrets in what a traceback printer that shows locals prints."""
    text = "".join(traceback.TracebackException.from_exception(error, capture_locals=True).format())
    return [secret for secret in (REFRESH_TOKEN, CLIENT_SECRET, NEW_TOKEN) if secret in text]


# Trouble before anything is sent


async def test_t7_a_refused_connection_is_tried_twice_more_and_reported_as_never_sent(unused_url: str) -> None:
    transport = CountingTransport()
    async with httpx.AsyncClient(transport=transport) as given:
        error = await error_at(unused_url, given)

    assert type(error) is ProviderUnavailable
    assert error.code == "unreachable"
    assert transport.sends == MAX_SENDS == 3


async def test_t7_the_own_client_reports_a_refused_connection_the_same_way(unused_url: str) -> None:
    error = await error_at(unused_url)

    assert type(error) is ProviderUnavailable
    assert error.code == "unreachable"


async def test_t7_a_name_that_does_not_resolve_is_reported_as_never_sent() -> None:
    assert (await error_at("http://no-such-host.invalid/token")).code == "unreachable"


async def test_t7_a_provider_that_is_back_at_the_next_try_gets_the_request_once(unused_url: str) -> None:
    came_back: list[Server] = []

    async def come_back() -> None:
        port = int(unused_url.removesuffix("/token").rpartition(":")[2])
        came_back.append(await servers.enter_async_context(serving(answering(http_reply(b'"back"')), port=port)))

    async with (
        AsyncExitStack() as servers,
        httpx.AsyncClient(transport=CountingTransport(come_back)) as given,
        provider_client(given) as client,
    ):
        reply = await client.send(refresh_at(unused_url))

    assert reply.body == b'"back"'
    assert came_back[0].request.endswith(refresh_at(unused_url).content)


async def test_t7_a_host_that_never_finishes_connecting_is_reported_as_never_sent() -> None:
    silent = asyncio.Event()

    async def say_nothing(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await silent.wait()
        writer.close()

    async with await asyncio.start_server(say_nothing, "127.0.0.1", 0) as listener:
        # No TLS handshake ever comes back, so that nothing can have been sent.
        error = await error_at(f"https://127.0.0.1:{listener.sockets[0].getsockname()[1]}/", timeout=BRIEF_SECONDS)
        silent.set()

    assert type(error) is ProviderUnavailable
    assert error.code == "unreachable"


async def test_t7_waiting_for_a_connection_of_a_busy_given_client_is_reported_as_never_sent() -> None:
    never = asyncio.Event()

    async def begin(writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{")
        await writer.drain()
        await never.wait()

    async with (
        serving(begin) as server,
        httpx.AsyncClient(limits=httpx.Limits(max_connections=1)) as given,
        given.stream("GET", server.url),
    ):
        error = await error_at(server.url, given, timeout=BRIEF_SECONDS)
        never.set()

    assert len(server.requests) == 1
    assert error.code == "unreachable"


# Trouble after the request was sent


async def test_t6_t7_a_reset_before_the_reply_leaves_the_outcome_unknown_and_is_not_sent_again() -> None:
    async with serving(resetting) as server:
        error = await error_at(server.url)

    assert type(error) is ProviderUnavailable
    assert error.code == "outcome_unknown"
    assert len(server.requests) == 1


@pytest.mark.parametrize(
    "so_far", [b"HTTP/1.1 200 OK\r\nContent-Le", http_reply(b"x" * 100)[:-50]], ids=["head", "body"]
)
async def test_t6_a_reply_cut_in_the_middle_leaves_the_outcome_unknown_and_is_not_sent_again(so_far: bytes) -> None:
    async with serving(answering_then_closing(so_far)) as server:
        error = await error_at(server.url)

    assert type(error) is ProviderUnavailable
    assert error.code == "outcome_unknown"
    assert len(server.requests) == 1


async def test_t6_no_reply_in_time_leaves_the_outcome_unknown_and_is_not_sent_again() -> None:
    async def wait(_: asyncio.StreamWriter) -> None:
        await server.closing.wait()

    async with serving(wait) as server:
        error = await error_at(server.url, timeout=BRIEF_SECONDS)

    assert type(error) is ProviderUnavailable
    assert error.code == "outcome_unknown"
    assert len(server.requests) == 1


async def test_s6_a_body_that_trickles_for_ever_ends_with_the_timeout_of_the_whole_exchange() -> None:
    async def trickle(writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 1000000\r\n\r\n")
        while not server.closing.is_set():
            writer.write(b"x")
            await writer.drain()
            await asyncio.sleep(BRIEF_SECONDS / 10)  # each byte well within any timeout per read

    async with serving(trickle) as server:
        error = await error_at(server.url, timeout=BRIEF_SECONDS)

    assert type(error) is ProviderUnavailable
    assert error.code == "outcome_unknown"


async def test_t6_a_reply_that_is_not_http_leaves_the_outcome_unknown_and_is_not_sent_again() -> None:
    async with serving(answering_then_closing(b"SSH-2.0-OpenSSH_9.9\r\n\r\n")) as server:
        error = await error_at(server.url)

    assert (type(error), error.code) == (ProviderUnavailable, "outcome_unknown")
    assert len(server.requests) == 1


async def test_a_caller_that_is_cancelled_leaves_the_client_usable() -> None:
    async def wait_the_first_time(writer: asyncio.StreamWriter) -> None:
        if len(server.requests) == 1:
            await server.closing.wait()
        writer.write(http_reply(b'"second"'))

    async with serving(wait_the_first_time) as server, provider_client() as client:
        first = asyncio.create_task(client.send(refresh_at(server.url)))
        await server.received(1)
        first.cancel()
        with pytest.raises(asyncio.CancelledError):
            await first

        assert (await client.send(refresh_at(server.url))).body == b'"second"'


# TLS


@pytest.fixture
def authority() -> trustme.CA:
    return trustme.CA()


@pytest.fixture
def certified(authority: trustme.CA) -> ssl.SSLContext:
    """A server that is 127.0.0.1, as `authority` says."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("127.0.0.1").configure_cert(context)
    return context


async def test_a_certificate_of_an_unknown_authority_is_a_misconfiguration_and_nothing_is_sent(
    certified: ssl.SSLContext,
) -> None:
    async with serving(answering(http_reply()), tls=certified) as server:
        error = await error_at(server.url)

    assert type(error) is ProviderMisconfigured
    assert error.code == "untrusted_certificate"
    assert server.requests == []


async def test_a_certificate_that_cannot_be_trusted_is_not_tried_again(certified: ssl.SSLContext) -> None:
    transport = CountingTransport()
    async with (
        serving(answering(http_reply()), tls=certified) as server,
        httpx.AsyncClient(transport=transport) as given,
    ):
        await error_at(server.url, given)

    assert transport.sends == 1


async def test_a_certificate_of_another_host_is_a_misconfiguration(authority: trustme.CA) -> None:
    tls, trusting = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER), ssl.create_default_context()
    authority.issue_cert("idp.example").configure_cert(tls)
    authority.configure_trust(trusting)
    async with serving(answering(http_reply()), tls=tls) as server, httpx.AsyncClient(verify=trusting) as given:
        error = await error_at(server.url, given)

    assert error.code == "untrusted_certificate"


async def test_a_certificate_that_the_given_client_trusts_is_trusted(
    authority: trustme.CA, certified: ssl.SSLContext
) -> None:
    trusting = ssl.create_default_context()
    authority.configure_trust(trusting)
    async with (
        serving(answering(http_reply(b'"secret"')), tls=certified) as server,
        httpx.AsyncClient(verify=trusting) as given,
        provider_client(given) as client,
    ):
        assert (await client.send(refresh_at(server.url))).body == b'"secret"'


async def test_a_certificate_error_the_caller_is_handling_is_not_mistaken_for_the_providers(unused_url: str) -> None:
    try:
        raise ssl.SSLCertVerificationError("of something else")
    except ssl.SSLError:
        assert (await error_at(unused_url)).code == "unreachable"


# What an error shows


@pytest.mark.parametrize("so_far", [b"", http_reply(NEW_TOKEN.encode() + b" " * 100)[:-50]], ids=["nothing", "half"])
async def test_l1_the_locals_in_the_traceback_of_a_cut_reply_show_no_secret(so_far: bytes) -> None:
    async with serving(answering_then_closing(so_far)) as server:
        error = await error_at(server.url)

    assert secrets_shown_by(error) == []


async def test_l1_the_locals_in_the_traceback_of_a_late_reply_show_no_secret() -> None:
    async def half(writer: asyncio.StreamWriter) -> None:
        writer.write(http_reply(NEW_TOKEN.encode() + b" " * 100)[:-50])
        await writer.drain()
        await server.closing.wait()

    async with serving(half) as server:
        error = await error_at(server.url, timeout=BRIEF_SECONDS)

    assert secrets_shown_by(error) == []


async def test_l1_the_locals_in_the_traceback_of_a_refused_connection_show_no_secret(unused_url: str) -> None:
    assert secrets_shown_by(await error_at(unused_url)) == []


@pytest.mark.parametrize("answer", [resetting, answering_then_closing(b"HTTP/1.1 2")], ids=["reset", "cut"])
async def test_l1_no_cause_of_an_error_holds_the_request_with_its_secrets(answer: Answer) -> None:
    async with serving(answer) as server:
        cause: BaseException | None = await error_at(server.url)

    while cause is not None:
        held = vars(cause).get("_request")
        assert held is None or REFRESH_TOKEN not in held.content.decode()
        cause = cause.__cause__


async def test_l3_a_cancelled_close_still_closes_its_client_after_another_one_was_opened() -> None:
    may_answer = asyncio.Event()

    async def answer_when_told(writer: asyncio.StreamWriter) -> None:
        await may_answer.wait()
        writer.write(http_reply())

    async with serving(answer_when_told) as server:
        client = ProviderClient("idp", None, timeout=SECONDS)
        first = asyncio.create_task(client.send(refresh_at(server.url)))
        await server.received(1)
        closing = asyncio.create_task(client.aclose())
        await asyncio.sleep(0)
        second = asyncio.create_task(client.send(refresh_at(server.url)))
        await server.received(2)
        closing.cancel()
        may_answer.set()
        await asyncio.gather(first, second, closing, return_exceptions=True)
        await client.aclose()
        async with asyncio.timeout(SECONDS):
            while server.disconnects < 2:  # noqa: ASYNC110 - counted by the server's own tasks
                await asyncio.sleep(0)
