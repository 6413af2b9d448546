"""Several detectors on the same sets: paired differences, and who was trained on what."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from jax_vlffd.evaluation import bootstrap
from jax_vlffd.evaluation.calibration import Calibration
from jax_vlffd.evaluation.metrics import Metrics, SetMetrics
from jax_vlffd.evaluation.scores import Scores


@dataclass(frozen=True)
class Detector:
    """One detector as the report shows it.

    Attributes:
      name: unique in a report.
      scores: of the split that is tested.
      sets: its metrics by set.
      calibration: from a validation split, if it has one.
      history: the records of its training (`step` and numbers), if it was trained here.
      trained_on: the methods it was trained on; empty when unknown.
      group: detectors of one group and one `trained_on` are repetitions (seeds) of one row of the
        matrix.
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


def differences(first: Metrics, second: Metrics) -> dict[str, dict[str, Any]]:
    """`second` minus `first` by metric: {"value"}, and {"interval"} from paired resamples.

    Two detectors' resamples pair when both were measured on the same videos with the same seed and
    number of resamples: each then drew the same videos. Otherwise there is no interval.
    """
    found: dict[str, dict[str, Any]] = {}
    for name, value in second.values.items():
        base = first.values.get(name)
        if value is None or base is None:
            continue
        entry: dict[str, Any] = {"value": value - base}
        drawn, base_drawn = second.replicates.get(name), first.replicates.get(name)
        if drawn is not None and base_drawn is not None and first.videos == second.videos:
            entry["interval"] = list(bootstrap.interval(drawn - base_drawn))
        found[name] = entry
    return found


def set_differences(first: Detector, second: Detector) -> dict[str, dict[str, dict[str, Any]]]:
    """`differences` of the overall metrics by set, for the sets that both have."""
    return {
        name: differences(measured.overall, second.sets[name].overall)
        for name, measured in first.sets.items()
        if name in second.sets
    }


def summary(detectors: Sequence[Detector]) -> dict[str, Any]:
    """What `metrics.json` says of the detectors: the first one's `sets`, and `others` by name.

    Returns:
      {"detector", "calibration", "sets": {name: metrics}, "others": {name: {"calibration", "sets",
      "differences"}}}; metrics are `SetMetrics.as_dict`, differences `set_differences` from the
      first.
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


def _entry(detector: Detector) -> dict[str, Any]:
    calibration = detector.calibration
    return {
        "calibration": None if calibration is None else asdict(calibration),
        "sets": {name: measured.as_dict() for name, measured in detector.sets.items()},
    }


def matrix(detectors: Sequence[Detector]) -> list[dict[str, Any]]:
    """The trained-on/tested-on matrix: a row for each (group, trained_on), a cell for each method.

    Returns:
      Rows {"name", "trained_on", "runs", "cells": {set: {method: cell}}}. A cell is
      {"frame_auc", "video_auc", "interval", "spread", "seen"}: means over the row's runs; the
      bootstrap interval of that mean frame AUC (None where the runs' videos differ); the standard
      deviation over the runs (None for one); and whether the method was trained on (None when
      unknown).
    """
    rows: dict[tuple[str, tuple[str, ...]], list[Detector]] = {}
    for detector in detectors:
        trained_on = tuple(sorted(detector.trained_on))
        rows.setdefault((detector.group or detector.name, trained_on), []).append(detector)
    return [
        {
            "name": name,
            "trained_on": list(trained_on),
            "runs": len(runs),
            "cells": {
                tested: {
                    method: _cell(runs, tested, method, trained_on)
                    for method in sorted({m for run in runs for m in _methods(run, tested)})
                }
                for tested in dict.fromkeys(name for run in runs for name in run.sets)
            },
        }
        for (name, trained_on), runs in rows.items()
    ]


def _methods(detector: Detector, tested: str) -> Sequence[str]:
    return list(detector.sets[tested].methods) if tested in detector.sets else []


def _cell(
    runs: Sequence[Detector], tested: str, method: str, trained_on: Sequence[str]
) -> dict[str, Any]:
    found = [run.sets[tested].methods[method] for run in runs if method in _methods(run, tested)]
    frame = [m.values["frame_auc"] for m in found if m.values["frame_auc"] is not None]
    video = [m.values["video_auc"] for m in found if m.values["video_auc"] is not None]
    drawn = [m.replicates["frame_auc"] for m in found if "frame_auc" in m.replicates]
    pairs = len(drawn) == len(found) and len({m.videos for m in found}) == 1
    return {
        "frame_auc": float(np.mean(frame)) if frame else None,
        "video_auc": float(np.mean(video)) if video else None,
        "interval": list(bootstrap.interval(np.mean(drawn, axis=0))) if pairs else None,
        "spread": float(np.std(frame, ddof=1)) if len(frame) > 1 else None,
        "seen": method in trained_on if trained_on else None,
    }
