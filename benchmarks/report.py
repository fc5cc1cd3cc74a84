"""The output of a benchmark: tables of plain cells, printed as text and kept as JSON."""

from collections.abc import Sequence
from dataclasses import dataclass, field

Cell = str | int | float | None


@dataclass(frozen=True, slots=True)
class Table:
    """Rows of cells under `columns`, with `notes` below.

    A note says, for example, why a library did not take part.
    """

    title: str
    columns: Sequence[str]
    rows: Sequence[Sequence[Cell]]
    notes: Sequence[str] = field(default=())
