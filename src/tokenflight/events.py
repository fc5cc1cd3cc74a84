"""What happened to a user's token set, told to the `logging` logger ``tokenflight`` and to an `on_event` callable.

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
    """The part common to all events: whose token set, at which provider, after how many seconds of flight."""

    outcome: ClassVar[str]
    level: ClassVar[int] = logging.INFO

    user_id: str
    provider: str
    duration: float


@dataclass(frozen=True, slots=True)
class TokenRenewed(TokenEvent):
    """The provider returned a new token set and it is stored. `rotated` tells whether the refresh token changed."""

    outcome = "renewed"

    rotated: bool
    expires_at: float | None


@dataclass(frozen=True, slots=True)
class TokenAdopted(TokenEvent):
    """Another process had already stored a newer token set; it was taken and the provider was not asked."""

    outcome = "adopted"

    expires_at: float | None


@dataclass(frozen=True, slots=True)
class RenewalFailed(TokenEvent):
    """The token set was not renewed; the access token in the store is still the old one.

    `error` and `code` are the name and code of the `TokenflightError`, `served` tells whether waiters were given
    the old token because it is still valid.
    """

    outcome = "failed"
    level = logging.WARNING

    error: str
    code: str
    served: bool


@dataclass(frozen=True, slots=True)
class RenewalDiscarded(TokenEvent):
    """The user logged out or in again during the renewal, which won over it; the renewed token set was dropped."""

    outcome = "discarded"


@dataclass(frozen=True, slots=True)
class SaveFailed(TokenEvent):
    """A renewed token set could not be stored yet. It is served from memory, and saving it is tried again.

    `code` is the code of the `StoreError`, `attempts` counts the tries so far.
    """

    outcome = "unsaved"
    level = logging.ERROR

    code: str
    attempts: int


@dataclass(frozen=True, slots=True)
class SaveRecovered(TokenEvent):
    """A renewed token set that could not be stored at first is stored now, after `attempts` tries."""

    outcome = "saved"

    attempts: int


OnEvent = Callable[[TokenEvent], None]
"""What is told of events: called on the event loop, one event at a time."""

Listeners = tuple[OnEvent, ...]


def checked_listeners(on_event: OnEvent | Sequence[OnEvent] | None) -> Listeners:
    """`on_event` as a tuple; raises `ConfigurationError` unless it is a plain callable, or several, or None."""
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
        logging.INFO if is_no_failure else event.level,  # many apps ask in order to find out whether a user is there
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
