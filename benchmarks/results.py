"""The results as JSON files, one a question. Each names the machine and the versions, and has no date."""

import json
import os
import platform
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, Final

from benchmarks.comparison import Comparison, Row, Spread
from benchmarks.peers import OURS, PEERS, versions_of
from benchmarks.report import Table

_OTHERS: Final = ("httpx2", "msal-extensions", "redis", "sqlalchemy", "asyncpg", "uvicorn")
"""Packages whose versions matter, besides those of the peers."""


@dataclass(frozen=True, slots=True)
class Results:
    """The answer to one question. `measured_on` names Python, its packages and the machine."""

    question: str
    measured_on: Mapping[str, Any]
    reports: Sequence[Comparison | Table]


def measured_on() -> dict[str, Any]:
    """Python, the packages and the machine of this process."""
    packages = versions_of([OURS, *PEERS])
    for name in _OTHERS:
        try:
            packages[name] = version(name)
        except PackageNotFoundError:
            continue
    return {
        "python": f"{platform.python_implementation()} {platform.python_version()}",
        "packages": dict(sorted(packages.items())),
        "system": platform.system(),
        "machine": platform.machine(),
        "cpus": os.cpu_count(),
    }


def write(results: Results, directory: Path) -> None:
    """Write `results` to a file in `directory`, and create it if it does not exist."""
    reports = [
        {"kind": "comparison" if isinstance(report, Comparison) else "table", **asdict(report)}
        for report in results.reports
    ]
    members = {"question": results.question, "measured_on": results.measured_on, "reports": reports}
    directory.mkdir(parents=True, exist_ok=True)
    text = json.dumps(members, indent=2, ensure_ascii=False)
    (directory / f"{results.question}.json").write_text(f"{text}\n", encoding="utf-8")


def read(directory: Path) -> list[Results]:
    """Read all results in `directory`."""
    members = [json.loads(path.read_text(encoding="utf-8")) for path in sorted(directory.glob("*.json"))]
    return [
        Results(each["question"], each["measured_on"], [_report(**report) for report in each["reports"]])
        for each in members
    ]


def _report(kind: str, **members: Any) -> Comparison | Table:
    if kind == "table":
        return Table(**members)
    return Comparison(**{**members, "rows": [_row(**row) for row in members["rows"]]})


def _row(name: str, nanoseconds: Any, ratio: Any, target: float | None) -> Row:
    return Row(name, Spread(**nanoseconds), Spread(**ratio), target)
