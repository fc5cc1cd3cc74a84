"""The libraries to be measured side by side, each used as its own documentation shows."""

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
    """The kind of the callers: what each wants, and whether it is a task or a thread."""

    TASKS = "a token, in a task"
    API_CALLS = "an API call, in a task"
    THREADS = "a token, in a thread"


@dataclass(frozen=True, kw_only=True, eq=False)
class Peer:
    """A library in a table.

    Its adapter is `module` in `benchmarks.peers`. At most `most_callers` callers take part, and at most
    `most_in_trouble` while the provider fails; `limit` says why. `blocks` means that a renewal blocks the event loop.
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
        """The version of each distribution, or None if one is not installed."""
        try:
            return {distribution: version(distribution) for distribution in self.distributions}
        except PackageNotFoundError:
            return None

    @property
    def why_not(self) -> str:
        """Why its callers can't be cancelled; empty if they can."""
        if self.callers is Callers.THREADS:
            return "threads"
        if self.blocks:
            return "on an event loop that it blocks"
        return ""

    @property
    def can_be_cancelled(self) -> bool:
        """Whether a caller that waits for a renewal can be cancelled."""
        return not self.why_not

    def open(self, login: Login) -> AbstractAsyncContextManager[Session]:
        """Open the library with the tokens of `login`."""
        session: AbstractAsyncContextManager[Session] = self.adapter.open_session(login)
        return session

    @cached_property
    def adapter(self) -> Any:
        """The adapter, imported on first use."""
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # the warnings are about the library's own modules
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
    """Open each installed one of `peers` with a user of its own; also return notes about the missing ones."""
    installed, notes = split(peers)
    sessions = {
        peer: await stack.enter_async_context(peer.open(await provider.login(lifetime=lifetime))) for peer in installed
    }
    return sessions, notes


def split(peers: Iterable[Peer]) -> tuple[list[Peer], list[str]]:
    """The installed ones of `peers`, and notes about the missing ones."""
    everybody = list(peers)
    installed = [peer for peer in everybody if peer.versions is not None]
    return installed, [f"{peer.name}: not installed" for peer in everybody if peer not in installed]


def versions_of(peers: Iterable[Peer]) -> dict[str, str]:
    """The versions of all installed distributions of `peers`."""
    return dict(sorted({item for peer in peers for item in (peer.versions or {}).items()}))


def versions_note(peers: Iterable[Peer]) -> str:
    """The versions of `peers` as a note."""
    return ", ".join(f"{name} {number}" for name, number in versions_of(peers).items())
