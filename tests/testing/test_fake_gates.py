"""Gates: holding requests at the provider without sleeping."""

import asyncio

import httpx
import pytest

from tokenflight import ConfigurationError
from tokenflight.testing import DropReply, Endpoint, FakeProvider, Gate, ServerError


async def refresh(fake: FakeProvider, user_id: str = "alice") -> httpx.Response:
    form = {"grant_type": "refresh_token", "refresh_token": fake.current_refresh_token(user_id)}
    async with fake.client(auth=httpx.BasicAuth("app", "s3cret")) as http:
        return await http.post("/token", data=form)


def provider_with(*users: str) -> FakeProvider:
    fake = FakeProvider()
    for user_id in users or ("alice",):
        fake.login(user_id)
    return fake


async def test_a_gate_holds_a_request_before_the_provider_acts() -> None:
    fake = provider_with()
    gate = fake.hold()
    request = asyncio.create_task(refresh(fake))
    await gate.reached()
    assert (fake.requests("alice"), fake.refreshes("alice")) == (1, 0)
    assert not request.done()
    gate.open()
    assert (await request).status_code == 200
    assert fake.refreshes("alice") == 1


async def test_a_gate_may_hold_the_reply_after_the_provider_acted() -> None:
    fake = provider_with()
    gate = fake.hold(after=True)
    request = asyncio.create_task(refresh(fake))
    await gate.reached()
    assert fake.refreshes("alice") == 1
    assert not request.done()
    gate.open()
    assert (await request).status_code == 200


@pytest.mark.parametrize("after", [False, True])
async def test_a_held_request_is_carried_out_even_if_its_client_gives_up(after: bool) -> None:
    fake = provider_with()
    before = fake.current_refresh_token("alice")
    with fake.hold(after=after) as gate:
        request = asyncio.create_task(refresh(fake))
        await gate.reached()
        request.cancel()
        with pytest.raises(asyncio.CancelledError):
            await request
    await asyncio.sleep(0)
    assert fake.refreshes("alice") == 1
    assert fake.current_refresh_token("alice") != before


async def test_a_gate_waits_for_as_many_requests_as_are_asked_for() -> None:
    fake = provider_with("alice", "bob", "carol")
    with fake.hold() as gate:
        all_came = asyncio.create_task(gate.reached(3))
        requests = []
        for number, user_id in enumerate(("alice", "bob", "carol"), start=1):
            await asyncio.sleep(0)
            assert not all_came.done()
            requests.append(asyncio.create_task(refresh(fake, user_id)))
            await gate.reached(number)
        await all_came
        assert fake.refreshes() == 0
    assert {reply.status_code for reply in await asyncio.gather(*requests)} == {200}


async def test_several_may_wait_for_a_gate_to_be_reached() -> None:
    fake = provider_with()
    with fake.hold() as gate:
        waiters = [asyncio.create_task(gate.reached()) for _ in range(3)]
        request = asyncio.create_task(refresh(fake))
        await asyncio.gather(*waiters)
        await gate.reached()
    await request


async def test_a_gate_opens_when_its_block_fails() -> None:
    fake = provider_with()
    gate = fake.hold()
    request = asyncio.create_task(refresh(fake))
    await gate.reached()
    with pytest.raises(RuntimeError, match="the test failed"), gate:
        raise RuntimeError("the test failed")
    assert gate.is_open
    assert (await request).status_code == 200


async def test_a_gate_may_be_one_users_alone() -> None:
    fake = provider_with("alice", "bob")
    with fake.hold(user_id="alice") as gate:
        alice = asyncio.create_task(refresh(fake, "alice"))
        await gate.reached()
        assert (await refresh(fake, "bob")).status_code == 200
        assert not alice.done()
    await alice


@pytest.mark.parametrize(("endpoint", "path"), [("discovery", "/.well-known/openid-configuration"), ("api", "/api")])
async def test_a_gate_may_stand_at_any_endpoint(endpoint: Endpoint, path: str) -> None:
    fake = FakeProvider()
    async with fake.client() as http:
        with fake.hold(endpoint=endpoint) as gate:
            request = asyncio.create_task(http.get(path))
            await gate.reached()
            assert not request.done()
        assert (await request).status_code in {200, 401}


async def test_faults_happen_behind_a_gate_before_acting() -> None:
    fake = provider_with()
    with fake.hold() as gate:
        request = asyncio.create_task(refresh(fake))
        await gate.reached()
        fake.fail(ServerError(), times=1)
    assert (await request).status_code == 500


async def test_a_reply_to_be_dropped_is_held_too() -> None:
    fake = provider_with()
    fake.fail(DropReply(), times=1)
    with fake.hold(after=True) as gate:
        request = asyncio.create_task(refresh(fake))
        await gate.reached()
        assert fake.refreshes("alice") == 1
    with pytest.raises(httpx.RemoteProtocolError):
        await request


async def test_a_request_passes_all_gates_on_its_way() -> None:
    fake = provider_with()
    first, second, last = fake.hold(), fake.hold(), fake.hold(after=True)
    request = asyncio.create_task(refresh(fake))
    for gate, refreshes in ((first, 0), (second, 0), (last, 1)):
        await gate.reached()
        assert fake.refreshes() == refreshes
        gate.open()
    assert (await request).status_code == 200


async def test_an_open_gate_holds_nobody_and_may_be_opened_again() -> None:
    fake = provider_with()
    gate = fake.hold()
    gate.open()
    gate.open()
    assert (await refresh(fake)).status_code == 200
    assert isinstance(gate, Gate)


def test_a_gate_for_a_user_at_discovery_is_a_clear_error() -> None:
    with pytest.raises(ConfigurationError, match="discovery is not about a user"):
        FakeProvider().hold(endpoint="discovery", user_id="alice")
