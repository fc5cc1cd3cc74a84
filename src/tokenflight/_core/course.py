"""What travels between a waiter and its flight: the need, the course of the flight, and how it landed."""

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Final, TypeVar

from tokenflight._core import failures as _failures
from tokenflight._core.cache import Copy
from tokenflight._singleflight import Flight
from tokenflight.errors import TokenflightError
from tokenflight.events import TokenEvent
from tokenflight.stores.base import StoredTokens
from tokenflight.tokens import TokenKey, TokenSet

E = TypeVar("E", bound=TokenEvent)


@dataclass(frozen=True, slots=True)
class Need:
    """What a caller needs beyond a token set that is not due.

    So many seconds of life, a renewal whatever the expiry, of `instead_of` if somebody else has not renewed that one
    already, or nothing older than the token set it offers.
    """

    min_validity: float = 0.0
    renewal: bool = False
    instead_of: TokenSet | None = None
    offered: TokenSet | None = None


NOTHING_MORE: Final = Need()
"""What most callers need: a token set that is not due."""


@dataclass(frozen=True, slots=True)
class Landing:
    """How a flight ended: with a record, or with an error and the last record known, if any.

    `renewed` tells that the record was written after the flight had been asked for, by it or by somebody else; `lost`
    that a login or logout won over what the provider returned.
    """

    record: StoredTokens | None
    error: TokenflightError | None = None
    renewed: bool = False
    lost: bool = False
    event: TokenEvent | None = None


OVERTAKEN: Final = Landing(None)
"""A login or logout came. Those who waited look again; the flight goes on without them."""


@dataclass(slots=True)
class Course:
    """What a flight knows on its way. `flight` tells of logins and logouts meanwhile; `started` is monotonic seconds.

    `copy` is what memory held at the start; `record` what the store holds as far as the flight knows, and `read_at`
    since when it knows, in POSIX seconds, if better than `copy`. `set_out_from` is the token set to be renewed: any
    other one was written meanwhile by somebody else. `asked` tells whether the provider was asked, `spent` is the
    refresh token that the flight used up.
    """

    key: TokenKey
    need: Need
    copy: Copy | None
    flight: Flight[Landing]
    record: StoredTokens | None = field(init=False)
    read_at: float | None = None
    set_out_from: TokenSet | None = None
    asked: bool = False
    spent: str | None = None
    started: float = field(default_factory=time.monotonic)
    _timeout: asyncio.Timeout | None = None

    def __post_init__(self) -> None:
        self.record = None if self.copy is None else self.copy.record

    @property
    def duration(self) -> float:
        """Seconds since the flight began."""
        return time.monotonic() - self.started

    @asynccontextmanager
    async def deadline(self) -> AsyncIterator[None]:
        """End the body after `FLIGHT_DEADLINE_SECONDS`, with an error that tells whether the provider was asked."""
        self._timeout = timeout = asyncio.timeout(_failures.FLIGHT_DEADLINE_SECONDS)
        try:
            async with timeout:
                yield
        except TimeoutError:
            if not timeout.expired():
                raise
            raise _failures.deadline_exceeded(self.key, asked=self.asked) from None

    def ask(self) -> None:
        """Note that the provider is about to be asked; it has the whole time to answer, however long others had it."""
        self.asked = True
        if self._timeout is not None:
            self._timeout.reschedule(asyncio.get_running_loop().time() + _failures.FLIGHT_DEADLINE_SECONDS)

    def event(self, kind: Callable[..., E], **members: object) -> E:
        """An event of `kind` about this flight, as of now."""
        return kind(self.key.user_id, self.key.provider, self.duration, **members)

    def found(self, record: StoredTokens | None) -> StoredTokens | None:
        """Note, and return, what the store has been found to hold, or has just been given to hold."""
        self.record, self.read_at = record, time.time()
        return record

    def is_wanted(self) -> bool:
        """Whether no login or logout of this process has come since the flight began."""
        return not self.flight.overtaken

    def has_changed(self, record: StoredTokens) -> bool:
        """Whether somebody else wrote `record` since the flight was asked for."""
        return record.tokens != self.set_out_from

    def is_known(self, record: StoredTokens) -> bool:
        """Whether `record` holds the very token set that memory held at the start."""
        return self.copy is not None and self.copy.tokens == record.tokens
