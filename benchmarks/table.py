"""Comparisons and tables as plain, aligned text."""

from collections.abc import Sequence
from typing import Final

from benchmarks.comparison import Comparison, Row, Spread
from benchmarks.report import Cell, Table

_HEADINGS: Final = ("what", "median", "quartiles", "ratio to floor", "quartiles", "target")
_UNITS: Final = (("ms", 1e6), ("µs", 1e3), ("ns", 1.0))


def render(report: Comparison | Table) -> str:
    """`report` as a titled table. The first row of a comparison is the floor."""
    if isinstance(report, Comparison):
        lines, left = [_HEADINGS, *map(_cells, report.rows)], {0}
    else:
        lines = [tuple(report.columns), *(tuple(map(_text, row)) for row in report.rows)]
        left = {at for at in range(len(report.columns)) if any(isinstance(row[at], str) for row in report.rows)}
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    rendered = [
        "  ".join(
            cell.ljust(width) if at in left else cell.rjust(width)
            for at, (cell, width) in enumerate(zip(line, widths, strict=True))
        )
        for line in lines
    ]
    notes = [f"  · {note}" for note in report.notes]
    return "\n".join([report.title, *(f"  {line.rstrip()}" for line in rendered), *notes])


def _text(cell: Cell) -> str:
    match cell:
        case None:
            return "-"
        case str():
            return cell
        case float() if abs(cell) < 100:
            return f"{cell:,.2f}"
        case _:
            return f"{cell:,.0f}"


def _cells(row: Row) -> Sequence[str]:
    unit, size = next((unit, size) for unit, size in _UNITS if row.nanoseconds.median >= size or unit == "ns")
    target = "" if row.target is None else f"≤ {row.target:.2f}"
    ratio = row.ratio
    return (
        row.name,
        f"{row.nanoseconds.median / size:.1f} {unit}",
        _between(row.nanoseconds, size, digits=1),
        f"{ratio.median:.2f}",
        _between(ratio, 1, digits=2),
        target,
    )


def _between(spread: Spread, size: float, *, digits: int) -> str:
    return f"{spread.lower / size:.{digits}f}-{spread.upper / size:.{digits}f}"
