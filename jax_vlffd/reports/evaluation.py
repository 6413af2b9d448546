"""`report.html` of an evaluation: one file, without scripts or external resources."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final

import numpy as np
from sklearn import metrics as sk

from jax_vlffd.evaluation.calibration import expected_calibration_error, reliability_curve
from jax_vlffd.evaluation.comparison import UNKNOWN, EvaluatedDetector, set_differences
from jax_vlffd.evaluation.metrics import Metrics, average
from jax_vlffd.evaluation.scores import video_means
from jax_vlffd.reports import charts
from jax_vlffd.reports.gallery import Gallery
from jax_vlffd.reports.render import METRIC_TITLES, Cell, Figure, Table, number, page
from jax_vlffd.vocabulary import REGIONS

_MAX_TRAINING_POINTS: Final = 150
_MAIN_CURVES: Final = ("loss", "auc", "accuracy")  # shown at once; the others are folded


def render(
    title: str,
    facts: Mapping[str, str],
    detectors: Sequence[EvaluatedDetector],
    galleries: Sequence[Gallery] = (),
    matrix: Sequence[Mapping[str, Any]] = (),
    robustness: Mapping[str, Any] | None = None,
) -> str:
    """The report as HTML text.

    Args:
      title: the heading.
      facts: what was evaluated and how, shown under the heading.
      detectors: at least one; the others are compared with the first.
      galleries: examples with pictures.
      matrix: rows of `comparison.matrix`.
      robustness: {detector: {set: {corruption: [{"strength", "frame_auc", "video_auc"}]}}}.
    """
    return page(
        "evaluation.html.j2",
        title=title,
        facts=facts,
        first=detectors[0].name,
        results=_results(detectors),
        notes=_notes(detectors),
        differences=_differences(detectors),
        curves=[_curves(detectors, name) for name in _sets(detectors)],
        methods=[part for name in _sets(detectors) if (part := _methods(detectors, name))],
        matrix=_matrix(matrix),
        robustness=_robustness(robustness or {}),
        regions=_regions(detectors),
        training=[_training(detector) for detector in detectors if detector.history],
        max_points=_MAX_TRAINING_POINTS,
        galleries=galleries,
    )


def _sets(detectors: Iterable[EvaluatedDetector]) -> list[str]:
    return list(dict.fromkeys(name for detector in detectors for name in detector.sets))


def _results(detectors: Sequence[EvaluatedDetector]) -> Table:
    several = len(detectors) > 1
    columns = _known([m.overall for d in detectors for m in d.sets.values()], METRIC_TITLES)
    rows: list[list[str | Cell]] = []
    names = _sets(detectors)
    for name in names:
        for detector in (d for d in detectors if name in d.sets):
            who = [detector.name] if several else []
            rows.append([name, *who, *_cells(detector.sets[name].overall, columns)])
    if len(names) > 1:
        for detector in (d for d in detectors if len(d.sets) == len(names)):
            mean = average(detector.sets)
            who = [detector.name] if several else []
            cells = [number(mean[key]) if key in mean else "" for key in columns]
            rows.append(["Mean of the sets", *who, *cells, ""])
    return _table("Set", columns, rows, several)


def _notes(detectors: Sequence[EvaluatedDetector]) -> list[str]:
    """Why a metric is undefined, by detector and set."""
    measured = [
        (f"{d.name}, {name}", m.overall.note) for d in detectors for name, m in d.sets.items()
    ]
    return sorted({f"{where}: {note}." for where, note in measured if note})


def _known(measured: Sequence[Metrics], names: Iterable[str]) -> list[str]:
    """The metrics that at least one has, to omit empty columns."""
    return [name for name in names if any(m.values[name] is not None for m in measured)]


def _cells(measured: Metrics, columns: Sequence[str]) -> list[Cell]:
    """The metrics and, in the last cell, the numbers of frames and videos."""
    counts = measured.counts
    videos = f"({counts.videos_real:,} + {counts.videos_fake:,})"
    return [
        *(number(measured.values[name], measured.intervals.get(name)) for name in columns),
        Cell(f"{counts.frames_real:,} + {counts.frames_fake:,}", (videos,)),
    ]


def _table(
    first: str, columns: Sequence[str], rows: Sequence[Sequence[str | Cell]], several: bool
) -> Table:
    """A table of `_cells` by set or method and, with several detectors, by detector."""
    names = [first, "Detector"] if several else [first]
    header = [*names, *(METRIC_TITLES[key] for key in columns), "Frames (videos)"]
    return Table(header, rows, len(names), grouped=True)


def _differences(detectors: Sequence[EvaluatedDetector]) -> Table:
    first, *others = detectors
    columns = ("frame_auc", "video_auc", "ap", "eer", "acc")
    rows: list[list[str | Cell]] = []
    for other in others:
        for name, by_metric in set_differences(first, other).items():
            each = [by_metric.get(key, {"value": None}) for key in columns]
            cells = [number(d["value"], d.get("interval"), signed=True) for d in each]
            rows.append([name, other.name, *cells])
    rows.sort(key=lambda row: _sets(detectors).index(str(row[0])))
    header = ["Set", "Detector", *(METRIC_TITLES[key] for key in columns)]
    return Table(header, rows, 2, grouped=True)


def _curves(detectors: Sequence[EvaluatedDetector], name: str) -> list[Figure]:
    """ROC over frames and videos where defined, and the reliability diagram, of one set."""
    frames, videos, reliability = [], [], []
    for detector in (d for d in detectors if name in d.sets):
        scores = detector.scores.select(detector.scores.set_name == name)
        y, p = scores.label, scores.probability
        frames += _roc(f"{detector.name}: AUC ", y, p)
        means, labels = video_means(p, y, scores.videos())
        videos += _roc(f"{detector.name}: AUC ", labels, means)
        p = detector.probability()[detector.scores.set_name == name]
        suffix = "" if detector.calibration is None else ", calibrated"
        curve = reliability_curve(p, y)
        filled = curve.frames > 0
        label = f"{detector.name}{suffix}: ECE {expected_calibration_error(p, y):.3f}"
        x, share = curve.probability[filled], curve.fakes[filled]
        reliability.append(charts.Series(label, x, share, marks=True))
    rates = ("False-positive rate", "True-positive rate")
    drawn = [_unit_chart(f"{name}: reliability", reliability, "Mean probability", "Share of fakes")]
    if frames:
        drawn.insert(0, _unit_chart(f"{name}: ROC over videos", videos, *rates))
        drawn.insert(0, _unit_chart(f"{name}: ROC over frames", frames, *rates))
    return drawn


def _unit_chart(title: str, series: Sequence[charts.Series], x: str, y: str) -> Figure:
    """A chart of two quantities in [0, 1] with the diagonal."""
    axes = charts.Axis(x, (0.0, 1.0)), charts.Axis(y, (0.0, 1.0))
    return Figure(title, charts.line_chart(title, series, *axes, diagonal=True))


def _roc(name: str, labels: np.ndarray, probability: np.ndarray) -> list[charts.Series]:
    """The ROC curve, labeled with its area; empty where a class is missing."""
    if not 0 < labels.sum() < len(labels):
        return []
    fpr, tpr, _ = sk.roc_curve(labels, probability)
    return [charts.Series(f"{name}{sk.auc(fpr, tpr):.3f}", fpr, tpr)]


def _methods(detectors: Sequence[EvaluatedDetector], name: str) -> tuple[Figure, Table] | None:
    """Chart and table of one set by method of forgery; None without fakes."""
    by_method: dict[str, dict[str, Metrics]] = {}
    for detector in (d for d in detectors if name in d.sets):
        for method, measured in detector.sets[name].methods.items():
            by_method.setdefault(method or "(no name)", {})[detector.name] = measured
    if not by_method:
        return None
    names = [detector.name for detector in detectors]
    every = [measured for by_name in by_method.values() for measured in by_name.values()]
    columns = _known(every, ("frame_auc", "video_auc", "ap", "eer", "acc", "acc_calibrated"))
    rows: list[list[str | Cell]] = []
    groups = []
    for method, by_name in sorted(by_method.items()):
        bars = [
            charts.Value(by_name[who].values["frame_auc"], by_name[who].intervals.get("frame_auc"))
            if who in by_name
            else charts.Value(None)
            for who in names
        ]
        groups.append((method, bars))
        for who, measured in by_name.items():
            rows.append([method, *([who] if len(names) > 1 else []), *_cells(measured, columns)])
    axis = charts.Axis("Frame AUC (dashed: chance)", (0.0, 1.0))
    title = f"{name}: frame AUC by method"
    chart = charts.bar_chart(title, groups, names, axis, reference=0.5)
    return Figure(title, chart), _table("Method", columns, rows, len(names) > 1)


def _matrix(rows: Sequence[Mapping[str, Any]]) -> list[tuple[str, Table]]:
    tables = []
    for tested in dict.fromkeys(name for row in rows for name in row["cells"]):
        methods = dict.fromkeys(m for row in rows for m in row["cells"].get(tested, {}))
        lines = []
        for row in rows:
            trained = ", ".join(row["trained_on"]) or UNKNOWN
            cells = [_matrix_cell(row["cells"].get(tested, {}).get(method)) for method in methods]
            lines.append([row["name"], trained, str(row["runs"]), *cells])
        header = ["Detector", "Trained on", "Runs", *methods]
        tables.append((tested, Table(header, lines, names=2)))
    return tables


def _matrix_cell(cell: Mapping[str, Any] | None) -> Cell:
    if cell is None:
        return number(None)
    shown = number(cell["frame_auc"], cell["interval"])
    small = list(shown.small)
    if cell["spread"] is not None:
        small.append(f"runs ± {cell['spread']:.3f}")
    if cell["difference"] is not None:
        difference = cell["difference"]
        less = number(difference["value"], difference.get("interval"), signed=True)
        small += [f"Δ {less.text}", *less.small]
    return Cell(shown.text, tuple(small), "seen" if cell["seen"] else "")


def _robustness(measured: Mapping[str, Any]) -> list[list[Figure]]:
    ticks = [(float(n), str(n)) for n in range(6)]
    sections = []
    for tested in dict.fromkeys(name for sets in measured.values() for name in sets):
        kinds = dict.fromkeys(kind for sets in measured.values() for kind in sets.get(tested, {}))
        drawn = []
        for kind in kinds:
            lines = []
            for detector, sets in measured.items():
                points = sets.get(tested, {}).get(kind, [])
                y = [np.nan if p["frame_auc"] is None else p["frame_auc"] for p in points]
                x = [p["strength"] for p in points]
                lines.append(charts.Series(detector, x, y, marks=True))
            low = np.nanmin([0.4, *(y for line in lines for y in line.y)])
            axes = (
                charts.Axis("Strength", (0.0, 5.0), ticks),
                charts.Axis("Frame AUC", (math.floor(10 * low) / 10, 1.0)),
            )
            chart = charts.line_chart(f"{kind}, {tested}", lines, *axes, height=240)
            drawn.append(Figure(f"{tested}: {kind}", chart))
        sections.append(drawn)
    return sections


def _regions(detectors: Sequence[EvaluatedDetector]) -> Table:
    rows: list[list[str | Cell]] = []
    for detector in detectors:
        for name, measured in detector.sets.items():
            words = measured.region_words
            if words is None:
                continue
            parts = ("precision", "recall", "f1")
            cells = [
                number(words[of][part]) for of in ("mean_per_image", "micro") for part in parts
            ]
            each = [number(words["regions"][region]["f1"]) for region in REGIONS]
            rows.append([detector.name, name, *cells, *each, f"{words['images']:,}"])
    header = [
        "Detector", "Set", "Precision per image", "Recall per image", "F1 per image",
        "Precision, micro", "Recall, micro", "F1, micro",
        *(f"F1 {region}" for region in REGIONS), "Fakes",
    ]  # fmt: skip
    return Table(header, rows, names=2, grouped=True)


def _training(detector: EvaluatedDetector) -> tuple[str, list[Figure], list[Figure]]:
    """A run's name, its main training curves, and its other ones."""
    main: list[Figure] = []
    further: list[Figure] = []
    for family, keys in families(detector.history).items():
        lines = [_series(key, detector.history) for key in keys]
        title = "AUC" if family == "auc" else family.capitalize()
        axes = charts.Axis("Step"), charts.Axis(title)
        chart = charts.line_chart(f"{title}, {detector.name}", lines, *axes, height=240)
        (main if family in _MAIN_CURVES else further).append(Figure(title, chart))
    return detector.name, main, further


def families(history: Sequence[Mapping[str, Any]]) -> dict[str, list[str]]:
    """The logged keys by the first word of their last part: `train/loss_image` belongs to `loss`.

    Only keys with at least one number, `step` left out; loss, AUC and accuracy come first.
    """
    keys = {key for record in history for key, value in record.items() if _is_number(value)}
    grouped: dict[str, list[str]] = {}
    for key in sorted(keys - {"step"}):
        grouped.setdefault(key.rsplit("/", 1)[-1].split("_")[0], []).append(key)
    return dict(sorted(grouped.items(), key=lambda item: (_rank(item[0]), item[0])))


def _rank(family: str) -> int:
    return _MAIN_CURVES.index(family) if family in _MAIN_CURVES else len(_MAIN_CURVES)


def _series(key: str, history: Sequence[Mapping[str, Any]]) -> charts.Series:
    points = [
        (float(record.get("step", index)), float(record[key]))
        for index, record in enumerate(history)
        if _is_number(record.get(key))
    ]
    if len(points) > _MAX_TRAINING_POINTS:
        spans = np.array_split(np.asarray(points), _MAX_TRAINING_POINTS)
        points = [tuple(span.mean(axis=0).tolist()) for span in spans]
    return charts.Series(key, [x for x, _ in points], [y for _, y in points], marks=len(points) < 8)


def _is_number(value: Any) -> bool:
    return type(value) in (int, float) and math.isfinite(value)
