"""The stores that a storm can run on, each named by a few plain values that fit a command line."""

from dataclasses import dataclass
from typing import Literal, assert_never

from tokenflight import FileTokenStore, TokenStore


@dataclass(frozen=True, slots=True)
class StoreSpec:
    """Which store: its kind, and the directory or URL where it is."""

    kind: Literal["file"]
    location: str


def open_store(spec: StoreSpec) -> TokenStore:
    """The store that `spec` names, the same one in every process."""
    match spec.kind:
        case "file":
            return FileTokenStore(spec.location)
        case _:
            assert_never(spec.kind)
