"""Forged facial regions of a pair: the mean of the mask against a threshold (paper, section 3.1)."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from data_pipeline.fftg.measure.pixels import as_bytes, mean_within
from data_pipeline.fftg.measure.thresholds import AnnotatorSettings
from jax_vlffd.vocabulary import REGIONS


def region_scores(values: NDArray[np.float32], labels: NDArray[np.uint8]) -> list[float]:
    """The mean of `values` ([H, W]) in each region, in the order of REGIONS; 0 for an invisible region."""
    return [mean_within(values, as_bytes(labels == 1 + index)) for index in range(len(REGIONS))]


def region_threshold(
    noise: tuple[float, float], strongest: float, settings: AnnotatorSettings
) -> float:
    """The threshold on the mean of the mask in a region, above which the region is forged.

    Args:
      noise: `a` and `b` of the expected noise. A video codec raises both, a JPEG of a sharp picture
        one of them: their geometric mean predicts the largest mask of an unchanged face.
      strongest: the largest region mean; regions below a small fraction of it are its fringe.
      settings: thresholds.

    Returns:
      The threshold, 0 to 1.
    """
    level = float(np.sqrt(noise[0] * noise[1]))
    position = (level - settings.quiet) / (settings.noisy - settings.quiet)
    levels = settings.forged + (settings.forged_noisy - settings.forged) * min(
        max(position, 0.0), 1.0
    )
    return max(levels / 255.0, settings.fringe * strongest)
