"""The fake provider on a real socket."""

import asyncio
import logging
import signal
import socket
import sys
from contextlib import suppress

import httpx
import pytest

from tokenflight import ClientSecretBasic, ConfigurationError, InvalidProviderResponse, OIDCProvider, TokenSet
from tokenflight.testing import Delay, DropReply, DropRequest, FakeProvider, Fault, HugeReply, OAuthError, ServerError

CLIENT = httpx.BasicAuth("app", "s3cret")


async def refresh(http: httpx.AsyncClient, fake: FakeProvider, user_id: str = "alice") -> httpx.Response:
    form = {"grant_type": "refresh_token", "refresh_token": fake.current_refresh_token(user_id)}
    return await http.post(fake.token_endpoint, data=form, auth=CLIENT)


def complaints(caplog: pytest.LogCaptureFixture) -> list[str]:
    """Whatever the server said, and all warnings."""
    return [
        f"{record.name}: {record.getMessage()}"
        for record in caplog.records
        if record.name.startswith("uvicorn") or record.levelno >= logging.WARNING
    ]


async def test_a_served_provider_renews_and_its_api_accepts() -> None:
    fake = FakeProvider()
    login = TokenSet.from_response(fake.login("alice"))
    async with fake.serve() as base_url, httpx.AsyncClient() as http:
        provider = OIDCProvider(base_url, ClientSecretBasic("app", "s3cret"), http_client=http)
        renewed = await provider.renew("alice", login)
        headers = {"Authorization": f"Bearer {renewed.access_token}"}
        reply = await http.post(fake.api_url, headers=headers, content=b"x" * 300_000)
    assert reply.json() == {"user_id": "alice", "method": "POST", "body_bytes": 300_000}
    assert (fake.discoveries, fake.refreshes("alice"), fake.api_calls("alice")) == (1, 1, 1)


async def test_a_served_provider_has_its_base_url_as_issuer_for_as_long_as_it_is_served() -> None:
    fake = FakeProvider(issuer="https://idp.example/realms/one")
    async with fake.serve() as base_url:
        assert base_url.startswith("http://127.0.0.1:")
        assert fake.issuer == base_url
        async with httpx.AsyncClient() as http:
            metadata = (await http.get(f"{base_url}/.well-known/openid-configuration")).json()
        assert metadata["issuer"] == base_url
        assert metadata["token_endpoint"] == f"{base_url}/token"
    assert fake.issuer == "https://idp.example/realms/one"


async def test_a_provider_may_be_served_again() -> None:
    fake = FakeProvider()
    fake.login("alice")
    for _ in range(3):
        async with fake.serve(), httpx.AsyncClient() as http:
            assert (await refresh(http, fake)).status_code == 200
    assert fake.refreshes("alice") == 3


async def test_two_providers_may_be_served_at_once() -> None:
    one, two = FakeProvider(), FakeProvider()
    async with one.serve() as one_url, two.serve() as two_url, httpx.AsyncClient() as http:
        assert one_url != two_url
        await http.get(one.api_url)
    assert (one.api_calls(), two.api_calls()) == (1, 0)


@pytest.mark.parametrize(("fault", "refreshes"), [(DropRequest(), 0), (DropReply(), 1)])
async def test_a_dropped_connection_is_really_closed(fault: Fault, refreshes: int) -> None:
    fake = FakeProvider()
    fake.login("alice")
    fake.fail(fault, times=1)
    async with fake.serve(), httpx.AsyncClient() as http:
        with pytest.raises(httpx.RemoteProtocolError, match="Server disconnected without sending a response"):
            await refresh(http, fake)
        assert fake.refreshes("alice") == refreshes
        assert (await refresh(http, fake)).status_code == 200


async def test_a_dropped_connection_had_not_a_byte_on_it() -> None:
    fake = FakeProvider()
    fake.fail(DropRequest())
    async with fake.serve() as base_url:
        url = httpx.URL(base_url)
        reader, writer = await asyncio.open_connection(url.host, url.port)
        writer.write(b"POST /token HTTP/1.1\r\nHost: fake\r\nContent-Length: 2\r\n\r\n{}")
        assert await reader.read() == b""
        writer.close()
        await writer.wait_closed()


async def test_a_request_is_carried_out_even_if_its_connection_is_closed_by_the_client() -> None:
    fake = FakeProvider()
    fake.login("alice")
    async with fake.serve(), httpx.AsyncClient() as http:
        with fake.hold() as gate:
            request = asyncio.create_task(refresh(http, fake))
            await gate.reached()
            request.cancel()
            with pytest.raises(asyncio.CancelledError):
                await request
        await asyncio.sleep(0)
        assert fake.refreshes("alice") == 1


async def test_many_connections_may_be_open_at_once() -> None:
    users = [f"user-{number}" for number in range(100)]
    fake = FakeProvider()
    for user_id in users:
        fake.login(user_id)
    limits = httpx.Limits(max_connections=len(users))
    async with fake.serve(), httpx.AsyncClient(limits=limits) as http:
        with fake.hold() as gate:
            requests = [asyncio.create_task(refresh(http, fake, user_id)) for user_id in users]
            await gate.reached(len(users))
        replies = await asyncio.gather(*requests)
    assert {reply.status_code for reply in replies} == {200}
    assert fake.refreshes() == len(users)


async def test_serving_makes_no_sound_and_leaves_nothing_behind(
    caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str]
) -> None:
    caplog.set_level(logging.DEBUG)
    tasks = asyncio.all_tasks()
    handlers = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    access_logger = logging.getLogger("uvicorn.access")
    access_log_before = (access_logger.propagate, list(access_logger.handlers), access_logger.level)
    fake = FakeProvider()
    fake.login("alice")
    async with fake.serve() as base_url:
        assert {number: signal.getsignal(number) for number in handlers} == handlers
        async with httpx.AsyncClient() as http:
            for fault in (DropRequest(), DropReply(), ServerError(), OAuthError("slow_down")):
                fake.fail(fault, times=1)
                with suppress(httpx.RemoteProtocolError):
                    await refresh(http, fake)
            await http.get(f"{base_url}/nothing")
            assert (await refresh(http, fake)).status_code == 200
    assert asyncio.all_tasks() == tasks
    assert (access_logger.propagate, list(access_logger.handlers), access_logger.level) == access_log_before
    assert complaints(caplog) == []
    assert capfd.readouterr() == ("", "")


async def test_requests_under_way_are_dropped_at_the_end_and_never_acted_on(caplog: pytest.LogCaptureFixture) -> None:
    tasks = asyncio.all_tasks()
    fake = FakeProvider()
    for user_id in ("alice", "bob", "carol"):
        fake.login(user_id)
    fake.fail(Delay(3600), user_id="bob")
    gates = [fake.hold(user_id="alice"), fake.hold(user_id="bob"), fake.hold(user_id="carol", after=True)]
    async with httpx.AsyncClient() as http:
        async with fake.serve() as base_url:
            requests = [asyncio.create_task(refresh(http, fake, user_id)) for user_id in ("alice", "bob", "carol")]
            url = httpx.URL(base_url)
            _, half_a_request = await asyncio.open_connection(url.host, url.port)
            half_a_request.write(b"POST /token HTTP/1.1\r\nHost: fake\r\nContent-Length: 10\r\n\r\n{}")
            for gate in gates:
                await gate.reached()
            gates[1].open()
            await asyncio.sleep(0)  # bob goes on to the delay
        outcomes = await asyncio.gather(*requests, return_exceptions=True)
        half_a_request.close()
    assert [type(outcome) for outcome in outcomes] == [httpx.RemoteProtocolError] * 3
    assert (fake.refreshes("alice"), fake.refreshes("bob"), fake.refreshes("carol")) == (0, 0, 1)
    assert asyncio.all_tasks() == tasks
    assert complaints(caplog) == []


async def test_a_request_sent_just_before_the_end_leaves_nothing_behind(caplog: pytest.LogCaptureFixture) -> None:
    tasks = asyncio.all_tasks()
    fake = FakeProvider()
    fake.fail(Delay(3600), endpoint="api")
    for turns in range(8):
        async with fake.serve() as base_url:
            url = httpx.URL(base_url)
            client = socket.create_connection((url.host, url.port or 0))
            client.sendall(b"GET /api HTTP/1.1\r\nHost: fake\r\n\r\n")
            for _ in range(turns):
                await asyncio.sleep(0)
        client.close()
        assert asyncio.all_tasks() == tasks
    assert complaints(caplog) == []


async def test_a_served_provider_does_not_accept_connections_after_its_end() -> None:
    fake = FakeProvider()
    async with fake.serve() as base_url:
        pass
    async with httpx.AsyncClient() as http:
        with pytest.raises(httpx.ConnectError):
            await http.get(f"{base_url}/api")


async def test_an_error_in_the_block_ends_the_serving() -> None:
    fake = FakeProvider()
    tasks = asyncio.all_tasks()
    with pytest.raises(RuntimeError, match="the test failed"):
        async with fake.serve():
            raise RuntimeError("the test failed")
    assert fake.issuer == "http://fake-provider.localhost"
    assert asyncio.all_tasks() == tasks


async def test_a_client_that_stops_reading_a_huge_reply_makes_no_sound(caplog: pytest.LogCaptureFixture) -> None:
    fake = FakeProvider()
    login = TokenSet.from_response(fake.login("alice"))
    fake.fail(HugeReply())
    async with fake.serve() as base_url, httpx.AsyncClient() as http:
        provider = OIDCProvider(base_url, ClientSecretBasic("app", "s3cret"), http_client=http)
        with pytest.raises(InvalidProviderResponse, match="more than 1048576 bytes"):
            await provider.renew("alice", login)
    assert complaints(caplog) == []


async def test_serving_without_uvicorn_is_a_clear_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(sys.modules, "tokenflight.testing.loopback", raising=False)
    monkeypatch.setitem(sys.modules, "uvicorn", None)
    with pytest.raises(ConfigurationError, match=r"install tokenflight\[testing\]") as caught:
        async with FakeProvider().serve():
            pass
    assert caught.value.code == "missing_extra"
