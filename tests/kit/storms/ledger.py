"""A strict rotating provider that writes down which process spent which refresh token, and when."""

import asyncio
import time
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any, Final
from urllib.parse import parse_qs

from kit.storms.reports import fingerprint
from tokenflight.testing import FakeProvider
from tokenflight.testing.asgi import Receive, Scope, Send
from tokenflight.testing.grants import Grants, RefreshTokenRules

NOBODY: Final = 0
"""The number of no process."""

_sender: ContextVar[int] = ContextVar("sender", default=NOBODY)
"""The process whose request is carried out."""


@dataclass(frozen=True, slots=True)
class Login:
    """A login of a user, and the grant it opened; `number` counts from 1."""

    user_id: str
    number: int


@dataclass(frozen=True, slots=True)
class Issue:
    """An access token that was issued; `at` is in seconds of `time.monotonic`, here and below."""

    login: Login
    at: float


@dataclass(frozen=True, slots=True)
class Rotation:
    """A refresh token spent for a new token set: `spent` and `access` are the fingerprints of old and new."""

    process: int
    login: Login
    spent: str
    access: str
    at: float


@dataclass(frozen=True, slots=True)
class Reuse:
    """A refresh token sent by `process` although `rotation` had spent it."""

    process: int
    rotation: Rotation
    at: float


class Ledger(Grants):
    """Grants that remember how they came about. Written in the very step in which the provider acts."""

    def __init__(self) -> None:
        super().__init__()
        self.issues: dict[str, Issue] = {}
        """By the fingerprint of the access token."""
        self.rotations: list[Rotation] = []
        self.repeated: list[Reuse] = []
        self._logins: dict[str, Login] = {}
        self._login_of: dict[str, Login] = {}
        self._spent: dict[str, Rotation] = {}
        self._news = asyncio.Event()

    def start(self, user_id: str, *, now: float, lifetime: float | None, refreshable: bool = True) -> dict[str, Any]:
        """See `Grants.start`."""
        reply = super().start(user_id, now=now, lifetime=lifetime, refreshable=refreshable)
        before = self._logins.get(user_id)
        login = self._logins[user_id] = Login(user_id, 1 if before is None else before.number + 1)
        self._issued(login, reply)
        return reply

    def refresh(
        self, refresh_token: str, *, now: float, lifetime: float | None, rules: RefreshTokenRules
    ) -> dict[str, Any] | None:
        """See `Grants.refresh`."""
        reply = super().refresh(refresh_token, now=now, lifetime=lifetime, rules=rules)
        sent = fingerprint(refresh_token)
        if reply is not None:
            login = self._login_of[sent]
            access = self._issued(login, reply)
            rotation = self._spent[sent] = Rotation(_sender.get(), login, sent, access, time.monotonic())
            self.rotations.append(rotation)
            self._news.set()
        elif sent in self._spent:
            self.repeated.append(Reuse(_sender.get(), self._spent[sent], time.monotonic()))
        return reply

    def latest_login(self, user_id: str) -> Login:
        """The latest login of `user_id`."""
        return self._logins[user_id]

    def spent_by(self, refresh_token: str | None) -> Rotation | None:
        """What spent `refresh_token`, if anything did."""
        return None if refresh_token is None else self._spent.get(fingerprint(refresh_token))

    async def rotated(self, times: int) -> None:
        """Wait until that many refresh tokens have been spent in all."""
        while len(self.rotations) < times:
            self._news.clear()
            await self._news.wait()

    def _issued(self, login: Login, reply: dict[str, Any]) -> str:
        access = fingerprint(reply["access_token"])
        self.issues[access] = Issue(login, time.monotonic())
        if "refresh_token" in reply:
            self._login_of[fingerprint(reply["refresh_token"])] = login
        return access


class WatchedProvider(FakeProvider):
    """A fake provider with a `ledger`. Each process has a token endpoint of its own, told apart by the query."""

    def __init__(self, *, lifetime: float) -> None:
        super().__init__(lifetime=lifetime)
        self.ledger = self._grants = Ledger()

    def token_endpoint_of(self, process: int) -> str:
        """The URL to which `process`, a number from 1, has to send its token requests."""
        return f"{self.token_endpoint}?process={process}"

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """See `FakeProvider.__call__`."""
        query = parse_qs(scope.get("query_string", b"").decode())
        _sender.set(int(query.get("process", [str(NOBODY)])[0]))
        await super().__call__(scope, receive, send)
