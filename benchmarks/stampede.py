"""Measure many callers that find one token expired, at a provider that revokes a grant on reuse."""

import asyncio
import gc
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from http import HTTPStatus
from statistics import median
from typing import Final

from benchmarks.comparison import FULL, Effort, Spread
from benchmarks.peers import FLOORS, OUR_AUTH, OURS, PEERS, Callers, Peer, split, versions_note
from benchmarks.peers.crowd import API_SECONDS, failures_among, serve
from benchmarks.provider import Conduct, Provider, provider_process
from benchmarks.report import Cell, Table

SIZES: Final[Mapping[int, int]] = {1: 7, 10: 7, 100: 7, 1_000: 5, 10_000: 5}
"""The rounds for each number of callers."""

QUICK_SIZES: Final[Mapping[int, int]] = {10: 2}
CROWD: Final = 100
"""The number of callers in the variants. A quick run takes the largest of the quick sizes."""

PROVIDER_SECONDS: Final = 0.02
"""In the variants, the provider answers a refresh after this time. They measure no time."""

COLUMNS: Final = ("library", "what each caller wants", "callers", "requests", "failed", "grants revoked")
TIME_COLUMNS: Final = (*COLUMNS, "median ms", "lower quartile", "upper quartile", "ratio to floor")


@dataclass(frozen=True, slots=True)
class Outcome:
    """The result of one stampede: refresh requests, callers without a valid token, and the time it took."""

    requests: int
    failed: int
    revoked: bool
    seconds: float


@dataclass(frozen=True, slots=True)
class Variant:
    """A table of its own: the provider's conduct, and whether the first caller is cancelled."""

    title: str
    conduct: Conduct
    note: str
    rounds: int
    cancels: bool = False

    def callers_of(self, peer: Peer, size: int) -> int:
        """The number of callers of `peer`, at most `size`: fewer if the provider's failures would take them minutes."""
        return size if self.conduct.status == HTTPStatus.OK else min(size, peer.most_in_trouble)


VARIANTS: Final = (
    Variant(
        "the first is cancelled while the provider is at it",
        Conduct(holds=True, seconds=PROVIDER_SECONDS),
        "the cancelled caller does not count as failed",
        rounds=3,
        cancels=True,
    ),
    Variant(
        "the provider answers 503",
        Conduct(status=503, seconds=PROVIDER_SECONDS),
        "all have to fail: what counts is how many requests a provider in trouble gets",
        rounds=1,  # some libraries retry for seconds
    ),
    Variant(
        "tokens that live 30 seconds",
        Conduct(lifetime=30.0, seconds=PROVIDER_SECONDS),
        "the new token is good for all of them",
        rounds=2,
    ),
)


async def stampede(effort: Effort) -> list[Table]:
    """Let callers of each library ask for one expired token."""
    full = effort is FULL
    peers, missing = split((OURS, OUR_AUTH, *PEERS))
    async with provider_process() as provider:
        arena = _Arena(provider, peers, missing)
        size = CROWD if full else max(QUICK_SIZES)
        return [
            await arena.timed(SIZES if full else QUICK_SIZES),
            *[await arena.varied(variant, size, variant.rounds if full else 1) for variant in VARIANTS],
        ]


@dataclass(frozen=True, slots=True)
class _Arena:
    """The provider, the libraries that take part, and notes about the missing ones."""

    provider: Provider
    peers: Sequence[Peer]
    missing: Sequence[str]

    async def timed(self, sizes: Mapping[int, int]) -> Table:
        """Measure stampedes of all `sizes`, each with its number of rounds, beside the floor."""
        rows: list[Sequence[Cell]] = []
        for size, rounds in sizes.items():
            able = [peer for peer in self.peers if size <= peer.most_callers]
            outcomes = await self._rounds([*FLOORS, *able], size, rounds)
            for peer, seen in outcomes.items():
                floor = outcomes[next(floor for floor in FLOORS if _calls_api(floor) == _calls_api(peer))]
                taken = Spread.of([outcome.seconds * 1e3 for outcome in seen])
                # The ratio within a round cancels out a slow spell of the machine.
                ratio = median(mine.seconds / least.seconds for mine, least in zip(seen, floor, strict=True))
                rows.append((*_counts(peer, size, seen), taken.median, taken.lower, taken.upper, ratio))
        limits = [
            f"{peer.name}: at most {peer.most_callers:,} callers: {peer.limit}"
            for peer in self.peers
            if peer.most_callers < max(SIZES)
        ]
        notes = (
            f"{min(sizes.values())} rounds or more: the worst counts, and the medians of times and ratios",
            "the floors: as many waiters for the bare future of one request; or bare API calls with its token",
            f"the provider is a process of its own and answers at once; the API is in memory and takes {API_SECONDS} s",
            *limits,
            *self.missing,
            versions_note(self.peers),
        )
        return Table("Callers who find a token expired", TIME_COLUMNS, rows, notes)

    async def varied(self, variant: Variant, size: int, rounds: int) -> Table:
        """Measure stampedes of one `variant`."""
        able = [peer for peer in self.peers if not variant.cancels or peer.can_be_cancelled]
        unable = [
            f"{peer.name}: its callers, {peer.why_not}, can't be cancelled" for peer in self.peers if peer not in able
        ]
        limits = [
            f"{peer.name}: {callers} callers: {peer.limit}"
            for peer in able
            if (callers := variant.callers_of(peer, size)) < size
        ]
        outcomes = await self._rounds(able, size, rounds, variant)
        return Table(
            f"{size} callers, {variant.title}",
            COLUMNS,
            [_counts(peer, variant.callers_of(peer, size), seen) for peer, seen in outcomes.items()],
            (f"the worst of {rounds} rounds", variant.note, *unable, *limits, *self.missing),
        )

    async def _rounds(
        self, peers: Sequence[Peer], size: int, rounds: int, variant: Variant | None = None
    ) -> dict[Peer, list[Outcome]]:
        outcomes: dict[Peer, list[Outcome]] = {peer: [] for peer in peers}
        for number in range(0 if variant else -1, rounds):  # a timed run has one more round, to warm up
            first = number % len(peers)
            for peer in (*peers[first:], *peers[:first]):
                outcome = await self._stampede(peer, variant.callers_of(peer, size) if variant else size, variant)
                if number >= 0:
                    outcomes[peer].append(outcome)
        return outcomes

    async def _stampede(self, peer: Peer, size: int, variant: Variant | None) -> Outcome:
        cancels = variant is not None and variant.cancels
        login = await self.provider.login()
        await self.provider.behave(variant.conduct if variant else Conduct())
        async with peer.open(login) as session:
            gc.collect()
            gc.disable()  # a collection would count against the caller that happens to run
            try:
                meanwhile = self._cancel if cancels else None
                served = await serve(session, peer.callers, size, login, meanwhile=meanwhile)
            finally:
                gc.enable()
            failed, sight = await failures_among(served, login, self.provider)
        return Outcome(sight.requests, failed - cancels, sight.revoked, served.seconds)

    async def _cancel(self, first: asyncio.Future[str]) -> None:
        await self.provider.holds_a_request()
        first.cancel()
        await asyncio.wait([first])
        await self.provider.let_in()


def _counts(peer: Peer, size: int, outcomes: Sequence[Outcome]) -> tuple[Cell, ...]:
    return (
        peer.name,
        peer.callers.value,
        size,
        max(outcome.requests for outcome in outcomes),
        max(outcome.failed for outcome in outcomes),
        max(int(outcome.revoked) for outcome in outcomes),
    )


def _calls_api(peer: Peer) -> bool:
    return peer.callers is Callers.API_CALLS
