"""Comparisons as work per second, and as a share of the work of the floor."""

from collections.abc import Sequence
from typing import Final

from benchmarks.comparison import Comparison, Spread
from benchmarks.report import Cell, Table

COLUMNS: Final = ("what", "per second", "quartiles", "share of the bare one", "quartiles", "target")


def as_rates(title: str, comparisons: Sequence[Comparison], *, notes: Sequence[str] = ()) -> Table:
    """One table of all `comparisons`, the floor of each above its rivals."""
    return Table(title, COLUMNS, [_cells(row) for each in comparisons for row in _rates(each)], notes)


def least_share(share: float) -> float:
    """The highest ratio of time at which a rival still does `share` of the work of the floor."""
    return 1 / share


def _rates(comparison: Comparison) -> list[tuple[str, Spread, Spread, float | None]]:
    return [
        (row.name, _inverse(row.nanoseconds, 1e9), _inverse(row.ratio), row.target and 1 / row.target)
        for row in comparison.rows
    ]


def _inverse(spread: Spread, whole: float = 1.0) -> Spread:
    return Spread(whole / spread.upper, whole / spread.median, whole / spread.lower)


def _cells(row: tuple[str, Spread, Spread, float | None]) -> Sequence[Cell]:
    name, rate, share, target = row
    return (
        name,
        round(rate.median),
        f"{rate.lower:,.0f}-{rate.upper:,.0f}",
        share.median,
        f"{share.lower:.2f}-{share.upper:.2f}",
        None if target is None else f"≥ {target:.2f}",
    )
