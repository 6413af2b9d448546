"""Comparison of detectors on the same sets: paired differences, and the trained-on/tested-on matrix."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Final

import numpy as np

from jax_vlffd.evaluation import bootstrap, intervals
from jax_vlffd.evaluation.calibration import Calibration
from jax_vlffd.evaluation.metrics import COVERED, Metrics, SetMetrics
from jax_vlffd.evaluation.scores import Scores

#: Stands for the methods of a detector whose training set is unknown.
UNKNOWN: Final = "methods unknown"


@dataclass(frozen=True)
class EvaluatedDetector:
    """A detector with its scores and metrics, as a report shows it.

    Attributes:
      name: unique in a report.
      scores: of the split that is tested.
      sets: its metrics by set.
      calibration: fitted on a validation split, or None.
      history: the logged records of its training (`step` and numbers); empty when unknown.
      trained_on: the methods it was trained on; empty when unknown.
      group: detectors with the same group and `trained_on` are repetitions (seeds) of one matrix row.
    """

    name: str
    scores: Scores
    sets: Mapping[str, SetMetrics]
    calibration: Calibration | None = None
    history: Sequence[Mapping[str, Any]] = ()
    trained_on: tuple[str, ...] = ()
    group: str = ""

    def probability(self) -> np.ndarray:
        """Float64 [n]: the probabilities, calibrated if the detector has a calibration."""
        if self.calibration is None:
            return self.scores.probability
        return self.calibration.probability(self.scores.logits())

    def methods_text(self) -> str:
        """The methods it was trained on, in words."""
        return ", ".join(self.trained_on) or UNKNOWN


def differences(first: Metrics, second: Metrics) -> dict[str, dict[str, Any]]:
    """`second` minus `first` by metric: {"value"}, and {"interval"} where resamples are paired.

    Resamples are paired when both were measured on the same videos with the same seed and number of
    resamples, so that each drew the same videos. Otherwise there is no interval.
    """
    by_metric: dict[str, dict[str, Any]] = {}
    for name, value in second.values.items():
        base = first.values.get(name)
        if value is None or base is None:
            continue
        interval = _interval([second, first], [1.0, -1.0], name)
        by_metric[name] = {"value": value - base} | (
            {} if interval is None else {"interval": interval}
        )
    return by_metric


def set_differences(
    first: EvaluatedDetector, second: EvaluatedDetector
) -> dict[str, dict[str, dict[str, Any]]]:
    """`differences` of the overall metrics, by set, for the sets that both have."""
    return {
        name: differences(measured.overall, second.sets[name].overall)
        for name, measured in first.sets.items()
        if name in second.sets
    }


def summary(detectors: Sequence[EvaluatedDetector]) -> dict[str, Any]:
    """The detectors' part of `metrics.json`: the first one's `sets`, and `others` by name.

    Returns:
      {"detector", "calibration", "trained_on", "sets": {name: metrics}, "others": {name: {"calibration",
      "trained_on", "sets", "differences"}}}; trained_on is a list of methods, or `UNKNOWN`; metrics are
      `SetMetrics.as_dict`, differences `set_differences` from the first.
    """
    first, *others = detectors
    return {
        "detector": first.name,
        **_entry(first),
        "others": {
            other.name: {**_entry(other), "differences": set_differences(first, other)}
            for other in others
        },
    }


def _entry(detector: EvaluatedDetector) -> dict[str, Any]:
    calibration = detector.calibration
    return {
        "calibration": None if calibration is None else asdict(calibration),
        "trained_on": list(detector.trained_on) or UNKNOWN,
        "sets": {name: measured.as_dict() for name, measured in detector.sets.items()},
    }


def matrix(detectors: Sequence[EvaluatedDetector]) -> list[dict[str, Any]]:
    """The trained-on/tested-on matrix: a row for each (group, trained_on), a cell for each method.

    Returns:
      Rows {"name", "trained_on", "runs", "cells": {set: {method: cell}}}. A cell is
      {"frame_auc", "video_auc", "interval", "spread", "seen", "difference"}: means over the row's
      runs; the interval of that mean frame AUC (None where the runs' videos differ); the
      standard deviation over the runs (None for one); whether the method was trained on (None when
      unknown); and the mean frame AUC less that of the first row that was trained on the same
      methods, {"value", "interval"} (None in that row itself, and for a row of unknown methods).
    """
    rows: dict[tuple[str, tuple[str, ...]], list[EvaluatedDetector]] = {}
    for detector in detectors:
        trained_on = tuple(sorted(detector.trained_on))
        rows.setdefault((detector.group or detector.name, trained_on), []).append(detector)
    first: dict[tuple[str, ...], list[EvaluatedDetector]] = {}
    for (_, trained_on), runs in rows.items():
        first.setdefault(trained_on, runs)
    return [
        {
            "name": name,
            "trained_on": list(trained_on),
            "runs": len(runs),
            "cells": {
                tested: {
                    method: _cell(runs, first[trained_on], tested, method, trained_on)
                    for method in sorted({m for run in runs for m in _methods(run, tested)})
                }
                for tested in dict.fromkeys(name for run in runs for name in run.sets)
            },
        }
        for (name, trained_on), runs in rows.items()
    ]


def _methods(detector: EvaluatedDetector, tested: str) -> Sequence[str]:
    return list(detector.sets[tested].methods) if tested in detector.sets else []


def _cell(
    runs: Sequence[EvaluatedDetector],
    first: Sequence[EvaluatedDetector],
    tested: str,
    method: str,
    trained_on: Sequence[str],
) -> dict[str, Any]:
    measured = _measured(runs, tested, method)
    frame = _known(measured, "frame_auc")
    video = _known(measured, "video_auc")
    return {
        "frame_auc": float(np.mean(frame)) if frame else None,
        "video_auc": float(np.mean(video)) if video else None,
        "interval": _interval(measured, _shares(measured), "frame_auc"),
        "spread": float(np.std(frame, ddof=1)) if len(frame) > 1 else None,
        "seen": method in trained_on if trained_on else None,
        "difference": None
        if runs is first or not trained_on
        else _difference(measured, first, tested, method),
    }


def _difference(
    measured: Sequence[Metrics], first: Sequence[EvaluatedDetector], tested: str, method: str
) -> dict[str, Any] | None:
    base = _measured(first, tested, method)
    values, base_values = _known(measured, "frame_auc"), _known(base, "frame_auc")
    if not values or not base_values:
        return None
    weights = [*_shares(measured), *(-share for share in _shares(base))]
    interval = _interval([*measured, *base], weights, "frame_auc")
    entry: dict[str, Any] = {"value": float(np.mean(values) - np.mean(base_values))}
    return entry | ({} if interval is None else {"interval": interval})


def _measured(runs: Sequence[EvaluatedDetector], tested: str, method: str) -> list[Metrics]:
    return [run.sets[tested].methods[method] for run in runs if method in _methods(run, tested)]


def _known(measured: Sequence[Metrics], name: str) -> list[float]:
    return [value for m in measured if (value := m.values[name]) is not None]


def _shares(measured: Sequence[Metrics]) -> list[float]:
    return [1 / len(measured)] * len(measured)


def _interval(
    measured: Sequence[Metrics], weights: Sequence[float], name: str
) -> list[float] | None:
    """The interval of a weighted sum of a metric; None unless all were resampled on the same videos."""
    replicates = [m.replicates[name] for m in measured if name in m.replicates]
    videos = {m.videos for m in measured}
    if not replicates or len(replicates) != len(measured) or len(videos) > 1 or "" in videos:
        return None
    if name not in COVERED:
        return list(bootstrap.interval(np.asarray(weights) @ np.stack(replicates)))
    estimates = [value for m in measured if (value := m.values[name]) is not None]
    bounds = [m.intervals[name] for m in measured]
    return list(intervals.combination(weights, estimates, bounds, replicates))
