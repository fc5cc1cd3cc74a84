"""The oracle of the model-based test: what each user was issued, and what must not happen because of it.

A `Ledger` is told of all that happens, and raises an `AssertionError` as soon as something happens that must not.
"""

import json
import math
import time
from collections import Counter, defaultdict
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import Any, Final, Protocol

import httpx
import time_machine

from kit.tally import Counts
from tokenflight import (
    ReauthenticationRequired,
    StoredTokens,
    StoreError,
    StoreUnavailable,
    TokenflightError,
    TokenKey,
    TokenRefreshError,
    TokenSet,
    Version,
)
from tokenflight.policy import Freshness, RefreshPolicy, judge
from tokenflight.testing import FakeProvider

TICK_SECONDS: Final = 0.001
"""The least time between two tokens issued: real clocks don't stand still."""

LEAST_PAUSE_SECONDS: Final = 0.5
"""The first pause after a failure, at its shortest."""

REMEMBERED_REJECTIONS: Final = 4


acting: Final[ContextVar[int]] = ContextVar("acting")
"""The number of the refresher for which the running code acts."""


def is_valid(tokens: TokenSet, now: float) -> bool:
    """Whether `tokens` may be handed out at all."""
    return judge(tokens, RefreshPolicy(), now) is not Freshness.EXPIRED


@dataclass(frozen=True, slots=True)
class Issued:
    """A token set as the provider issued it. Grants are numbered in the order of the logins that opened them."""

    user_id: str
    grant: int
    expires_at: float


@dataclass(frozen=True, slots=True)
class Call:
    """What is promised to a call that begins now, through which refresher, and for whom.

    No token that was `rejected`, and none of a grant before `first_grant`, unless it is saved after so many `saves`.
    `record` is what the store holds, `row`
    what the caller offers.
    """

    refresher: int
    user_id: str
    rejected: tuple[str, ...]
    first_grant: float
    saves: int
    record: StoredTokens | None
    row: TokenSet | None
    wants_renewal: bool


class Records(Protocol):
    """What the ledger looks up in the store: its records, and how many hold the lease on each."""

    holders: Counter[TokenKey]

    @property
    def records(self) -> dict[TokenKey, StoredTokens]: ...

    def record(self, user_id: str) -> StoredTokens | None: ...


@dataclass(slots=True)
class Ledger:
    """What was issued, sent, lost, stored, rejected and ended, by user and by refresher."""

    store: Records
    clock: time_machine.Traveller
    violations: list[str] = field(default_factory=list)
    faults: int = 0
    reuses: int = 0
    users_lost: int = 0
    grants: int = 0
    issued: dict[str, Issued] = field(default_factory=dict)
    by_refresh_token: dict[str, Issued] = field(default_factory=dict)
    spent: dict[str, int] = field(default_factory=dict)
    """Refresh tokens whose successor arrived, and the refresher at which it did."""
    lost: set[str] = field(default_factory=set)
    """Refresh tokens that may be spent without any refresher's fault."""
    refused: set[str] = field(default_factory=set)
    """Refresh tokens that were refused, which was or should have been noted in the record."""
    ever_refused: set[str] = field(default_factory=set)
    """Users of whom any refresh token was ever refused."""
    tried_to_store: set[str] = field(default_factory=set)
    """Access tokens that are or were in the store, or could not be written there."""
    writers: dict[Version, int] = field(default_factory=dict)
    acknowledged: set[Version] = field(default_factory=set)
    """The refreshers that wrote each version of a record."""
    ended: dict[int, set[int]] = field(default_factory=dict)
    """Grants that logouts ended, and the refreshers through which these came."""
    saves: list[int] = field(default_factory=list)
    """Grants that the store was given to keep, each time a record was made or a login came."""
    logging_in: set[int] = field(default_factory=set)
    """Grants whose login is on its way to the store."""
    offered: set[str] = field(default_factory=set)
    """Access tokens in the rows that refreshers were offered."""
    handed_out: defaultdict[str, list[str]] = field(default_factory=lambda: defaultdict(list))
    rows: dict[str, TokenSet] = field(default_factory=dict)
    """What a caller who keeps token sets itself holds."""
    epochs: Counter[str] = field(default_factory=Counter)
    """How many logins and logouts there were: a row that was renewed across one is not kept."""
    asking: set[str] = field(default_factory=set)
    """Users for whom a request is at the provider."""
    closed: set[int] = field(default_factory=set)
    """Refreshers whose `aclose` was called."""
    closing: set[int] = field(default_factory=set)
    """Those of them whose `aclose` has not returned yet."""
    owed: defaultdict[int, set[str]] = field(default_factory=lambda: defaultdict(set))
    """Users of whom a refresher that is closing lost a token, and of whom it has to tell."""
    _first_grants: defaultdict[tuple[int, str], float] = field(default_factory=lambda: defaultdict(float))
    _rejected: defaultdict[tuple[int, str], tuple[str, ...]] = field(default_factory=lambda: defaultdict(tuple))
    _doubtful: defaultdict[tuple[int, str], set[str]] = field(default_factory=lambda: defaultdict(set))
    """Access tokens whose rejection may be believed or not, by refresher and user."""
    _pauses: dict[tuple[int, str], tuple[str, float]] = field(default_factory=dict)
    _pauses_asked_for: dict[tuple[int, str], float] = field(default_factory=dict)

    # Logins, logouts, rejections.

    def log_in(self, user_id: str, reply: dict[str, Any]) -> TokenSet:
        """A new grant, opened by a login that the provider answered with `reply`."""
        self.grants += 1
        tokens = TokenSet.from_response(reply)
        self._issue(user_id, self.grants, reply)
        return tokens

    def hold_row(self, user_id: str, tokens: TokenSet) -> None:
        """A caller who keeps token sets itself keeps the `tokens` of a login, unless a logout was faster."""
        self.epochs[user_id] += 1
        if self.grant_of(tokens) not in self.ended:
            self.rows[user_id] = tokens

    def has_settled(self, refresher: int, user_id: str, grant: float = math.inf) -> None:
        """A logout, or the login that opened `grant`, has returned: nothing from before it counts any more.

        A write elsewhere may have come after it, of which `refresher` need not know yet.
        """
        record = self.store.record(user_id)
        stored = math.inf if record is None else self.grant_of(record.tokens)
        self._first_grants[refresher, user_id] = min(grant, stored)
        self._pauses.pop((refresher, user_id), None)

    def has_logged_out(self, user_id: str) -> None:
        """The record is deleted: what was issued before, to whomever, is of no use any more."""
        before = {issued.grant for issued in self.issued.values() if issued.user_id == user_id} - self.logging_in
        for grant in before:
            self.ended.setdefault(grant, set()).add(acting.get())
        self.epochs[user_id] += 1
        if user_id in self.rows and self.grant_of(self.rows[user_id]) in before:
            del self.rows[user_id]

    def reject(self, refresher: int, user_id: str, access_token: str) -> None:
        rejected = self._rejected[refresher, user_id]
        if rejected and self._follows(access_token, rejected[-1]):
            # A6: it may be the answer to a rejection. Then its own is not believed for a while.
            self._doubtful[refresher, user_id].add(access_token)
        elif access_token not in rejected:
            self._rejected[refresher, user_id] = (*rejected, access_token)[-REMEMBERED_REJECTIONS:]

    def _follows(self, access_token: str, earlier: str) -> bool:
        issued = list(self.issued)
        return issued.index(access_token) > issued.index(earlier)

    def grant_of(self, tokens: TokenSet) -> int:
        return self.issued[tokens.access_token].grant

    # The wire.

    def send(self, refresher: int, refresh_token: str) -> None:
        """`refresher` is about to send `refresh_token`."""
        user_id = self.by_refresh_token[refresh_token].user_id
        self._must(user_id not in self.asking, "two renewals of one user at the same moment")
        if self.spent.get(refresh_token) in self.closing:
            # Its successor went down with a refresher, whose aclose has not come to telling so.
            self._excuse(refresh_token)
        if refresh_token in self.spent:
            self.reuses += 1
            self._must(False, "a refresh token is sent again though its successor had arrived")
        self._must(refresh_token not in self.refused, "T3: a refresh token is sent again though it was refused")
        whose, now = (refresher, user_id), time.time() + TICK_SECONDS
        failed, until = self._pauses.get(whose, ("", 0.0))
        self._must(
            failed != refresh_token or now >= until, "T6: a refresh token is sent again too soon after a failure"
        )
        self._must(now >= self._pauses_asked_for.get(whose, 0), "T5: the provider is asked in a pause it asked for")
        self.asking.add(user_id)

    def receive(self, refresher: int, refresh_token: str, reply: httpx.Response | None) -> None:
        """The request with `refresh_token` ended with `reply`, or without one."""
        was = self.by_refresh_token[refresh_token]
        self.asking.remove(was.user_id)
        members = {} if reply is None else _json_object(reply.content)
        if "access_token" in members:
            self.spent[refresh_token] = refresher
            self._issue(was.user_id, was.grant, members)
        elif members.get("error") == "invalid_grant":
            self.refused.add(refresh_token)
            self.ever_refused.add(was.user_id)
        else:
            self.faults += 1
            if reply is None:
                self.lost.add(refresh_token)
            self._pauses[refresher, was.user_id] = refresh_token, time.time() + LEAST_PAUSE_SECONDS
            retry_after = 0.0 if reply is None else float(reply.headers.get("retry-after", 0))
            self._pauses_asked_for[refresher, was.user_id] = time.time() + retry_after

    # The store.

    def has_stored(self, key: TokenKey, record: StoredTokens, before: StoredTokens | None) -> None:
        """`record` has taken the place of `before`."""
        tokens, issued = record.tokens, self.issued[record.tokens.access_token]
        refresh_token = str(tokens.refresh_token)
        self._must(issued.user_id == key.user_id, "S9: a token of one user is stored as another's")
        self._must(
            not record.refused or key.user_id in self.ever_refused, "a record is marked as refused without cause"
        )
        self.tried_to_store.add(tokens.access_token)
        self.writers[record.version] = acting.get()
        if issued.grant in self.ended and before is None:
            # A row on its way to a refresher that can't know of a logout elsewhere; its documentation says so.
            is_row = tokens.access_token in self.offered
            self._must(is_row and acting.get() not in self.ended[issued.grant], "X9: a logout is undone")
            del self.ended[issued.grant]
            self._excuse(refresh_token)
            self.refused.discard(refresh_token)  # what was noted of it went with the record
        self._must(refresh_token not in self.spent, "a spent refresh token is stored")
        # A row on its way to a refresher that can't know of a login elsewhere, at this very moment: the store has no
        # way to create a record only if there is none.
        is_row = tokens.access_token in self.offered
        elsewhere = before is not None and self.writers[before.version] != acting.get()
        is_login = issued.grant in self.logging_in
        is_older = before is not None and not is_login and issued.grant < self.grant_of(before.tokens)
        self._must(not is_older or (is_row and elsewhere), "X10: a login is overwritten with what came before it")
        if before is None or is_login or is_older:
            self.saves.append(issued.grant)
            for whose, first in self._first_grants.items():
                if whose[1] == key.user_id:
                    self._first_grants[whose] = min(first, issued.grant)
            self.logging_in.discard(issued.grant)

    def has_failed(self, user_id: str) -> None:
        """The store failed, so that a refusal may have gone unnoted."""
        self.faults += 1
        self.refused = {token for token in self.refused if self.by_refresh_token[token].user_id != user_id}

    def check(self) -> None:
        """Raise what was violated.

        P1: a spent refresh token is in the store only while somebody holds the lease in order to replace it.
        """
        for key, record in self.store.records.items():
            spender = self.spent.get(str(record.tokens.refresh_token))
            if spender is not None and spender not in self.closing:
                self._must(self.store.holders[key], "P1: a rotated token is neither stored nor about to be")
        assert not self.violations, "; ".join(self.violations)

    # The callers.

    def begin(self, refresher: int, user_id: str, *, row: TokenSet | None = None, wants_renewal: bool = False) -> Call:
        """Note what is promised to a call that begins now."""
        if row is not None:
            self.offered.add(row.access_token)
        return Call(
            refresher,
            user_id,
            self._rejected[refresher, user_id],
            self._first_grants[refresher, user_id],
            len(self.saves),
            self.store.record(user_id),
            row,
            wants_renewal,
        )

    def has_returned(self, call: Call, tokens: TokenSet) -> None:
        """`call` has returned `tokens`."""
        issued = self.issued[tokens.access_token]
        self._must(issued.user_id == call.user_id, "S9: a token of one user was handed to another")
        self._must(tokens.expires_at is None or tokens.expires_at <= issued.expires_at, "it looks fresher than it is")
        self._must(is_valid(tokens, time.time()), "a token that has expired was handed out")
        self._must(tokens.access_token not in call.rejected, "S11: a rejected token was handed out")
        if tokens != call.row:
            self._must(tokens.access_token in self.tried_to_store, "P1: a token was handed out before it was stored")
            was_saved_since = issued.grant in self.saves[call.saves :]
            self._must(
                issued.grant >= call.first_grant or was_saved_since, "X9, X10: a login or logout was not the last word"
            )
        self.handed_out[call.user_id].append(tokens.access_token)

    def has_raised(self, call: Call, error: TokenflightError) -> None:
        """`call` has raised `error`."""
        if error.code == "closed":
            self._must(call.refresher in self.closed, "closed, though nobody closed it")
        elif isinstance(error, ReauthenticationRequired):
            self._must(
                error.reason != "refused" or call.user_id in self.ever_refused, "a login is asked for without cause"
            )
        elif isinstance(error, TokenRefreshError) and not call.wants_renewal and call.record is not None:
            record, now = call.record, time.time()
            is_known = (
                self.store.record(call.user_id) == record
                and self.writers[record.version] == call.refresher
                and record.version in self.acknowledged
            )
            whose, access_token = (call.refresher, call.user_id), record.tokens.access_token
            is_rejected = access_token in self._rejected[whose] or access_token in self._doubtful[whose]
            # Not in place of a newer row: its caller would store the older set over it.
            is_older = call.row is not None and not record.tokens.supersedes(call.row)
            is_good = is_valid(record.tokens, now) and not is_rejected and not is_older
            self._must(not is_known or not is_good, "T4: a token that is still valid was not served")
        else:
            self._must(isinstance(error, TokenRefreshError | StoreError), "an error of an unexpected kind")

    def close(self, refresher: int) -> None:
        """`aclose` is about to be called."""
        self.closed.add(refresher)
        self.closing.add(refresher)

    def has_closed(self, refresher: int, error: StoreUnavailable | None) -> None:
        """`refresher` has closed, and told by `error` whose renewed tokens it lost."""
        self.closing.remove(refresher)
        told = {user_id for user_id in self.epochs if error is not None and repr(user_id) in str(error)}
        self._must(self.owed.pop(refresher, set()) <= told, "P1: a renewed token was lost, and nobody was told")
        for refresh_token, spender in list(self.spent.items()):
            if spender == refresher and self.by_refresh_token[refresh_token].user_id in told:
                self._excuse(refresh_token)

    # The end.

    def is_lost(self, user_id: str) -> None:
        """Though all have recovered, `user_id` has to log in again."""
        record = self.store.record(user_id)
        if record is not None and not record.refused and str(record.tokens.refresh_token) not in self.lost:
            self.users_lost += 1
            self._must(False, "a user has to log in again without cause")

    def may_be_revoked(self, tokens: TokenSet) -> bool:
        """Whether `tokens` is of a grant of which a refresh token was sent again, for an excusable reason."""
        return self.grant_of(tokens) in {self.by_refresh_token[token].grant for token in self.lost}

    def counts(self, fake: FakeProvider) -> Counts:
        """What happened, for the tally."""
        return Counts(
            schedules=1,
            faults=self.faults,
            refreshes=fake.refreshes(),
            excused_reuses=fake.reuses() - self.reuses,
            reuses=self.reuses,
            users_lost=self.users_lost,
        )

    # Small parts.

    def _must(self, condition: object, otherwise: str) -> None:
        """Note that `condition` does not hold; raised here, it would become one more error that the library maps."""
        if not condition:
            self.violations.append(otherwise)

    def _issue(self, user_id: str, grant: int, reply: dict[str, Any]) -> None:
        issued = Issued(user_id, grant, time.time() + reply.get("expires_in", math.inf))
        self.issued[reply["access_token"]] = self.by_refresh_token[reply["refresh_token"]] = issued
        self.clock.shift(TICK_SECONDS)

    def _excuse(self, refresh_token: str) -> None:
        """Let `refresh_token` be sent again, though it is spent: it could not be known."""
        spender = self.spent.pop(refresh_token, None)
        if spender in self.closing:
            self.owed[spender].add(self.by_refresh_token[refresh_token].user_id)
        self.lost.add(refresh_token)


def _json_object(content: bytes) -> dict[str, Any]:
    try:
        members = json.loads(content)
    except ValueError:
        return {}
    return members if isinstance(members, dict) else {}
