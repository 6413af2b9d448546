"""Charts as SVG text, drawn by Matplotlib: lines, bars and dots, readable in print and without color.

The colors are Okabe and Ito's, which the common kinds of color blindness tell apart; series differ in
their dashes too. Text stays text, is bounded, and nothing in it is read as mathematics or markup. The same
input gives the same bytes. Matplotlib is imported when a chart is drawn, not before.
"""

from __future__ import annotations

import io
import re
import warnings
import xml.etree.ElementTree as ET
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import numpy as np

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_COLORS: Final = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#333333")
_DASHES: Final[tuple[Any, ...]] = ("-", (0, (4, 2)), (0, (1.2, 1.5)), (0, (5, 2, 1.2, 2)))
_REFERENCE: Final[dict[str, Any]] = {"color": "#77838d", "linestyle": (0, (3, 3)), "linewidth": 1}
_WHISKER: Final[dict[str, Any]] = {"color": "#111111", "linewidth": 1.4}
_LEGEND_LINE: Final = 18  # pixels
_MAX_LABEL: Final = 60  # letters
_HINT: Final = "hint "  # prefix of the id of an element with a tooltip
_FONTS: Final = "system-ui, 'Segoe UI', 'Liberation Sans', Arial, sans-serif"

#: Added to Matplotlib's defaults, so that a user's matplotlibrc changes no chart. One point is one pixel.
_STYLE: Final[Any] = {
    "svg.fonttype": "none",
    "text.parse_math": False,
    "axes.autolimit_mode": "round_numbers",
    "axes.xmargin": 0,
    "axes.ymargin": 0,
    "axes.axisbelow": True,
    "axes.edgecolor": "#93a0aa",
    "axes.formatter.useoffset": False,
    "axes.grid": True,
    "axes.labelcolor": "#44505a",
    "axes.labelpad": 6,
    "axes.labelsize": 11.5,
    "font.size": 11.5,
    "grid.color": "#e4e9ed",
    "legend.borderaxespad": 0.2,
    "legend.handlelength": 2.4,
    "legend.labelspacing": 0.35,
    "legend.frameon": False,
    "lines.linewidth": 2,
    "lines.markersize": 6,
    "text.color": "#1c2126",
    "xtick.color": "#1c2126",
    "xtick.major.pad": 6,
    "xtick.major.size": 0,
    "ytick.color": "#1c2126",
    "ytick.major.pad": 6,
    "ytick.major.size": 0,
}


@dataclass(frozen=True)
class Series:
    """A line: points in drawing order, and its name in the legend."""

    name: str
    x: Sequence[float] | np.ndarray
    y: Sequence[float] | np.ndarray
    marks: bool = False


@dataclass(frozen=True)
class Axis:
    """A label and a range; a range of None is that of the data, rounded to the ticks.

    `ticks` are (value, text) pairs for values that need other labels.
    """

    label: str
    range: tuple[float, float] | None = None
    ticks: Sequence[tuple[float, str]] | None = None


@dataclass(frozen=True)
class Value:
    """A value of a bar or dot, its interval, and its tooltip."""

    value: float | None
    interval: tuple[float, float] | None = None
    label: str = ""


def standalone(chart: str) -> str:
    """A chart as the text of an SVG file."""
    return chart.replace("<svg ", '<svg xmlns="http://www.w3.org/2000/svg" ', 1) + "\n"


def line_chart(
    title: str,
    series: Sequence[Series],
    x: Axis,
    y: Axis,
    diagonal: bool = False,
    height: int = 290,
) -> str:
    """A line chart with a legend below; `diagonal` adds the dashed line from corner to corner.

    A point that is not finite is left out and interrupts the line.
    """
    points = [(line, np.isfinite(line.x) & np.isfinite(line.y)) for line in series]
    points = [(line, finite) for line, finite in points if finite.any()]
    with _settings(title):
        legend = _LEGEND_LINE * len(points)
        figure, axes = _figure(height + legend, bottom=46 + legend)
        _scale(axes, "x", x)
        _scale(axes, "y", y)
        for index, (line, finite) in enumerate(points):
            axes.plot(
                line.x, np.where(finite, line.y, np.nan), marker="o" if line.marks else "",
                color=_COLORS[index % len(_COLORS)], linestyle=_DASHES[index % len(_DASHES)], clip_on=False,
            )  # fmt: skip
        if points:
            _legend(figure, axes.get_lines(), [line.name for line, _ in points])
        if diagonal:
            axes.plot((0, 1), (0, 1), transform=axes.transAxes, **_REFERENCE)
        return _svg(figure, title)


def bar_chart(
    title: str,
    groups: Sequence[tuple[str, Sequence[Value]]],
    names: Sequence[str],
    axis: Axis,
    reference: float,
) -> str:
    """Horizontal bars with intervals and values: one row a group, one bar a name.

    Args:
      title: the alternative text.
      groups: the label of each row and its bars, in the order of `names`; no bar without a value.
      names: of the bars of a group; a legend is drawn when there are several.
      axis: the axis of the values, with its range.
      reference: a value marked by a dashed line, such as chance.
    """
    row = len(names) + 0.8  # in bars
    legend = _LEGEND_LINE * len(names) if len(names) > 1 else 0
    with _settings(title):
        height = 56 + legend + 15 * row * max(len(groups), 1)
        left = min(220, 16 + 7 * max((len(label) for label, _ in groups), default=0))
        figure, axes = _figure(height, 42 + legend, width=640, left=left, right=56)
        _scale(axes, "x", axis)
        for number in range(len(names)):
            color = _COLORS[number % len(_COLORS)]
            for index, (_, bars) in enumerate(groups):
                bar, position = bars[number], row * index + number
                end = bar.value or 0.0
                axes.barh(position, end, 0.85, color=color, alpha=0.8)
                if bar.interval:
                    axes.plot(bar.interval, (position, position), marker="|", **_WHISKER)
                    end = max(end, bar.interval[1])
                axes.annotate(
                    "not defined" if bar.value is None else f"{bar.value:.3f}",
                    (end, position), (5, 0), textcoords="offset points", annotation_clip=False,
                    verticalalignment="center_baseline", fontsize=11,
                )  # fmt: skip
        middles = [row * index + (len(names) - 1) / 2 for index in range(len(groups))]
        axes.set_yticks(middles, [_label(label, 29) for label, _ in groups])
        axes.set_ylim(row * max(len(groups), 1) - 0.9, -0.9)
        axes.grid(False, axis="y")
        axes.spines[["top", "right", "bottom"]].set_visible(False)
        axes.axvline(reference, **_REFERENCE)
        if legend and groups:
            _legend(figure, axes.containers[:: len(groups)], names)
        return _svg(figure, title)


def dot_chart(title: str, columns: Sequence[tuple[str, Sequence[Value]]], axis: Axis) -> str:
    """Dots with their intervals in columns of equal width, and a line through the columns' means.

    Args:
      title: the alternative text.
      columns: the label of each column and its dots, each with a value.
      axis: of the values.
    """
    count = max(len(columns), 1)
    with _settings(title):
        figure, axes = _figure(290, bottom=28)
        _scale(axes, "y", axis)
        axes.set_ymargin(0.04)
        means = []
        for index, (_, dots) in enumerate(columns):
            for number, dot in enumerate(dots):
                assert dot.value is not None  # unlike a bar, a dot has one
                x = index + 0.7 * ((number + 0.5) / len(dots) - 0.5)
                if dot.interval is not None:
                    axes.plot((x, x), dot.interval, **_WHISKER)
                (mark,) = axes.plot(x, dot.value, "o", color=_COLORS[0], markersize=8)
                mark.set_gid(_HINT + _label(f"{dot.label}: {dot.value:.3f}", 4 * _MAX_LABEL))
            if dots:
                means.append((index, np.mean([dot.value for dot in dots])))
        if len(means) > 1:
            axes.plot(*zip(*means, strict=True), color=_COLORS[1], linestyle=_DASHES[1])
        letters = max(4, int(270 / count / 6.5))
        axes.set_xticks(range(len(columns)), [_label(label, letters) for label, _ in columns])
        axes.set_xlim(-0.5, count - 0.5)
        axes.grid(False, axis="x")
        return _svg(figure, title)


@contextmanager
def _settings(title: str) -> Iterator[None]:
    """Matplotlib's settings for one chart; its title makes its ids differ from another chart's."""
    import matplotlib

    with matplotlib.rc_context(), warnings.catch_warnings():
        # Matplotlib's font only measures the text; the reader's fonts draw it.
        warnings.filterwarnings("ignore", r"Glyph .* missing from")
        matplotlib.rcdefaults()
        matplotlib.rcParams.update(_STYLE | {"svg.hashsalt": f"jax-vlffd {_label(title)}"})
        yield


def _figure(
    height: float, bottom: float, width: float = 352, left: float = 64, right: float = 18
) -> tuple[Figure, Axes]:
    """A figure and its axes with margins in pixels; Matplotlib's own layouts take as long as the drawing."""
    from matplotlib.figure import Figure

    figure, top = Figure(figsize=(width / 72, height / 72)), 14
    inside = (left, bottom, width - left - right, height - bottom - top)
    return figure, figure.add_axes(tuple(np.divide(inside, (width, height) * 2)))


def _label(text: str, letters: int = _MAX_LABEL) -> str:
    """An untrusted text as a label: bounded, and without letters that XML cannot hold."""
    text = "".join(letter if letter.isprintable() else "\ufffd" for letter in text[: letters + 1])
    return text if len(text) <= letters else text[: letters - 1] + "…"


def _scale(axes: Axes, name: str, axis: Axis) -> None:
    from matplotlib.ticker import MaxNLocator

    axes.set(**{f"{name}label": _label(axis.label)})
    if axis.ticks is None:
        locator = MaxNLocator(nbins=6, steps=[1, 2, 5, 10])
        (axes.xaxis if name == "x" else axes.yaxis).set_major_locator(locator)
    else:
        values, texts = zip(*axis.ticks, strict=True)
        axes.set(**{f"{name}ticks": values, f"{name}ticklabels": [_label(t) for t in texts]})
    axes.set(**{f"{name}lim": axis.range} if axis.range else {})


def _legend(figure: Figure, handles: Sequence[Any], names: Sequence[str]) -> None:
    figure.legend(handles, [_label(name) for name in names], loc="lower left")


def _svg(figure: Figure, title: str) -> str:
    """The figure as an SVG element: with a title, in the page's font, without Matplotlib's metadata."""
    drawn = io.StringIO()
    figure.savefig(drawn, format="svg", metadata={"Date": None})
    root = ET.fromstring(drawn.getvalue())
    for child in root.findall("*")[:2]:  # metadata, and a style that would apply to the whole page
        root.remove(child)
    used = set(re.findall(r"#(\w+)", drawn.getvalue()))
    for node in list(root.iter()):
        name = node.attrib.pop("id", "")
        node.tag, node.tail = node.tag.rpartition("}")[2], None
        node.text = node.text if node.tag == "text" else None
        # The font is the page's, and hundredths of a pixel are enough.
        node.attrib = {
            key.rpartition("}")[2]: re.sub(r"font-family: [^;]*; |(?<=\.\d\d)\d+", "", value)
            for key, value in node.attrib.items()
        }
        if name in used:
            node.set("id", name)
        elif name.startswith(_HINT):
            _titled(node, name.removeprefix(_HINT))
    _, _, width, height = root.attrib["viewBox"].split()
    root.attrib |= {"width": width, "height": height, "role": "img", "font-family": _FONTS}
    root.set("stroke-linejoin", "round")
    _titled(root, _label(title, 4 * _MAX_LABEL))
    return ET.tostring(root, "unicode")


def _titled(node: ET.Element, text: str) -> None:
    title = ET.Element("title")
    title.text = text
    node.insert(0, title)
