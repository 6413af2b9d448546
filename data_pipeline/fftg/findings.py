"""The forged regions of a pair and their forgery types, by the difference mask (paper, section 3.1)."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from data_pipeline.fftg.measure import artifacts
from data_pipeline.fftg.measure.difference_mask import Comparison, compare
from data_pipeline.fftg.measure.forged_regions import (
    eyes_score,
    region_scores,
    region_threshold,
    without_spill,
)
from data_pipeline.fftg.measure.thresholds import DEFAULT, AnnotatorSettings
from data_pipeline.fftg.measure.type_thresholds import beside_others, type_thresholds
from jax_vlffd.vocabulary import REGIONS

Image = NDArray[np.uint8]
Points = NDArray[np.float32]


@dataclass(frozen=True)
class RegionFinding:
    """The result for one region.

    Attributes:
      forged: whether `score` exceeds `threshold`.
      score: mean of the forgery mask in the region, 0 to 1; see `forged_regions` for eyes and spill.
      threshold: of `score`.
      types: the detected forgery types, in the order of the vocabulary; empty where it is not forged.
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
    settings: AnnotatorSettings = DEFAULT,
    mask: Image | None = None,
) -> tuple[dict[str, RegionFinding], Comparison]:
    """Compares one pair and measures its four regions.

    Args:
      real: uint8 [H, W, 3], RGB.
      fake: uint8 [H, W, 3].
      landmarks: float32 [68 or 81, 2] on the real.
      settings: thresholds.
      mask: uint8 [H, W], 0 to 255, used instead of the difference.

    Returns:
      The finding of each region of the vocabulary, and the comparison they are based on.

    Raises:
      PairError: see `difference_mask.compare`.
    """
    pair = compare(real, fake, landmarks, settings, mask)
    scores = region_scores(pair.mask, pair.labels)
    if mask is None:
        eyes = REGIONS.index("eyes")
        scores[eyes] = eyes_score(scores[eyes], pair.mask, pair.landmarks)
        threshold = region_threshold(pair.noise, max(scores), settings)
        scores = without_spill(scores, pair.mask, pair.labels, threshold, pair.size)
    else:
        threshold = max(settings.forged_dataset_mask, settings.fringe * max(scores))
    forged = [index for index in range(len(REGIONS)) if scores[index] > threshold]
    shared = artifacts.planes(pair, forged) if forged else None
    findings = {}
    for index, name in enumerate(REGIONS):
        by_type: dict[str, float] = {}
        limits = type_thresholds(name, settings)
        if shared and index in forged:
            by_type = artifacts.scores(shared, index, limits["boundary"])
            limits = beside_others(by_type, limits)
        findings[name] = RegionFinding(
            index in forged,
            scores[index],
            threshold,
            tuple(kind for kind, value in by_type.items() if value > limits[kind]),
            {kind: _evidence(value, limits[kind]) for kind, value in by_type.items()},
        )
    return findings, pair


def _evidence(score: float, threshold: float) -> dict[str, float]:
    figures = {"score": score, "threshold": threshold, "margin": score - threshold}
    return {name: round(value, 3) for name, value in figures.items()}
