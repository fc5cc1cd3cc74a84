"""The Python snippets of a page of documentation, to be run by its tests."""

import re
from pathlib import Path
from typing import Any, Final

ROOT: Final = Path(__file__).parents[2]


class Page:
    """A Markdown page of the repository, such as ``README.md``."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.text = (ROOT / name).read_text(encoding="utf-8")
        self.snippets: list[str] = re.findall(r"```python\n(.*?)```", self.text, re.DOTALL)

    def run(self, defines: str, *, issuer: str | None = None, directory: Path | None = None) -> dict[str, Any]:
        """Execute the one snippet that defines the name `defines`, at home here, and return its names."""
        (snippet,) = (snippet for snippet in self.snippets if _defines(snippet, defines))
        if issuer is not None:
            snippet = snippet.replace("https://idp.example", issuer)
        if directory is not None:
            snippet = snippet.replace("~/.local/state/myapp/tokens", str(directory))
        names: dict[str, Any] = {}
        exec(compile(snippet, f"<{self.name}>", "exec"), names)
        return names

    def snippets_not_run_in(self, tests: str) -> list[str]:
        """The snippets that no test in the file `tests` runs."""
        run = re.findall(r'run\("(\w+)"', Path(tests).read_text(encoding="utf-8"))
        return [snippet for snippet in self.snippets if not any(_defines(snippet, name) for name in run)]


def _defines(snippet: str, name: str) -> bool:
    return re.search(rf"(def|class) {name}\b", snippet) is not None
