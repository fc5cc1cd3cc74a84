"""Draw the results: every comparison as bars, and those tables that read better as pictures."""

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from benchmarks.comparison import Comparison
from benchmarks.report import Cell, Table
from benchmarks.results import Results
from benchmarks.svg import Axis, Bar, axis_for, draw_bars, draw_lines

OURS: Final = "tokenflight"
OUR_NAMES: Final = (
    "tokenflight",
    "get_valid_token",
    "BearerAuth",
    "TokenRefresher",
    "FileTokenStore",
    "import tokenflight",
)
LOG_FROM: Final = 25.0
"""From this ratio of the largest value to the smallest on, the scale is logarithmic."""

SHOWN_CALLERS: Final = 100
SHOWN_PROCESSES: Final = 4


@dataclass(frozen=True, slots=True)
class Picture:
    """An SVG document, and the name of its file."""

    name: str
    svg: str


def draw(several: Sequence[Results], directory: Path) -> list[Path]:
    """Draw each of `several` results into `directory`, and create it if it does not exist."""
    directory.mkdir(parents=True, exist_ok=True)
    paths = []
    for results in several:
        for picture in pictures_of(results):
            path = directory / picture.name
            path.write_text(picture.svg, encoding="utf-8")
            paths.append(path)
    return paths


def pictures_of(results: Results) -> Iterator[Picture]:
    """All pictures of one question."""
    note = _measured_on(results)
    for report in results.reports:
        name = _file_name(results.question, report.title)
        if isinstance(report, Comparison):
            yield Picture(name, _comparison(report, note))
        elif "ratio to floor" in report.columns and "callers" in report.columns:
            yield from _stampede(report, name, note)
        elif "processes" in report.columns:
            yield from _processes(report, name, note)
        elif "requests" in report.columns:
            yield Picture(name, _requests(report, _rows(report), note))
        elif bars := _first_numbers(report):
            yield Picture(name, _plain_bars(report.title, bars, note))


def _comparison(comparison: Comparison, note: str) -> str:
    values = [row.nanoseconds.median for row in comparison.rows]
    unit, size = next((unit, size) for unit, size in (("ms", 1e6), ("µs", 1e3), ("ns", 1.0)) if max(values) >= size)
    bars = [
        Bar(
            row.name,
            row.nanoseconds.median / size,
            f"{row.nanoseconds.median / size:,.3g} {unit}, {row.ratio.median:,.3g} x",
            _is_ours(row.name),
        )
        for row in comparison.rows
    ]
    axis = _axis(f"median, {unit}; x the first", [bar.value for bar in bars])
    return draw_bars(comparison.title, bars, axis, note=note)


def _stampede(table: Table, name: str, note: str) -> Iterator[Picture]:
    rows = _rows(table)
    kinds = {"api-calls": [row for row in rows if "API" in str(row["what each caller wants"])]}
    kinds["tokens"] = [row for row in rows if row not in kinds["api-calls"]]
    for kind, chosen in kinds.items():
        what = "an API call each" if kind == "api-calls" else "a token each"
        series = _series(chosen, "library", "callers", "median ms")
        svg = _lines(f"{table.title}: {what}", series, ("callers", "median ms"), note, log=True)
        yield Picture(name.replace(".svg", f"-{kind}.svg"), svg)
    crowd = max((callers for row in rows if (callers := _number(row["callers"])) <= SHOWN_CALLERS), default=0)
    chosen = [row for row in rows if row["callers"] == crowd and "floor" not in str(row["library"])]
    yield Picture(name.replace(".svg", "-requests.svg"), _requests(table, chosen, note))


def _processes(table: Table, name: str, note: str) -> Iterator[Picture]:
    rows = _rows(table)
    series = _series(rows, "library and store", "processes", "median ms")
    yield Picture(
        name.replace(".svg", "-time.svg"),
        _lines(f"{table.title}: until all are served", series, ("processes", "median ms"), note, log=False),
    )
    shown = max(number for row in rows if (number := _number(row["processes"])) <= SHOWN_PROCESSES)
    chosen = [row for row in rows if row["processes"] == shown]
    title = f"{shown:.0f} p{table.title.removeprefix('P')}: token requests"
    yield Picture(name.replace(".svg", "-requests.svg"), _requests(table, chosen, note, title=title))


def _requests(table: Table, rows: Sequence[Mapping[str, Cell]], note: str, *, title: str = "") -> str:
    name = table.columns[0]
    bars = [Bar(str(row[name]), _number(row["requests"]), _fate(row), _is_ours(str(row[name]))) for row in rows]
    axis = axis_for("requests for a token", [bar.value for bar in bars], log=False)
    return draw_bars(title or table.title, bars, axis, note=note)


def _fate(row: Mapping[str, Cell]) -> str:
    text = f"{row['requests']}; {row['failed']} of {row['callers']} failed"
    revoked = _number(row["grants revoked"])
    if not revoked:
        return text
    return f"{text}, grant revoked" if revoked == 1 else f"{text}, {revoked:.0f} grants revoked"


def _first_numbers(table: Table) -> dict[str, float]:
    """The values of the first column that has only numbers, by the label in each row; empty if there is none."""
    for at in range(1, len(table.columns)):
        cells = [row[at] for row in table.rows]
        try:
            return {f"{row[0]}": _number(cell) for row, cell in zip(table.rows, cells, strict=True)}
        except ValueError:
            continue
    return {}


def _plain_bars(title: str, values: Mapping[str, float], note: str) -> str:
    bars = [Bar(name, value, f"{value:,.4g}", _is_ours(name)) for name, value in values.items()]
    return draw_bars(title, bars, _axis("", list(values.values())), note=note)


def _lines(
    title: str, series: Mapping[str, Sequence[tuple[float, float]]], names: tuple[str, str], note: str, *, log: bool
) -> str:
    xs = sorted({x for points in series.values() for x, _ in points})
    ys = [y for points in series.values() for _, y in points]
    x_axis = Axis(names[0], {x: f"{x:,.0f}" for x in xs}, log=log)
    return draw_lines(title, series, x_axis, axis_for(names[1], ys, log=log), ours=OURS, note=note)


def _series(rows: Sequence[Mapping[str, Cell]], name: str, x: str, y: str) -> dict[str, list[tuple[float, float]]]:
    """The points in columns `x` and `y`, by the column `name`; those of this library come first."""
    series: dict[str, list[tuple[float, float]]] = {}
    for row in sorted(rows, key=lambda row: not _is_ours(str(row[name]))):
        series.setdefault(str(row[name]), []).append((_number(row[x]), _number(row[y])))
    return series


def _axis(title: str, values: Sequence[float]) -> Axis:
    least = min((value for value in values if value > 0), default=1.0)
    log = max(values) / least >= LOG_FROM
    return axis_for(f"{title}; logarithmic" if log else title, values, log=log)


def _rows(table: Table) -> list[dict[str, Cell]]:
    return [dict(zip(table.columns, row, strict=True)) for row in table.rows]


def _number(cell: Cell) -> float:
    """The number in `cell`, with or without commas. Raises `ValueError` if there is none."""
    if cell is None:
        raise ValueError(cell)
    return float(cell.replace(",", "")) if isinstance(cell, str) else float(cell)


def _is_ours(name: str) -> bool:
    return name.startswith(OUR_NAMES)


def _file_name(question: str, title: str) -> str:
    slug = re.sub(r"[^a-z0-9]+", "-", title.lower()).strip("-")
    return f"{question}-{slug[:60].rstrip('-')}.svg"


def _measured_on(results: Results) -> str:
    on = results.measured_on
    return f"{on['python']}, {on['cpus']} CPUs, {on['system']} {on['machine']}"
