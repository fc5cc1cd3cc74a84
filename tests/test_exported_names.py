"""The front door: what it names, and what it costs."""

import importlib
import subprocess
import sys

import pytest

import tokenflight


@pytest.mark.parametrize(
    "name", ["tokenflight", "tokenflight.providers", "tokenflight.stores", "tokenflight.testing", "tokenflight.httpx"]
)
def test_all_is_sorted_and_every_name_in_it_exists(name: str) -> None:
    module = importlib.import_module(name)
    assert module.__all__ == sorted(module.__all__)
    assert [missing for missing in module.__all__ if not hasattr(module, missing)] == []


def test_every_public_name_of_the_front_door_is_in_all() -> None:
    named = {
        name
        for name, value in vars(tokenflight).items()
        if not name.startswith("_") and getattr(value, "__module__", "").startswith("tokenflight")
    }
    assert named == set(tokenflight.__all__)


def test_importing_the_library_loads_nothing_that_an_extra_brings() -> None:
    program = "import sys, tokenflight, tokenflight.httpx, tokenflight.testing; print(*sys.modules)"
    loaded = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True).stdout.split()
    extras = {"uvicorn", "cyclopts", "pytest", "cryptography", "redis", "sqlalchemy", "asyncpg", "aiosqlite"}
    assert extras.isdisjoint(loaded)


@pytest.mark.parametrize(("module", "extra"), [("redis", "redis"), ("sql", "sql"), ("encryption", "crypto")])
def test_a_missing_extra_is_named(module: str, extra: str) -> None:
    library = {"redis": "redis", "sql": "sqlalchemy", "crypto": "cryptography"}[extra]
    program = f"import sys; sys.modules['{library}'] = None; import tokenflight.stores.{module}"
    ended = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert ended.returncode == 1
    assert ended.stderr.rstrip().endswith(f"install tokenflight[{extra}]")
