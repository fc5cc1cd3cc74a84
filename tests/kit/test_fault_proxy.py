"""Every way an exchange with a provider can end badly, end to end: what the waiters get, and what becomes of the user.

*Connections* and *requests* are what one flight costs: connections tried, and token requests that reached the
provider. A request that was never sent is tried again at once, at most twice (T7); one whose outcome is unknown is not
(T6). Nothing is stored, a token that is still valid is served (T4), and for a pause of a second or more there is
neither a connection nor a request, but the failure that began the pause once more (T5, W4). After it the user
is renewed; unless the provider acted, its reply was lost and it takes no refresh token twice: then the user has to log
in again, and that is remembered (T3).

============================================  ==========================  =======================  ===========  ========
fault                                         error                       code                     connections  requests
============================================  ==========================  =======================  ===========  ========
the name does not resolve                     ProviderUnavailable         unreachable                        3         0
the connection is refused                     ProviderUnavailable         unreachable                        3         0
the connection is never accepted              ProviderUnavailable         unreachable                        1         0
the TLS handshake is reset                    ProviderUnavailable         unreachable                        3         0
the TLS handshake is never answered           ProviderUnavailable         unreachable                        1         0
the certificate is another host's             ProviderMisconfigured       untrusted_certificate              1         0
nobody vouches for the certificate            ProviderMisconfigured       untrusted_certificate              1         0
the certificate has expired                   ProviderMisconfigured       untrusted_certificate              1         0
reset before the request is read              ProviderUnavailable         outcome_unknown                    1         0
a black hole: read, never passed on           ProviderUnavailable         outcome_unknown                    1         0
reset after the provider acted                ProviderUnavailable         outcome_unknown                    1         1
the provider acts, no reply comes             ProviderUnavailable         outcome_unknown                    1         1
the reply is cut in its headers               ProviderUnavailable         outcome_unknown                    1         1
the reply is cut in its body                  ProviderUnavailable         outcome_unknown                    1         1
the reply trickles byte by byte               ProviderUnavailable         outcome_unknown                    1         1
503 Service Unavailable                       ProviderUnavailable         server_error                       1         1
429 Too Many Requests                         ProviderUnavailable         rate_limited                       1         1
307 to elsewhere                              ProviderMisconfigured       redirected                         1         1
a web page                                    InvalidProviderResponse     outcome_unknown                    1         1
a reply of ten megabytes                      InvalidProviderResponse     outcome_unknown                    1         1
============================================  ==========================  =======================  ===========  ========
"""

import asyncio
import json
import ssl
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final
from urllib.parse import urlsplit

import httpx
import pytest
import time_machine
import trustme

from kit.fault_proxy import HOST, Fault, FaultProxy, fault_proxy
from kit.support import login
from tokenflight import (
    ClientSecretBasic,
    FileTokenStore,
    InvalidProviderResponse,
    OAuth2Provider,
    OIDCProvider,
    Provider,
    ProviderMisconfigured,
    ProviderUnavailable,
    ReauthenticationRequired,
    RenewalFailed,
    TokenEvent,
    TokenKey,
    TokenRefresher,
    TokenRefreshError,
    TokenRenewed,
    TokenSet,
)
from tokenflight.testing import FakeProvider, HTMLReply, HugeReply, RateLimited, Redirect, ServerError
from tokenflight.testing import Fault as FaultOfProvider
from tokenflight.testing.loopback import serve_on_loopback

PATIENT_SECONDS: Final = 10.0
BRIEF_SECONDS: Final = 0.6
"""For exchanges that are meant to run out of time once they have begun; beginning gets a third."""

COOLED_DOWN_SECONDS: Final = 61.0
ANOTHER_ADDRESS: Final = "https://elsewhere.invalid/token"
CLIENT: Final = ClientSecretBasic("app", "s3cret")


@dataclass(frozen=True, slots=True)
class Trouble:
    """A row of the table above; `acted` tells whether the provider spent the refresh token, `timeout` is in seconds."""

    fault: Fault | FaultOfProvider
    error: type[TokenRefreshError]
    code: str
    connections: int
    requests: int
    acted: bool = False
    timeout: float = PATIENT_SECONDS

    async def begin(self, proxy: FaultProxy, fake: FakeProvider) -> None:
        if isinstance(self.fault, Fault):
            await proxy.suffer(self.fault)
        else:
            fake.fail(self.fault)


SLOW: Final = {
    Fault.NEVER_ACCEPTED,
    Fault.HANDSHAKE_UNANSWERED,
    Fault.UNANSWERED,
    Fault.REPLY_SWALLOWED,
    Fault.TRICKLE,
}
"""These end with the patience of the client."""

ON_THE_WAY: Final = {
    fault.value: Trouble(
        fault,
        error,
        code,
        connections,
        requests,
        acted=requests > 0,
        timeout=BRIEF_SECONDS if fault in SLOW else PATIENT_SECONDS,
    )
    for fault, error, code, connections, requests in (
        (Fault.NAME_UNKNOWN, ProviderUnavailable, "unreachable", 3, 0),
        (Fault.REFUSED, ProviderUnavailable, "unreachable", 3, 0),
        (Fault.NEVER_ACCEPTED, ProviderUnavailable, "unreachable", 1, 0),
        (Fault.HANDSHAKE_RESET, ProviderUnavailable, "unreachable", 3, 0),
        (Fault.HANDSHAKE_UNANSWERED, ProviderUnavailable, "unreachable", 1, 0),
        (Fault.OTHER_HOST, ProviderMisconfigured, "untrusted_certificate", 1, 0),
        (Fault.UNKNOWN_AUTHORITY, ProviderMisconfigured, "untrusted_certificate", 1, 0),
        (Fault.EXPIRED, ProviderMisconfigured, "untrusted_certificate", 1, 0),
        (Fault.RESET, ProviderUnavailable, "outcome_unknown", 1, 0),
        (Fault.UNANSWERED, ProviderUnavailable, "outcome_unknown", 1, 0),
        (Fault.REPLY_RESET, ProviderUnavailable, "outcome_unknown", 1, 1),
        (Fault.REPLY_SWALLOWED, ProviderUnavailable, "outcome_unknown", 1, 1),
        (Fault.CUT_IN_HEAD, ProviderUnavailable, "outcome_unknown", 1, 1),
        (Fault.CUT_IN_BODY, ProviderUnavailable, "outcome_unknown", 1, 1),
        (Fault.TRICKLE, ProviderUnavailable, "outcome_unknown", 1, 1),
    )
}

TROUBLES: Final = {
    **ON_THE_WAY,
    "503 Service Unavailable": Trouble(ServerError(503), ProviderUnavailable, "server_error", 1, 1),
    "429 Too Many Requests": Trouble(RateLimited(retry_after=30), ProviderUnavailable, "rate_limited", 1, 1),
    "307 to elsewhere": Trouble(Redirect(ANOTHER_ADDRESS), ProviderMisconfigured, "redirected", 1, 1),
    "a web page": Trouble(HTMLReply(), InvalidProviderResponse, "outcome_unknown", 1, 1),
    "a reply of ten megabytes": Trouble(HugeReply(), InvalidProviderResponse, "outcome_unknown", 1, 1),
}
AT_DISCOVERY: Final = {name: trouble for name, trouble in ON_THE_WAY.items() if trouble.fault not in SLOW}

each_trouble = pytest.mark.parametrize("trouble", TROUBLES.values(), ids=TROUBLES)


@pytest.fixture(scope="module")
def authority() -> trustme.CA:
    return trustme.CA()


@pytest.fixture
async def proxy(authority: trustme.CA, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[FaultProxy]:
    async with fault_proxy(authority) as proxy:
        monkeypatch.setattr(asyncio.get_running_loop(), "getaddrinfo", proxy.resolve)
        yield proxy


@pytest.fixture
async def fake(proxy: FaultProxy) -> AsyncIterator[FakeProvider]:
    """A strict rotating provider on a socket of its own, which takes the proxy's address for its own."""
    fake = FakeProvider(issuer=proxy.url)
    async with serve_on_loopback(fake, cancel_requests=fake._cancel_requests) as url:
        proxy.upstream_port = urlsplit(url).port or 0
        yield fake


@pytest.fixture
async def http(authority: trustme.CA) -> AsyncIterator[httpx.AsyncClient]:
    """A client that trusts `authority` alone."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    authority.configure_trust(context)
    async with httpx.AsyncClient(verify=context) as client:
        yield client


MakeProvider = Callable[[float], Provider]


@pytest.fixture
def oauth2(fake: FakeProvider, http: httpx.AsyncClient) -> MakeProvider:
    """A provider known by its token endpoint, with a timeout in seconds."""
    return lambda timeout: OAuth2Provider(fake.token_endpoint, CLIENT, name="idp", http_client=http, timeout=timeout)


@pytest.fixture
def oidc(fake: FakeProvider, http: httpx.AsyncClient) -> MakeProvider:
    """A provider that is discovered, with a timeout in seconds."""
    return lambda timeout: OIDCProvider(fake.issuer, CLIENT, name="idp", http_client=http, timeout=timeout)


@dataclass(frozen=True, slots=True)
class App:
    """A refresher on files, what it told, and what its one user, alice, has."""

    refresher: TokenRefresher
    events: list[TokenEvent]
    directory: Path

    def files(self) -> dict[str, object]:
        """The token sets that are stored. A record also tells of the failure, which concerns other processes (K1)."""
        return {path.name: json.loads(path.read_bytes())["tokens"] for path in self.directory.rglob("*.json")}

    async def ask(self) -> TokenSet | BaseException:
        """What a waiter gets."""
        return (await self.ask_together(1))[0]

    async def ask_together(self, number: int) -> list[TokenSet | BaseException]:
        """What so many waiters get."""
        waiters = (self.refresher.get_valid_token("alice") for _ in range(number))
        return await asyncio.gather(*waiters, return_exceptions=True)


@asynccontextmanager
async def app_with(provider: Provider, directory: Path) -> AsyncIterator[App]:
    events: list[TokenEvent] = []
    async with TokenRefresher(provider, FileTokenStore(directory), on_event=events.append) as refresher:
        yield App(refresher, events, directory)


def outcome(result: TokenSet | BaseException) -> tuple[type[BaseException], str]:
    """Class and code of an error that a waiter got."""
    assert isinstance(result, TokenRefreshError), result
    assert (result.user_id, result.provider) == ("alice", "idp")
    return type(result), result.code


def told(events: list[TokenEvent]) -> list[tuple[str, str, bool]]:
    """Error, code and whether the old token was served, of events that all tell of failures."""
    assert all(isinstance(event, RenewalFailed) for event in events)
    return [(event.error, event.code, event.served) for event in events if isinstance(event, RenewalFailed)]


@each_trouble
async def test_t1_t3_t5_t6_t7_r6_r7_trouble_is_one_error_for_all_then_a_pause_then_a_renewal_or_a_login(
    trouble: Trouble,
    proxy: FaultProxy,
    fake: FakeProvider,
    oauth2: MakeProvider,
    clock: time_machine.Traveller,
    tmp_path: Path,
) -> None:
    async with app_with(oauth2(trouble.timeout), tmp_path) as app:
        await app.refresher.save_tokens("alice", login(fake, "alice", life_left=-1))
        before = app.files()
        await trouble.begin(proxy, fake)

        results = await app.ask_together(10)
        assert {outcome(result) for result in results} == {(trouble.error, trouble.code)}
        assert len({id(result) for result in results}) == 10
        assert (proxy.attempts, fake.requests()) == (trouble.connections, trouble.requests)
        assert fake.refreshes() == trouble.acted
        assert told(app.events) == [(trouble.error.__name__, trouble.code, False)]
        assert app.files() == before

        pause = await app.ask()
        assert outcome(pause) == (trouble.error, trouble.code)
        if isinstance(pause, ProviderUnavailable):
            assert 0 < (pause.retry_after or 0) <= 30
        assert (proxy.attempts, fake.requests(), len(app.events)) == (trouble.connections, trouble.requests, 1)

        await proxy.suffer(None)
        fake.recover()
        clock.shift(COOLED_DOWN_SECONDS)
        if trouble.acted:
            await check_that_login_is_asked_for(app, fake, oauth2(PATIENT_SECONDS))
        else:
            await check_that_alice_is_renewed(app, fake)


async def check_that_alice_is_renewed(app: App, fake: FakeProvider) -> None:
    tokens = await app.ask()
    assert isinstance(tokens, TokenSet)
    assert tokens.refresh_token == fake.current_refresh_token("alice")
    assert isinstance(app.events[-1], TokenRenewed)
    assert (fake.refreshes(), fake.reuses()) == (1, 0)


async def check_that_login_is_asked_for(app: App, fake: FakeProvider, provider: Provider) -> None:
    """Truthfully, after one more request; and without any more, also after a restart."""
    refused = (ReauthenticationRequired, "refused")
    assert outcome(await app.ask()) == refused
    assert (fake.requests(), fake.reuses()) == (2, 1)
    assert outcome(await app.ask()) == refused
    async with app_with(provider, app.directory) as restarted:
        assert outcome(await restarted.ask()) == refused
    assert fake.requests() == 2


@each_trouble
async def test_t4_while_the_old_token_is_valid_trouble_is_none_for_those_who_wait(
    trouble: Trouble,
    proxy: FaultProxy,
    fake: FakeProvider,
    oidc: MakeProvider,
    clock: time_machine.Traveller,
    tmp_path: Path,
) -> None:
    async with app_with(oidc(trouble.timeout), tmp_path) as app:
        await app.refresher.save_tokens("bob", login(fake, "bob", life_left=-1))
        await app.refresher.get_valid_token("bob")  # discovers the provider
        app.events.clear()
        discovered = proxy.attempts
        old = login(fake, "alice", life_left=200)
        await app.refresher.save_tokens("alice", old)
        before = app.files()
        await trouble.begin(proxy, fake)

        assert await app.ask_together(10) == [old] * 10
        assert fake.requests("alice") == trouble.requests
        assert told(app.events) == [(trouble.error.__name__, trouble.code, True)]
        assert app.files() == before

        reached = proxy.attempts
        assert reached - discovered == (trouble.connections if trouble in ON_THE_WAY.values() else 0)
        assert await app.ask_together(10) == [old] * 10
        assert (proxy.attempts, fake.requests("alice"), len(app.events)) == (reached, trouble.requests, 1)


@pytest.mark.parametrize("trouble", AT_DISCOVERY.values(), ids=AT_DISCOVERY)
async def test_r10_t5_trouble_at_discovery_sends_no_refresh_token_and_costs_the_user_nothing(
    trouble: Trouble,
    proxy: FaultProxy,
    fake: FakeProvider,
    oidc: MakeProvider,
    clock: time_machine.Traveller,
    tmp_path: Path,
) -> None:
    async with app_with(oidc(trouble.timeout), tmp_path) as app:
        await app.refresher.save_tokens("alice", login(fake, "alice", life_left=-1))
        before = app.files()
        await trouble.begin(proxy, fake)

        results = await app.ask_together(10)
        assert {outcome(result) for result in results} == {(trouble.error, trouble.code)}
        assert (proxy.attempts, fake.requests(), fake.discoveries) == (trouble.connections, 0, trouble.requests)
        assert told(app.events) == [(trouble.error.__name__, trouble.code, False)]
        assert app.files() == before
        assert outcome(await app.ask()) == (trouble.error, trouble.code)
        assert proxy.attempts == trouble.connections

        await proxy.suffer(None)
        clock.shift(COOLED_DOWN_SECONDS)
        await check_that_alice_is_renewed(app, fake)


async def test_t6_a_kept_connection_that_dies_under_the_request_is_no_reason_to_send_it_again(
    proxy: FaultProxy, fake: FakeProvider, oidc: MakeProvider, clock: time_machine.Traveller, tmp_path: Path
) -> None:
    async with app_with(oidc(PATIENT_SECONDS), tmp_path) as app:
        for user_id in ("bob", "alice"):
            await app.refresher.save_tokens(user_id, login(fake, user_id, life_left=-1))
        await app.refresher.get_valid_token("bob")
        connected = proxy.attempts
        await proxy.suffer(Fault.RESET, keep_connections=True)

        assert outcome(await app.ask()) == (ProviderUnavailable, "outcome_unknown")
        assert (proxy.attempts, fake.requests("alice")) == (connected, 0)

        await proxy.suffer(None)
        clock.shift(COOLED_DOWN_SECONDS)
        assert isinstance(await app.ask(), TokenSet)
        assert (fake.refreshes("alice"), fake.reuses()) == (1, 0)


async def test_t5_a_pause_that_the_provider_asks_for_holds_all_its_users(
    proxy: FaultProxy, fake: FakeProvider, oauth2: MakeProvider, clock: time_machine.Traveller, tmp_path: Path
) -> None:
    async with app_with(oauth2(PATIENT_SECONDS), tmp_path) as app:
        for user_id in ("bob", "alice"):
            await app.refresher.save_tokens(user_id, login(fake, user_id, life_left=-1))
        fake.fail(RateLimited(retry_after=30), times=1)
        with pytest.raises(ProviderUnavailable) as caught:
            await app.refresher.get_valid_token("bob")
        assert caught.value.retry_after == 30

        pause = await app.ask()
        assert isinstance(pause, ProviderUnavailable)
        assert (pause.code, pause.retry_after) == ("rate_limited", 30)
        assert fake.requests() == 1
        clock.shift(31)
        assert isinstance(await app.ask(), TokenSet)


async def test_without_a_fault_the_way_is_free(
    proxy: FaultProxy, fake: FakeProvider, oidc: MakeProvider, tmp_path: Path
) -> None:
    async with app_with(oidc(PATIENT_SECONDS), tmp_path) as app:
        await app.refresher.save_tokens("alice", login(fake, "alice", life_left=-1))
        assert isinstance(await app.ask(), TokenSet)
        assert (proxy.attempts, fake.discoveries, fake.requests()) == (1, 1, 1)
        record = await FileTokenStore(tmp_path).load(TokenKey("idp", "alice"))
    assert record is not None
    assert record.issuer == f"https://{HOST}:{urlsplit(proxy.url).port}"


def test_the_table_at_the_top_of_this_file_is_the_one_that_is_tested() -> None:
    rows = [line.rsplit(maxsplit=4) for line in (__doc__ or "").splitlines() if line.endswith((" 0", " 1"))]
    assert rows == [
        [name, trouble.error.__name__, trouble.code, str(trouble.connections), str(trouble.requests)]
        for name, trouble in TROUBLES.items()
    ]
