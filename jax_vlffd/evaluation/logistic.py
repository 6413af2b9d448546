"""From a raw score to a probability, and from which probability on it is believed: fitted on a validation
split. NumPy only.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np

from jax_vlffd.evaluation.calibration import sigmoid

#: With fewer examples (or counterexamples) nothing is fitted: a curve through so few points says nothing.
LEAST_EXAMPLES: Final = 5

#: A threshold is never lower: what is more likely false than true is not said.
LEAST_BELIEVED: Final = 0.5


@dataclass(frozen=True)
class Curve:
    """A raw score's way to a probability, and from which probability on it is named.

    fitted: whether there were examples enough; without, `score` is None and nothing is named.
    """

    slope: float = 0.0
    offset: float = 0.0
    threshold: float = 1.0
    examples: int = 0
    fitted: bool = False

    def score(self, raw: np.ndarray | float) -> np.ndarray:
        """Probability, float64 of the shape of `raw`."""
        return sigmoid(self.slope * np.asarray(raw, np.float64) + self.offset)


def fit_curve(
    raw: np.ndarray, truth: np.ndarray, sound: np.ndarray | None = None, most: float = 0.1
) -> Curve:
    """The curve of a raw score, and its threshold.

    Args:
      raw: float [n].
      truth: 0/1 [n].
      sound: bool [n], the examples of which nothing should be named; None for none.
      most: at most this share of them lies at or above the threshold.
    """
    truth = np.asarray(truth) > 0
    examples = int(truth.sum())
    if min(examples, len(truth) - examples) < LEAST_EXAMPLES:
        return Curve(examples=examples)
    slope, offset = fit_logistic(raw, truth)
    score = sigmoid(slope * raw + offset)
    threshold = max(best_threshold(score, truth), LEAST_BELIEVED)
    if sound is not None and sound.any():
        ordered = np.sort(score[sound])[::-1]
        threshold = max(threshold, float(np.nextafter(ordered[int(most * len(ordered))], 2.0)))
    if slope == 0:  # one score for all: it names nothing
        threshold = 1.0
    return Curve(slope, offset, threshold, examples, True)


def fit_logistic(raw: np.ndarray, truth: np.ndarray) -> tuple[float, float]:
    """Slope (at least 0) and offset of the logistic curve of least cross-entropy.

    Platt's smoothed targets, and a weak pull of the slope to 0, so that a few separated examples give a
    finite curve. Newton's method on the standardised score.

    Args:
      raw: float [n].
      truth: bool [n], both values occurring.
    """
    mean, spread = float(raw.mean()), max(float(raw.std()), 1e-12)
    x = (raw - mean) / spread
    positives, negatives = int(truth.sum()), int((~truth).sum())
    goal = np.where(truth, (positives + 1) / (positives + 2), 1 / (negatives + 2))
    w = np.zeros(2)
    design = np.column_stack([x, np.ones_like(x)])
    ridge = np.array([1.0, 1e-6])
    for _ in range(50):
        p = sigmoid(design @ w)
        gradient = design.T @ (p - goal) + ridge * w
        hessian = design.T @ (design * (p * (1 - p))[:, None]) + np.diag(ridge)
        change = np.linalg.solve(hessian, gradient)
        w = w - np.clip(change, -4.0, 4.0)
        if np.abs(change).max() < 1e-9:
            break
    if w[0] <= 0:  # less alike where it is true: the sentence says nothing of this set
        rate = float(goal.mean())
        return 0.0, float(np.log(rate / (1 - rate)))
    return float(w[0] / spread), float(w[1] - w[0] * mean / spread)


def best_threshold(score: np.ndarray, truth: np.ndarray) -> float:
    """The probability from which on naming gives the highest F1; ties go to the higher one.

    Taken between two neighbouring scores, so that no image of the split lies on it.
    """
    order = np.argsort(-score, kind="stable")
    hits = np.cumsum(truth[order])
    f1 = 2 * hits / (np.arange(1, len(order) + 1) + truth.sum())
    ordered = score[order]
    last = np.append(ordered[1:] < ordered[:-1], True)  # a threshold never parts equal scores
    best = int(np.flatnonzero(last & (f1 >= f1[last].max() - 1e-12))[0])
    below = ordered[best + 1] if best + 1 < len(ordered) else 0.0
    return float((ordered[best] + below) / 2)
