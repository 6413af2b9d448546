"""Undoing what sets the two images of a pair apart without being a forgery: a shift, a gain.

All of it is ours. A shift is found by phase correlation of gradients (Kuglin and Hines 1975),
refined together with a gain and an offset by least squares (Lucas and Kanade 1981) over the pixels
outside the face, and kept only when those pixels then agree better.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, TypeVar

import cv2
import numpy as np
from numpy.typing import NDArray

Image = NDArray[np.uint8]
Gray = NDArray[np.float32]
Map = NDArray[np.bool_]
_Pixels = TypeVar("_Pixels", Image, Gray)

#: Grey levels within which two low-passed pixels are taken for the same.
_SAME: Final = 8.0
#: Pixels that vote on a shift, and steps of its refinement.
_SAMPLES: Final = 4000
_STEPS: Final = 8
#: A gain, or a change of middle grey, beyond these is another picture.
_GAINS: Final = (0.75, 1.33)
_LEVELS: Final = 24.0


@dataclass(frozen=True)
class Alignment:
    """What was found between the images of a pair, real to fake.

    Attributes:
      shift: (x, y) in pixels by which the fake's content lies right of and below the real's.
      gain: contrast of the fake over that of the real outside the face.
      offset: grey levels added on top of the gain.
      agreement: share of pixels outside the face (or inside, where that is more) that are the same
        within a few grey levels once shift, gain and offset are undone; 0 to 1.
    """

    shift: tuple[float, float]
    gain: float
    offset: float
    agreement: float


def estimate(real: Image, fake: Image, outside: Map, inside: Map) -> Alignment:
    """Estimates shift, gain and offset of a pair.

    Args:
      real: uint8 [H, W, 3].
      fake: uint8 [H, W, 3].
      outside: [H, W], pixels that no forgery of the face reaches.
      inside: [H, W], pixels of the face.
    """
    a, b = _gray(real), _gray(fake)
    still = Alignment((0.0, 0.0), 1.0, 0.0, _agreement(a, b, outside, inside))
    if _residual(a, b, outside) < 0.5:
        return still
    best, best_residual = still, _residual(a, b, outside)
    coarse = _phase_shift(a, b)
    starts = [(0.0, 0.0)] if np.hypot(*coarse) < 1.0 else [(0.0, 0.0), coarse]
    for start in starts:
        shift, gain, offset = _refine(a, b, outside, start)
        moved = (_translate(b, -shift[0], -shift[1]) - offset) / gain
        residual = _residual(a, moved, outside)
        if abs(128 * (gain - 1) + offset) > _LEVELS:
            continue
        # A tenth better, or it is the noise that was fitted.
        if residual < 0.9 * best_residual:
            best = Alignment(shift, gain, offset, _agreement(a, moved, outside, inside))
            best_residual = residual
    return best


def undo(
    real: Image, fake: Image, alignment: Alignment
) -> tuple[Image, Image, tuple[float, float]]:
    """Moves both images of a pair onto each other and takes the gain from the fake.

    The whole pixels of a shift move the fake; what is left is shared, half each in opposite
    directions, so that interpolation softens both alike and is not taken for a blur.

    Returns:
      The two images, uint8 [H, W, 3], and the (x, y) by which landmarks of the real move.
    """
    x, y = alignment.shift
    whole = (float(round(x)), float(round(y)))
    rest = (x - whole[0], y - whole[1])
    move = (0.0, 0.0)
    if any(whole):
        fake = _translate(fake, -whole[0], -whole[1])
    if max(abs(rest[0]), abs(rest[1])) > 0.1:
        move = (rest[0] / 2, rest[1] / 2)
        real = _translate(real, *move)
        fake = _translate(fake, -move[0], -move[1])
    if abs(alignment.gain - 1) > 0.01 or abs(alignment.offset) > 1.0:
        level = (np.arange(256) - alignment.offset) / alignment.gain
        fake = cv2.LUT(fake, np.clip(np.rint(level), 0, 255).astype(np.uint8)).astype(np.uint8)
    return real, fake, move


def _gray(image: Image) -> Gray:
    gray = cv2.cvtColor(image, cv2.COLOR_RGB2GRAY).astype(np.float32)
    return cv2.GaussianBlur(gray, (0, 0), 1.2).astype(np.float32)


def _residual(a: Gray, b: Gray, outside: Map) -> float:
    """Mean absolute difference outside, capped for each pixel: backgrounds may be replaced."""
    return float(np.minimum(cv2.absdiff(a, b), 4 * _SAME)[outside].mean())


def _agreement(a: Gray, b: Gray, outside: Map, inside: Map) -> float:
    same = cv2.absdiff(a, b) < _SAME
    return float(max(same[outside].mean(), same[inside].mean()))


def _translate(image: _Pixels, x: float, y: float) -> _Pixels:
    matrix = np.array([[1, 0, x], [0, 1, y]], np.float64)
    size = (image.shape[1], image.shape[0])
    flags, border = cv2.INTER_CUBIC, cv2.BORDER_REPLICATE
    moved = cv2.warpAffine(image, matrix, size, flags=flags, borderMode=border)
    return moved.astype(image.dtype, copy=False)


def _phase_shift(a: Gray, b: Gray) -> tuple[float, float]:
    """The shift of `b` against `a` in pixels, by the phases of their edges at reduced size."""
    scale = max(1.0, min(a.shape) / 64)
    size = (round(a.shape[1] / scale), round(a.shape[0] / scale))
    edges = []
    for gray in (a, b):
        small = cv2.resize(gray, size, interpolation=cv2.INTER_AREA)
        edges.append(cv2.Laplacian(small, cv2.CV_32F))
    window = cv2.createHanningWindow(size, cv2.CV_32F)
    (x, y), _ = cv2.phaseCorrelate(edges[0], edges[1], window)
    return x * scale, y * scale


def _refine(
    a: Gray, b: Gray, outside: Map, start: tuple[float, float]
) -> tuple[tuple[float, float], float, float]:
    """Shift, gain and offset that take `a` to `b` outside the face, from a first shift."""
    rows, columns = np.nonzero(outside)
    step = 1 + len(rows) // _SAMPLES
    rows, columns = rows[::step], columns[::step]
    x, y = columns.astype(np.float32), rows.astype(np.float32)
    values = a[rows, columns]
    slope_x = cv2.Sobel(a, cv2.CV_32F, 1, 0, scale=0.125)[rows, columns]
    slope_y = cv2.Sobel(a, cv2.CV_32F, 0, 1, scale=0.125)[rows, columns]
    design = np.stack([-slope_x, -slope_y, values, np.ones_like(values)], axis=1)
    shift = np.array(start, np.float64)
    gain, offset = 1.0, 0.0
    for _ in range(_STEPS):
        target = _sample(b, x + np.float32(shift[0]), y + np.float32(shift[1]))
        error = np.abs(target - gain * values - offset)
        # Pixels that fit badly are another background or a forgery's fringe: they do not vote.
        kept = (error <= max(2.0, 2.5 * float(np.median(error))))[:, None] * design
        square = (kept.T @ design).astype(np.float64) + np.diag([1.0, 1.0, 1e-3, 1e-3])
        solved = np.linalg.solve(square, (kept.T @ target).astype(np.float64))
        move = np.clip(solved[:2] / max(solved[2], 0.5), -1.5, 1.5)
        shift += move
        gain, offset = float(np.clip(solved[2], *_GAINS)), float(solved[3])
        if np.abs(move).max() < 0.02:
            break
    return (float(shift[0]), float(shift[1])), gain, offset


def _sample(image: Gray, x: Gray, y: Gray) -> Gray:
    """Values of `image` at points, bilinear; float32 [N]."""
    # remap takes maps of at most 32767 a side: one column of points.
    found = cv2.remap(
        image, x[:, None], y[:, None], cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE
    )
    return found[:, 0].astype(np.float32)
