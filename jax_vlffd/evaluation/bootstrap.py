"""Bootstrap over videos, many resamples at once.

Frames of one video are near copies, so whole videos are drawn, within strata: no resample lacks a class or a
method. A resample is a weight for each video, and every metric is computed from weighted counts on scores that
are sorted once. Resamples give the correlations of detectors, the variance of rates, and the percentile
intervals (Efron) of what `intervals` has no better interval for.
"""

from __future__ import annotations

from typing import Final

import numpy as np

from jax_vlffd.evaluation.calibration import BINS, bin_index
from jax_vlffd.evaluation.scores import video_means

CONFIDENCE: Final = 0.95
_CHUNK: Final = 2_000_000  # numbers in the largest temporary: about 16 MB
#: Weights that are drawn together, 128 MB. Up to 16,000 videos, 1000 resamples are one draw.
_MAX_DRAWN: Final = 16_000_000


def interval(values: np.ndarray) -> tuple[float, float]:
    """The percentile interval of CONFIDENCE."""
    tail = (1 - CONFIDENCE) / 2
    low, high = np.quantile(values, [tail, 1 - tail])
    return float(low), float(high)


def draw(strata: np.ndarray, resamples: int, seed: int | np.random.Generator) -> np.ndarray:
    """How often each video is drawn: float64 [resamples, V].

    Args:
      strata: int [V], the stratum of each video; a resample keeps the number of videos of each.
      resamples: how many to draw.
      seed: of the random stream, or the stream.
    """
    rng = np.random.default_rng(seed)
    counts = np.empty((resamples, len(strata)))
    for stratum in np.unique(strata):
        members = np.flatnonzero(strata == stratum)
        even = np.full(len(members), 1 / len(members))
        counts[:, members] = rng.multinomial(len(members), even, size=resamples)
    return counts


def replicates(
    labels: np.ndarray,
    probability: np.ndarray,
    videos: np.ndarray,
    strata: np.ndarray,
    resamples: int,
    seed: int,
    calibrated: np.ndarray | None = None,
    threshold: float | None = None,
) -> dict[str, np.ndarray]:
    """The metrics of every resample: name as in `metrics` -> float64 [resamples].

    Args:
      labels: int [n], both classes.
      probability: float [n].
      videos: int [n], the videos numbered from 0; a video has one label and one stratum.
      strata: int [n].
      resamples: how many to draw.
      seed: of the random stream.
      calibrated: float [n], the calibrated probability; given together with its `threshold`.
      threshold: calibrated probability above which a frame counts as fake.
    """
    first = np.unique(videos, return_index=True)[1]
    video_strata, video_labels = strata[first], labels[first]
    frames = np.bincount(videos)
    video_probability = video_means(probability, labels, videos)[0]
    frame_groups = _Sorted(labels, probability)
    video_groups = _Sorted(video_labels, video_probability)
    step = max(1, _CHUNK // len(labels))
    # These are sums over frames, so each video's sum is computed only once.
    correct = np.bincount(videos, weights=(probability > 0.5) == labels)
    errors = _calibration_errors(videos, probability, labels)
    if calibrated is not None and threshold is not None:
        correct_calibrated = np.bincount(videos, weights=(calibrated > threshold) == labels)
        errors_calibrated = _calibration_errors(videos, calibrated, labels)

    def measured(weights: np.ndarray) -> dict[str, np.ndarray]:
        parts = []
        for start in range(0, len(weights), step):
            rows = weights[start : start + step]
            fake, real = frame_groups.weighted(rows[:, videos])
            parts.append(
                (_auc(fake, real), _average_precision(fake, real), _equal_error_rate(fake, real),
                 _auc(*video_groups.weighted(rows)))
            )  # fmt: skip
        ranking = map(np.concatenate, zip(*parts, strict=True))
        values = dict(zip(("frame_auc", "ap", "eer", "video_auc"), ranking, strict=True))
        total = weights @ frames
        values["acc"] = weights @ correct / total
        values["ece"] = np.abs(weights @ errors).sum(1) / total
        if calibrated is not None and threshold is not None:
            values["acc_calibrated"] = weights @ correct_calibrated / total
            values["ece_calibrated"] = np.abs(weights @ errors_calibrated).sum(1) / total
        return values

    rng = np.random.default_rng(seed)
    together = max(1, _MAX_DRAWN // len(video_strata))
    blocks = [
        measured(draw(video_strata, min(together, resamples - start), rng))
        for start in range(0, resamples, together)
    ]
    return {name: np.concatenate([block[name] for block in blocks]) for name in blocks[0]}


class _Sorted:
    """Scores in descending order, equal scores grouped."""

    def __init__(self, labels: np.ndarray, scores: np.ndarray) -> None:
        self.order = np.argsort(-scores, kind="stable")
        ordered = scores[self.order]
        self.starts = np.flatnonzero(np.r_[True, ordered[1:] != ordered[:-1]])
        self.fake = labels[self.order].astype(np.float64)

    def weighted(self, weights: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Weight of the fakes and of the reals at each distinct score: [r, K], [r, K]."""
        ordered = weights[:, self.order]
        fake = ordered * self.fake
        real = ordered - fake
        if len(self.starts) == len(self.fake):
            return fake, real
        return np.add.reduceat(fake, self.starts, axis=1), np.add.reduceat(
            real, self.starts, axis=1
        )


def _auc(fake: np.ndarray, real: np.ndarray) -> np.ndarray:
    above = np.cumsum(fake, axis=1) - fake / 2  # an equal score counts half
    return np.einsum("rk,rk->r", above, real) / (fake.sum(1) * real.sum(1))


def _average_precision(fake: np.ndarray, real: np.ndarray) -> np.ndarray:
    hits = np.cumsum(fake, axis=1)
    positives = hits + np.cumsum(real, axis=1)
    precision = np.divide(hits, positives, out=np.zeros_like(hits), where=positives > 0)
    return np.einsum("rk,rk->r", precision, fake) / fake.sum(1)


def _equal_error_rate(fake: np.ndarray, real: np.ndarray) -> np.ndarray:
    zero = np.zeros((len(fake), 1))
    fpr = np.hstack([zero, np.cumsum(real, axis=1) / real.sum(1, keepdims=True)])
    tpr = np.hstack([zero, np.cumsum(fake, axis=1) / fake.sum(1, keepdims=True)])
    gap = fpr + tpr - 1  # rises from -1 to 1 (to rounding: the last is taken as the crossing)
    gap[:, -1] = 1.0
    after = np.argmax(gap >= 0, axis=1)[:, None]
    before = after - 1
    take = np.take_along_axis
    low, high = take(gap, before, 1), take(gap, after, 1)
    start, end = take(fpr, before, 1), take(fpr, after, 1)
    return (start - low / (high - low) * (end - start))[:, 0]


def _calibration_errors(
    videos: np.ndarray, probability: np.ndarray, labels: np.ndarray
) -> np.ndarray:
    """Per video and bin, the sum of (probability - label): float64 [V, BINS]."""
    table = np.zeros((int(videos.max()) + 1, BINS))
    np.add.at(table, (videos, bin_index(probability)), probability - labels)
    return table
