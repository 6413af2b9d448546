"""The training curves of the report, from whatever numbers a run logged."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, Final

import numpy as np

from jax_vlffd.evaluation.comparison import Detector
from jax_vlffd.reports import charts, render
from jax_vlffd.reports.render import Markup, element

_POINTS: Final = 150
_FIRST: Final = ("loss", "auc", "accuracy")  # what a reader looks at; the rest folds away


def training_curves(detectors: Sequence[Detector]) -> list[Markup]:
    """A section with each run's curves; empty when no detector has a history."""
    trained = [detector for detector in detectors if detector.history]
    if not trained:
        return []
    body = [
        element("h2", "Training"),
        element(
            "p",
            f"As logged; curves of more than {_POINTS} points are averaged in equal spans.",
            class_="note",
        ),
    ]
    for detector in trained:
        main: list[Markup] = []
        further: list[Markup] = []
        for family, keys in families(detector.history).items():
            lines = [_series(key, detector.history) for key in keys]
            title = "AUC" if family == "auc" else family.capitalize()
            axes = charts.Axis("Step"), charts.Axis(title)
            chart = charts.line_chart(f"{title}, {detector.name}", lines, *axes, height=240)
            (main if family in _FIRST else further).append(render.figure(title, chart))
        body.append(element("h3", detector.name))
        body.append(render.charts(main))
        if further:
            summary = element("summary", f"Further curves ({len(further)})")
            body.append(element("details", summary, render.charts(further)))
    return body


def families(history: Sequence[Mapping[str, Any]]) -> dict[str, list[str]]:
    """The logged keys by the first word of their last part: `train/loss_image` belongs to `loss`.

    Only keys with at least one number, `step` left out; loss, AUC and accuracy come first.
    """
    keys = {key for record in history for key, value in record.items() if _is_number(value)}
    found: dict[str, list[str]] = {}
    for key in sorted(keys - {"step"}):
        found.setdefault(key.rsplit("/", 1)[-1].split("_")[0], []).append(key)
    return dict(sorted(found.items(), key=lambda item: (_rank(item[0]), item[0])))


def _rank(family: str) -> int:
    return _FIRST.index(family) if family in _FIRST else len(_FIRST)


def _series(key: str, history: Sequence[Mapping[str, Any]]) -> charts.Series:
    points = [
        (float(record.get("step", index)), float(record[key]))
        for index, record in enumerate(history)
        if _is_number(record.get(key))
    ]
    if len(points) > _POINTS:
        spans = np.array_split(np.asarray(points), _POINTS)
        points = [tuple(span.mean(axis=0).tolist()) for span in spans]
    return charts.Series(key, [x for x, _ in points], [y for _, y in points], marks=len(points) < 8)


def _is_number(value: Any) -> bool:
    return type(value) in (int, float) and math.isfinite(value)
