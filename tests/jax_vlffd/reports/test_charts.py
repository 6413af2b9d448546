"""Charts: the same bytes for the same input, hostile names as text, and nothing outside the drawing."""

from __future__ import annotations

import subprocess
import sys
import xml.etree.ElementTree as ET
from pathlib import Path

import matplotlib
import pytest

from jax_vlffd.reports import charts
from jax_vlffd.reports.charts import Axis, Series, Value
from tests.support import tiny

HOSTILE = "<script>alert('x')</script>&\"'"
NAMES = (
    HOSTILE,
    "$\\frac{$",
    "$x^2$",
    "_hidden",
    "a\x00\x1b[2J\u202eb",
    "\udcff.jpg",
    "\u4eba",
    "",
    "x" * 10_000,
)


def texts(drawing: str, tag: str = "text") -> list[str]:
    return [node.text or "" for node in ET.fromstring(drawing).iter(tag)]


def line(name: str = "s", title: str = "t") -> str:
    series = [Series(name, [0.0, 0.5, 1.0], [0.2, float("nan"), 1.0], marks=True)]
    return charts.line_chart(title, series, Axis("x", (0.0, 1.0)), Axis("y", (0.0, 1.0)), True)


def bars(name: str = "s") -> str:
    groups = [(name, [Value(0.9, (0.8, 1.0)), Value(None)]), ("other", [Value(0.0), Value(1.0)])]
    return charts.bar_chart("t", groups, [name, "b"], Axis("x", (0.0, 1.0)), reference=0.5)


def dots(name: str = "s") -> str:
    columns = [
        (name, [Value(0.9, (0.85, 0.95), name), Value(0.8)]),
        ("none", []),
        ("c", [Value(0.7)]),
    ]
    return charts.dot_chart("t", columns, Axis("AUC"))


@pytest.mark.parametrize("draw", [line, bars, dots])
@pytest.mark.parametrize("name", NAMES, ids=ascii)
def test_a_name_is_text_and_bounded(draw, name: str) -> None:
    drawing = draw(name)
    shown = [*texts(drawing), *texts(drawing, "title")]
    start = "".join(letter if letter.isprintable() else "\ufffd" for letter in name[:10])
    assert any(text.startswith(start) for text in shown)
    assert all(len(text) <= 250 for text in shown)
    assert {node.tag for node in ET.fromstring(drawing).iter()} <= {
        "svg", "title", "g", "path", "use", "defs", "text", "clipPath", "rect",
    }  # fmt: skip
    assert "script>" not in drawing.replace("&lt;", "<").replace(HOSTILE, "")
    drawing.encode()


@pytest.mark.slow
@pytest.mark.parametrize("draw", [line, bars, dots])
def test_the_same_input_gives_the_same_bytes(draw, tmp_path: Path) -> None:
    before = dict(matplotlib.rcParams)
    once = draw()
    with matplotlib.rc_context({"font.size": 40, "text.usetex": True, "axes.grid": False}):
        assert draw() == once  # whatever a matplotlibrc says
    assert dict(matplotlib.rcParams) == before
    assert "date" not in once.lower()
    assert "matplotlib" not in once
    program = f"from {__name__} import {draw.__name__} as draw; print(draw(), end='')"
    other = subprocess.run(
        [sys.executable, "-c", program], cwd=tiny.ROOT, env=tiny.environment(),
        capture_output=True, text=True, timeout=120, check=True,
    )  # fmt: skip
    assert other.stdout == once


def test_a_chart_has_a_title_and_stands_alone() -> None:
    chart = line(title="ROC & more")
    root = ET.fromstring(chart)
    assert root.get("role") == "img"
    assert root[0].tag == "title"
    assert root[0].text == "ROC & more"
    assert "http" not in chart
    alone = ET.fromstring(charts.standalone(chart))
    assert alone.tag == "{http://www.w3.org/2000/svg}svg"
    assert len(list(alone.iter())) == len(list(root.iter()))


def test_each_reference_lies_in_its_own_chart() -> None:
    for chart in (line(), dots(), bars()):
        ids = [node.get("id") for node in ET.fromstring(chart).iter() if node.get("id")]
        used = {node.get("href") for node in ET.fromstring(chart).iter("use")}
        assert used <= {f"#{name}" for name in ids}
        assert len(set(ids)) == len(ids)
    marks = [set(part.split('"')[1] for part in line(title=t).split(" id=")[1:]) for t in "ab"]
    assert not marks[0] & marks[1]  # of two on one page


def test_values_and_hints_are_written_out() -> None:
    assert {"0.900", "not defined", "0.000", "1.000"} <= set(texts(bars("a")))
    assert {"a: 0.900", "t", ": 0.700"} <= set(texts(dots("a"), "title"))


@pytest.mark.parametrize(
    ("low", "high"), [(0.0, 1.0), (0.3, 0.31), (-5, 12), (0, 25_000), (1e-6, 9e-5), (2, 2)]
)
def test_ticks_are_few_and_inside_the_axis(low: float, high: float) -> None:
    drawing = charts.line_chart("t", [Series("s", [0, 1], [low, high])], Axis("x"), Axis("y"))
    labels = [
        node.text
        for node in ET.fromstring(drawing).iter("text")
        if "text-anchor: end" in node.get("style", "")
    ]
    assert 3 <= len(labels) <= 9
    assert len(set(labels)) == len(labels)


def test_a_chart_of_nothing_is_a_chart() -> None:
    nothing = [Series("s", [float("nan")], [1.0]), Series("e", [], [])]
    assert "t" in texts(charts.line_chart("t", nothing, Axis("x"), Axis("y")), "title")
    assert texts(charts.bar_chart("t", [], ["a", "b"], Axis("x", (0.0, 1.0)), 0.5), "title") == [
        "t"
    ]
    assert texts(charts.dot_chart("t", [], Axis("x")), "title") == ["t"]
