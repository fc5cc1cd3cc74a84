"""Every snippet of the README runs, and its tables tell the truth."""

import inspect
import re
from importlib.metadata import metadata
from pathlib import Path
from typing import Final

import pytest

from kit.snippets import Page
from tokenflight import TokenRefresher
from tokenflight.testing import FakeProvider

README: Final = Page("README.md")
run: Final = README.run


async def test_the_example_against_a_real_provider(
    fake: FakeProvider, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    async with fake.serve() as issuer:
        names = run("main", issuer=issuer, directory=tmp_path)
        await names["main"](fake.login("alice", lifetime=0.001))
    assert "'user_id': 'alice'" in capsys.readouterr().out
    assert fake.refreshes("alice") == 1


def test_every_snippet_has_a_test_here() -> None:
    assert README.snippets_not_run_in(__file__) == []


def test_the_table_of_calls_has_each_method_of_a_refresher() -> None:
    rows = set(re.findall(r"^\| `(\w+)\(", README.text, re.MULTILINE))
    methods = {name for name, _ in inspect.getmembers(TokenRefresher, inspect.isfunction) if name[0] != "_"}
    assert methods - {"aclose"} == rows


def test_each_extra_is_named() -> None:
    extras = metadata("tokenflight").get_all("Provides-Extra") or []
    assert [extra for extra in extras if f"`{extra}`" not in README.text] == []


def test_each_page_of_the_documentation_is_named() -> None:
    pages = sorted(path.name for path in (Path(__file__).parents[1] / "docs").glob("*.md"))
    assert [page for page in pages if f"(docs/{page})" not in README.text] == []
