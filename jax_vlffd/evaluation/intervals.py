"""95 % intervals of areas and rates that cover up to a perfect detector, with frames clustered in videos.

A resample of classes that are separated is separated too, so percentile bootstrap intervals shrink to a point
as a detector becomes perfect. A score interval (Wilson's for rates, Newcombe's method 5 for areas, 2006) holds
every value from which the estimate is less than `Z` standard errors away, and takes the standard error at that
value rather than at the estimate. docs/evaluation.md compares this with other methods by simulation.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Final, NamedTuple

import numpy as np

#: Quantile of the normal distribution for 95 %.
Z: Final = 1.959963984540054
_BISECTIONS: Final = 50

Interval = tuple[float, float]


class Clusters(NamedTuple):
    """Frames of one class, clustered in videos.

    frames: number of frames. siblings: mean over the frames of the number of others in the same video.
    correlation: intraclass correlation of the frames' scores, 0 to 1.
    """

    frames: int
    siblings: float
    correlation: float

    def effective_frames(self) -> float:
        """Number of independent frames that would say as much about a mean."""
        return self.frames / (1 + self.siblings * self.correlation)


def clusters(scores: np.ndarray, videos: np.ndarray) -> Clusters:
    """Measures how alike the frames of a video are, by a one-way analysis of variance of normal scores.

    Args:
      scores: float [n] of one class; only their order matters.
      videos: int [n], the video of each frame; at least two occur.
    """
    from scipy.special import ndtri
    from scipy.stats import rankdata

    videos = np.unique(videos, return_inverse=True)[1]
    sizes = np.bincount(videos)
    frames, count = len(scores), len(sizes)
    siblings = float((sizes**2).sum()) / frames - 1
    if frames == count:
        return Clusters(frames, 0.0, 1.0)
    normal = ndtri((rankdata(scores) - 0.5) / frames)
    means = np.bincount(videos, weights=normal) / sizes
    between = float((sizes * (means - normal.mean()) ** 2).sum()) / (count - 1)
    within = float(((normal - means[videos]) ** 2).sum()) / (frames - count)
    size = (frames - float((sizes**2).sum()) / frames) / (count - 1)
    spread = between + (size - 1) * within
    correlation = (between - within) / spread if spread > 0 else 1.0
    return Clusters(frames, siblings, min(max(correlation, 0.0), 1.0))


def area(labels: np.ndarray, scores: np.ndarray, videos: np.ndarray) -> Interval:
    """The interval of an area under the ROC curve.

    Its variance at a value is that of two normal distributions with this area, with random effects of videos
    whose share of the variance is each class's intraclass correlation. It is inflated if DeLong's variance of
    clustered frames (Obuchowski 1997) is larger than that at the estimate.

    Args:
      labels: int [n], 0 real, 1 fake; each occurs in at least two videos.
      scores: float [n].
      videos: int [n], the video of each frame; a video has one label.
    """
    parts = [labels == 0, labels == 1]
    real, fake = (clusters(scores[part], videos[part]) for part in parts)
    below = _placements(scores[parts[1]], scores[parts[0]])
    above = 1 - _placements(scores[parts[0]], scores[parts[1]])
    estimate = float(below.mean())
    observed = _mean_variance(above, videos[parts[0]]) + _mean_variance(below, videos[parts[1]])
    model = _binormal_variance(real, fake)
    inflation = max(observed / model(estimate), 1.0) if 0 < estimate < 1 else 1.0
    return _score_interval(estimate, lambda value: inflation * model(value))


def rate(estimate: float, variance: float, effective_frames: float) -> Interval:
    """Wilson's interval of a rate with the effective number of frames (as Korn and Graubard 1998).

    Args:
      estimate: the rate, 0 to 1.
      variance: of the estimate by resampling; 0 if it is not known.
      effective_frames: upper limit of the effective number, from `Clusters`.
    """
    frames = effective_frames
    if variance > 0 and 0 < estimate < 1:
        frames = min(frames, estimate * (1 - estimate) / variance)
    return _score_interval(estimate, lambda value: value * (1 - value) / frames)


def combination(
    weights: Sequence[float],
    estimates: Sequence[float],
    bounds: Sequence[Interval],
    replicates: Sequence[np.ndarray],
) -> Interval:
    """The interval of a weighted sum of estimates, such as a difference (MOVER: Zou and Donner 2008).

    Args:
      weights: of the sum.
      estimates: its terms.
      bounds: interval of each term.
      replicates: float [R] of each term, by the same resamples, for the correlations between terms; terms that
        do not vary count as uncorrelated.
    """
    scale = np.asarray(weights, float)
    value = float(scale @ np.asarray(estimates))
    ends = scale * (np.asarray(bounds).T - np.asarray(estimates))  # [2, k]
    centered = np.stack([np.asarray(r) - np.mean(r) for r in replicates])
    norms = np.linalg.norm(centered, axis=1)
    units = (np.sign(scale) / np.where(norms > 1e-12, norms, np.inf))[:, None] * centered
    correlation = units @ units.T  # of the weighted terms
    np.fill_diagonal(correlation, 1.0)
    distances = [
        float(np.sqrt(max(d @ correlation @ d, 0.0)))
        for d in (np.where(scale > 0, *ends), np.where(scale > 0, *ends[::-1]))
    ]
    return value - distances[0], value + distances[1]


def _placements(scores: np.ndarray, others: np.ndarray) -> np.ndarray:
    """The share of `others` below each score; an equal one counts half."""
    ordered = np.sort(others)
    left, right = (np.searchsorted(ordered, scores, side) for side in ("left", "right"))
    return (left + right) / (2 * len(others))


def _mean_variance(values: np.ndarray, videos: np.ndarray) -> float:
    """The variance of the mean of clustered values."""
    sums = np.bincount(np.unique(videos, return_inverse=True)[1], weights=values - values.mean())
    count = len(sums)
    return float((sums**2).sum()) * count / (count - 1) / len(values) ** 2


def _binormal_variance(real: Clusters, fake: Clusters) -> Callable[[float], float]:
    """The variance of an empirical area of clustered normal scores, as a function of the true area."""
    from scipy.special import ndtri, owens_t

    # The frame itself, others of its video, those of other videos: their number and their share of the
    # correlation of two differences between a fake's score and a real's.
    kinds = [
        (
            np.array([1.0, c.siblings, c.frames - 1 - c.siblings]),
            np.array([0.5, c.correlation / 2, 0.0]),
        )
        for c in (real, fake)
    ]
    (count_real, share_real), (count_fake, share_fake) = kinds
    counts = np.outer(count_real, count_fake)
    shared = share_real[:, None] + share_fake
    angle = np.sqrt((1 - shared) / (1 + shared))
    pairs = real.frames * fake.frames

    def variance(value: float) -> float:
        # P(both differences are positive), from Owen's T, less its value for independent ones
        covariance = value * (1 - value) - 2 * owens_t(ndtri(value), angle)
        return max(float((counts * covariance).sum()), 0.0) / pairs

    return variance


def _score_interval(estimate: float, variance: Callable[[float], float]) -> Interval:
    """The values from which the estimate is at most `Z` standard errors away, by bisection."""

    def end(outside: float) -> float:
        inside = estimate
        for _ in range(_BISECTIONS):
            value = (inside + outside) / 2
            if abs(estimate - value) <= Z * np.sqrt(variance(value)):
                inside = value
            else:
                outside = value
        return inside

    return end(0.0), end(1.0)
