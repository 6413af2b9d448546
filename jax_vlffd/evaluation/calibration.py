"""Calibration on a validation split: temperature, decision threshold, the uncertain band, Platt scaling.

The temperature is the one of Guo et al., "On Calibration of Modern Neural Networks" (2017); the scaling of raw
scores and the smoothed targets are Platt's (1999), so that a detector that separates the split gets a finite
one. The thresholds and the band are ours. NumPy alone is imported with this module: prediction and export use
it too.
"""

from __future__ import annotations

import json
import math
from dataclasses import asdict, dataclass, fields
from typing import Final, Literal

import numpy as np

from jax_vlffd.errors import UserError
from jax_vlffd.json_reading import parse_json

VERSION: Final = 1
BINS: Final = 15
#: With fewer positives or negatives nothing is fitted: a curve through so few points means nothing.
MIN_EXAMPLES: Final = 5
#: Lower bound of a Platt threshold: what is more likely false than true is never stated.
MIN_THRESHOLD: Final = 0.5
_LOG_TEMPERATURES: Final = (math.log(0.01), math.log(100.0))
#: What is read, a little more than can be fitted.
_MIN_TEMPERATURE, _MAX_TEMPERATURE = 0.009, 101.0
_MAX_SCALING: Final = 1e15  # scores lie within -2..2

Verdict = Literal["real", "uncertain", "fake"]


@dataclass(frozen=True)
class Calibration:
    """How a detector's logit becomes a probability and a verdict.

    Attributes:
      temperature: the logit is divided by it.
      threshold: calibrated probability above which a yes-or-no answer is 'fake' (the validation
        split's point of equal error).
      low, high: the band of 'uncertain', low <= threshold <= high. On the validation split at most
        `target` of the reals lie above `high`, and at most `target` of the fakes lie below `low`.
      target: the false-positive rate (and false-negative rate) that the band was chosen for.
      frames: how many frames it was fitted on; 0 means that it was not fitted.
    """

    temperature: float = 1.0
    threshold: float = 0.5
    low: float = 0.5
    high: float = 0.5
    target: float = 0.05
    frames: int = 0

    def __post_init__(self) -> None:
        """Checks ranges; raises UserError for values that no fit can give."""
        numbers = (self.temperature, self.threshold, self.low, self.high, self.target)
        if not all(math.isfinite(x) for x in numbers):
            raise UserError(f"calibration: not finite: {self}")
        if not _MIN_TEMPERATURE <= self.temperature <= _MAX_TEMPERATURE:
            raise UserError(
                f"calibration: a temperature outside {_MIN_TEMPERATURE:g} to {_MAX_TEMPERATURE:g}: {self}"
            )
        if not 0 <= self.low <= self.threshold <= self.high <= 1:
            raise UserError(f"calibration: not 0 <= low <= threshold <= high <= 1: {self}")

    def probability(self, logits: np.ndarray | float) -> np.ndarray:
        """Calibrated probability of being fake; float64, the shape of `logits`."""
        return sigmoid(np.asarray(logits, dtype=np.float64) / self.temperature)

    def verdict(self, probability: float) -> Verdict:
        """The three-way verdict for a calibrated probability."""
        if probability > self.high:
            return "fake"
        return "real" if probability < self.low else "uncertain"

    def to_json(self) -> str:
        """A JSON object with a version."""
        return json.dumps({"version": VERSION, **asdict(self)}, indent=2, allow_nan=False) + "\n"

    @classmethod
    def from_json(cls, text: str, source: str) -> Calibration:
        """Reads what `to_json` wrote.

        Raises:
          UserError: the text is anything else; it names `source`.
        """
        try:
            values = parse_json(text)
        except ValueError as error:
            raise UserError(f"{source}: not JSON ({error}); fit the calibration again") from error
        if not isinstance(values, dict) or values.get("version") != VERSION:
            raise UserError(f"{source}: not a calibration of version {VERSION}; fit it again")
        names = {field.name for field in fields(cls)}
        numbers = {key: value for key, value in values.items() if key != "version"}
        if set(numbers) != names or not all(type(v) in (int, float) for v in numbers.values()):
            raise UserError(
                f"{source}: a calibration has exactly the numbers {', '.join(sorted(names))}"
            )
        try:
            return cls(**numbers)
        except UserError as error:
            raise UserError(f"{source}: {error}") from error


def fit(logits: np.ndarray, labels: np.ndarray, target: float = 0.05) -> Calibration:
    """Fits a calibration on a validation split, never on data that is tested on.

    Args:
      logits: float [n], log-odds of being fake.
      labels: int [n], 0 real, 1 fake.
      target: the share of reals above, and of fakes below, the band of 'uncertain'; in (0, 0.5).

    Raises:
      UserError: one class only, or a logit that is not finite.
    """
    z = np.asarray(logits, dtype=np.float64)
    y = np.asarray(labels)
    if z.shape != y.shape or z.ndim != 1:
        raise ValueError(f"logits {z.shape} and labels {y.shape} are not both [n]")
    if not 0 < target < 0.5:
        raise UserError(f"the target false-positive rate is {target}; it must be between 0 and 0.5")
    if not np.isfinite(z).all():
        raise UserError("calibration: a logit is not finite")
    if not 0 < int(y.sum()) < len(y):
        raise UserError(
            "calibration needs reals and fakes; the validation split has one class only"
        )
    temperature = fit_temperature(z, y)
    probability = sigmoid(z / temperature)
    real, fake = np.sort(probability[y == 0]), np.sort(probability[y == 1])
    threshold = _equal_error_threshold(real, fake)
    # At most floor(target * n) of a class lie beyond the value, as the comparison is strict.
    high = max(float(real[::-1][int(target * len(real))]), threshold)
    low = min(float(fake[int(target * len(fake))]), threshold)
    return Calibration(temperature, threshold, low, high, target, len(z))


def fit_temperature(logits: np.ndarray, labels: np.ndarray) -> float:
    """The temperature in [0.01, 100] that minimizes the cross-entropy with Platt's smoothed labels.

    The cross-entropy is convex in 1/temperature, so its slope has one root.

    Args:
      logits: float64 [n].
      labels: int [n], 0 real, 1 fake; both occur.
    """
    from scipy.optimize import brentq

    target = _smoothed(labels == 1)

    def slope(log_temperature: float) -> float:
        probability = sigmoid(logits / math.exp(log_temperature))
        return float(np.mean(logits * (probability - target)))

    lowest, highest = _LOG_TEMPERATURES
    if slope(lowest) <= 0:  # underconfident even at the lowest temperature
        return math.exp(lowest)
    return math.exp(highest if slope(highest) >= 0 else brentq(slope, lowest, highest, xtol=1e-14))


def _smoothed(truth: np.ndarray) -> np.ndarray:
    """Platt's smoothed targets of bool [n]: float64, strictly between 0 and 1."""
    positives, negatives = int(truth.sum()), int((~truth).sum())
    return np.where(truth, (positives + 1) / (positives + 2), 1 / (negatives + 2))


@dataclass(frozen=True)
class PlattScaling:
    """Maps a raw score to a probability, with the threshold from which on its attribute is stated.

    slope, offset: of the logistic curve. threshold: in [0.5, 1]. examples: positives that it was fitted on.
    fitted: whether there were enough examples; otherwise `score` is meaningless.
    """

    slope: float = 0.0
    offset: float = 0.0
    threshold: float = 1.0
    examples: int = 0
    fitted: bool = False

    def __post_init__(self) -> None:
        """Checks ranges; raises UserError for values that no fit can give."""
        numbers = (self.slope, self.offset, self.threshold)
        if not all(isinstance(x, int | float) and abs(x) < _MAX_SCALING for x in numbers):
            raise UserError(f"scaling of a score: not numbers below {_MAX_SCALING:g}: {self}")

    def score(self, raw: np.ndarray | float) -> np.ndarray:
        """Probability in [0, 1], float64 in the shape of `raw`."""
        return sigmoid(self.slope * np.asarray(raw, np.float64) + self.offset)


def fit_platt(
    raw: np.ndarray,
    truth: np.ndarray,
    negatives: np.ndarray | None = None,
    max_false_positive_rate: float = 0.1,
) -> PlattScaling:
    """Fits Platt scaling and a threshold to raw scores.

    Args:
      raw: float [n].
      truth: 0/1 [n].
      negatives: bool [n], examples of the class for which the attribute must rarely be stated; None for none.
      max_false_positive_rate: largest share of `negatives` that may reach the threshold.
    """
    truth = np.asarray(truth) > 0
    examples = int(truth.sum())
    if min(examples, len(truth) - examples) < MIN_EXAMPLES:
        return PlattScaling(examples=examples)
    slope, offset = fit_logistic(raw, truth)
    score = sigmoid(slope * raw + offset)
    threshold = max(best_threshold(score, truth), MIN_THRESHOLD)
    if negatives is not None and negatives.any():
        descending = np.sort(score[negatives])[::-1]
        allowed = int(max_false_positive_rate * len(descending))
        threshold = max(threshold, float(np.nextafter(descending[allowed], 2.0)))
    if slope == 0:  # all examples have the same score: never state it
        threshold = 1.0
    return PlattScaling(slope, offset, threshold, examples, True)


def fit_logistic(raw: np.ndarray, truth: np.ndarray) -> tuple[float, float]:
    """Fits a logistic curve and returns its slope (at least 0) and offset.

    Minimizes the cross-entropy with Platt's smoothed targets and a weak L2 penalty on the slope of the
    standardized score, so that a few separated examples give a finite curve.

    Args:
      raw: float [n].
      truth: bool [n], both values occurring.
    """
    from sklearn.linear_model import LogisticRegression

    mean, spread = float(raw.mean()), max(float(raw.std()), 1e-12)
    target = _smoothed(truth)
    # A smoothed target is an example of either class, each with its weight.
    model = LogisticRegression(solver="newton-cholesky", tol=1e-10)
    both = np.tile((raw - mean) / spread, 2)[:, None]
    model.fit(both, np.repeat([1, 0], len(raw)), sample_weight=np.r_[target, 1 - target])
    weight, offset = float(model.coef_[0, 0]), float(model.intercept_[0])
    if weight <= 0:  # the score is lower where the attribute holds, so it is no evidence
        rate = float(target.mean())
        return 0.0, float(np.log(rate / (1 - rate)))
    return weight / spread, offset - weight * mean / spread


def best_threshold(score: np.ndarray, truth: np.ndarray) -> float:
    """The threshold of the highest F1; of equal ones the highest.

    It is the midpoint of two neighboring scores, so that no image of the split has exactly this score.

    Args:
      score: float [n], probabilities.
      truth: bool [n].
    """
    from sklearn.metrics import precision_recall_curve

    precision, recall, scores = precision_recall_curve(truth, score)
    f1 = (2 * precision * recall / np.maximum(precision + recall, 1e-12))[:-1]
    best = int(np.flatnonzero(f1 >= f1.max() - 1e-12)[-1])
    return float((scores[best] + (scores[best - 1] if best else 0.0)) / 2)


@dataclass(frozen=True)
class ReliabilityCurve:
    """Per bin, [bins] each: mean probability, share of fakes (both nan where empty), number of frames."""

    probability: np.ndarray
    fakes: np.ndarray
    frames: np.ndarray


def reliability_curve(
    probability: np.ndarray, labels: np.ndarray, bins: int = BINS
) -> ReliabilityCurve:
    """Reliability of probabilities [n] against labels [n] in `bins` equal bins of [0, 1]."""
    index = bin_index(probability, bins)
    frames = np.bincount(index, minlength=bins)
    with np.errstate(invalid="ignore"):
        mean = np.bincount(index, weights=probability, minlength=bins) / frames
        share = np.bincount(index, weights=labels, minlength=bins) / frames
    return ReliabilityCurve(mean, share, frames)


def expected_calibration_error(
    probability: np.ndarray, labels: np.ndarray, bins: int = BINS
) -> float:
    """ECE: mean over the frames of |mean probability - share of fakes| of the frame's bin."""
    curve = reliability_curve(probability, labels, bins)
    gap = np.abs(curve.probability - curve.fakes)[curve.frames > 0]
    return float(np.average(gap, weights=curve.frames[curve.frames > 0]))


def bin_index(probability: np.ndarray, bins: int = BINS) -> np.ndarray:
    """Int [n]: the equal bin of [0, 1] that a probability falls in; 1 falls in the last."""
    return np.minimum((np.asarray(probability) * bins).astype(np.int64), bins - 1)


def sigmoid(x: np.ndarray) -> np.ndarray:
    """The logistic function without overflow; float64."""
    from scipy.special import expit

    return np.asarray(expit(np.asarray(x, dtype=np.float64)))


def _equal_error_threshold(real: np.ndarray, fake: np.ndarray) -> float:
    """The threshold at which the false-positive and false-negative rates are nearest; sorted inputs.

    It is the midpoint of two neighboring scores, so that no frame of the split has exactly this score.
    """
    scores = np.unique(np.concatenate([real, fake]))
    between = np.concatenate([scores[:1], (scores[1:] + scores[:-1]) / 2, scores[-1:]])
    false_positive = 1 - np.searchsorted(real, between, side="right") / len(real)
    false_negative = np.searchsorted(fake, between, side="right") / len(fake)
    gap = np.abs(false_positive - false_negative)
    best = np.flatnonzero(gap <= gap.min() + 1e-12)
    # A whole range can be equally good (the gap between separated classes): take its middle.
    return float(between[best[len(best) // 2]])
