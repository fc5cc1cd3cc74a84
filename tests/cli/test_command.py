"""The ``tokenflight`` command around its subcommands."""

import os
import signal
import subprocess
import sys
from importlib.metadata import entry_points, version
from pathlib import Path

import pytest

from tokenflight.cli import main

MODULE = ("-m", "tokenflight")


def python(*arguments: str) -> subprocess.CompletedProcess[str]:
    """Run Python in a process of its own."""
    return subprocess.run([sys.executable, *arguments], capture_output=True, encoding="utf-8", timeout=30, check=False)


def test_the_script_and_the_module_are_one_command() -> None:
    (script,) = entry_points(group="console_scripts", name="tokenflight")
    assert script.load() is main
    assert python(*MODULE, "--version").stdout == f"{version('tokenflight')}\n"


@pytest.mark.parametrize("arguments", [(), ("--help",)])
def test_help_names_the_subcommands(arguments: tuple[str, ...]) -> None:
    done = python(*MODULE, *arguments)
    assert done.returncode == 0
    assert "demo" in done.stdout


def test_help_of_the_demo_says_what_its_exit_status_means() -> None:
    assert "exit status is 1" in " ".join(python(*MODULE, "demo", "--help").stdout.split())


def test_an_unknown_subcommand_is_a_usage_error() -> None:
    done = python(*MODULE, "dmeo")
    assert done.returncode == 2
    assert "dmeo" in done.stdout + done.stderr


@pytest.mark.parametrize("missing", [("cyclopts",), ("rich",), ("uvicorn",), ("cyclopts", "rich", "uvicorn")])
def test_without_the_extra_it_says_in_one_line_what_to_install(missing: tuple[str, ...]) -> None:
    hidden = "".join(f"sys.modules[{name!r}] = None; " for name in missing)
    done = python("-c", f"import sys; {hidden}from tokenflight.cli import main; main()")
    names = ", ".join(missing)
    assert done.stderr == f"The tokenflight command needs {names}: pip install 'tokenflight[cli]'\n"
    assert (done.returncode, done.stdout) == (2, "")


def test_the_library_and_the_further_processes_of_the_demo_need_none_of_the_extra() -> None:
    hidden = "".join(f"sys.modules[{name!r}] = None; " for name in ("cyclopts", "rich", "uvicorn"))
    done = python("-c", f"import sys; {hidden}import tokenflight.httpx, tokenflight.cli.demo._worker")
    assert (done.returncode, done.stderr) == (0, "")


def test_k10_sigterm_ends_the_demo_tidily(tmp_path: Path) -> None:
    with subprocess.Popen(
        [sys.executable, "-m", "tokenflight", "demo"],
        env=os.environ | {"TMPDIR": str(tmp_path)},
        stdout=subprocess.PIPE,
        encoding="utf-8",
    ) as process:
        assert process.stdout is not None
        assert "Playing on a fake provider" in process.stdout.readline()
        assert list(tmp_path.iterdir())
        process.send_signal(signal.SIGTERM)
        process.stdout.read()
        assert process.wait(timeout=30) == 128 + signal.SIGTERM
    assert not list(tmp_path.iterdir())
