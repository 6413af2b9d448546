"""Which facial regions of a pair are forged (paper section 3.1): the mean of the mask against a threshold."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from data_pipeline.fftg.measure.pixels import as_bytes, mean_within
from data_pipeline.fftg.measure.thresholds import Settings
from jax_vlffd.vocabulary import REGIONS


def region_scores(values: NDArray[np.float32], labels: NDArray[np.uint8]) -> list[float]:
    """The mean of `values` ([H, W]) in each region, in the order of REGIONS; 0 for one not in view."""
    return [mean_within(values, as_bytes(labels == 1 + index)) for index in range(len(REGIONS))]


def region_threshold(noise: tuple[float, float], strongest: float, settings: Settings) -> float:
    """What the mean of the mask in a region must exceed for the region to be forged.

    Args:
      noise: `a` and `b` of the expected noise. A video codec raises both, a JPEG of a sharp picture
        one of them: their geometric mean tells how far the mask of an unchanged face may go.
      strongest: the largest of the regions' means; a small share of it is that region's fringe.
      settings: thresholds.

    Returns:
      A mean of the mask, 0 to 1.
    """
    level = float(np.sqrt(noise[0] * noise[1]))
    along = (level - settings.quiet) / (settings.noisy - settings.quiet)
    levels = settings.forged + (settings.forged_noisy - settings.forged) * min(max(along, 0.0), 1.0)
    return max(levels / 255.0, settings.fringe * strongest)
