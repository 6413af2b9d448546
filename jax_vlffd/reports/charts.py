"""Charts as inline SVG text: lines and horizontal bars, readable in print and without colour.

The colours are Okabe and Ito's, which the common kinds of colour blindness tell apart; series
differ in their dashes too. Every text is escaped.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from html import escape
from typing import Final

import numpy as np

COLORS: Final = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#333333")
_DASHES: Final = ("", "7 3", "2 2.5", "9 3 2 3")
_LINE: Final = 18  # height of a line of text

#: For a picture that no page gives a style to.
_STYLE: Final = (
    "<style>svg{background:#fff}text{font:12px sans-serif;fill:#333}.axis{font-weight:bold}"
    ".grid{stroke:#ddd}.frame{fill:none;stroke:#888}.diagonal{stroke:#999;stroke-dasharray:4 3}"
    "path,polyline{fill:none;stroke-width:1.8}</style>"
)

_Scale = Callable[[float], float]


@dataclass(frozen=True)
class Series:
    """A line: points in drawing order, and its name in the legend."""

    name: str
    x: Sequence[float] | np.ndarray
    y: Sequence[float] | np.ndarray
    marks: bool = False


@dataclass(frozen=True)
class Axis:
    """A label and a range; None takes it from the data, rounded to the ticks.

    `ticks` are (value, text) pairs where the values do not speak for themselves.
    """

    label: str
    range: tuple[float, float] | None = None
    ticks: Sequence[tuple[float, str]] | None = None


@dataclass(frozen=True)
class Bar:
    """A value with its interval, if any; None draws no bar."""

    value: float | None
    interval: tuple[float, float] | None = None


@dataclass(frozen=True)
class Dot:
    """A value with its interval, if any, and what is told when it is pointed at."""

    value: float
    interval: tuple[float, float] | None = None
    label: str = ""


def color(index: int) -> str:
    """The colour of the index-th series of a chart."""
    return COLORS[index % len(COLORS)]


def standalone(chart: str) -> str:
    """A chart as the text of a file that is a picture by itself."""
    head, rest = chart.split(">", 1)
    return f'{head} xmlns="http://www.w3.org/2000/svg">{_STYLE}{rest}\n'


def line_chart(
    title: str,
    series: Sequence[Series],
    x: Axis,
    y: Axis,
    diagonal: bool = False,
    width: int = 352,
    height: int = 290,
) -> str:
    """A chart of lines with a legend below; `diagonal` adds the dashed line from corner to corner.

    Points that are not finite are left out, and break the line.
    """
    shown = [s for s in series if any(map(_finite_pair, s.x, s.y))]
    left, top, right, bottom = 52, 10, 12, 44
    x_low, x_high, x_ticks = _scale(x, [v for s in shown for v in s.x])
    y_low, y_high, y_ticks = _scale(y, [v for s in shown for v in s.y])

    def px(value: float) -> float:
        return left + (value - x_low) / (x_high - x_low) * (width - left - right)

    def py(value: float) -> float:
        return height - bottom - (value - y_low) / (y_high - y_low) * (height - top - bottom)

    parts = [_frame(left, top, width - right, height - bottom)]
    for value, text in x_ticks:
        parts.append(_line(px(value), top, px(value), height - bottom, "grid"))
        parts.append(_text(px(value), height - bottom + 15, text, "middle"))
    for value, text in y_ticks:
        parts.append(_line(left, py(value), width - right, py(value), "grid"))
        parts.append(_text(left - 6, py(value) + 4, text, "end"))
    if diagonal:
        parts.append(_line(px(x_low), py(y_low), px(x_high), py(y_high), "diagonal"))
    parts.append(_text((left + width - right) / 2, height - 8, x.label, "middle", "axis"))
    parts.append(
        f'<text class="axis" text-anchor="middle" transform="translate(13 {height / 2 - 15:.1f}) '
        f'rotate(-90)">{escape(y.label)}</text>'
    )
    for index, line in enumerate(shown):
        parts.append(_path(line, index, px, py))
    legend = _legend([s.name for s in shown], left, height + 12) if shown else ""
    total = height + (12 + _LINE * len(shown) if shown else 0)
    return _svg(title, width, total, "".join(parts) + legend)


def bar_chart(
    title: str,
    groups: Sequence[tuple[str, Sequence[Bar]]],
    names: Sequence[str],
    axis: Axis,
    reference: float | None = None,
    width: int = 560,
) -> str:
    """Horizontal bars with intervals: one group a row, one bar a name, and its value written out.

    Args:
      title: for readers who do not see the picture.
      groups: the label of each row and its bars, in the order of `names`.
      names: what the bars of a group are; a legend is drawn when there are several.
      axis: the axis of the values, with its range.
      reference: a value marked by a dashed line, such as chance.
      width: of the picture.
    """
    thick, gap, top, right, bottom = 15, 12, 8, 56, 40
    longest = max((len(label) for label, _ in groups), default=0)
    left = min(220, 16 + 7 * longest)
    row = thick * len(names) + gap
    height = top + row * len(groups) + bottom
    low, high, ticks = _scale(axis, [b.value for _, bars in groups for b in bars if b.value])

    def px(value: float) -> float:
        return left + (value - low) / (high - low) * (width - left - right)

    floor = height - bottom
    parts = []
    for value, text in ticks:
        parts.append(_line(px(value), top, px(value), floor, "grid"))
        parts.append(_text(px(value), floor + 15, text, "middle"))
    for index, (label, bars) in enumerate(groups):
        y = top + index * row + gap / 2
        shown = label if len(label) <= 29 else label[:28] + "…"
        parts.append(_text(left - 8, y + thick * len(bars) / 2 + 4, shown, "end"))
        for number, bar in enumerate(bars):
            parts.append(_bar(bar, number, px, low, y + number * thick, thick))
    if reference is not None:
        parts.append(_line(px(reference), top, px(reference), floor, "diagonal"))
    parts.append(_line(left, top, left, floor, "edge"))
    parts.append(_text((left + width - right) / 2, floor + 33, axis.label, "middle", "axis"))
    legend = ""
    if len(names) > 1:
        legend = _legend(names, left, height + 8, solid=True)
        height += 8 + _LINE * len(names)
    return _svg(title, width, height, "".join(parts) + legend)


def dot_chart(
    title: str,
    columns: Sequence[tuple[str, Sequence[Dot]]],
    axis: Axis,
    width: int = 352,
    height: int = 290,
) -> str:
    """Dots with their intervals in columns of equal width, and a line through the columns' means.

    Args:
      title: for readers who do not see the picture.
      columns: the label of each and its dots.
      axis: of the values.
      width, height: of the picture.
    """
    left, top, right, bottom = 52, 10, 12, 30
    ends = [
        end for _, dots in columns for dot in dots for end in (dot.value, *(dot.interval or ()))
    ]
    low, high, ticks = _scale(axis, ends)
    step = (width - left - right) / max(len(columns), 1)

    def py(value: float) -> float:
        return height - bottom - (value - low) / (high - low) * (height - top - bottom)

    parts = [_frame(left, top, width - right, height - bottom)]
    for value, text in ticks:
        parts.append(_line(left, py(value), width - right, py(value), "grid"))
        parts.append(_text(left - 6, py(value) + 4, text, "end"))
    means = []
    room = max(4, int(step / 6.5))  # letters
    for index, (label, dots) in enumerate(columns):
        middle = left + step * (index + 0.5)
        shown = label if len(label) <= room else label[: room - 1] + "…"
        parts.append(_text(middle, height - bottom + 16, shown, "middle"))
        if dots:
            means.append((middle, py(sum(dot.value for dot in dots) / len(dots))))
        for number, dot in enumerate(dots):
            x = middle + step * 0.7 * ((number + 0.5) / len(dots) - 0.5)
            if dot.interval is not None:
                parts.append(_line(x, py(dot.interval[0]), x, py(dot.interval[1]), "whisker"))
            parts.append(
                f'<circle cx="{x:.1f}" cy="{py(dot.value):.1f}" r="4" fill="{color(0)}">'
                f"<title>{escape(dot.label)}: {dot.value:.3f}</title></circle>"
            )
    if len(means) > 1:
        path = "L".join(f"{x:.1f} {y:.1f}" for x, y in means)
        parts.append(f'<path d="M{path}" stroke="{color(1)}" stroke-dasharray="{_DASHES[1]}"/>')
    parts.append(
        f'<text class="axis" text-anchor="middle" transform="translate(13 {height / 2 - 15:.1f}) '
        f'rotate(-90)">{escape(axis.label)}</text>'
    )
    return _svg(title, width, height, "".join(parts))


def _bar(bar: Bar, number: int, px: _Scale, low: float, y: float, thick: int) -> str:
    if bar.value is None:
        return _text(px(low) + 5, y + thick - 4, "not defined", "start", "small")
    middle = y + (thick - 2) / 2
    end = px(bar.value)
    parts = [
        f'<rect x="{px(low):.1f}" y="{y:.1f}" width="{max(0.0, end - px(low)):.1f}" '
        f'height="{thick - 2}" fill="{color(number)}" fill-opacity="0.8"/>'
    ]
    if bar.interval is not None:
        start, stop = px(bar.interval[0]), px(bar.interval[1])
        parts.append(_line(start, middle, stop, middle, "whisker"))
        parts.append(_line(start, middle - 3, start, middle + 3, "whisker"))
        parts.append(_line(stop, middle - 3, stop, middle + 3, "whisker"))
        end = max(end, stop)
    parts.append(_text(end + 5, middle + 4, f"{bar.value:.3f}", "start", "small"))
    return "".join(parts)


def _path(line: Series, index: int, px: _Scale, py: _Scale) -> str:
    commands, marks, pen = [], [], "M"
    for x, y in zip(line.x, line.y, strict=True):
        if not _finite_pair(x, y):
            pen = "M"
            continue
        commands.append(f"{pen}{px(x):.1f} {py(y):.1f}")
        marks.append(f'<circle cx="{px(x):.1f}" cy="{py(y):.1f}" r="3" fill="{color(index)}"/>')
        pen = "L"
    dash = _DASHES[index % len(_DASHES)]
    drawn = f'<path d="{"".join(commands)}" stroke="{color(index)}" stroke-dasharray="{dash}"/>'
    return drawn + ("".join(marks) if line.marks else "")


def _legend(names: Sequence[str], x: float, y: float, solid: bool = False) -> str:
    parts = []
    for index, name in enumerate(names):
        middle = y + _LINE * index
        if solid:
            parts.append(
                f'<rect x="{x}" y="{middle - 5}" width="24" height="10" fill="{color(index)}" '
                'fill-opacity="0.8"/>'
            )
        else:
            dash = _DASHES[index % len(_DASHES)]
            parts.append(
                f'<path d="M{x} {middle}L{x + 24} {middle}" stroke="{color(index)}" '
                f'stroke-dasharray="{dash}"/>'
            )
        parts.append(_text(x + 31, middle + 4, name, "start"))
    return "".join(parts)


def _scale(axis: Axis, values: Sequence[float]) -> tuple[float, float, Sequence[tuple[float, str]]]:
    finite = [float(v) for v in values if math.isfinite(v)] or [0.0, 1.0]
    low, high = axis.range or (min(finite), max(finite))
    if low == high:
        low, high = low - 0.5, high + 0.5
    step = _step(high - low)
    if axis.range is None:
        low, high = math.floor(low / step) * step, math.ceil(high / step) * step
    if axis.ticks is not None:
        return low, high, axis.ticks
    first, last = math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9)
    return low, high, [(n * step, _number(n * step, step)) for n in range(first, last + 1)]


def _step(span: float) -> float:
    """The round step (1, 2 or 5 times a power of ten) that cuts the span into about five."""
    raw = span / 5
    power = 10.0 ** math.floor(math.log10(raw))
    return next(m * power for m in (1.0, 2.0, 5.0, 10.0) if m * power >= raw * 0.99)


def _number(value: float, step: float) -> str:
    if abs(value) >= 10_000:
        return f"{value / 1000:g}k"
    if value and (step < 1e-3):
        return f"{value:.1e}".replace("e-0", "e-")
    return f"{value:.{max(0, -math.floor(math.log10(step) + 1e-9))}f}"


def _finite_pair(x: float, y: float) -> bool:
    return math.isfinite(x) and math.isfinite(y)


def _text(x: float, y: float, text: str, anchor: str, kind: str = "tick") -> str:
    return (
        f'<text class="{kind}" x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}">{escape(text)}</text>'
    )


def _line(x1: float, y1: float, x2: float, y2: float, kind: str) -> str:
    return f'<line class="{kind}" x1="{x1:.1f}" y1="{y1:.1f}" x2="{x2:.1f}" y2="{y2:.1f}"/>'


def _frame(x1: float, y1: float, x2: float, y2: float) -> str:
    return f'<rect class="frame" x="{x1}" y="{y1}" width="{x2 - x1}" height="{y2 - y1}"/>'


def _svg(title: str, width: int, height: float, body: str) -> str:
    return (
        f'<svg viewBox="0 0 {width} {height:.0f}" width="{width}" height="{height:.0f}" role="img">'
        f"<title>{escape(title)}</title>{body}</svg>"
    )
