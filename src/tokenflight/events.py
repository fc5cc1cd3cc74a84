"""The outcomes of flights, for the `logging` logger ``tokenflight`` and for the `on_event` callables of an app.

An event holds identifiers, times and codes, never a token.
"""

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields
from inspect import iscoroutinefunction
from typing import ClassVar

from tokenflight._log import log
from tokenflight.errors import ConfigurationError


@dataclass(frozen=True, slots=True)
class TokenEvent:
    """The members common to all events: the user, the provider, and the seconds since the start of the flight."""

    outcome: ClassVar[str]
    level: ClassVar[int] = logging.INFO

    user_id: str
    provider: str
    duration: float


@dataclass(frozen=True, slots=True)
class TokenRenewed(TokenEvent):
    """The provider returned a new token set, and it is stored.

    `rotated` tells whether the refresh token changed. `expires_at` is in POSIX seconds, None where unknown.
    """

    outcome = "renewed"

    rotated: bool
    expires_at: float | None


@dataclass(frozen=True, slots=True)
class TokenAdopted(TokenEvent):
    """Another process had stored a newer token set, which this flight took without a request to the provider.

    `expires_at` is in POSIX seconds, None where unknown.
    """

    outcome = "adopted"

    expires_at: float | None


@dataclass(frozen=True, slots=True)
class RenewalFailed(TokenEvent):
    """The token set was not renewed. The store still has the old access token.

    `error` is the class name of the `TokenflightError`, and `code` its code. `served` tells whether the waiters got the
    old token because it is still valid.
    """

    outcome = "failed"
    level = logging.WARNING

    error: str
    code: str
    served: bool


@dataclass(frozen=True, slots=True)
class RenewalDiscarded(TokenEvent):
    """A login or logout won over the renewal, and the renewed token set was dropped."""

    outcome = "discarded"


@dataclass(frozen=True, slots=True)
class SaveFailed(TokenEvent):
    """A renewed token set could not be stored yet. The refresher serves it from memory and tries again to store it.

    `code` is the code of the `StoreError`, and `attempts` the number of tries so far.
    """

    outcome = "unsaved"
    level = logging.ERROR

    code: str
    attempts: int


@dataclass(frozen=True, slots=True)
class SaveRecovered(TokenEvent):
    """A renewed token set that the store did not take at first is stored now, after `attempts` tries."""

    outcome = "saved"

    attempts: int


OnEvent = Callable[[TokenEvent], None]
"""A listener. The refresher calls it on the event loop, with one event at a time."""

Listeners = tuple[OnEvent, ...]


def checked_listeners(on_event: OnEvent | Sequence[OnEvent] | None) -> Listeners:
    """Return `on_event` as a tuple; raise `ConfigurationError` unless it is a plain callable, several, or None."""
    if on_event is None:
        return ()
    listeners = tuple(on_event) if isinstance(on_event, Sequence) else (on_event,)
    for listener in listeners:
        if not callable(listener) or iscoroutinefunction(listener):
            raise ConfigurationError(
                f"on_event must be a plain callable, a sequence of them, or None, not {type(listener).__name__}"
            )
    return listeners


def announce(event: TokenEvent, listeners: Listeners) -> None:
    """Log `event` and hand it to each of `listeners`. A listener's failure is logged and goes no further."""
    members = {field.name: getattr(event, field.name) for field in fields(event)}
    is_no_failure = isinstance(event, RenewalFailed) and event.code == "no_tokens"
    log(
        logging.INFO if is_no_failure else event.level,  # many apps call only to find out whether a user is connected
        "token %s for user %r at %s after %.3f s%s",
        event.outcome,
        event.user_id,
        event.provider,
        event.duration,
        f" ({event.error}: {event.code})" if isinstance(event, RenewalFailed) else "",
        extra={"outcome": event.outcome, **members},
    )
    for listener in listeners:
        try:
            listener(event)
        except Exception:  # noqa: BLE001 - it is logged, and may be anything
            log(logging.ERROR, "on_event failed for %s; the flight goes on", type(event).__name__, exc_info=True)
