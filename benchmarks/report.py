"""What a benchmark tells: tables of plain cells, printed as text and kept as JSON."""

from collections.abc import Sequence
from dataclasses import dataclass, field

Cell = str | int | float | None


@dataclass(frozen=True, slots=True)
class Table:
    """Rows of cells under `columns`, with `notes` below.

    Such as who could not take part, and why.
    """

    title: str
    columns: Sequence[str]
    rows: Sequence[Sequence[Cell]]
    notes: Sequence[str] = field(default=())
