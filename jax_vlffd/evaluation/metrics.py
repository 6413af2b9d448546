"""Detection metrics: per frame and per video, per method and overall.

Definitions:
  frame AUC: area under the ROC curve over frames. AP: average precision over frames.
  video AUC: the same area over videos, whose score is the mean of their frames' probabilities. A
    video is (dataset, method, video id): ids repeat across the methods of FaceForensics++.
  EER: where the false-positive rate equals the false-negative rate, by linear interpolation of the
    ROC curve (`eer`); `eer_deepfakebench` is the false-positive rate at the point of the curve
    where the two are nearest, without interpolation, as DeepfakeBench reports it.
  accuracy: over frames; fake is a probability above 0.5 (`acc`), or a calibrated probability above
    the threshold chosen on a validation split (`acc_calibrated`).
  ECE: of the raw probability (`ece`) and calibrated (`ece_calibrated`); see `calibration`.
Per method: that method's fakes against all reals of the set. Areas, curves, AP, precision and recall are
scikit-learn's.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final

import numpy as np
from sklearn import metrics as sk

from jax_vlffd.evaluation import bootstrap, intervals
from jax_vlffd.evaluation.calibration import Calibration, expected_calibration_error
from jax_vlffd.evaluation.scores import Scores, video_means
from jax_vlffd.vocabulary import REGIONS

#: Metrics that need both classes, and metrics that are defined for one class too.
RANKING: Final = ("frame_auc", "video_auc", "ap", "eer", "eer_deepfakebench")
POINTWISE: Final = ("acc", "acc_calibrated", "ece", "ece_calibrated")
ACCURACIES: Final = ("acc", "acc_calibrated")
#: Metrics whose intervals stay apart from a point as a detector becomes perfect; see `intervals`.
COVERED: Final = ("frame_auc", "video_auc", "eer", *ACCURACIES)
_FIGURES: Final = ("precision", "recall", "f1")


@dataclass(frozen=True)
class SampleCounts:
    """Numbers of frames and videos."""

    frames_real: int
    frames_fake: int
    videos_real: int
    videos_fake: int


@dataclass(frozen=True)
class Metrics:
    """The metrics of one set, or of one method of it.

    Attributes:
      values: by name; None where a metric is undefined (`note` says why).
      intervals: 95 % interval (low, high) by name, where there is one: of `intervals` for COVERED, by
        percentiles of the resamples for the others.
      replicates: the resamples' values [R] by name, for paired differences.
      videos: fingerprint of the videos measured; two with equal ones were resampled alike.
    """

    values: dict[str, float | None]
    intervals: dict[str, tuple[float, float]]
    counts: SampleCounts
    note: str = ""
    replicates: dict[str, np.ndarray] = field(default_factory=dict, repr=False)
    videos: str = ""

    def as_dict(self) -> dict[str, Any]:
        """The entry of `metrics.json`: flat values, `intervals`, `counts`, `note`."""
        return {
            **self.values,
            "intervals": {name: list(pair) for name, pair in self.intervals.items()},
            "counts": vars(self.counts),
            "note": self.note,
        }

    def line(self) -> str:
        """The main figures in one line of text."""
        shown = {
            "frame AUC": "frame_auc",
            "video AUC": "video_auc",
            "EER": "eer",
            "accuracy": "acc",
        }
        figures = [
            f"{title} {self.values[name]:.4f}"
            for title, name in shown.items()
            if self.values[name] is not None
        ]
        frames = self.counts.frames_real + self.counts.frames_fake
        note = f" ({self.note})" if self.note else ""
        return ", ".join([*figures, f"{frames} frames"]) + note


@dataclass(frozen=True)
class SetMetrics:
    """Metrics of one evaluation set: overall, per method, and of its reasons where there are any."""

    overall: Metrics
    methods: dict[str, Metrics]
    region_words: dict[str, Any] | None = None

    def as_dict(self) -> dict[str, Any]:
        """The set's entry of `metrics.json`: the overall metrics, `methods`, and `region_words` if any."""
        methods = {name: measured.as_dict() for name, measured in self.methods.items()}
        words = {} if self.region_words is None else {"region_words": self.region_words}
        return {**self.overall.as_dict(), "methods": methods, **words}


def evaluate(
    scores: Scores,
    calibration: Calibration | None = None,
    resamples: int = 1000,
    seed: int = 0,
) -> dict[str, SetMetrics]:
    """Computes every metric of every set; sets in order of occurrence, methods by name.

    Args:
      scores: one detector's scores, of the split that is tested.
      calibration: from a validation split; None leaves out the calibrated metrics.
      resamples: bootstrap resamples; 0 leaves out the intervals.
      seed: of the resampling; equal seeds draw the same videos, whatever the detector.
    """
    metrics_by_set = {}
    for name in dict.fromkeys(scores.set_name.tolist()):
        part = scores.select(scores.set_name == name)
        methods = {}
        for method in np.unique(part.method[part.label == 1]).tolist():
            rows = (part.label == 0) | (part.method == method)
            methods[method] = measure(part.select(rows), calibration, resamples, seed)
        overall = measure(part, calibration, resamples, seed)
        metrics_by_set[name] = SetMetrics(overall, methods, score_reasons(part))
    return metrics_by_set


def measure(
    scores: Scores, calibration: Calibration | None = None, resamples: int = 1000, seed: int = 0
) -> Metrics:
    """The metrics over all rows of a table; arguments as of `evaluate`."""
    y, p = scores.label, scores.probability
    video = scores.videos()
    video_p, video_y = video_means(p, y, video)
    counts = SampleCounts(
        frames_real=int(np.sum(y == 0)),
        frames_fake=int(np.sum(y == 1)),
        videos_real=int(np.sum(video_y == 0)),
        videos_fake=int(np.sum(video_y == 1)),
    )
    values: dict[str, float | None] = dict.fromkeys((*RANKING, *POINTWISE))
    note = ""
    if counts.frames_real and counts.frames_fake:
        values["frame_auc"] = float(sk.roc_auc_score(y, p))
        values["video_auc"] = float(sk.roc_auc_score(video_y, video_p))
        values["ap"] = float(sk.average_precision_score(y, p))
        values["eer"] = equal_error_rate(y, p)
        values["eer_deepfakebench"] = equal_error_rate_deepfakebench(y, p)
    else:
        missing = "real" if counts.frames_fake else "fake"
        note = f"no {missing} frames: AUC, AP and EER are undefined" if len(y) else "no frames"
    calibrated = None if calibration is None else calibration.probability(scores.logits())
    if len(y):
        values["acc"] = float(np.mean((p > 0.5) == y))
        values["ece"] = expected_calibration_error(p, y)
        if calibration is not None and calibrated is not None:
            values["acc_calibrated"] = float(np.mean((calibrated > calibration.threshold) == y))
            values["ece_calibrated"] = expected_calibration_error(calibrated, y)
    replicates: dict[str, np.ndarray] = {}
    if not note and resamples:
        if min(counts.videos_real, counts.videos_fake) < 2:
            note = "fewer than two videos of a class: no intervals"
        else:
            threshold = None if calibration is None else calibration.threshold
            replicates = bootstrap.replicates(
                y, p, video, scores.strata(), resamples, seed, calibrated, threshold
            )
    bounds = {name: bootstrap.interval(resampled) for name, resampled in replicates.items()}
    if replicates:
        bounds["frame_auc"] = intervals.area(y, p, video)
        bounds["video_auc"] = intervals.area(video_y, video_p, np.arange(len(video_y)))
        bounds |= _rate_intervals(values, replicates, y, p, video)
    return Metrics(values, bounds, counts, note, replicates, scores.video_digest())


def _rate_intervals(
    values: Mapping[str, float | None],
    replicates: Mapping[str, np.ndarray],
    y: np.ndarray,
    p: np.ndarray,
    video: np.ndarray,
) -> dict[str, tuple[float, float]]:
    """Intervals of accuracies and EER."""
    real, fake = (
        intervals.clusters(p[y == label], video[y == label]).effective_frames() for label in (0, 1)
    )
    # The EER averages the errors of the two classes, whatever their sizes.
    effective = {"eer": 4 / (1 / real + 1 / fake)} | dict.fromkeys(ACCURACIES, real + fake)
    return {
        name: intervals.rate(value, float(np.var(replicates[name])), effective[name])
        for name in replicates.keys() & effective.keys()
        if (value := values[name]) is not None
    }


def equal_error_rate(labels: np.ndarray, probability: np.ndarray) -> float:
    """EER by linear interpolation of the ROC curve; both classes must occur."""
    fpr, tpr, _ = sk.roc_curve(labels, probability, drop_intermediate=False)
    return float(np.interp(0.0, fpr + tpr - 1, fpr))  # the sum rises from -1 to 1


def equal_error_rate_deepfakebench(labels: np.ndarray, probability: np.ndarray) -> float:
    """EER as DeepfakeBench takes it: the FPR where |FNR - FPR| is smallest, not interpolated.

    Like DeepfakeBench, it uses the points of scikit-learn's `roc_curve` with default settings.
    """
    fpr, tpr, _ = sk.roc_curve(labels, probability)
    return float(fpr[np.argmin(np.abs(1 - tpr - fpr))])


def score_reasons(scores: Scores) -> dict[str, Any] | None:
    """`region_scores` of the regions that the reasons name, over the fakes.

    None if the table has no reasons, no regions, or no fakes.
    """
    named = scores.regions_in_reasons()
    fake = scores.label == 1
    if named is None or scores.regions is None or not fake.any():
        return None
    return region_scores(named[fake], scores.regions[fake])


def region_scores(named: np.ndarray, truth: np.ndarray) -> dict[str, Any]:
    """How well named regions match the true ones (the paper's region identification).

    Precision, recall and F1 per region, over all decisions together (`micro`), and averaged over
    images (`mean_per_image`), where F1 is the mean of the images' F1. An image with no named and no
    true region counts 1 in all three; one where only one of the two is empty counts 0 (ours: the
    paper does not say).

    Args:
      named: bool or 0/1 [n, 4], the regions that a text names, in the order of vocabulary.REGIONS.
      truth: bool or 0/1 [n, 4], the regions that are forged.

    Returns:
      {"images": n, "regions": {name: scores}, "micro": scores, "mean_per_image": scores} where
      scores are {"precision", "recall", "f1"}, None where undefined (nothing named, nothing true).
    """
    named = np.asarray(named, dtype=bool)
    truth = np.asarray(truth, dtype=bool)
    if named.shape != truth.shape or named.ndim != 2 or named.shape[1] != len(REGIONS):
        raise ValueError(
            f"named {named.shape} and truth {truth.shape} are not both [n, {len(REGIONS)}]"
        )
    if not len(named):
        none: dict[str, float | None] = dict.fromkeys(_FIGURES)
        regions = {name: none for name in REGIONS}
        return {"images": 0, "regions": regions, "micro": none, "mean_per_image": none}

    def scored(average: str | None, undefined: float) -> np.ndarray:
        result = sk.precision_recall_fscore_support(
            truth, named, average=average, zero_division=undefined
        )
        return np.array(result[:3])

    per_region, micro = scored(None, np.nan).T, scored("micro", np.nan)
    both_empty = float(np.mean(~(named | truth).any(axis=1)))
    return {
        "images": len(named),
        "regions": {name: _figures(row) for name, row in zip(REGIONS, per_region, strict=True)},
        "micro": _figures(micro),
        "mean_per_image": _figures(scored("samples", 0.0) + both_empty),
    }


def region_aucs(scores: np.ndarray, truth: np.ndarray) -> dict[str, float | None]:
    """ROC AUC per region of scores for "this region is forged" (ours).

    Unlike precision and F1 it does not reward a region that is forged in most images: chance is 0.5.

    Args:
      scores: float [n, 4], larger where a region seems forged, in the order of vocabulary.REGIONS.
      truth: bool or 0/1 [n, 4].

    Returns:
      The area under the ROC curve by region; None where it is forged in all images or in none.
    """
    truth = np.asarray(truth, dtype=bool)
    if scores.shape != truth.shape or scores.ndim != 2 or scores.shape[1] != len(REGIONS):
        raise ValueError(
            f"scores {scores.shape} and truth {truth.shape} are not both [n, {len(REGIONS)}]"
        )
    return {
        name: float(sk.roc_auc_score(y, x)) if 0 < y.sum() < len(y) else None
        for name, x, y in zip(REGIONS, scores.T, truth.T, strict=True)
    }


def _figures(scores: np.ndarray) -> dict[str, float | None]:
    values = [None if np.isnan(value) else float(value) for value in scores]
    return dict(zip(_FIGURES, values, strict=True))


def average(sets: Mapping[str, SetMetrics]) -> dict[str, float | None]:
    """The unweighted mean over the sets of each ranking metric; None where a set lacks it."""
    means: dict[str, float | None] = {}
    for name in RANKING:
        values = [measured.overall.values[name] for measured in sets.values()]
        known = [value for value in values if value is not None]
        means[name] = float(np.mean(known)) if known and len(known) == len(values) else None
    return means
