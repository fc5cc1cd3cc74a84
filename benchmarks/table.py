"""Comparisons as plain, aligned text."""

from typing import Final

from benchmarks.comparison import Comparison, Row, Spread

_HEADINGS: Final = ("what", "median", "quartiles", "ratio to floor", "quartiles", "target")
_UNITS: Final = (("ms", 1e6), ("µs", 1e3), ("ns", 1.0))


def render(comparison: Comparison) -> str:
    """`comparison` as a titled table; the first row is the floor."""
    lines = [_HEADINGS, *(_cells(row) for row in comparison.rows)]
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    rendered = [
        "  ".join([name.ljust(widths[0]), *(cell.rjust(width) for cell, width in zip(cells, widths[1:], strict=True))])
        for name, *cells in lines
    ]
    return "\n".join([comparison.title, *(f"  {line.rstrip()}" for line in rendered)])


def _cells(row: Row) -> tuple[str, ...]:
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
