"""What a worker process tells the storm, as JSON lines, and the fingerprints that stand for tokens in them."""

import hashlib
import json
import os
import sys
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from typing import Literal, TypeAlias

Kind: TypeAlias = Literal["served", "failed", "leaving"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """One thing that happened to a caller in a worker, or the worker's leaving.

    `asked_at` is when the caller asked, `at` when it heard, in seconds of `time.monotonic`, which all processes of a
    machine share. `access` is the fingerprint of the access token it got, `life_left` its seconds of life.
    """

    kind: Kind
    user_id: str = ""
    asked_at: float = 0.0
    at: float = field(default_factory=time.monotonic)
    access: str = ""
    life_left: float = 0.0
    error: str = ""
    code: str = ""


@dataclass(eq=False, slots=True)
class Life:
    """What is known of a worker: its `number`, its reports so far, and its violent end if there was one.

    `killed_at` is just before it was sent a SIGKILL, `reaped_at` when it was seen dead, in seconds of
    `time.monotonic`; None if it was not killed.
    """

    number: int
    reports: list[Report] = field(default_factory=list, repr=False)
    killed_at: float | None = None
    reaped_at: float | None = None

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
