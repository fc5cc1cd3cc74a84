"""Each benchmark runs at a tiny size, counts what it should and can be drawn; no time is asserted.

The libraries that it measures beside ours are not installed for the tests: each is a row or named in a note.
"""

import os
import re
import subprocess
import sys
from collections.abc import Iterator, Sequence
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory
from xml.etree import ElementTree as ET

import pytest
from benchmarks import processes, stampede, trouble
from benchmarks.__main__ import QUESTIONS
from benchmarks.comparison import Comparison, Row, Spread
from benchmarks.peers import OURS, PEERS
from benchmarks.pictures import pictures_of
from benchmarks.report import Cell, Table
from benchmarks.results import Results, read, write
from benchmarks.table import render

ROOT = Path(__file__).parents[1]


def run_benchmarks(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-W", "error::ResourceWarning", "-m", "benchmarks", *arguments],
        cwd=ROOT,
        capture_output=True,
        encoding="utf-8",
        env={"PYTHONUTF8": "1", **os.environ},
        timeout=50,
        check=False,
    )


@cache
def answer(question: str) -> Results:
    """What a quick run of `question` wrote down."""
    with TemporaryDirectory(prefix="tokenflight-benchmark-") as directory:
        finished = run_benchmarks(question, "--quick", "--json", directory)
        assert (finished.returncode, finished.stderr) == (0, "")
        [results] = read(Path(directory))
    assert results.question == question
    assert all(render(report) in finished.stdout for report in results.reports)
    return results


def comparisons(question: str) -> Iterator[tuple[str, list[str]]]:
    for report in answer(question).reports:
        if isinstance(report, Comparison):
            yield report.title, [row.name for row in report.rows]


def tables(question: str) -> list[Table]:
    return [report for report in answer(question).reports if isinstance(report, Table)]


def rows_of(table: Table, name: str) -> list[dict[str, Cell]]:
    rows = [dict(zip(table.columns, row, strict=True)) for row in table.rows]
    return [row for row in rows if row[table.columns[0]] == name]


def unaccounted_for(names: Sequence[str], rows: Sequence[str], notes: Sequence[str]) -> list[str]:
    return [name for name in names if name not in rows and not any(note.startswith(f"{name}: ") for note in notes)]


def test_the_hot_path_is_compared_with_a_constant_and_with_every_peer() -> None:
    report = answer("hot-path").reports[0]

    assert isinstance(report, Comparison)
    rows = [row.name for row in report.rows]
    assert rows[:2] == ["a coroutine that returns a constant", "tokenflight"]
    assert unaccounted_for([peer.name for peer in PEERS], rows, report.notes) == []


def test_bearer_auth_is_compared_with_the_leanest_and_the_documented_auth_alone_and_in_a_whole_request() -> None:
    found = dict(comparisons("hot-path"))

    assert found["One pass of the auth flow, httpx"][:3] == [
        "a ready header",
        "fixed bearer token",
        "tokenflight BearerAuth",
    ]
    assert found["A whole httpx.AsyncClient request, answered in memory"][:4] == [
        "without auth",
        "a ready header",
        "fixed bearer token",
        "tokenflight BearerAuth",
    ]


def test_waiters_are_compared_with_bare_futures() -> None:
    [(_, rows)] = comparisons("waiters")

    assert rows == ["awaiting one future, not cancel-safe", "shielding one task", "get_valid_token, one flight"]


def test_trouble_is_measured_beside_none_and_costs_no_caller_with_a_valid_token_its_token() -> None:
    [table] = tables("trouble")

    for name in trouble.TROUBLES:
        rows = rows_of(table, name)
        assert [row["token"] for row in rows] == list(trouble.LIFE_LEFT)
        assert [row["failed"] for row in rows[:2]] == [0, 0]
    assert {row["failed"] for row in rows_of(table, "none")} == {0}
    [_, _, expired] = rows_of(table, "the provider refuses connections")
    assert expired["failed"] == expired["callers"]


@pytest.mark.parametrize("name", ["tokenflight", "tokenflight BearerAuth"])
def test_a_stampede_of_our_callers_is_one_request_and_nobody_fails(name: str) -> None:
    timed, cancelled, _, brief = tables("stampede")

    assert [row["callers"] for row in rows_of(timed, name)] == list(stampede.QUICK_SIZES)
    for table in (timed, cancelled, brief):
        for row in rows_of(table, name):
            assert (row["requests"], row["failed"], row["grants revoked"]) == (1, 0, 0)


@pytest.mark.parametrize("name", ["tokenflight", "tokenflight BearerAuth"])
def test_a_stampede_of_our_callers_on_a_failing_provider_is_one_request_and_all_fail(name: str) -> None:
    [_, _, failing, _] = tables("stampede")

    [row] = rows_of(failing, name)
    assert (row["requests"], row["failed"], row["grants revoked"]) == (1, row["callers"], 0)


def test_every_peer_takes_part_in_each_stampede_or_a_note_says_why_not() -> None:
    for table in tables("stampede"):
        rows = [str(row[0]) for row in table.rows]
        assert unaccounted_for([peer.name for peer in PEERS], rows, table.notes) == []


def test_our_processes_share_one_request_and_nobody_fails() -> None:
    [table] = tables("processes")

    for name in ("tokenflight, files", "tokenflight, Redis", "tokenflight, PostgreSQL"):
        rows = rows_of(table, name)
        assert [row["processes"] for row in rows] == list(processes.QUICK_SIZES)
        assert {(row["requests"], row["failed"], row["grants revoked"]) for row in rows} == {(1, 0, 0)}


def test_every_shared_store_of_a_peer_takes_part_or_a_note_says_why_not() -> None:
    [table] = tables("processes")

    names = [subject.peer.name for subject in processes.SUBJECTS]
    assert unaccounted_for(names, [str(row[0]) for row in table.rows], table.notes) == []


@pytest.mark.parametrize("question", QUESTIONS)
def test_each_question_has_an_answer_with_rows(question: str) -> None:
    reports = answer(question).reports

    assert reports
    assert all(report.rows for report in reports)


def test_results_say_what_they_were_measured_on_and_no_date() -> None:
    measured_on = answer("waiters").measured_on

    assert OURS.versions is not None
    assert OURS.versions.items() <= measured_on["packages"].items()
    assert measured_on["cpus"] == os.cpu_count()
    assert not re.search(r"20\d\d-\d\d|\d\d:\d\d", str(measured_on))


@pytest.mark.parametrize("question", ["hot-path", "waiters", "stampede", "processes"])
def test_every_row_of_an_answer_is_in_a_picture_for_light_and_dark(question: str) -> None:
    pictures = list(pictures_of(answer(question)))

    assert len({picture.name for picture in pictures}) == len(pictures)
    words = [element.text for picture in pictures for element in ET.fromstring(picture.svg).iter()]
    for report in answer(question).reports:
        names = [row.name if isinstance(row, Row) else row[0] for row in report.rows]
        assert [name for name in names if name not in words] == []
    assert all("prefers-color-scheme: dark" in picture.svg for picture in pictures)


def test_pictures_are_drawn_from_written_results(tmp_path: Path) -> None:
    results = Results("hot-path", {"python": "CPython", "cpus": 2, "system": "Linux", "machine": "x"}, [a_comparison()])
    write(results, tmp_path / "results")

    finished = run_benchmarks("pictures", "--from", tmp_path / "results", "--to", tmp_path / "docs")

    assert (finished.returncode, finished.stderr) == (0, "")
    [picture] = (tmp_path / "docs").iterdir()
    assert picture.name == "hot-path-fast-slow.svg"
    assert finished.stdout.split() == [str(picture)]


def test_results_are_read_as_they_were_written(tmp_path: Path) -> None:
    table = Table("Counts", ["library", "requests"], [["ours", 1], ["<theirs> & co", None]], ["a note"])
    results = Results("stampede", {"cpus": 2}, [a_comparison(), table])

    write(results, tmp_path)

    assert read(tmp_path) == [results]


def test_an_unknown_question_is_an_error_that_names_it() -> None:
    finished = run_benchmarks("lukewarm-path", "--quick")

    assert finished.returncode == 2
    assert "lukewarm-path" in finished.stderr


def a_comparison() -> Comparison:
    rows = [
        Row("floor", Spread(90.0, 100.0, 110.0), Spread(1.0, 1.0, 1.0), None),
        Row("<ours> & co", Spread(190.0, 200.0, 210.0), Spread(1.9, 2.0, 2.1), 2.5),
    ]
    return Comparison("Fast & slow", rows, ["a note"])
