"""Draw bar and line charts as SVG, readable on a light and on a dark background."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape
from itertools import pairwise
from typing import Final

WIDTH: Final = 760
PADDING: Final = 16
TITLE_HEIGHT: Final = 34
BAR_HEIGHT: Final = 20
ROW_HEIGHT: Final = 28
LABEL_WIDTH: Final = 7.0
"""The approximate width of a character."""

PLOT_HEIGHT: Final = 300
FLOOR: Final = "the floor"
"""A line whose name starts so is dashed."""

LINE_COLOURS: Final = 9

_STYLE: Final = """
svg { color: #1f2328; font: 13px system-ui, -apple-system, "Segoe UI", sans-serif; }
text { fill: currentColor; }
.title { font-size: 16px; font-weight: 600; }
.faint { opacity: 0.65; }
.grid { stroke: currentColor; opacity: 0.15; }
.bar { fill: #8c959f; }
.bar.ours { fill: #0969da; }
.line { fill: none; stroke-width: 1.6; stroke: currentColor; }
.dot { fill: currentColor; }
.ours.line { stroke-width: 3.2; }
.floor.line { stroke-dasharray: 4 3; }
.ours.name { font-weight: 600; }
.c0 { color: #0969da; } .c1 { color: #bc4c00; } .c2 { color: #1a7f37; } .c3 { color: #8250df; }
.c4 { color: #bf3989; } .c5 { color: #9a6700; } .c6 { color: #57606a; } .c7 { color: #cf222e; }
.c8 { color: #1b7c83; }
@media (prefers-color-scheme: dark) {
  svg { color: #e6edf3; }
  .bar { fill: #6e7681; }
  .bar.ours { fill: #4493f8; }
  .c0 { color: #4493f8; } .c1 { color: #f0883e; } .c2 { color: #3fb950; } .c3 { color: #ab7df8; }
  .c4 { color: #db61a2; } .c5 { color: #d29922; } .c6 { color: #9198a1; } .c7 { color: #f85149; }
  .c8 { color: #39c5cf; }
}
"""


@dataclass(frozen=True, slots=True)
class Bar:
    """A bar as long as `value`, with `text` at its end."""

    label: str
    value: float
    text: str
    is_ours: bool = False


@dataclass(frozen=True, slots=True)
class Axis:
    """The title of an axis and its labelled ticks. With `log`, the scale is logarithmic."""

    title: str
    ticks: Mapping[float, str]
    log: bool = False

    def share(self, value: float) -> float:
        """The position of `value` between the first tick, 0, and the last, 1."""
        least, most = self._scaled(min(self.ticks)), self._scaled(max(self.ticks))
        return (self._scaled(value) - least) / ((most - least) or 1.0)

    def _scaled(self, value: float) -> float:
        return math.log10(value) if self.log else value


def axis_for(title: str, values: Sequence[float], *, log: bool) -> Axis:
    """An axis with round ticks that covers `values`: powers of ten with `log`, or else numbers from 0 on."""
    most = max(values, default=1.0) or 1.0
    if log:
        least = min((value for value in values if value > 0), default=1.0)
        powers = range(math.floor(math.log10(least)), math.ceil(math.log10(most)) + 1)
        ticks = [10.0**power for power in (powers if len(powers) > 1 else (powers[0], powers[0] + 1))]
    else:
        power = 10.0 ** math.floor(math.log10(most))
        step = next(power * share for share in (0.2, 0.5, 1.0, 2.0) if most / (power * share) <= 6)
        ticks = [step * number for number in range(math.ceil(most / step - 1e-9) + 1)]
    return Axis(title, {tick: f"{tick:,.10g}" for tick in ticks}, log)


def draw_bars(title: str, bars: Sequence[Bar], axis: Axis, *, note: str = "") -> str:
    """Draw a horizontal bar chart. On a logarithmic axis, a bar starts at the first tick."""
    left = PADDING + 12 + max(len(bar.label) for bar in bars) * LABEL_WIDTH
    room = max(len(bar.text) for bar in bars) * LABEL_WIDTH + 12
    span = WIDTH - PADDING - room - left
    bottom = TITLE_HEIGHT + PADDING + ROW_HEIGHT * len(bars)
    parts = [_text(PADDING, TITLE_HEIGHT - 10, title, "title")]
    for tick, label in axis.ticks.items():
        x = left + axis.share(tick) * span
        parts += [_line(x, TITLE_HEIGHT + 8, x, bottom), _text(x, bottom + 16, label, "faint", anchor="middle")]
    for number, bar in enumerate(bars):
        y = TITLE_HEIGHT + PADDING + number * ROW_HEIGHT
        length = max(axis.share(bar.value) * span if bar.value > 0 or not axis.log else 0, 1.5)
        kind = "bar ours" if bar.is_ours else "bar"
        parts += [
            _text(left - 8, y + 15, bar.label, anchor="end"),
            f'<rect class="{kind}" x="{left:.1f}" y="{y}" width="{length:.1f}" height="{BAR_HEIGHT}" rx="2"/>',
            _text(left + length + 6, y + 15, bar.text),
        ]
    parts.append(_text(left + span / 2, bottom + 36, axis.title, "faint", anchor="middle"))
    return _document(title, parts, bottom + 48, note)


def draw_lines(
    title: str,
    series: Mapping[str, Sequence[tuple[float, float]]],
    x_axis: Axis,
    y_axis: Axis,
    *,
    ours: str,
    note: str = "",
) -> str:
    """Draw a line chart. A series whose name starts with `ours` stands out. Each name is at the end of its line."""
    left, top = PADDING + 56.0, TITLE_HEIGHT + 28.0
    right = WIDTH - PADDING - max(map(len, series)) * LABEL_WIDTH - 12
    bottom = top + PLOT_HEIGHT

    def at(x: float, y: float) -> tuple[float, float]:
        return left + x_axis.share(x) * (right - left), bottom - y_axis.share(y) * PLOT_HEIGHT

    parts = [_text(PADDING, TITLE_HEIGHT - 10, title, "title")]
    for tick, label in x_axis.ticks.items():
        x, _ = at(tick, min(y_axis.ticks))
        parts += [_line(x, top, x, bottom), _text(x, bottom + 16, label, "faint", anchor="middle")]
    for tick, label in y_axis.ticks.items():
        _, y = at(min(x_axis.ticks), tick)
        parts += [_line(left, y, right, y), _text(left - 6, y + 4, label, "faint", anchor="end")]
    ends = []
    for number, (name, points) in enumerate(series.items()):
        kind = f"c{number % LINE_COLOURS}" + (" ours" if name.startswith(ours) else "")
        kind += " floor" if name.startswith(FLOOR) else ""
        places = [at(*point) for point in points]
        path = " ".join(f"{x:.1f},{y:.1f}" for x, y in places)
        parts.append(f'<polyline class="line {kind}" points="{path}"/>')
        parts += [f'<circle class="dot {kind}" cx="{x:.1f}" cy="{y:.1f}" r="2.6"/>' for x, y in places]
        ends.append((places[-1], name, kind))
    ends.sort(key=lambda end: end[0][1])
    for ((x, end), name, kind), y in zip(ends, _apart([place[1] for place, _, _ in ends], 15.0), strict=True):
        if x < right - 1:  # the line ends early: connect it with its name
            parts.append(f'<line class="grid" x1="{x + 4:.1f}" y1="{end:.1f}" x2="{right + 4:.1f}" y2="{y:.1f}"/>')
        parts.append(_text(right + 8, y + 4, name, f"name {kind}"))
    parts += [
        _text((left + right) / 2, bottom + 36, x_axis.title, "faint", anchor="middle"),
        _text(PADDING, top - 14, y_axis.title, "faint"),
    ]
    return _document(title, parts, bottom + 48, note)


def _apart(places: Sequence[float], distance: float) -> list[float]:
    """Ascending `places`, moved as little as possible so that they are `distance` apart."""
    moved = list(places)
    for _ in range(200):
        for number, (upper, lower) in enumerate(pairwise(moved)):
            if (short := distance - (lower - upper)) > 0:
                moved[number] -= short / 2
                moved[number + 1] += short / 2
    return moved


def _text(x: float, y: float, words: str, kind: str = "", *, anchor: str = "start") -> str:
    return f'<text class="{kind}" x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}">{escape(words)}</text>'


def _line(x1: float, y1: float, x2: float, y2: float) -> str:
    return f'<line class="grid" x1="{x1:.1f}" y1="{y1:.1f}" x2="{x2:.1f}" y2="{y2:.1f}"/>'


def _document(title: str, parts: Sequence[str], height: float, note: str) -> str:
    if note:
        parts = [*parts, _text(PADDING, height + 8, note, "faint")]
        height += 20
    body = "\n".join(parts)
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height:.0f}" width="{WIDTH}" '
        f'height="{height:.0f}" role="img">\n'
        f"<title>{escape(title)}</title>\n<style>{_STYLE}</style>\n{body}\n</svg>\n"
    )
