"""What a worker process tells the storm, as JSON lines, and the fingerprints that stand for tokens in them."""

import hashlib
import json
import math
import os
import sys
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from typing import Final, Literal, TypeAlias

LONG_STALL_SECONDS: Final = 1.0
"""From here on, a lease of a few seconds may lapse in a stall: a part of it has passed before, a part will after."""

Kind: TypeAlias = Literal["served", "failed", "discarded", "saved", "stalled", "standing still", "leaving"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """One thing that happened in a worker: to a caller, to a renewal, or to itself as it stands still or leaves.

    `asked_at` is when the caller asked or the stall began, `at` when the caller heard or the stall was over, in seconds
    of `time.monotonic`, which all processes of a machine share. `access` is the fingerprint of the access token the
    caller got, `life_left` its seconds of life.
    """

    kind: Kind
    user_id: str = ""
    asked_at: float = 0.0
    at: float = field(default_factory=time.monotonic)
    access: str = ""
    life_left: float = 0.0
    error: str = ""
    code: str = ""


@dataclass(frozen=True, slots=True)
class Pause:
    """A time for which a worker stood still.

    `begun` is just before it, `certain` when it was seen to stand still, `over` when that was ended, in seconds of
    `time.monotonic`.
    """

    begun: float
    certain: float
    over: float = math.inf


@dataclass(eq=False, slots=True)
class Life:
    """What is known of a worker: its `number`, its reports so far, its pauses, and its violent end if there was one.

    `killed_at` is just before it was sent a SIGKILL, `reaped_at` when it was seen dead, in seconds of
    `time.monotonic`; None if it was not killed.
    """

    number: int
    reports: list[Report] = field(default_factory=list, repr=False)
    pauses: list[Pause] = field(default_factory=list, repr=False)
    """Those that it was sent into."""
    killed_at: float | None = None
    reaped_at: float | None = None

    @property
    def stalls(self) -> list[Pause]:
        """The times for which it stood still because the machine was busy."""
        return [Pause(report.asked_at, report.asked_at, report.at) for report in self.of_kind("stalled")]

    @property
    def absences(self) -> list[Pause]:
        """The times in which it may have lost a lease unawares; its death is one without end."""
        long_stalls = [stall for stall in self.stalls if stall.over - stall.begun >= LONG_STALL_SECONDS]
        if self.killed_at is None or self.reaped_at is None:
            return [*self.pauses, *long_stalls]
        return [*self.pauses, *long_stalls, Pause(self.killed_at, self.reaped_at)]

    def of_kind(self, kind: Kind) -> Iterator[Report]:
        """Its reports of `kind` so far."""
        return (report for report in self.reports if report.kind == kind)


def tell(report: Report) -> None:
    """Write `report` to standard output: out of this process, and out of reach of a SIGKILL, when it returns."""
    os.write(sys.stdout.fileno(), json.dumps(asdict(report)).encode() + b"\n")


def heard(line: bytes) -> Report:
    """The report that `tell` wrote as `line`."""
    return Report(**json.loads(line))


def fingerprint(token: str) -> str:
    """What stands for `token` wherever it is written down."""
    return hashlib.sha256(token.encode()).hexdigest()[:16]
