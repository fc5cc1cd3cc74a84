"""The codes of the errors that the source raises, read from its syntax trees."""

import ast
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import tokenflight
from tokenflight import TokenflightError
from tokenflight.providers._replies import classification

ERRORS: Final = {
    name: kind
    for name, kind in vars(tokenflight).items()
    if isinstance(kind, type) and issubclass(kind, TokenflightError)
}


def codes_in_source() -> set[tuple[str, str]]:
    """Each error with each of its codes, such as ``("StoreError", "too_large")``, and ``<…>`` for what varies.

    What is passed on from elsewhere, as another error's code or the provider's own words, is left out.
    """
    package = Path(tokenflight.__file__).parent
    found = {(name, kind.default_code) for name, kind in ERRORS.items()}
    for path in sorted(package.rglob("*.py")):
        found.update(_codes_in(ast.parse(path.read_text(encoding="utf-8"))))
    return found | set(_codes_of_failures())


def _codes_in(module: ast.Module) -> Iterator[tuple[str, str]]:
    functions = [node for node in ast.walk(module) if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)]
    for function in functions:
        for node in ast.walk(function):
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in ERRORS:
                for keyword in node.keywords:
                    if keyword.arg == "code":
                        yield from ((node.func.id, code) for code in _texts(keyword.value, function))


_ERRORS_OF_VERDICTS: Final = {"PASSING": "ProviderUnavailable", "MISCONFIGURED": "ProviderMisconfigured"}
"""The verdicts on a reply whose error takes its code from the reading of that reply."""


def _codes_of_failures() -> Iterator[tuple[str, str]]:
    module = ast.parse(Path(classification.__file__).read_text(encoding="utf-8"))
    cases = [node for node in ast.walk(module) if isinstance(node, ast.match_case)]
    for case in cases:
        if isinstance(case.pattern, ast.MatchValue) and isinstance(case.pattern.value, ast.Attribute):
            error = _ERRORS_OF_VERDICTS.get(case.pattern.value.attr)
            returned = [node.value for node in case.body if isinstance(node, ast.Return) and node.value]
            yield from ((error, code) for value in returned if error for code in _texts(value, case))


def _texts(value: ast.expr, function: ast.AST) -> Iterator[str]:
    """The strings that `value`, an expression in `function`, can be."""
    match value:
        case ast.Constant(value=str(text)):
            yield text
        case ast.IfExp():
            yield from _texts(value.body, function)
            yield from _texts(value.orelse, function)
        case ast.BoolOp(values=alternatives):
            for alternative in alternatives:
                yield from _texts(alternative, function)
        case ast.JoinedStr():
            yield "".join(
                part.value if isinstance(part, ast.Constant) and isinstance(part.value, str) else _placeholder(part)
                for part in value.values
            )
        case ast.Name():
            for given in _given_to(value.id, function):
                yield from _texts(given, function)


def _placeholder(part: ast.expr) -> str:
    assert isinstance(part, ast.FormattedValue)
    return f"<{ast.unparse(part.value)}>"


def _given_to(name: str, function: ast.AST) -> Iterator[ast.expr]:
    """What `function` assigns to `name`, alone or in a tuple."""
    for node in ast.walk(function):
        if isinstance(node, ast.Assign):
            for target in node.targets:
                match target, node.value:
                    case ast.Name(id=found), value if found == name:
                        yield value
                    case ast.Tuple(elts=targets), ast.Tuple(elts=values):
                        yield from (value for each, value in zip(targets, values, strict=True) if _is(each, name))


def _is(target: ast.expr, name: str) -> bool:
    return isinstance(target, ast.Name) and target.id == name
