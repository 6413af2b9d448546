"""Tone of a pair: estimates and undoes the curve of gray levels that brightness, contrast and gamma change.

The method is ours. Each channel has the curve `gain v + offset + bend v log(v / 255)`, whose last term is
a gamma near 1 to first order. It is fitted by least squares over the pixels outside the face, without
outliers, and applied only if those pixels then agree better than by the gain and offset of the registration.
"""

from __future__ import annotations

from typing import Final

import cv2
import numpy as np
from numpy.typing import NDArray

from data_pipeline.fftg.measure.registration import Alignment

Image = NDArray[np.uint8]
Curves = NDArray[np.float64]
Indices = NDArray[np.intp]

#: Change in gray levels, of the mean of pixels of like level outside, from which curves are fitted; and the
#: number of pixels that such a mean needs, and of those that a fit uses.
_FROM: Final = 0.7
_ENOUGH: Final = 30
_SAMPLES: Final = 1000
#: Bound of the change of middle gray; a stronger one is not a change of tone.
_MAX_GRAY_CHANGE: Final = 28.0
#: Number of steps of the fit, and difference in gray levels at which a pixel stops to count.
_STEPS: Final = 6
_CAP: Final = 32.0
#: Weights that keep offset and bend small where the surroundings show few gray levels, in pixels.
_PRIOR: Final = (1e-3, 1.0, 100.0)

_LEVELS: Final = np.arange(256, dtype=np.float64)
_BEND: Final = _LEVELS * np.log(np.maximum(_LEVELS, 1.0) / 255.0)
_TERMS: Final = np.stack([_LEVELS, np.ones(256), _BEND], axis=1)


def undo(real: Image, fake: Image, alignment: Alignment, around: Indices) -> tuple[Image, Image]:
    """Gives the fake the tone of the real.

    Args:
      real: uint8 [H, W, 3].
      fake: uint8 [H, W, 3], moved onto the real.
      alignment: whose gain and offset are undone where a curve fits no better.
      around: flat indices of pixels that a forgery of the face does not reach.

    Returns:
      The images, uint8 [H, W, 3]. What a curve pushed out of range in the fake is clipped in the real.
    """
    curves = _curves(real, fake, alignment, around)
    if curves is None:
        return real, fake
    back = np.stack([np.interp(_LEVELS, curve, _LEVELS) for curve in curves], axis=1)
    fake = cv2.LUT(fake, np.rint(back).astype(np.uint8)[:, None]).astype(np.uint8)
    shown = np.clip(_LEVELS[:, None], np.rint(back[0]), np.rint(back[255])).astype(np.uint8)
    if (shown != _LEVELS[:, None]).any():
        real = cv2.LUT(real, shown[:, None]).astype(np.uint8)
    return real, fake


def _curves(real: Image, fake: Image, alignment: Alignment, around: Indices) -> Curves | None:
    """The fake's level of each level of the real, float64 [3, 256], increasing; None for no change."""
    # Averages, as the noise of the real would flatten the curve.
    thinned = around[:: 1 + len(around) // _SAMPLES]
    before, after = (
        np.asarray(cv2.blur(image, (3, 3)), np.uint8).reshape(-1, 3)[thinned]
        for image in (real, fake)
    )
    straight = np.abs(alignment.gain - 1) > 0.01 or abs(alignment.offset) > 1.0
    if not straight and _change(before, after) < _FROM:
        return None
    options = [np.tile(_LEVELS, (3, 1))]
    if straight:
        options.append(np.tile(alignment.gain * _LEVELS + alignment.offset, (3, 1)))
    options.append(np.stack([_fitted(before[:, c], after[:, c], alignment) for c in range(3)]))
    errors = [_error(curves, before, after) for curves in options]
    best = 0
    for index in range(1, len(options)):
        steep = np.diff(options[index]).min() > 0
        moved = np.abs(options[index][:, 128] - 128).max()
        if steep and moved < _MAX_GRAY_CHANGE and errors[index] < 0.95 * errors[best]:
            best = index
    return options[best] if best else None


def _change(before: Image, after: Image) -> float:
    """The largest change of the mean of pixels of like level, of any channel, from levels [N, 3]."""
    change = np.clip(after.astype(np.float64) - before, -_CAP / 2, _CAP / 2)
    largest = 0.0
    for channel in range(3):
        level = before[:, channel] >> 5
        count = np.bincount(level, minlength=8)
        total = np.bincount(level, change[:, channel], minlength=8)
        means = np.abs(total[count >= _ENOUGH] / count[count >= _ENOUGH])
        largest = max(largest, float(means.max(initial=0.0)))
    return largest


def _fitted(before: Image, after: Image, alignment: Alignment) -> NDArray[np.float64]:
    """The curve of one channel, float64 [256], from levels [N] of real and fake."""
    known = (before > 2) & (before < 253) & (after > 2) & (after < 253)
    design, target = _TERMS[before[known]], after[known].astype(np.float64)
    start = np.array([1.0, 0.0, 0.0])
    values = np.array([alignment.gain, alignment.offset, 0.0])
    for step in range(_STEPS):
        error = np.abs(target - design @ values)
        bound = max(1.5, 2.5 * float(np.median(error)) if len(error) else 0.0, 16.0 * 0.5**step)
        inliers = design * (error <= bound)[:, None]
        prior = np.diag(_PRIOR)
        values = np.linalg.solve(inliers.T @ design + prior, inliers.T @ target + prior @ start)
    return np.asarray(_TERMS @ values)


def _error(curves: Curves, before: Image, after: Image) -> float:
    """The mean difference of the fake's levels [N, 3] from the real's under curves, capped."""
    expected = np.clip(curves, 0, 255).T.astype(np.float32)
    levels = np.stack([expected[before[:, c], c] for c in range(3)], axis=1)
    return float(np.minimum(np.abs(levels - after), _CAP).mean())
