"""Random histories of a few users, refreshers and troubles, held against a model of what may happen.

Hypothesis draws the steps; many calls are still under way while later steps happen. `Ledger` is the oracle.
"""

import asyncio
import sys
from collections.abc import Awaitable, Coroutine
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, Final, TypeVar

import httpx
import pytest
import time_machine
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule, run_state_machine_as_test

from kit.model.ledger import Call, acting
from kit.model.surroundings import Trouble, TroubledStore, Wire
from kit.support import NOW
from kit.tally import Counts, Tally
from kit.virtual_time import VirtualTimeLoop
from tokenflight import (
    ClientSecretBasic,
    OAuth2Provider,
    ReauthenticationRequired,
    RefreshPolicy,
    StoreError,
    StoreUnavailable,
    TokenflightError,
    TokenRefresher,
    TokenSet,
)
from tokenflight.testing import (
    DropReply,
    DropRequest,
    FakeProvider,
    Fault,
    GarbageReply,
    Gate,
    OAuthError,
    RateLimited,
    ServerError,
)

T = TypeVar("T")

USERS: Final = ("alice", "bob")
LONGER_THAN_ANYTHING_SECONDS: Final = 10_000.0

users = st.sampled_from((*USERS, USERS[0], USERS[0]))  # most happens to one, so that more happens at once
refreshers = st.integers(0, 2)
"""Which one: of fewer, it counts round."""

lifetimes = st.sampled_from([60, 3600, 60, None])
"""Of access tokens, in seconds."""

paces = st.sampled_from([None, 0, 1, 2, 5, 12])
"""How often the event loop turns before the next step; None for until the call has returned."""

renewals = st.none() | st.tuples(refreshers, st.integers(0, 15))
"""A renewal that is under way when something else begins: at which refresher, and how many turns of the loop ago."""

faults: st.SearchStrategy[Fault] = st.sampled_from(
    [
        DropReply(),
        DropRequest(),
        ServerError(),
        RateLimited(),
        RateLimited(20),
        GarbageReply(),
        OAuthError("invalid_grant"),
        OAuthError("invalid_client", status=401),
    ]
)


operations = st.sampled_from(["replace", "replace", "save", "load", "delete", "lease"])
"""Of a store; the one that can lose a token comes more often."""

troubles = st.none() | faults | st.tuples(operations, st.sampled_from(Trouble))
"""What a call may run into, at the provider or at the store."""


@dataclass(frozen=True, slots=True)
class Member:
    """One of the refreshers that share the store. A restart makes it a new one, with a number of its own."""

    number: int
    refresher: TokenRefresher


class SharedLogins(RuleBasedStateMachine):
    """Users whose token sets are renewed by refreshers that share a store, while anything fails."""

    def __init__(self, clock: time_machine.Traveller, played: list[Counts]) -> None:
        super().__init__()
        self.played = played
        clock.move_to(NOW)
        self.clock = clock
        self.runner = asyncio.Runner(loop_factory=lambda: VirtualTimeLoop(clock))
        self.fake = FakeProvider()
        self.members: list[Member] = []
        self.restarts = 0
        self.under_way: list[asyncio.Task[None]] = []
        self.gates: list[Gate] = []

    @initialize(
        count=st.integers(1, 3),
        cache_ttl=st.sampled_from([0, 60, None]),
        latency=st.sampled_from([0, 0.001]),
        distance=st.sampled_from([0, 0.02]),
        lifetime=lifetimes,
        keeps_rows=st.booleans(),
    )
    def begin(
        self,
        count: int,
        cache_ttl: float | None,
        latency: float,
        distance: float,
        lifetime: float | None,
        keeps_rows: bool,
    ) -> None:
        self.fake.lifetime = lifetime
        self.store = TroubledStore(self.clock, provider="idp", latency=latency)
        self.ledger = self.store.ledger
        self.http = httpx.AsyncClient(transport=Wire(self.fake, self.ledger, latency=distance))
        self.policy = RefreshPolicy(cache_ttl=cache_ttl)
        self.members = [self.new_member() for _ in range(count)]
        for user_id in USERS:
            if keeps_rows:
                self.log_in_with_a_row_only(user_id)
            else:
                self.log_in(0, user_id, lifetime, None, None)

    # Callers.

    @rule(which=refreshers, user_id=users, min_validity=st.sampled_from([None, 1.0, 1800.0, 7200.0]), pace=paces)
    def get_valid_token(self, which: int, user_id: str, min_validity: float | None, pace: int | None) -> None:
        member = self.member(which)
        call = self.ledger.begin(member.number, user_id)
        asked = member.refresher.get_valid_token(user_id, min_validity=min_validity)
        self.start(member, self.answered(call, asked), pace)

    @rule(which=refreshers, user_id=users, logs_in_first=st.booleans(), trouble=troubles, pace=paces)
    def refresh_token(
        self,
        which: int,
        user_id: str,
        logs_in_first: bool,
        trouble: Fault | tuple[str, Trouble] | None,
        pace: int | None,
    ) -> None:
        if logs_in_first and self.store.record(user_id) is None:
            self.log_in(which, user_id, self.fake.lifetime, None, None)
        match trouble:
            case None:
                pass
            case (operation, at_the_store):
                self.store.next_troubles[operation] = at_the_store
            case at_the_provider:
                self.fake.fail(at_the_provider, times=1, user_id=user_id)
        member = self.member(which)
        call = self.ledger.begin(member.number, user_id, wants_renewal=True)
        self.start(member, self.answered(call, member.refresher.refresh_token(user_id)), pace)

    @rule(which=refreshers, user_id=users, back=st.integers(1, 3), pace=paces)
    def reject(self, which: int, user_id: str, back: int, pace: int | None) -> None:
        if len(handed_out := self.ledger.handed_out[user_id]) < back:
            return
        member, rejected = self.member(which), handed_out[-back]
        self.ledger.reject(member.number, user_id, rejected)
        call = self.ledger.begin(member.number, user_id)
        self.start(member, self.answered(call, member.refresher.get_valid_token(user_id, rejected=rejected)), pace)

    @rule(which=refreshers, user_id=users, pace=paces)
    def ensure_valid_token(self, which: int, user_id: str, pace: int | None) -> None:
        row = self.ledger.rows.get(user_id)
        if row is None:
            return
        member, epoch = self.member(which), self.ledger.epochs[user_id]
        call = self.ledger.begin(member.number, user_id, row=row)

        async def ensured() -> TokenSet:
            result = await member.refresher.ensure_valid_token(user_id, row)
            assert result.should_update == (result.tokens != row), "should_update is wrong"
            if result.should_update and self.ledger.epochs[user_id] == epoch:
                self.ledger.rows[user_id] = result.tokens
            return result.tokens

        self.start(member, self.answered(call, ensured()), pace)

    @rule(index=st.integers(0, 9), times=st.sampled_from([1, 1, 2]))
    def cancel(self, index: int, times: int) -> None:
        if self.under_way:
            caller = self.under_way[index % len(self.under_way)]
            for _ in range(times):  # a scope of anyio cancels again what waits on
                caller.cancel()
                self.run(asyncio.sleep(0))

    # Logins and logouts.

    @rule(which=refreshers, user_id=users, lifetime=lifetimes, renewing=renewals, pace=paces)
    def log_in(
        self, which: int, user_id: str, lifetime: float | None, renewing: tuple[int, int] | None, pace: int | None
    ) -> None:
        self.be_renewing(user_id, renewing)
        self.fake.lifetime = lifetime
        member, tokens = self.member(which), self.ledger.log_in(user_id, self.fake.login(user_id))
        grant = self.ledger.grants
        self.ledger.logging_in.add(grant)

        async def logged_in() -> None:
            try:
                with suppress(StoreError):
                    await member.refresher.save_tokens(user_id, tokens)
                    self.ledger.has_settled(member.number, user_id, grant)
                # Not where the caller is cancelled: the write may still be on its way, and land after a logout that was
                # called before it.
                self.ledger.logging_in.discard(grant)
            finally:
                self.ledger.hold_row(user_id, tokens)

        self.start(member, logged_in(), pace)

    @rule(user_id=users)
    def log_in_with_a_row_only(self, user_id: str) -> None:
        tokens = self.ledger.log_in(user_id, self.fake.login(user_id))
        self.ledger.hold_row(user_id, tokens)

    @rule(which=refreshers, user_id=users, renewing=renewals, pace=paces)
    def log_out(self, which: int, user_id: str, renewing: tuple[int, int] | None, pace: int | None) -> None:
        if self.store.record(user_id) is None:
            return
        self.be_renewing(user_id, renewing)
        member = self.member(which)
        self.ledger.rows.pop(user_id, None)

        async def logged_out() -> None:
            with suppress(StoreError):
                await member.refresher.delete_tokens(user_id)
                self.ledger.has_settled(member.number, user_id)

        self.start(member, logged_out(), pace)

    @rule(which=refreshers, user_id=users, renewing=renewals, saving_fails=st.booleans(), pace=paces)
    def restart(
        self, which: int, user_id: str, renewing: tuple[int, int] | None, saving_fails: bool, pace: int | None
    ) -> None:
        if saving_fails:
            self.store.troubles["replace"] = Trouble.FAILS
        self.be_renewing(user_id, renewing)
        leaving = self.member(which)
        self.members[which % len(self.members)] = self.new_member()
        self.start(leaving, self.closed(leaving), pace)

    # Trouble and recovery.

    @rule(fault=faults, times=st.sampled_from([1, 2, None]), user_id=st.none() | users)
    def fail_the_provider(self, fault: Fault, times: int | None, user_id: str | None) -> None:
        self.fake.fail(fault, times=times, user_id=user_id)

    @rule(after=st.booleans(), user_id=st.none() | users)
    def hold_requests(self, after: bool, user_id: str | None) -> None:
        self.gates.append(self.fake.hold(after=after, user_id=user_id))

    @rule()
    def recover(self) -> None:
        self.store.recover()
        self.fake.recover()
        while self.gates:
            self.gates.pop().open()

    @rule(operation=operations, trouble=st.sampled_from(Trouble))
    def fail_the_store(self, operation: str, trouble: Trouble) -> None:
        self.store.troubles[operation] = trouble

    # Time.

    @rule(times=st.integers(1, 30))
    def let_the_loop_turn(self, times: int) -> None:
        self.run(turns(times))

    @rule(seconds=st.sampled_from([0.005, 0.05, 0.6, 7, 35, 50, 61, 3000]))
    def let_time_pass(self, seconds: float) -> None:
        self.run(asyncio.sleep(seconds))

    @invariant()
    def nothing_happened_that_must_not(self) -> None:
        for ended in [task for task in self.under_way if task.done()]:
            self.under_way.remove(ended)
            if not ended.cancelled():
                ended.result()
        self.ledger.check()

    def teardown(self) -> None:
        """Let all recover. Then each user who has not been told otherwise gets a token that an API accepts."""
        is_whole = sys.exception() is None and self.members
        try:
            if is_whole:
                self.recover()
                self.let_time_pass(LONGER_THAN_ANYTHING_SECONDS)
                self.nothing_happened_that_must_not()
                assert not self.under_way, "S6: a call never returns"
                for member in self.members:
                    for user_id in USERS:
                        self.run(self.served(member, user_id))
            elif self.members:
                self.recover()
            for member in self.members:
                with suppress(*([] if is_whole else [Exception])):
                    self.run(self.closed(member))
            if is_whole:
                self.nothing_happened_that_must_not()
                assert not asyncio.all_tasks(self.runner.get_loop()), "L3: a task is left"
                assert not +self.store.holders, "a lease is left"
        finally:
            self.runner.close()
            if self.members:
                self.played.append(self.ledger.counts(self.fake))

    # Small parts.

    def new_member(self) -> Member:
        self.restarts += 1
        provider = OAuth2Provider(
            self.fake.token_endpoint, ClientSecretBasic("app", "s3cret"), name="idp", http_client=self.http
        )
        acting.set(self.restarts)  # what a refresher does by itself, it does in the context that it was made in
        return Member(self.restarts, TokenRefresher(provider, self.store, policy=self.policy))

    def member(self, which: int) -> Member:
        return self.members[which % len(self.members)]

    def run(self, work: Coroutine[Any, Any, T]) -> T:
        return self.runner.get_loop().run_until_complete(work)

    def start(self, member: Member, work: Coroutine[Any, Any, None], pace: int | None) -> None:
        """Begin `work` on behalf of `member`, and see it through only if `pace` is None."""

        async def begun() -> asyncio.Task[None]:
            acting.set(member.number)
            return asyncio.create_task(work)

        task = self.run(begun())
        self.under_way.append(task)
        if pace is None:
            self.run(asyncio.wait([task]))
        else:
            self.run(turns(pace))

    def be_renewing(self, user_id: str, renewing: tuple[int, int] | None) -> None:
        if renewing is not None:
            which, ago = renewing
            self.refresh_token(which, user_id, logs_in_first=False, trouble=None, pace=ago)

    async def answered(self, call: Call, asked: Awaitable[TokenSet]) -> None:
        try:
            tokens = await asked
        except TokenflightError as exc:
            self.ledger.has_raised(call, exc)
        else:
            self.ledger.has_returned(call, tokens)

    async def closed(self, member: Member) -> None:
        self.ledger.close(member.number)
        told = None
        try:
            await member.refresher.aclose()
        except StoreUnavailable as exc:
            told = exc
        self.ledger.has_closed(member.number, told)

    async def served(self, member: Member, user_id: str) -> None:
        acting.set(member.number)
        call = self.ledger.begin(member.number, user_id)
        try:
            tokens = await member.refresher.get_valid_token(user_id)
        except ReauthenticationRequired:
            self.ledger.is_lost(user_id)
            return
        self.ledger.has_returned(call, tokens)
        headers = {"Authorization": f"Bearer {tokens.access_token}"}
        answer = await self.http.get(self.fake.api_url, headers=headers)
        if not self.ledger.may_be_revoked(tokens):
            assert answer.is_success, "a token is not valid at the provider"
            assert answer.json()["user_id"] == user_id, "S9: a token of one user was handed to another"


async def turns(times: int) -> None:
    for _ in range(times):
        await asyncio.sleep(0)


def play(clock: time_machine.Traveller, tally: Tally, storm: str, examples: int, steps: int) -> None:
    """Play `examples` histories of up to so many `steps`, and report to `tally`."""

    played: list[Counts] = []
    budget = settings(max_examples=examples, stateful_step_count=steps, suppress_health_check=list(HealthCheck))
    try:
        run_state_machine_as_test(lambda: SharedLogins(clock, played), settings=budget)  # type: ignore[arg-type]
    finally:
        for counts in played:
            tally.add(storm, counts)


@pytest.mark.timeout(600)  # it takes seconds; to shrink a failing history takes minutes
def test_no_history_loses_a_user_or_serves_a_wrong_token(clock: time_machine.Traveller, tally: Tally) -> None:
    play(clock, tally, "model", examples=150, steps=40)


@pytest.mark.long
@pytest.mark.timeout(900)
def test_no_long_history_loses_a_user_or_serves_a_wrong_token(clock: time_machine.Traveller, tally: Tally) -> None:
    play(clock, tally, "long model", examples=5000, steps=50)
