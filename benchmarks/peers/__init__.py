"""The libraries that are measured side by side, each used as its own documentation shows."""

import warnings
from collections.abc import Iterable, Sequence
from contextlib import AbstractAsyncContextManager, AsyncExitStack
from dataclasses import dataclass
from enum import Enum
from functools import cached_property
from importlib import import_module
from importlib.metadata import PackageNotFoundError, version
from typing import Any, Final

from benchmarks.peers.base import Session
from benchmarks.provider import EXPIRED, Login, Provider


class Callers(Enum):
    """Who the callers are, and what each of them wants."""

    TASKS = "a token, in a task"
    API_CALLS = "an API call, in a task"
    THREADS = "a token, in a thread"


@dataclass(frozen=True, kw_only=True, eq=False)
class Peer:
    """A library in a table.

    Its adapter is the module of `benchmarks.peers` with the name `module`. `most_callers` is how many take part at
    most, `most_in_trouble` how many while the provider fails, and `limit` says why. `blocks` is whether it keeps the
    event loop waiting while it renews.
    """

    name: str
    module: str
    distributions: Sequence[str]
    callers: Callers
    most_callers: int = 10_000
    most_in_trouble: int = 10_000
    limit: str = ""
    blocks: bool = False

    @cached_property
    def versions(self) -> dict[str, str] | None:
        """The versions of its distributions, or None if one is not installed."""
        try:
            return {distribution: version(distribution) for distribution in self.distributions}
        except PackageNotFoundError:
            return None

    @property
    def why_not(self) -> str:
        """Why its callers can't be cancelled, if so."""
        if self.callers is Callers.THREADS:
            return "threads"
        if self.blocks:
            return "on an event loop that it blocks"
        return ""

    @property
    def can_be_cancelled(self) -> bool:
        """Whether a caller can be cancelled who waits for a renewal."""
        return not self.why_not

    def open(self, login: Login) -> AbstractAsyncContextManager[Session]:
        """Open it with the tokens of `login`."""
        session: AbstractAsyncContextManager[Session] = self.adapter.open_session(login)
        return session

    @cached_property
    def adapter(self) -> Any:
        """Its adapter, imported when it is first needed."""
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # what a library's own modules warn of is not ours to mend
            return import_module(f"{__name__}.{self.module}")


_THREADS: Final = "each caller is a thread"

OURS: Final = Peer(
    name="tokenflight", module="tokenflight", distributions=["tokenflight", "httpx"], callers=Callers.TASKS
)
OUR_AUTH: Final = Peer(
    name="tokenflight BearerAuth",
    module="tokenflight",
    distributions=["tokenflight", "httpx"],
    callers=Callers.API_CALLS,
)
FLOORS: Final = (
    Peer(name="the floor", module="floor", distributions=["httpx"], callers=Callers.TASKS),
    Peer(name="the floor of API calls", module="floor", distributions=["httpx"], callers=Callers.API_CALLS),
)
PEERS: Final = (
    Peer(name="authlib", module="authlib", distributions=["authlib", "httpx2"], callers=Callers.TASKS),
    Peer(
        name="azure-core policy",
        module="azure_core",
        distributions=["azure-core", "azure-identity", "aiohttp"],
        callers=Callers.TASKS,
        most_in_trouble=3,
        limit="in trouble its callers try for six seconds each, one after the other",
    ),
    Peer(
        name="azure-identity",
        module="azure_identity",
        distributions=["azure-identity", "aiohttp"],
        callers=Callers.TASKS,
        most_callers=100,
        limit="each of its callers sends a request",
    ),
    Peer(
        name="singleflight-auth",
        module="singleflight_auth",
        distributions=["singleflight-auth"],
        callers=Callers.API_CALLS,
    ),
    Peer(
        name="httpx-auth",
        module="httpx_auth",
        distributions=["httpx-auth"],
        callers=Callers.API_CALLS,
        blocks=True,
    ),
    Peer(
        name="mcp",
        module="mcp",
        distributions=["mcp", "httpx2"],
        callers=Callers.API_CALLS,
        most_callers=100,
        limit="its API calls wait for each other",
    ),
    Peer(
        name="msal",
        module="msal",
        distributions=["msal", "requests"],
        callers=Callers.THREADS,
        most_callers=100,
        limit=_THREADS,
    ),
    Peer(
        name="google-auth",
        module="google_auth",
        distributions=["google-auth", "requests"],
        callers=Callers.THREADS,
        most_callers=100,
        limit=_THREADS,
    ),
    Peer(
        name="requests-oauth2client",
        module="requests_oauth2client",
        distributions=["requests-oauth2client"],
        callers=Callers.THREADS,
        most_callers=100,
        limit=_THREADS,
    ),
    Peer(
        name="botocore",
        module="botocore",
        distributions=["botocore"],
        callers=Callers.THREADS,
        most_callers=100,
        limit=_THREADS,
    ),
)


async def open_all(
    peers: Iterable[Peer], provider: Provider, stack: AsyncExitStack, *, lifetime: float = EXPIRED
) -> tuple[dict[Peer, Session], list[str]]:
    """Open each of `peers` that is installed, logged in with a user of its own; and notes about the others."""
    installed, notes = split(peers)
    sessions = {
        peer: await stack.enter_async_context(peer.open(await provider.login(lifetime=lifetime))) for peer in installed
    }
    return sessions, notes


def split(peers: Iterable[Peer]) -> tuple[list[Peer], list[str]]:
    """Those of `peers` that are installed, and notes about the others."""
    everybody = list(peers)
    installed = [peer for peer in everybody if peer.versions is not None]
    return installed, [f"{peer.name}: not installed" for peer in everybody if peer not in installed]


def versions_of(peers: Iterable[Peer]) -> dict[str, str]:
    """The versions of all distributions that `peers` need and have."""
    return dict(sorted({item for peer in peers for item in (peer.versions or {}).items()}))


def versions_note(peers: Iterable[Peer]) -> str:
    """The versions of `peers` as a note."""
    return ", ".join(f"{name} {number}" for name, number in versions_of(peers).items())
