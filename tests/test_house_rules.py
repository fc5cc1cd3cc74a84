"""What the linters have no rule for: how long modules, classes and test files are, and a reason beside each `noqa`."""

import ast
import re
from pathlib import Path
from typing import Final

from kit.snippets import ROOT

SOURCE: Final = ROOT / "src"
TESTS: Final = ROOT / "tests"

MAX_MODULE_LINES: Final = 400
MAX_CLASS_LINES: Final = 300
MAX_TEST_FILE_LINES: Final = 500

SUPPRESSION: Final = re.compile(r"#.*\b(noqa|type: ignore|pyright: ignore|pragma)\b")
SUPPRESSION_WITH_REASON: Final = re.compile(
    r"#.*\b(noqa: [A-Z]+\d+(, [A-Z]+\d+)*|(type|pyright): ignore\[[\w, -]+\]|pragma: no \w+) (-|#) \w"
)


def test_no_module_is_too_long() -> None:
    assert too_long(lines_of_files(SOURCE), MAX_MODULE_LINES) == {}


def test_no_class_is_too_long() -> None:
    assert too_long(lines_of_classes(SOURCE), MAX_CLASS_LINES) == {}


def test_no_test_file_is_too_long() -> None:
    assert too_long(lines_of_files(TESTS), MAX_TEST_FILE_LINES) == {}


def test_each_suppression_has_its_reason_beside_it() -> None:
    lines = lines_with_suppressions(SOURCE)
    assert lines
    assert [line for line in lines if not SUPPRESSION_WITH_REASON.search(line)] == []


def too_long(lines: dict[str, int], limit: int) -> dict[str, int]:
    """What has more lines than `limit`, and how many."""
    return {name: count for name, count in lines.items() if count > limit}


def lines_of_files(directory: Path) -> dict[str, int]:
    return {relative(path): len(path.read_text().splitlines()) for path in directory.rglob("*.py")}


def lines_of_classes(directory: Path) -> dict[str, int]:
    return {
        f"{relative(path)}: {node.name}": (node.end_lineno or node.lineno) - node.lineno + 1
        for path in directory.rglob("*.py")
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.ClassDef)
    }


def lines_with_suppressions(directory: Path) -> list[str]:
    """Each line that switches a check off, with its file and number."""
    return [
        f"{relative(path)}:{number} {line.strip()}"
        for path in directory.rglob("*.py")
        for number, line in enumerate(path.read_text().splitlines(), start=1)
        if SUPPRESSION.search(line)
    ]


def relative(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()
