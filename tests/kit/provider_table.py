"""Makes `docs/providers.md` from the profiles. ``python tests/kit/provider_table.py`` writes it anew."""

import ast
import tokenize
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from tokenflight import profiles
from tokenflight.profiles import Profile

PAGE: Final = Path(__file__).parents[2] / "docs" / "providers.md"
FOLDER: Final = Path(str(profiles.__file__)).parent

HEAD: Final = """\
# Providers

A profile is what the library knows of a vendor that departs from the RFCs: the constant `profiles.SLACK`, or its
name, as in `profile="slack"`. [How to use one](recipes.md#a-vendor-with-quirks). Change a fact with
`dataclasses.replace`; fill a template in with `at`, as in `profiles.ENTRA.at(tenant="contoso.onmicrosoft.com")`. This
page is made from the profiles by `tests/kit/provider_table.py`.

**Rotation** says what a renewal does to the refresh token. *never*: the same one stays in use. *always*: the reply
holds a new one, and the old one is spent. *sometimes*: the reply may hold a new one. *keeps previous*: the reply holds
a new one, and the old one works on. A dash means that the vendor leaves it to settings, or that it could not be
confirmed. **Grace** is how long a client may send a used refresh token again to repeat a request whose reply was lost.
**Unused** and **at most** are how long a refresh token lives.

Each fact has a basis: the vendor documents it (ᵈ), or several independent projects rely on it (ˢ).

| name | client authentication | rotation | grace | unused | at most | to fill in |
|---|---|---|---|---|---|---|
"""

QUIRKS: Final = """
## What else is different

Endpoints aside, which all of them have.

"""

_TABLE_FACTS: Final = (
    "client_authentication",
    "rotation",
    "grace",
    "refresh_token_idle_lifetime",
    "refresh_token_lifetime",
)
_MARKS: Final = {"documented": "ᵈ", "seen": "ˢ"}
_DAY: Final = 86_400
_NOTHING: Final = "\N{EN DASH}"


def render() -> str:
    """The page as the profiles have it."""
    vendors = [(profiles.get(name), basis) for name, basis in sorted(bases().items())]
    rows = "".join(_row(vendor, basis) for vendor, basis in vendors)
    return HEAD + rows + QUIRKS + "\n".join(filter(None, (_quirks(vendor, basis) for vendor, basis in vendors)))


def bases() -> dict[str, dict[str, str]]:
    """The comment beside each fact of each vendor, by the vendor's name and the fact's."""
    return {name: facts for path in sorted(FOLDER.glob("_[a-z]*.py")) for name, facts in _bases_in(path)}


def _bases_in(path: Path) -> Iterator[tuple[str, dict[str, str]]]:
    with path.open("rb") as source:
        comments = {
            token.start[0]: token.string.removeprefix("#").strip()
            for token in tokenize.tokenize(source.readline)
            if token.type == tokenize.COMMENT
        }
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "Profile":
            facts = {str(fact.arg): comments.get(fact.value.lineno, "") for fact in node.keywords if fact.arg != "name"}
            name = next(ast.literal_eval(fact.value) for fact in node.keywords if fact.arg == "name")
            yield name, facts


def _row(vendor: Profile, basis: dict[str, str]) -> str:
    cells = [f"`{vendor.name}`"]
    cells += [_shown(name, getattr(vendor, name)) + _mark(basis, name) for name in _TABLE_FACTS]
    cells.append(", ".join(f"`{name}`" for name in sorted(vendor.variables)) or _NOTHING)
    return f"| {' | '.join(cells)} |\n"


def _quirks(vendor: Profile, basis: dict[str, str]) -> str:
    lines = []
    for name, comment in basis.items():
        note = comment.partition(":")[2].strip()
        is_plain = name == "issuer" or name.endswith("_endpoint")
        if (is_plain and name != "refresh_endpoint" and not note) or (name in _TABLE_FACTS and not note):
            continue
        value = "" if is_plain or name in _TABLE_FACTS else _value(getattr(vendor, name))
        told = f" {value}" if value else ""
        lines.append(f"- `{name}`{told}{_mark(basis, name)}{f': {note}' if note else ''}\n")
    return f"### {vendor.name}\n\n{''.join(lines)}" if lines else ""


def _value(value: object) -> str:  # noqa: PLR0911 - one a kind of fact
    """A fact as one can read it in a line."""
    match value:
        case None:
            return "no word before the token"
        case True:
            return ""
        case dict():
            return ", ".join(f"`{name}={text}`" for name, text in value.items())
        case profiles.Revocation():
            return f"`{value.method}` {value.endpoint}, which ends the {value.ends}"
        case tuple() if value and isinstance(value[0], profiles.ErrorRule):
            return ", ".join(f"{_condition(rule)} → {rule.verdict.value}" for rule in value)
        case tuple() | frozenset():
            return ", ".join(f"`{item}`" for item in sorted(value))
        case float():
            return _duration(value)
        case str():
            return f"`{value}`" if value.strip() else "a space"
        case _:
            return "a function of its own"


def _condition(rule: profiles.ErrorRule) -> str:
    told = [f"`{rule.error}`" if rule.error else "", f"“{rule.words}”" if rule.words else ""]
    return " ".join(filter(None, [str(rule.status or ""), *told]))


def _shown(name: str, value: object) -> str:
    if value is None or (name == "grace" and not value):
        return _NOTHING
    if name == "client_authentication":
        return f"`{value}`"
    return _duration(value) if isinstance(value, float) else str(value).replace("_", " ")


def _duration(seconds: float) -> str:
    for unit, length in (("days", _DAY), ("minutes", 60)):
        if seconds >= length:
            return f"{seconds / length:.4g} {unit}"
    return f"{seconds:.0f} s"


def _mark(basis: dict[str, str], name: str) -> str:
    return _MARKS.get(basis.get(name, "").split(":")[0].split(",")[0].strip(), "") if name in basis else ""


if __name__ == "__main__":
    PAGE.write_text(render(), encoding="utf-8")
