"""`report.html`: one file that shows an evaluation, without scripts or anything to load."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final

import numpy as np
from sklearn import metrics as sk

from jax_vlffd.evaluation.calibration import expected_calibration_error, reliability_curve
from jax_vlffd.evaluation.comparison import UNKNOWN, Detector, set_differences
from jax_vlffd.evaluation.metrics import Metrics, average
from jax_vlffd.evaluation.scores import video_means
from jax_vlffd.reports import charts
from jax_vlffd.reports import render as page
from jax_vlffd.reports.curves import training_curves
from jax_vlffd.reports.gallery import Gallery, sections
from jax_vlffd.reports.render import Cell, Markup, element
from jax_vlffd.vocabulary import REGIONS

_COLUMNS: Final = {
    "frame_auc": "Frame AUC",
    "video_auc": "Video AUC",
    "ap": "AP",
    "eer": "EER",
    "eer_deepfakebench": "EER, Deepfake\u00adBench",
    "acc": "Acc. at 0.5",
    "acc_calibrated": "Acc. at threshold",
    "ece": "ECE",
    "ece_calibrated": "ECE, calibrated",
}
_ROC_POINTS: Final = 300
_NONE: Final = "\u2013"  # en dash


def render(
    title: str,
    facts: Mapping[str, str],
    detectors: Sequence[Detector],
    galleries: Sequence[Gallery] = (),
    matrix: Sequence[Mapping[str, Any]] = (),
    robustness: Mapping[str, Any] | None = None,
) -> str:
    """The report as HTML text.

    Args:
      title: the heading.
      facts: what was evaluated and how, shown under the heading.
      detectors: at least one; the first is the one that the others are compared with.
      galleries: examples with pictures.
      matrix: rows of `comparison.matrix`.
      robustness: {detector: {set: {corruption: [{"strength", "frame_auc", "video_auc"}]}}}.
    """
    listed = element(
        "dl",
        *[element("div", element("dt", k), element("dd", v)) for k, v in facts.items()],
        class_="facts",
    )
    body = [element("h1", title), listed]
    body += [*_results(detectors), *_differences(detectors), *_curves(detectors)]
    body += [*_methods(detectors), *_matrix(matrix), *_robustness(robustness or {})]
    body += [*_reasons(detectors), *training_curves(detectors), *sections(galleries), *_terms()]
    return page.document(title, body)


def _sets(detectors: Iterable[Detector]) -> list[str]:
    return list(dict.fromkeys(name for detector in detectors for name in detector.sets))


def _results(detectors: Sequence[Detector]) -> list[Markup]:
    several = len(detectors) > 1
    columns = _known([m.overall for d in detectors for m in d.sets.values()], tuple(_COLUMNS))
    titles = [_COLUMNS[key] for key in columns]
    header = ["Set", *(["Detector"] if several else []), *titles, "Frames (videos)"]
    rows: list[list[str]] = []
    names = _sets(detectors)
    for name in names:
        for detector in detectors:
            if name in detector.sets:
                found = detector.sets[name].overall
                who = [detector.name] if several else []
                rows.append([name, *who, *_values(found, columns), _counts(found)])
    if len(names) > 1:
        for detector in (d for d in detectors if len(d.sets) == len(names)):
            mean = average(detector.sets)
            who = [detector.name] if several else []
            cells = [_number(mean[key]) if key in mean else "" for key in columns]
            rows.append(["Mean of the sets", *who, *cells, ""])
    found_notes = {
        f"{d.name}, {name}: {d.sets[name].overall.note}."
        for d in detectors
        for name in d.sets
        if d.sets[name].overall.note
    }
    return [
        element("h2", "Results"),
        page.table(header, rows, names=2 if several else 1, group=0),
        *[element("p", note, class_="note") for note in sorted(found_notes)],
        element(
            "p",
            "Small figures are 95 % bootstrap intervals over videos; counts are real + fake. "
            "The terms are explained at the end.",
            class_="note",
        ),
    ]


def _known(found: Sequence[Metrics], names: Sequence[str]) -> list[str]:
    """The metrics that at least one of the found has; a column of dashes says nothing."""
    return [name for name in names if any(m.values[name] is not None for m in found)]


def _values(found: Metrics, names: Sequence[str]) -> list[Markup]:
    return [_number(found.values[name], found.intervals.get(name)) for name in names]


def _counts(found: Metrics) -> Markup:
    counts = found.counts
    frames = page.text(f"{counts.frames_real:,} + {counts.frames_fake:,}")
    videos = element("small", f"({counts.videos_real:,} + {counts.videos_fake:,})")
    return page.join([frames, videos])


def _number(
    value: float | None, interval: Sequence[float] | None = None, signed: bool = False
) -> Markup:
    if value is None:
        return Markup(_NONE)
    form = "{:+.3f}" if signed else "{:.3f}"
    shown = page.text(form.format(value).replace("-", "\u2212"))
    if interval is None:
        return shown
    low, high = (form.format(end).replace("-", "\u2212") for end in interval)
    between = " to " if signed else "\u2013"
    return page.join([shown, element("small", f"{low}{between}{high}")])


def _differences(detectors: Sequence[Detector]) -> list[Markup]:
    first, *others = detectors
    rows: list[list[str]] = []
    columns = ("frame_auc", "video_auc", "ap", "eer", "acc")
    for other in others:
        for name, found in set_differences(first, other).items():
            cells = [
                _number(found[key]["value"], found[key].get("interval"), signed=True)
                if key in found
                else _NONE
                for key in columns
            ]
            rows.append([name, other.name, *cells])
    if not rows:
        return []
    order = _sets(detectors)
    rows.sort(key=lambda row: order.index(row[0]))
    return [
        element("h3", f"Difference from {first.name}"),
        page.table(["Set", "Detector", *(_COLUMNS[key] for key in columns)], rows, 2, group=0),
        element(
            "p",
            "Intervals are of paired resamples: both detectors on the same drawn videos. One that "
            "holds 0 shows no clear difference.",
            class_="note",
        ),
    ]


def _curves(detectors: Sequence[Detector]) -> list[Markup]:
    body = [element("h2", "ROC and reliability")]
    for name in _sets(detectors):
        frames, videos, reliability = [], [], []
        for detector in (d for d in detectors if name in d.sets):
            scores = detector.scores.select(detector.scores.set_name == name)
            y, p = scores.label, scores.probability
            frames += _roc(f"{detector.name}: AUC ", y, p)
            means, labels = video_means(p, y, scores.videos())
            videos += _roc(f"{detector.name}: AUC ", labels, means)
            p = detector.probability()[detector.scores.set_name == name]
            how = "" if detector.calibration is None else ", calibrated"
            curve = reliability_curve(p, y)
            kept = curve.frames > 0
            label = f"{detector.name}{how}: ECE {expected_calibration_error(p, y):.3f}"
            x, share = curve.probability[kept], curve.fakes[kept]
            reliability.append(charts.Series(label, x, share, marks=True))
        rates = ("False-positive rate", "True-positive rate")
        drawn = [
            _unit_chart(f"{name}: ROC over frames", frames, *rates),
            _unit_chart(f"{name}: ROC over videos", videos, *rates),
            _unit_chart(f"{name}: reliability", reliability, "Mean probability", "Share of fakes"),
        ]
        body.append(page.charts(drawn if frames else drawn[2:]))
    return body


def _unit_chart(title: str, series: Sequence[charts.Series], x: str, y: str) -> Markup:
    """A chart of two quantities in [0, 1] with its diagonal."""
    axes = charts.Axis(x, (0.0, 1.0)), charts.Axis(y, (0.0, 1.0))
    return page.figure(title, charts.line_chart(title, series, *axes, diagonal=True))


def _roc(name: str, labels: np.ndarray, probability: np.ndarray) -> list[charts.Series]:
    """The curve, named by its area; none where a class is missing."""
    if not 0 < labels.sum() < len(labels):
        return []
    fpr, tpr, _ = sk.roc_curve(labels, probability)
    name += f"{sk.auc(fpr, tpr):.3f}"
    if len(fpr) > _ROC_POINTS:  # even along the curve; a drawing needs no more
        along = np.linspace(0, 2, _ROC_POINTS)
        kept = np.unique(np.searchsorted(fpr + tpr, along).clip(0, len(fpr) - 1))
        fpr, tpr = fpr[kept], tpr[kept]
    return [charts.Series(name, fpr, tpr)]


def _methods(detectors: Sequence[Detector]) -> list[Markup]:
    body = [
        element("h2", "By method"),
        element("p", "The fakes of one method against all reals of the set.", class_="note"),
    ]
    for tested in _sets(detectors):
        by_method: dict[str, dict[str, Metrics]] = {}
        for detector in (d for d in detectors if tested in d.sets):
            for method, found in detector.sets[tested].methods.items():
                by_method.setdefault(method or "(no name)", {})[detector.name] = found
        if by_method:
            body += _method_table(tested, by_method, [detector.name for detector in detectors])
    return body if len(body) > 2 else []


def _method_table(
    tested: str, by_method: Mapping[str, Mapping[str, Metrics]], names: Sequence[str]
) -> list[Markup]:
    several = len(names) > 1
    every = [found for by_name in by_method.values() for found in by_name.values()]
    columns = _known(every, ("frame_auc", "video_auc", "ap", "eer", "acc", "acc_calibrated"))
    rows, groups = [], []
    for method, by_name in sorted(by_method.items()):
        bars = [
            charts.Bar(by_name[name].values["frame_auc"], by_name[name].intervals.get("frame_auc"))
            if name in by_name
            else charts.Bar(None)
            for name in names
        ]
        groups.append((method, bars))
        for name, found in by_name.items():
            who = [name] if several else []
            rows.append([method, *who, *_values(found, columns), _counts(found)])
    axis = charts.Axis("Frame AUC (dashed: chance)", (0.0, 1.0))
    title = f"{tested}: frame AUC by method"
    chart = charts.bar_chart(title, groups, names, axis, reference=0.5, width=640)
    titles = [_COLUMNS[key] for key in columns]
    header = ["Method", *(["Detector"] if several else []), *titles, "Frames (videos)"]
    return [page.figure(title, chart), page.table(header, rows, 2 if several else 1, group=0)]


def _matrix(rows: Sequence[Mapping[str, Any]]) -> list[Markup]:
    if not rows:
        return []
    body = [element("h2", "Trained on some methods, tested on each")]
    for tested in dict.fromkeys(name for row in rows for name in row["cells"]):
        methods = dict.fromkeys(m for row in rows for m in row["cells"].get(tested, {}))
        lines = []
        for row in rows:
            found = row["cells"].get(tested, {})
            trained = ", ".join(row["trained_on"]) or UNKNOWN
            cells = [_matrix_cell(found.get(method)) for method in methods]
            lines.append([row["name"], trained, str(row["runs"]), *cells])
        body.append(element("h3", tested))
        body.append(page.table(["Detector", "Trained on", "Runs", *methods], lines, names=2))
    note = (
        "Frame AUC of a method's fakes against all reals; shaded where the method was trained on. "
        "With several runs: their mean, its bootstrap interval, and the runs' standard deviation. "
        "Δ is the difference from the first row that was trained on the same methods, its interval "
        "of paired resamples."
    )
    return [*body, element("p", note, class_="note")]


def _matrix_cell(cell: Mapping[str, Any] | None) -> Markup:
    if cell is None:
        return Markup(_NONE)
    shown = _number(cell["frame_auc"], cell["interval"])
    if cell["spread"] is not None:
        shown = page.join([shown, element("small", f"runs ± {cell['spread']:.3f}")])
    if cell["difference"] is not None:
        found = cell["difference"]
        less = _number(found["value"], found.get("interval"), signed=True)
        shown = page.join([shown, element("small", page.join(["Δ ", less]))])
    return Cell.of(shown, "seen") if cell["seen"] else shown


def _robustness(found: Mapping[str, Any]) -> list[Markup]:
    if not found:
        return []
    body = [
        element("h2", "Robustness"),
        element(
            "p",
            "Frame AUC when the pictures are corrupted before they are scored; strength 0 is the "
            "picture as stored.",
            class_="note",
        ),
    ]
    for tested in dict.fromkeys(name for sets in found.values() for name in sets):
        kinds = dict.fromkeys(kind for sets in found.values() for kind in sets.get(tested, {}))
        drawn = []
        for kind in kinds:
            lines = []
            for detector, sets in found.items():
                points = sets.get(tested, {}).get(kind, [])
                y = [np.nan if p["frame_auc"] is None else p["frame_auc"] for p in points]
                lines.append(
                    charts.Series(detector, [p["strength"] for p in points], y, marks=True)
                )
            ticks = [(float(n), str(n)) for n in range(6)]
            x, y_axis = (
                charts.Axis("Strength", (0.0, 5.0), ticks),
                charts.Axis("Frame AUC", (0.4, 1.0)),
            )
            chart = charts.line_chart(f"{kind}, {tested}", lines, x, y_axis, width=340, height=240)
            drawn.append(page.figure(f"{tested}: {kind}", chart))
        body.append(page.charts(drawn))
    return body


def _reasons(detectors: Sequence[Detector]) -> list[Markup]:
    rows = []
    for detector in detectors:
        for name, measured in detector.sets.items():
            words = measured.region_words
            if words is None:
                continue
            mean, micro = words["mean_per_image"], words["micro"]
            parts = ("precision", "recall", "f1")
            cells = [_number(scores[part]) for scores in (mean, micro) for part in parts]
            each = [_number(words["regions"][region]["f1"]) for region in REGIONS]
            rows.append([detector.name, name, *cells, *each, f"{words['images']:,}"])
    if not rows:
        return []
    header = [
        "Detector", "Set", "Precision per image", "Recall per image", "F1 per image",
        "Precision, micro", "Recall, micro", "F1, micro",
        *(f"F1 {region}" for region in REGIONS), "Fakes",
    ]  # fmt: skip
    return [
        element("h2", "Regions named by the reasons"),
        page.table(header, rows, names=2, group=0),
        element(
            "p",
            "Regions that the words of the reasons name against the regions annotated as forged, "
            "over the fakes. 'Per image' averages each image's own figure.",
            class_="note",
        ),
    ]


def _terms() -> list[Markup]:
    terms = {
        "Frame AUC": "Area under the ROC curve over frames.",
        "Video AUC": "The same over videos, scored by the mean of their frames' probabilities. A "
        "video is (data set, method, video id).",
        "AP": "Average precision over frames, fakes being the positives.",
        "EER": "The rate at which false positives and false negatives are equal, by linear "
        "interpolation of the ROC. DeepfakeBench's is the false-positive rate at the nearest "
        "point of the curve, without interpolation.",
        "Accuracy": "Over frames: fake above 0.5, or above the threshold chosen on the validation "
        "split.",
        "ECE": "Expected calibration error in 15 equal bins: the mean distance between probability "
        "and share of fakes. Its bootstrap interval leans upwards, as noise only adds to it.",
        "Calibrated": "After temperature scaling fitted on the validation split, never on this "
        "one.",
    }
    pairs = [part for k, v in terms.items() for part in (element("dt", k), element("dd", v))]
    return [element("h2", "Terms"), element("dl", *pairs, class_="terms")]
