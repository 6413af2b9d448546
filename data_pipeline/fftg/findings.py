"""The findings of a pair: its four regions judged by the difference mask, with their types (paper, 3.1)."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from data_pipeline.fftg.measure import artifacts
from data_pipeline.fftg.measure.difference_mask import Comparison, compare
from data_pipeline.fftg.measure.forged_regions import region_scores, region_threshold
from data_pipeline.fftg.measure.thresholds import DEFAULT, Settings
from jax_vlffd.vocabulary import REGIONS

Image = NDArray[np.uint8]
Points = NDArray[np.float32]


@dataclass(frozen=True)
class RegionFinding:
    """What was found in one region.

    Attributes:
      forged: whether `score` exceeds `threshold`.
      score: mean of the forgery mask in the region, 0 to 1.
      threshold: what it had to exceed.
      types: the forgery types found, in the order of the vocabulary; none where it is not forged.
      evidence: for each type its `score`, `threshold` and `margin`; empty where it is not forged.
    """

    forged: bool
    score: float
    threshold: float
    types: tuple[str, ...]
    evidence: dict[str, dict[str, float]]


def annotate_pair(
    real: Image,
    fake: Image,
    landmarks: Points,
    settings: Settings = DEFAULT,
    mask: Image | None = None,
) -> tuple[dict[str, RegionFinding], Comparison]:
    """Compares one pair and judges its four regions.

    Args:
      real: uint8 [H, W, 3], RGB.
      fake: uint8 [H, W, 3].
      landmarks: float32 [68 or 81, 2] on the real.
      settings: thresholds.
      mask: uint8 [H, W] to take instead of the difference.

    Returns:
      The finding of each region of the vocabulary, and the comparison that they rest on.

    Raises:
      PairError: see `mask.compare`.
    """
    pair = compare(real, fake, landmarks, settings, mask)
    strengths = region_scores(pair.mask, pair.labels)
    if mask is None:
        threshold = region_threshold(pair.noise, max(strengths), settings)
    else:
        threshold = max(settings.forged_given, settings.fringe * max(strengths))
    forged = [index for index in range(len(REGIONS)) if strengths[index] > threshold]
    shared = artifacts.planes(pair, forged) if forged else None
    findings = {}
    for index, name in enumerate(REGIONS):
        found: dict[str, float] = {}
        if shared and index in forged:
            found = artifacts.scores(shared, index, settings.boundary)
        findings[name] = RegionFinding(
            index in forged,
            strengths[index],
            threshold,
            tuple(kind for kind, value in found.items() if value > settings.threshold(kind)),
            {kind: _evidence(value, settings.threshold(kind)) for kind, value in found.items()},
        )
    return findings, pair


def _evidence(score: float, threshold: float) -> dict[str, float]:
    figures = {"score": score, "threshold": threshold, "margin": score - threshold}
    return {name: round(value, 3) for name, value in figures.items()}
