"""`report.html`: one file that shows an evaluation, without scripts or anything to load."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final

import numpy as np
from sklearn import metrics as sk

from jax_vlffd.evaluation import page, svg
from jax_vlffd.evaluation.calibration import expected_calibration_error, reliability_curve
from jax_vlffd.evaluation.comparison import Detector, set_differences
from jax_vlffd.evaluation.curves import training_curves
from jax_vlffd.evaluation.gallery import Gallery, sections
from jax_vlffd.evaluation.metrics import Metrics, average
from jax_vlffd.evaluation.page import Cell, Markup, element
from jax_vlffd.vocabulary import REGIONS

_COLUMNS: Final = {
    "frame_auc": "Frame AUC",
    "video_auc": "Video AUC",
    "ap": "AP",
    "eer": "EER",
    "eer_deepfakebench": "EER (Deepfake\u00adBench)",
    "acc": "Accuracy at 0.5",
    "acc_calibrated": "Accuracy at threshold",
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
    header = ["Set", *(["Detector"] if several else []), *_COLUMNS.values(), "Frames", "Videos"]
    rows: list[list[str]] = []
    names = _sets(detectors)
    for name in names:
        for detector in detectors:
            if name in detector.sets:
                found = detector.sets[name].overall
                who = [detector.name] if several else []
                rows.append([name, *who, *_values(found), *_counts(found)])
    if len(names) > 1:
        for detector in (d for d in detectors if len(d.sets) == len(names)):
            mean = average(detector.sets)
            who = [detector.name] if several else []
            cells = [_number(mean.get(key)) for key in _COLUMNS]
            rows.append(["Mean of the sets", *who, *cells, "", ""])
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
            "Small figures are 95 % bootstrap intervals over videos. Counts are real + fake. "
            "The terms are explained at the end.",
            class_="note",
        ),
    ]


def _values(found: Metrics) -> list[str]:
    return [_number(found.values[key], found.intervals.get(key)) for key in _COLUMNS]


def _counts(found: Metrics) -> list[str]:
    counts = found.counts
    return [
        f"{counts.frames_real:,} + {counts.frames_fake:,}",
        f"{counts.videos_real:,} + {counts.videos_fake:,}",
    ]


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
    return page.join([shown, element("small", f"{low} to {high}")])


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
    rows.sort(key=lambda row: row[0])
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
    unit = (0.0, 1.0)
    body = [element("h2", "ROC and reliability")]
    for name in _sets(detectors):
        roc, reliability = [], []
        for detector in detectors:
            rows = detector.scores.set_name == name
            scores = detector.scores.select(rows)
            y = scores.label
            if not rows.any():
                continue
            if 0 < y.sum() < len(y):
                auc = detector.sets[name].overall.values["frame_auc"]
                roc.append(_roc(f"{detector.name}: AUC {auc:.3f}", y, scores.probability))
            p, how = scores.probability, ""
            if detector.calibration is not None:
                p, how = detector.calibration.probability(scores.logits()), ", calibrated"
            curve = reliability_curve(p, y)
            kept = curve.frames > 0
            label = f"{detector.name}{how}: ECE {expected_calibration_error(p, y):.3f}"
            reliability.append(
                svg.Series(label, curve.probability[kept], curve.fakes[kept], marks=True)
            )
        x, y_axis = svg.Axis("False-positive rate", unit), svg.Axis("True-positive rate", unit)
        mean = svg.Axis("Mean predicted probability", unit)
        share = svg.Axis("Share of fakes", unit)
        drawn = [
            page.figure(f"{name}: ROC over frames", svg.line_chart("ROC", roc, x, y_axis, True)),
            page.figure(
                f"{name}: reliability",
                svg.line_chart("Reliability diagram", reliability, mean, share, True),
            ),
        ]
        body.append(page.charts(drawn if roc else drawn[1:]))
    return body


def _roc(name: str, labels: np.ndarray, probability: np.ndarray) -> svg.Series:
    fpr, tpr, _ = sk.roc_curve(labels, probability)
    if len(fpr) > _ROC_POINTS:  # even along the curve; a drawing needs no more
        along = np.linspace(0, 2, _ROC_POINTS)
        kept = np.unique(np.searchsorted(fpr + tpr, along).clip(0, len(fpr) - 1))
        fpr, tpr = fpr[kept], tpr[kept]
    return svg.Series(name, fpr, tpr)


def _methods(detectors: Sequence[Detector]) -> list[Markup]:
    body = [
        element("h2", "By method"),
        element("p", "The fakes of one method against all reals of the set.", class_="note"),
    ]
    columns = ("frame_auc", "video_auc", "ap", "eer", "acc", "acc_calibrated")
    names = [detector.name for detector in detectors]
    several = len(names) > 1
    for tested in _sets(detectors):
        holding = [d for d in detectors if tested in d.sets]
        methods = sorted({m for d in holding for m in d.sets[tested].methods})
        rows, groups = [], []
        for method in methods:
            bars = []
            for detector in detectors:
                found = detector.sets[tested].methods.get(method) if detector in holding else None
                if found is None:
                    bars.append(svg.Bar(None))
                    continue
                auc = found.values["frame_auc"]
                bars.append(svg.Bar(auc, found.intervals.get("frame_auc")))
                cells = [_number(found.values[k], found.intervals.get(k)) for k in columns]
                who = [detector.name] if several else []
                rows.append([method or "(no name)", *who, *cells, *_counts(found)])
            groups.append((method or "(no name)", bars))
        if not groups:
            continue
        axis = svg.Axis("Frame AUC (dashed: chance)", (0.0, 1.0))
        chart = svg.bar_chart(f"Frame AUC by method, {tested}", groups, names, axis, 0.5, 640)
        header = ["Method", *(["Detector"] if several else []), *(_COLUMNS[k] for k in columns)]
        body.append(page.charts([page.figure(f"{tested}: frame AUC by method", chart)]))
        body.append(page.table([*header, "Frames", "Videos"], rows, 2 if several else 1, group=0))
    return body


def _matrix(rows: Sequence[Mapping[str, Any]]) -> list[Markup]:
    if not rows:
        return []
    columns = [
        (tested, method)
        for tested in dict.fromkeys(t for row in rows for t in row["cells"])
        for method in dict.fromkeys(m for row in rows for m in row["cells"].get(tested, {}))
    ]
    body = []
    for row in rows:
        cells: list[str] = []
        for tested, method in columns:
            cell = row["cells"].get(tested, {}).get(method)
            if cell is None:
                cells.append(_NONE)
                continue
            shown = _number(cell["frame_auc"], cell["interval"])
            if cell["spread"] is not None:
                shown = page.join([shown, element("small", f"runs ± {cell['spread']:.3f}")])
            cells.append(Cell.of(shown, "seen") if cell["seen"] else shown)
        trained = ", ".join(row["trained_on"]) or "not stated"
        body.append([row["name"], trained, str(row["runs"]), *cells])
    several = len({tested for tested, _ in columns}) > 1
    header = [f"{tested}: {method}" if several else method for tested, method in columns]
    return [
        element("h2", "Trained on some methods, tested on each"),
        page.table(["Detector", "Trained on", "Runs", *header], body, names=2),
        element(
            "p",
            "Frame AUC of a method's fakes against all reals; shaded where the method was trained "
            "on. With several runs: their mean, its bootstrap interval, and the runs' standard "
            "deviation.",
            class_="note",
        ),
    ]


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
                lines.append(svg.Series(detector, [p["strength"] for p in points], y, marks=True))
            ticks = [(float(n), str(n)) for n in range(6)]
            x, y_axis = svg.Axis("Strength", (0.0, 5.0), ticks), svg.Axis("Frame AUC", (0.4, 1.0))
            chart = svg.line_chart(f"{kind}, {tested}", lines, x, y_axis, width=340, height=240)
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
