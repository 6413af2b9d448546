"""Forged facial regions of a pair: the mean of the mask against a threshold (paper, section 3.1)."""

from __future__ import annotations

from typing import Final

import cv2
import numpy as np
from numpy.typing import NDArray

from data_pipeline.fftg.measure.pixels import as_bytes, mean_within, quantile
from data_pipeline.fftg.measure.thresholds import AnnotatorSettings
from jax_vlffd.vocabulary import REGIONS

#: Fraction of a region that is judged at least: what lies deepest, where bands cover more.
_MIN_CORE: Final = 0.3
#: Width of a band, in sizes of the face. Not a setting: paid replies are stored by the settings' values.
_SPILL: Final = 0.1
#: Fraction of the setting `fringe` that holds, as spill is separated by place; and the fraction of the mean
#: over one eye that counts as the score of the eyes with their brows.
_FRINGE: Final = 0.5
_ONE_EYE: Final = 0.3


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
    return max(levels / 255.0, _FRINGE * settings.fringe * strongest)


def without_spill(
    scores: list[float],
    values: NDArray[np.float32],
    labels: NDArray[np.uint8],
    threshold: float,
    size: float,
) -> list[float]:
    """The scores, less what the soft border of an edit leaves in the neighbors of its region.

    A band along each forged region belongs to it: a weaker neighbor has the mean of what lies beyond,
    where that is smaller. A region mostly within such bands has the mean of its deepest part.

    Args:
      scores: of `region_scores`.
      values: the mask, [H, W].
      labels: [H, W], see `regions.region_labels`.
      threshold: of the scores.
      size: of the face in pixels.

    Returns:
      The scores, none larger than before.
    """
    order = sorted(range(len(scores)), key=lambda index: -scores[index])
    order = [index for index in order if scores[index] > threshold]
    result = list(scores)
    free = np.ones_like(labels)
    for index in order:
        inside = as_bytes(labels == 1 + index)
        if index != order[0]:
            within = inside.ravel().nonzero()[0]
            distance = cv2.distanceTransform(free, cv2.DIST_L2, 3)
            depth = np.asarray(distance, np.float32).ravel()[within]
            core = depth >= min(_SPILL * size, quantile(depth, 1 - _MIN_CORE))
            result[index] = min(scores[index], float(values.ravel()[within[core]].mean()))
        if result[index] > threshold:
            free &= 1 - inside
    return result


def eyes_score(score: float, values: NDArray[np.float32], landmarks: NDArray[np.float32]) -> float:
    """The score of the eyes: the mean over eyes and brows, or a fraction of that over one eye.

    An eye is a tenth of its region: a mean over all of it hides a change of the eye alone.

    Args:
      score: the mean over the region.
      values: the mask, [H, W].
      landmarks: [68 or 81, 2] on the mask.
    """
    for eye in (landmarks[36:42], landmarks[42:48]):
        middle = eye.mean(axis=0)
        outline = np.round(middle + 1.2 * (eye - middle)).astype(np.int32)
        part = np.zeros(values.shape, np.uint8)
        cv2.fillConvexPoly(part, cv2.convexHull(outline), 1)
        score = max(score, _ONE_EYE * mean_within(values, part))
    return score
