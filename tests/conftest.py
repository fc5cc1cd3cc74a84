"""What all tests share: a fake provider, a refresher on it, a clock, and a watch over leaked tokens."""

import os
import re
import signal
from collections.abc import AsyncIterator, Generator, Iterator
from typing import Any, Final

import httpx
import pytest
import time_machine
from hypothesis import settings

from kit.distribution import Distribution
from kit.support import NOW
from kit.tally import Tally
from tokenflight import (
    ClientSecretBasic,
    MemoryTokenStore,
    OIDCProvider,
    TokenEvent,
    TokenRefresher,
    TokenStore,
)
from tokenflight.testing import FakeProvider

settings.register_profile("no deadline", deadline=None)  # how long an example takes tells of the machine alone
settings.load_profile("no deadline")

ISSUED_TOKEN: Final = re.compile(r"\b[ar]t_[A-Za-z0-9_-]{16,}")
"""What the access and refresh tokens of a `FakeProvider` look like."""


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item, call: pytest.CallInfo[None]
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """L1: whatever a test prints or logs, down to DEBUG, has no token in it."""
    report = yield
    for title, text in report.sections:
        if report.passed and (leak := ISSUED_TOKEN.search(text)):
            report.outcome = "failed"
            report.longrepr = f"a token leaked into {title}: …{text[max(leak.start() - 200, 0) : leak.start() + 6]}…"
    return report


_TALLY: Final = pytest.StashKey[Tally]()


def pytest_configure(config: pytest.Config) -> None:
    """Start counting, and let all processes of the run share byte code."""
    config.stash[_TALLY] = Tally()
    share_bytecode(config)
    let_processes_be_interrupted()


def share_bytecode(config: pytest.Config) -> None:
    """Let processes write byte code to pytest's cache where they may not write it beside the sources.

    Otherwise each of the hundreds of processes that the tests start compiles every library again, which takes longer
    than most of them live.
    """
    cache: pytest.Cache | None = getattr(config, "cache", None)
    if cache is not None and os.environ.pop("PYTHONDONTWRITEBYTECODE", ""):
        os.environ["PYTHONPYCACHEPREFIX"] = os.fspath(cache.mkdir("tokenflight-bytecode"))


def let_processes_be_interrupted() -> None:
    """Undo what a shell does to a run in its background: it and all processes that it starts ignore Ctrl-C."""
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_xdist_auto_num_workers() -> int:
    """One worker process more than there are processors: at any moment, one waits for a server or for time to pass."""
    return (os.cpu_count() or 1) + 1


def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Distribution:
    """Distribute the tests our way."""
    return Distribution(config, log)


def pytest_sessionfinish(session: pytest.Session) -> None:
    """In a worker process of pytest-xdist, hand over what it counted to the process that prints it."""
    if hasattr(session.config, "workeroutput"):
        session.config.workeroutput["tally"] = session.config.stash[_TALLY].as_dicts()


def pytest_testnodedown(node: Any) -> None:
    """Add what a worker process of pytest-xdist has counted. One that crashed has handed over nothing."""
    output = getattr(node, "workeroutput", {})
    node.config.stash[_TALLY].add_all(output.get("tally", {}))


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    """Print what the storms of this run counted."""
    if tally := config.stash[_TALLY]:
        terminalreporter.section("storms")
        for line in tally.lines():
            terminalreporter.write_line(line)


@pytest.fixture
def tally(pytestconfig: pytest.Config) -> Tally:
    """Where storms count."""
    return pytestconfig.stash[_TALLY]


@pytest.fixture
def clock() -> Iterator[time_machine.Traveller]:
    """A clock that stands still until it is shifted."""
    with time_machine.travel(NOW, tick=False) as traveller:
        yield traveller


@pytest.fixture
def fake() -> FakeProvider:
    """A strict rotating provider."""
    return FakeProvider()


@pytest.fixture
async def http(fake: FakeProvider) -> AsyncIterator[httpx.AsyncClient]:
    """An HTTP client that reaches the fake provider and its API."""
    async with fake.client() as client:
        yield client


@pytest.fixture
def provider(fake: FakeProvider, http: httpx.AsyncClient) -> OIDCProvider:
    """The fake provider as the library sees it."""
    return OIDCProvider(fake.issuer, ClientSecretBasic("app", "s3cret"), http_client=http)


@pytest.fixture
def store() -> TokenStore:
    """An empty store."""
    return MemoryTokenStore()


@pytest.fixture
def events() -> list[TokenEvent]:
    """The events of `refresher`, as they come."""
    return []


@pytest.fixture
async def refresher(
    provider: OIDCProvider, store: TokenStore, events: list[TokenEvent]
) -> AsyncIterator[TokenRefresher]:
    """A refresher that is closed after the test."""
    async with TokenRefresher(provider, store, on_event=events.append) as refresher:
        yield refresher
