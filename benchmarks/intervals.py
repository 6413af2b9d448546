"""Coverage and width of 95 % intervals of an AUC, by simulation of near-perfect detectors on few videos.

Scores are a video's effect plus a frame's, with as many videos of either class. Methods: the product's, the
percentile and BCa bootstrap over videos (Efron), DeLong's variance of clustered frames on the logit scale
(Obuchowski 1997), the same with the rule of three of videos without an error where the classes are
separated, Newcombe's method 5 (2006) with Hanley and McNeil's variance by the number of videos, and Clopper and
Pearson's bounds for the AUC as a rate over videos.
"""

from __future__ import annotations

import functools
import itertools
from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict, dataclass
from typing import Any, Final

import numpy as np
from absl import flags

from jax_vlffd.evaluation import intervals

FLAGS = flags.FLAGS
flags.DEFINE_integer("datasets", 2000, "intervals: simulated sets for each cell.", lower_bound=10)

AUCS: Final = (0.9, 0.99, 0.998)
VIDEOS: Final = (10, 20, 30, 50)
#: Frames of a video, and the intraclass correlation of their scores.
FRAMES: Final = ((1, 1.0), (8, 0.3), (8, 0.8), (32, 0.5))
#: Normal scores of equal spread; fakes of twice the spread; a share of fake videos that score as reals do;
#: Student's t with three degrees of freedom, so that some videos score far from the others.
SHAPES: Final = ("normal", "unequal", "hard", "heavy")

_TAIL: Final = 0.025
_RESAMPLES: Final = 500
_APART: Final = 8.0  # in standard deviations: the AUC of these is 1 to 8 digits

_FREEDOM: Final = 3

Bounds = tuple[float, float]


@dataclass(frozen=True)
class Cell:
    """What is simulated: true AUC of frames, videos a class, frames a video and their correlation, shape."""

    auc: float
    videos: int
    frames: int = 1
    correlation: float = 1.0
    shape: str = "normal"


def cells(shapes: Iterable[str] = SHAPES) -> Iterator[Cell]:
    """Every cell of the tables."""
    for shape, (frames, correlation), auc, videos in itertools.product(
        shapes, FRAMES, AUCS, VIDEOS
    ):
        yield Cell(auc, videos, frames, correlation, shape)


def simulate(cell: Cell, rng: np.random.Generator) -> np.ndarray:
    """Scores of one set: float64 [2, videos, frames], reals first."""
    from scipy.special import ndtri

    size = (2, cell.videos, cell.frames)
    effects = rng.standard_normal((*size[:2], 1)) * np.sqrt(cell.correlation)
    scores = effects + rng.standard_normal(size) * np.sqrt(1 - cell.correlation)
    if cell.shape == "hard":
        easy = rng.random((cell.videos, 1)) >= 2 * (1 - cell.auc)
        scores[1] += _APART * easy
        return scores
    if cell.shape == "heavy":
        scores /= np.sqrt(rng.chisquare(_FREEDOM, (*size[:2], 1)) / _FREEDOM)
        scores[1] += _heavy_shift(cell.auc)
        return scores
    spread = 2.0 if cell.shape == "unequal" else 1.0
    scores[1] = scores[1] * spread + np.sqrt(1 + spread**2) * ndtri(cell.auc)
    return scores


@functools.cache
def _heavy_shift(auc: float) -> float:
    """By how much one of two variables of Student's t is larger for this AUC."""
    first, second = np.random.default_rng(0).standard_t(_FREEDOM, (2, 4_000_000))
    return float(np.quantile(first - second, auc))


def product(scores: np.ndarray) -> Bounds:
    """The interval that `jax_vlffd.evaluation` gives."""
    _, videos, frames = scores.shape
    labels = np.repeat([0, 1], videos * frames)
    return intervals.area(labels, scores.reshape(-1), np.repeat(np.arange(2 * videos), frames))


def others(scores: np.ndarray, rng: np.random.Generator) -> dict[str, Bounds]:
    """The intervals of the other methods."""
    real, fake = scores
    count = len(real)
    difference = fake.reshape(-1, 1) - real.reshape(1, -1)
    wins = (np.sign(difference) + 1) / 2
    pairs = wins.reshape(count, fake.shape[1], count, real.shape[1]).mean((1, 3))  # of videos
    estimate = float(pairs.mean())
    parts = np.concatenate([pairs.mean(0), pairs.mean(1)]) - estimate
    resampled = _resample(pairs, rng)
    low, high = np.quantile(resampled, [_TAIL, 1 - _TAIL])
    delong = _delong(estimate, float((parts**2).sum()) / (count * (count - 1)))
    separated = estimate == 1
    return {
        "percentile": (float(low), float(high)),
        "bca": _bca(estimate, parts, resampled),
        "delong_logit": delong,
        "delong_or_no_error": (_TAIL ** (1 / count), 1.0) if separated else delong,
        "newcombe_videos": intervals._score_interval(estimate, _hanley_mcneil(count)),
        "clopper_pearson_videos": _clopper_pearson(estimate, count),
    }


def _resample(pairs: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    count = len(pairs)
    even = np.full(count, 1 / count)
    fakes, reals = (rng.multinomial(count, even, size=_RESAMPLES) for _ in range(2))
    return np.einsum("rf,fk,rk->r", fakes, pairs, reals, optimize=True) / count**2


def _bca(estimate: float, parts: np.ndarray, resampled: np.ndarray) -> Bounds:
    from scipy.special import ndtr, ndtri

    below = np.mean(resampled < estimate) + np.mean(resampled == estimate) / 2
    if not 0 < below < 1 or not parts.any():
        return float(resampled.min()), float(resampled.max())
    bias, skew = ndtri(below), (parts**3).sum() / (6 * (parts**2).sum() ** 1.5)
    shifted = bias + ndtri(np.array([_TAIL, 1 - _TAIL]))
    low, high = np.quantile(resampled, ndtr(bias + shifted / (1 - skew * shifted)))
    return float(low), float(high)


def _delong(estimate: float, variance: float) -> Bounds:
    from scipy.special import expit, logit

    if not 0 < estimate < 1:
        return estimate, estimate
    center, error = logit(estimate), np.sqrt(variance) / (estimate * (1 - estimate))
    return float(expit(center - intervals.Z * error)), float(expit(center + intervals.Z * error))


def _hanley_mcneil(count: int) -> Callable[[float], float]:
    def variance(value: float) -> float:
        shares = (1 - value) / (2 - value) + value / (1 + value)
        return value * (1 - value) / count**2 * (1 + (count - 1) * shares)

    return variance


def _clopper_pearson(estimate: float, count: int) -> Bounds:
    from scipy.stats import beta

    right, wrong = estimate * count, (1 - estimate) * count
    low = float(beta.ppf(_TAIL, right, wrong + 1)) if right > 0 else 0.0
    return low, float(beta.ppf(1 - _TAIL, right + 1, wrong)) if wrong > 0 else 1.0


def coverage(
    cell: Cell, datasets: int, seed: int, compared: bool = False
) -> dict[str, dict[str, float]]:
    """Share of the intervals that hold the true AUC, and their mean width, by method.

    Args:
      cell: what is simulated.
      datasets: how many sets.
      seed: of the random stream.
      compared: whether to compute the other methods too.
    """
    rng = np.random.default_rng(seed)
    bounds: dict[str, list[Bounds]] = {}
    for _ in range(datasets):
        scores = simulate(cell, rng)
        every = {"product": product(scores)} | (others(scores, rng) if compared else {})
        for name, pair in every.items():
            bounds.setdefault(name, []).append(pair)
    return {
        name: {
            "coverage": float(np.mean([low <= cell.auc <= high for low, high in pairs])),
            "width": float(np.mean([high - low for low, high in pairs])),
        }
        for name, pairs in bounds.items()
    }


def measure() -> dict[str, Any]:
    """Simulates every cell by every method."""
    rows = [
        asdict(cell) | {"methods": coverage(cell, FLAGS.datasets, seed, compared=True)}
        for seed, cell in enumerate(cells())
    ]
    return {"bench": "intervals", "datasets": FLAGS.datasets, "cells": rows}
