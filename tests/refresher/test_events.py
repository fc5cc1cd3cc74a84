"""Events: what is logged, what `on_event` is given, and that neither can break a flight."""

import asyncio
import dataclasses
import inspect
import logging
from typing import Any

import pytest

from kit.support import login
from tokenflight import (
    ConfigurationError,
    OIDCProvider,
    ProviderUnavailable,
    TokenRefresher,
    TokenSet,
    TokenStore,
    events,
)
from tokenflight.events import (
    RenewalDiscarded,
    RenewalFailed,
    SaveFailed,
    SaveRecovered,
    TokenAdopted,
    TokenEvent,
    TokenRenewed,
    announce,
)
from tokenflight.testing import FakeProvider, ServerError

RENEWED = TokenRenewed("alice", "idp", 0.25, rotated=True, expires_at=1_800_000_060.0)
FAILED = RenewalFailed("alice", "idp", 0.25, error="ProviderUnavailable", code="server_error", served=True)
LEVEL_AND_OUTCOME: list[tuple[TokenEvent, int, str]] = [
    (RENEWED, logging.INFO, "renewed"),
    (TokenAdopted("alice", "idp", 0.25, expires_at=None), logging.INFO, "adopted"),
    (FAILED, logging.WARNING, "failed"),
    (RenewalDiscarded("alice", "idp", 0.25), logging.INFO, "discarded"),
    (SaveFailed("alice", "idp", 0.25, code="store_unavailable", attempts=3), logging.ERROR, "unsaved"),
    (SaveRecovered("alice", "idp", 0.25, attempts=4), logging.INFO, "saved"),
]
EVENTS = [event for event, _, _ in LEVEL_AND_OUTCOME]


@pytest.fixture
def log(caplog: pytest.LogCaptureFixture) -> pytest.LogCaptureFixture:
    caplog.set_level(logging.DEBUG, logger="tokenflight")
    return caplog


def added_fields(record: logging.LogRecord) -> dict[str, Any]:
    """What `record` has beyond the attributes of every log record."""
    always = vars(logging.makeLogRecord({})).keys() | {"message", "asctime"}
    return {name: value for name, value in vars(record).items() if name not in always}


def test_every_kind_of_event_is_tested_here() -> None:
    kinds = {kind for _, kind in inspect.getmembers(events, inspect.isclass) if issubclass(kind, TokenEvent)}

    assert {type(event) for event in EVENTS} == kinds - {TokenEvent}


@pytest.mark.parametrize(("event", "level", "outcome"), LEVEL_AND_OUTCOME)
def test_system_d_an_event_is_one_log_record_of_its_level(
    event: TokenEvent, level: int, outcome: str, log: pytest.LogCaptureFixture
) -> None:
    announce(event, ())

    assert [(record.name, record.levelno) for record in log.records] == [("tokenflight", level)]
    assert log.messages[0].startswith(f"token {outcome} for user 'alice' at idp after 0.250 s")


@pytest.mark.parametrize(("event", "level", "outcome"), LEVEL_AND_OUTCOME)
def test_system_d_a_log_record_has_the_outcome_and_the_events_fields_and_nothing_else(
    event: TokenEvent, level: int, outcome: str, log: pytest.LogCaptureFixture
) -> None:
    announce(event, ())

    assert added_fields(log.records[0]) == {"outcome": outcome, **dataclasses.asdict(event)}


def test_a_failure_says_in_the_log_what_failed(log: pytest.LogCaptureFixture) -> None:
    announce(FAILED, ())

    assert log.messages == ["token failed for user 'alice' at idp after 0.250 s (ProviderUnavailable: server_error)"]


def test_l1_no_event_has_room_for_a_token() -> None:
    plain = {str, float, bool, int, float | None}

    fields = [field for event in EVENTS for field in dataclasses.fields(event)]
    assert {field.type for field in fields} <= plain
    assert not [field.name for field in fields if "token" in field.name or "secret" in field.name]


def test_l1_a_user_id_cannot_forge_a_line_of_the_log(log: pytest.LogCaptureFixture) -> None:
    announce(dataclasses.replace(RENEWED, user_id="alice\nERROR forged"), ())

    assert "\n" not in log.messages[0]


@pytest.mark.parametrize("event", EVENTS)
def test_on_event_is_given_the_event_itself(event: TokenEvent) -> None:
    seen: list[TokenEvent] = []

    announce(event, (seen.append,))

    assert len(seen) == 1
    assert seen[0] is event


def test_an_on_event_that_fails_is_logged_with_its_traceback_and_goes_no_further(
    log: pytest.LogCaptureFixture,
) -> None:
    def fail(event: TokenEvent) -> None:
        raise RuntimeError(f"no metrics for {event.user_id}")

    announce(RENEWED, (fail,))

    record = log.records[1]
    assert (record.levelno, record.getMessage()) == (
        logging.ERROR,
        "on_event failed for TokenRenewed; the flight goes on",
    )
    assert record.exc_info is not None
    assert str(record.exc_info[1]) == "no metrics for alice"


def test_an_interrupt_during_on_event_is_not_swallowed() -> None:
    def interrupt(_: TokenEvent) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        announce(RENEWED, (interrupt,))


@pytest.mark.parametrize("event", EVENTS)
def test_an_event_cannot_be_changed(event: TokenEvent) -> None:
    with pytest.raises(dataclasses.FrozenInstanceError):
        event.user_id = "bob"  # type: ignore[misc] # the point


def test_a_user_who_never_logged_in_is_no_warning(log: pytest.LogCaptureFixture) -> None:
    announce(dataclasses.replace(FAILED, error="ReauthenticationRequired", code="no_tokens"), ())

    assert [record.levelno for record in log.records] == [logging.INFO]


def test_a_logging_set_up_that_raises_keeps_no_event_from_on_event(
    log: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    told: list[TokenEvent] = []
    monkeypatch.setattr(logging, "_logRecordFactory", raising_log_record_factory)

    announce(RENEWED, (told.append,))

    assert told == [RENEWED]
    assert log.records == []


def test_neither_on_event_nor_a_logging_set_up_that_raises_can_break_a_flight(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(_: TokenEvent) -> None:
        raise RuntimeError("from the app")

    monkeypatch.setattr(logging, "_logRecordFactory", raising_log_record_factory)

    announce(RENEWED, (fail,))


def raising_log_record_factory(*_: object) -> logging.LogRecord:
    raise KeyError("from the app")


async def test_an_on_event_that_would_have_to_be_awaited_is_refused(provider: OIDCProvider) -> None:
    async def on_event(_: TokenEvent) -> None:
        pass

    with pytest.raises(ConfigurationError, match="on_event"):
        TokenRefresher(provider, on_event=on_event)  # type: ignore[arg-type] # on purpose


async def test_what_on_event_starts_is_no_part_of_the_flight(
    fake: FakeProvider, provider: OIDCProvider, store: TokenStore
) -> None:
    started: list[asyncio.Task[TokenSet]] = []

    def on_event(event: TokenEvent) -> None:
        if isinstance(event, RenewalFailed):
            started.append(asyncio.create_task(refresher.get_valid_token("alice")))

    async with TokenRefresher(provider, store, on_event=on_event) as refresher:
        await refresher.save_tokens("alice", login(fake, "alice", life_left=-1))
        fake.fail(ServerError(503), times=1)
        with pytest.raises(ProviderUnavailable):
            await refresher.get_valid_token("alice")
        [outcome] = await asyncio.gather(*started[:1], return_exceptions=True)
        assert isinstance(outcome, ProviderUnavailable)
        assert outcome.code == "server_error"
        await asyncio.gather(*started, return_exceptions=True)
