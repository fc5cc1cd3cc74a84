"""What a token set is made of: strings that `repr` hides, and JSON that is read-only and not too deep."""

from collections.abc import Callable, Iterable, Mapping
from typing import Any, Final, NoReturn, Self, SupportsIndex, TypeVar

from tokenflight.errors import ConfigurationError

K = TypeVar("K")
V = TypeVar("V")

MAX_NESTING: Final = 50
"""Levels of objects and arrays in a reply or a stored token set."""


class Secret(str):
    """A string that `repr` hides, so that dataclass helpers, debuggers and rich tracebacks do not show it."""

    __slots__ = ()

    def __repr__(self) -> str:
        return "'***'"

    def __getitem__(self, index: SupportsIndex | slice) -> "Secret":
        # A part too: tools cut long strings before they show them.
        return Secret(super().__getitem__(index))


class ReadOnlyDict(dict[K, V]):
    """A dict that refuses every write, so that all values without an item can share one."""

    __slots__ = ()

    def _refuse(self, *_: object, **__: object) -> NoReturn:
        raise TypeError("this is read-only; make another one with dataclasses.replace")

    __setitem__ = __delitem__ = __ior__ = clear = pop = popitem = setdefault = update = _refuse

    def __reduce__(self) -> tuple[type[Self], tuple[dict[K, V]]]:
        return type(self), (dict(self),)  # unpickled at once, as items can't be added to it


def redacted(value: Any, levels: int = MAX_NESTING) -> Any:
    """A copy of `value` with each string in it hidden. Raises `ConfigurationError` unless it is JSON, of few levels."""
    match value:
        case str():
            return Secret(value)
        case Mapping() if levels and all(isinstance(key, str) for key in value):
            return {key: redacted(item, levels - 1) for key, item in value.items()}
        case list() | tuple() if levels:
            return [redacted(item, levels - 1) for item in value]
        case None | int() | float():
            return value
    raise ConfigurationError(f"extra must be JSON, nested {MAX_NESTING} levels at most: stores write it so")


def map_strings(kind: Callable[[str], str], value: Any) -> Any:
    """`value`, a JSON value, with each string in it made a `kind`."""
    match value:
        case str():
            return kind(value)
        case Mapping():
            return {key: map_strings(kind, item) for key, item in value.items()}
        case list() | tuple():
            return [map_strings(kind, item) for item in value]
        case _:
            return value


def is_nested_too_deeply(value: object, levels: int = MAX_NESTING) -> bool:
    """Whether `value` has more than `levels` levels of objects and arrays: no provider's reply has."""
    items: Iterable[object]
    match value:
        case Mapping():
            items = value.values()
        case list() | tuple():
            items = value
        case _:
            return False
    return not levels or any(is_nested_too_deeply(item, levels - 1) for item in items)
