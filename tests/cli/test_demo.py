"""``tokenflight demo``: the command as a user runs it, and its scenes in-process."""

import asyncio
import io
import os
import re
import signal
import subprocess
import sys
from collections.abc import AsyncIterator
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
from rich.console import Console

from tokenflight.cli._app import app
from tokenflight.cli.demo import _command as demo_module
from tokenflight.cli.demo import _processes
from tokenflight.cli.demo._calls import CLIENT_ID, Tally
from tokenflight.cli.demo._command import play, play_all
from tokenflight.cli.demo._display import Board, Outcome
from tokenflight.cli.demo._scenes import SCENES, Scene
from tokenflight.cli.demo._stage import Counts, Stage, open_stage
from tokenflight.testing import FakeProvider

COMMAND = (sys.executable, "-m", "tokenflight", "demo")

SHOW_CURSOR = "\x1b[?25h"

AS_PROMISED = """
    ✓ 1,000 calls, one user      1,000    1    1  0  0  0
      token expired: 1 refresh   1,000    1    1  0  0  0
    ✓ 200 users at once            200  200  200  0  0  0
      1 refresh each               200  200  200  0  0  0
    ✓ first caller cancelled        99    1    1  0  0  0
      the other 99 never notice     99    1    1  0  0  0
    ✓ 2 further processes           50    0    0  0  0  2
      they adopt, 0 refreshes       50    0    0  0  0  2
    ✓ token revoked at the API     200    1    1  0  0  0
      401, 1 refresh, replayed     200    1    1  0  0  0
    ✓ provider down                100    1    0  0  0  0
      calls go on                  100    1    0  0  0  0
"""
"""API calls, token requests, refreshes, reused tokens, failed calls, adopted tokens."""

SCENE_OF = {scene.title: scene for scene in SCENES}


@dataclass(frozen=True)
class Run:
    """What a run of the command left behind."""

    exit_status: int
    stdout: str
    stderr: str
    temporary_files: list[Path]


def environment(temporary: Path) -> dict[str, str]:
    """A plain environment, in which a proxy is set that does not exist."""
    proxy = {"HTTP_PROXY": "http://127.0.0.1:9", "ALL_PROXY": "http://127.0.0.1:9"}
    return {**os.environ, **proxy, "COLUMNS": "80", "PYTHONIOENCODING": "utf-8", "TMPDIR": os.fspath(temporary)}


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    """One run of the whole command."""
    temporary = tmp_path_factory.mktemp("temporary")
    done = subprocess.run(
        COMMAND, capture_output=True, encoding="utf-8", env=environment(temporary), timeout=50, check=False
    )
    return Run(done.returncode, done.stdout, done.stderr, list(temporary.iterdir()))


@pytest.fixture
async def stage() -> AsyncIterator[Stage]:
    """A stage on a strict rotating provider."""
    async with open_stage(demo_provider()) as stage:
        yield stage


def demo_provider() -> FakeProvider:
    return FakeProvider(client_id=CLIENT_ID, client_secret=None)


async def play_one_call(stage: Stage) -> Tally:
    """One call with a fresh token."""
    await stage.log_in("zoe")
    return Tally.of_calls([await stage.call("zoe")])


ONE_CALL = Scene("one call", "no refresh", Counts(api_calls=1, token_requests=0, refreshes=0), play_one_call)
OFF = replace(ONE_CALL, title="a scene that is off", expected=Counts(api_calls=7, token_requests=0, refreshes=0))


def lines_of(table: str) -> list[list[str]]:
    """The words of each line, without the time a scene took."""
    return [re.sub(r" \d+\.\d s$", "", line.rstrip()).split() for line in table.strip().splitlines()]


async def played(*scenes: Scene, terminal: bool = False) -> tuple[list[Outcome], str]:
    """How `scenes` ended, and what was shown of them."""
    shown = io.StringIO()
    console = Console(file=shown, width=80, force_terminal=terminal, color_system=None, _environ={})
    return await play_all(scenes, demo_provider(), console), shown.getvalue()


def test_all_counts_are_as_promised_and_the_exit_status_is_0(run: Run) -> None:
    table = run.stdout.partition("expected ")[2].partition("\n")[2].partition("\n\n")[0]
    assert lines_of(table) == lines_of(AS_PROMISED)
    assert "Every count is as expected" in run.stdout
    assert run.exit_status == 0


def test_nothing_is_printed_but_the_table_not_even_the_warning_that_the_provider_is_down(run: Run) -> None:
    assert run.stderr == ""


def test_no_line_is_longer_than_80_columns_and_none_has_control_codes_where_there_is_no_terminal(run: Run) -> None:
    assert max(len(line) for line in run.stdout.splitlines()) <= 80
    assert all(character.isprintable() for line in run.stdout.splitlines() for character in line)
    assert "…" not in run.stdout


def test_l1_no_token_is_shown(run: Run) -> None:
    assert not re.search(r"[ar]t_\w", run.stdout + run.stderr)


def test_the_temporary_directory_is_gone_at_the_end(run: Run) -> None:
    assert run.temporary_files == []


def test_an_interrupt_ends_it_at_once_without_a_traceback(tmp_path: Path) -> None:
    with subprocess.Popen(
        COMMAND, stdout=subprocess.PIPE, stderr=subprocess.PIPE, encoding="utf-8", env=environment(tmp_path)
    ) as process:
        assert process.stdout is not None
        process.stdout.readline()
        process.send_signal(signal.SIGINT)
        _, stderr = process.communicate(timeout=30)
    assert (process.returncode, stderr) == (130, "")
    assert list(tmp_path.iterdir()) == []


def test_the_exit_status_is_1_when_a_count_is_off(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(demo_module, "SCENES", (ONE_CALL, OFF))
    with pytest.raises(SystemExit) as exit_info:
        app(["demo"])
    assert exit_info.value.code == 1
    assert "1 of 2 scenes did not go as expected." in capsys.readouterr().out


@pytest.mark.parametrize("title", [scene.title for scene in SCENES[2:]])
async def test_a_scene_comes_to_exactly_what_it_promises(stage: Stage, title: str) -> None:
    outcome = await play(SCENE_OF[title], stage)
    assert (outcome.counted, outcome.problem) == (SCENE_OF[title].expected, None)
    assert outcome.ok


async def test_a_scene_counts_its_own_part_only(stage: Stage) -> None:
    assert [(await play(ONE_CALL, stage)).counted.api_calls for _ in range(2)] == [1, 1]


async def test_a_count_that_is_off_is_shown_above_the_expected_one() -> None:
    (good, bad), shown = await played(ONE_CALL, OFF)
    assert (good.ok, bad.ok) == (True, False)
    assert lines_of(shown)[-6:-2] == [
        ["✓", "one", "call", "1", "0", "0", "0", "0", "0"],
        ["no", "refresh", "1", "0", "0", "0", "0", "0"],
        ["✗", "a", "scene", "that", "is", "off", "1", "0", "0", "0", "0", "0"],
        ["no", "refresh", "7", "0", "0", "0", "0", "0"],
    ]


async def test_a_provider_whose_new_tokens_are_dead_makes_the_scene_off(stage: Stage) -> None:
    stage.fake.lifetime = -1
    outcome = await play(SCENE_OF["token revoked at the API"], stage)
    assert (outcome.ok, outcome.counted.failed) == (False, 100)
    assert outcome.problem == "the API answered 401"


async def test_a_provider_that_refuses_makes_the_scene_off_and_says_why(stage: Stage) -> None:
    async def play_revoked_login(stage: Stage) -> Tally:
        await stage.log_in("zoe", seconds_ago=7200)
        stage.fake.revoke("zoe")
        return Tally.of_calls([await stage.call("zoe")])

    outcome = await play(replace(ONE_CALL, play=play_revoked_login), stage)
    assert outcome.counted == Counts(api_calls=0, token_requests=1, refreshes=0, failed=1)
    assert outcome.problem is not None
    assert outcome.problem.startswith("ReauthenticationRequired: ")


async def test_a_further_process_that_dies_makes_the_scene_off_and_says_why(
    stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_processes, "_MODULE", "tokenflight.cli.demo.no_such_module")
    outcome = await play(SCENE_OF["2 further processes"], stage)
    assert outcome.counted == Counts(api_calls=0, token_requests=0, refreshes=0, failed=50)
    assert outcome.problem is not None
    assert outcome.problem.startswith("a process ended with exit status 1: ")
    assert outcome.problem.endswith("No module named tokenflight.cli.demo.no_such_module")


async def test_a_scene_that_raises_is_off_says_why_and_the_next_one_plays() -> None:
    async def raise_deep_down(_stage: Stage) -> Tally:
        async with asyncio.TaskGroup():
            raise OSError("no space left on device [/]")

    (raised, good), shown = await played(replace(OFF, play=raise_deep_down), ONE_CALL)
    assert (raised.ok, good.ok) == (False, True)
    assert "a scene that is off: OSError: no space left on device [/]" in shown


async def test_a_scene_that_hangs_is_off(monkeypatch: pytest.MonkeyPatch) -> None:
    async def wait_for_ever(_stage: Stage) -> Tally:
        await asyncio.Event().wait()
        return Tally()

    monkeypatch.setattr(demo_module, "SCENE_TIMEOUT_SECONDS", 0)
    nothing = Counts(api_calls=0, token_requests=0, refreshes=0)
    (outcome,), _ = await played(Scene("stuck", "nothing at all", nothing, wait_for_ever))
    assert outcome.counted == nothing
    assert not outcome.ok


async def test_the_scene_that_plays_shows_what_the_server_has_counted_so_far(stage: Stage) -> None:
    console = Console(file=io.StringIO(), width=80, record=True, _environ={})
    await play_one_call(stage)
    console.print(Board([OFF, ONE_CALL], stage.meter, unicode=False))
    (spinner, *playing), *others = lines_of(console.export_text())[2:]
    assert spinner in set("-\\|/")
    assert [playing, *others] == [
        ["a", "scene", "that", "is", "off", "1", "0", "0", "0", "0", "0"],
        ["no", "refresh", "7", "0", "0", "0", "0", "0"],
        ["one", "call"],
        ["no", "refresh", "1", "0", "0", "0", "0", "0"],
    ]


async def test_a_terminal_sees_the_table_live_and_keeps_the_final_one() -> None:
    _, shown = await played(ONE_CALL, terminal=True)
    live, _, final = shown.rpartition(SHOW_CURSOR)
    assert re.search("[\N{BRAILLE PATTERN DOTS-1}-\N{BRAILLE PATTERN DOTS-12345678}] one call", live)
    assert "✓ one call" in final
    assert "Every count is as expected" in final


async def test_a_terminal_that_knows_no_unicode_gets_plain_marks() -> None:
    output = io.BytesIO()
    console = Console(file=io.TextIOWrapper(output, encoding="ascii"), width=80, _environ={})
    await play_all([ONE_CALL, OFF], demo_provider(), console)
    console.file.flush()
    assert b"\n+ one call " in output.getvalue()
    assert b"\nx a scene that is off " in output.getvalue()
