"""Registration of a pair: estimates and undoes a shift, a turn and a growth, with a gain and an offset.

The method is ours. A shift is estimated by phase correlation of gradients (Kuglin and Hines 1975),
refined together with a gain and an offset by least squares (Lucas and Kanade 1981) over the pixels
outside the face, and applied only if those pixels then agree better. Where they still differ, a
similarity is fitted in the same way, at reduced size first.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, Final

import cv2
import numpy as np
from numpy.typing import NDArray

Image = NDArray[np.uint8]
Gray = NDArray[np.float32]
Indices = NDArray[np.intp]

#: Gray levels within which two low-passed pixels count as equal.
_EQUAL_LEVELS: Final = 8.0
#: Maximum number of refinement steps.
_STEPS: Final = 8
#: Bounds of the gain, and of the change of middle gray; beyond them the images are not a pair.
_GAIN_RANGE: Final = (0.75, 1.33)
_MAX_GRAY_CHANGE: Final = 24.0
#: Mean difference outside, in gray levels, from which a similarity is tried in any case, and from which it is
#: tried where one linear step suggests a motion of `_MIN_MOTION` pixels at the border; the bound of its turn
#: (radians) and growth; and the reductions at which it is fitted in turn.
_SIMILARITY_FROM: Final = 1.5
_MOTION_FROM: Final = 0.2
_MIN_MOTION: Final = 0.25
_MAX_SIMILARITY: Final = 0.12
_REDUCTIONS: Final = (4, 2, 1)


@dataclass(frozen=True)
class Alignment:
    """Shift, gain and offset between the images of a pair, real to fake.

    Attributes:
      shift: (x, y) in pixels by which the fake's content is right of and below the real's.
      gain: contrast of the fake over that of the real outside the face.
      offset: gray levels added after the gain.
      growth: size of the fake's content over the real's, less 1.
      turn: angle in radians by which the fake's content is turned, clockwise as it is displayed.
      center: (x, y) in pixels that turn and growth leave in place.
      agreement: fraction of pixels outside the face (or inside, if that is larger) that are equal
        within a few gray levels once shift, gain and offset are undone; 0 to 1.
    """

    shift: tuple[float, float]
    gain: float
    offset: float
    agreement: float
    growth: float = 0.0
    turn: float = 0.0
    center: tuple[float, float] = (0.0, 0.0)

    def matrix(self, share: float = 1.0) -> NDArray[np.float64]:
        """The map of points of the real to points of the fake, float64 [2, 3], or a share of it."""
        growth, turn = share * self.growth, share * self.turn
        linear = np.array([[1 + growth, -turn], [turn, 1 + growth]])
        center = np.array(self.center)
        return np.column_stack([linear, center - linear @ center + share * np.array(self.shift)])


def estimate(real: Image, fake: Image, outside: Indices, inside: Indices) -> Alignment:
    """Estimates shift, gain and offset of a pair.

    Args:
      real: uint8 [H, W, 3].
      fake: uint8 [H, W, 3].
      outside: flat indices of pixels that a forgery of the face does not reach; a few thousand at most.
      inside: flat indices of pixels of the face; may be empty.
    """
    a, b = _gray(real), _gray(fake)
    real_values = a.ravel()[outside], a.ravel()[inside]

    def evaluated(
        far: Gray, near: Gray, shift: tuple[float, float], gain: float, offset: float
    ) -> tuple[float, Alignment]:
        """The capped mean difference outside, and the alignment, from values of `b` at the points."""
        far, near = (
            np.abs((fake_value - offset) / gain - real_value)
            for real_value, fake_value in zip(real_values, (far, near), strict=True)
        )
        equal = [np.count_nonzero(part < _EQUAL_LEVELS) / max(len(part), 1) for part in (far, near)]
        # Capped, as a part of the background may have been replaced.
        capped = float(np.minimum(far, 4 * _EQUAL_LEVELS).mean())
        return capped, Alignment(shift, gain, offset, max(equal))

    residual, best = evaluated(b.ravel()[outside], b.ravel()[inside], (0.0, 0.0), 1.0, 0.0)
    if residual < 0.05:
        return best
    around, within = _points(outside, a.shape[1]), _points(inside, a.shape[1])
    coarse = _phase_shift(a, b)
    starts = [(0.0, 0.0)] if np.hypot(*coarse) < 1.0 else [(0.0, 0.0), coarse]
    for start in starts:
        shift, gain, offset = _refine(a, b, outside, around, start)
        if abs(128 * (gain - 1) + offset) > _MAX_GRAY_CHANGE:
            continue
        moved = [_sample(b, x + shift[0], y + shift[1]) for x, y in (around, within)]
        error, alignment = evaluated(moved[0], moved[1], shift, gain, offset)
        # Less than a tenth better may be a fit to noise.
        if error < 0.9 * residual:
            residual, best = error, alignment
    if residual < _MOTION_FROM:
        return best
    center = ((a.shape[1] - 1) / 2, (a.shape[0] - 1) / 2)
    if residual < _SIMILARITY_FROM and _motion(a, b, around, best, center) < _MIN_MOTION:
        return best
    fitted = _similarity(a, b, around, best.shift, center)
    trial = Alignment(
        fitted.shift, fitted.gain, fitted.offset, 0.0, fitted.growth, fitted.turn, center
    )
    if abs(128 * (trial.gain - 1) + trial.offset) > _MAX_GRAY_CHANGE:
        return best
    moved = [_sample(b, *_mapped(trial.matrix(), x, y)) for x, y in (around, within)]
    error, scored = evaluated(moved[0], moved[1], trial.shift, trial.gain, trial.offset)
    # A small motion changes little where the surroundings are smooth, and much at the eyes.
    return replace(trial, agreement=scored.agreement) if error < 0.97 * residual else best


def undo(
    real: Image, fake: Image, alignment: Alignment
) -> tuple[Image, Image, NDArray[np.float64] | None]:
    """Moves the images of a pair onto each other.

    The integer part of a shift moves the fake; half of the rest moves each image, in opposite
    directions, so that interpolation softens both equally and is not measured as blur. So does half of a
    turn and growth. What one image does not show is equal in both afterwards.

    Returns:
      The two images, uint8 [H, W, 3], and the map of the real's points, float64 [2, 3]; None where
      they stay.
    """
    move = None
    if alignment.growth or alignment.turn:
        move = alignment.matrix(0.5)
        back = _joined(move, cv2.invertAffineTransform(alignment.matrix()))
        real, fake, shown = _warp(real, move), _warp(fake, back), np.ones(real.shape[:2], np.uint8)
        size = shown.shape[::-1]
        hidden = np.minimum(*(cv2.warpAffine(shown, m, size) for m in (move, back))) == 0
        fake[hidden] = real[hidden]
    else:
        x, y = alignment.shift
        integer = (float(round(x)), float(round(y)))
        rest = (x - integer[0], y - integer[1])
        if any(integer):
            fake = _translate(fake, -integer[0], -integer[1])
        if max(abs(rest[0]), abs(rest[1])) > 0.1:
            move = np.array([[1, 0, rest[0] / 2], [0, 1, rest[1] / 2]], np.float64)
            real = _warp(real, move)
            fake = _translate(fake, -rest[0] / 2, -rest[1] / 2)
    return real, fake, move


def _gray(image: Image) -> Gray:
    gray = cv2.cvtColor(image, cv2.COLOR_RGB2GRAY).astype(np.float32)
    return cv2.GaussianBlur(gray, (7, 7), 1.2).astype(np.float32, copy=False)


def _points(indices: Indices, width: int) -> tuple[Gray, Gray]:
    """The x and y of flat indices, float32 [N] each."""
    y, x = np.divmod(indices, width)
    return x.astype(np.float32), y.astype(np.float32)


def _translate(image: Image, x: float, y: float) -> Image:
    return _warp(image, np.array([[1, 0, x], [0, 1, y]], np.float64))


def _warp(image: Image, matrix: NDArray[Any]) -> Image:
    size = (image.shape[1], image.shape[0])
    flags, border = cv2.INTER_CUBIC, cv2.BORDER_REPLICATE
    moved = cv2.warpAffine(image, matrix, size, flags=flags, borderMode=border)
    return moved.astype(image.dtype, copy=False)


def _joined(second: NDArray[Any], first: NDArray[Any]) -> NDArray[np.float64]:
    """The [2, 3] map that does `first`, then `second`."""
    linear = second[:, :2] @ first[:, :2]
    return np.column_stack([linear, second[:, :2] @ first[:, 2] + second[:, 2]])


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
    a: Gray,
    b: Gray,
    indices: Indices,
    points: tuple[Gray, Gray],
    start: tuple[float, float],
) -> tuple[tuple[float, float], float, float]:
    """Shift, gain and offset from `a` to `b` at the given pixels, refined from a first shift."""
    x, y = points
    values = a.ravel()[indices]
    slope_x = cv2.Sobel(a, cv2.CV_32F, 1, 0, scale=0.125).ravel()[indices]
    slope_y = cv2.Sobel(a, cv2.CV_32F, 0, 1, scale=0.125).ravel()[indices]
    design = np.stack([-slope_x, -slope_y, values, np.ones_like(values)], axis=1)
    shift = np.array(start, np.float64)
    gain, offset = 1.0, 0.0
    for step in range(_STEPS):
        target = _sample(b, x + shift[0], y + shift[1])
        error = np.abs(target - gain * values - offset)
        # Pixels that fit badly are another background or a forgery's fringe: they are left out. The
        # bound is wide at first, or a gain would leave out the bright pixels.
        inliers = error <= max(2.0, 2.5 * float(np.median(error)), 16.0 * 0.5**step)
        weighted = inliers[:, None] * design
        square = (weighted.T @ design).astype(np.float64) + np.diag([1.0, 1.0, 1e-3, 1e-3])
        solution = np.linalg.solve(square, (weighted.T @ target).astype(np.float64))
        move = np.clip(solution[:2] / max(solution[2], 0.5), -1.5, 1.5)
        shift += move
        gain, offset = float(np.clip(solution[2], *_GAIN_RANGE)), float(solution[3])
        if step > 2 and np.abs(move).max() < 0.02:
            break
    return (float(shift[0]), float(shift[1])), gain, offset


def _linear(
    a: Gray, points: tuple[Gray, Gray], center: tuple[float, float]
) -> tuple[Gray, NDArray[np.float32]]:
    """Values at points, and how they change with shift, growth, turn, gain and offset, float32 [N, 6]."""
    x, y = points
    unit = np.float32(max(a.shape) / 2)
    dx, dy = (x - np.float32(center[0])) / unit, (y - np.float32(center[1])) / unit
    values = _sample(a, x, y)
    slope_x = _sample(cv2.Sobel(a, cv2.CV_32F, 1, 0, scale=0.125), x, y)
    slope_y = _sample(cv2.Sobel(a, cv2.CV_32F, 0, 1, scale=0.125), x, y)
    growing, turning = slope_x * dx + slope_y * dy, slope_y * dx - slope_x * dy
    columns = [-slope_x, -slope_y, -growing, -turning, values, np.ones_like(values)]
    return values, np.stack(columns, axis=1)


def _motion(
    a: Gray,
    b: Gray,
    points: tuple[Gray, Gray],
    alignment: Alignment,
    center: tuple[float, float],
) -> float:
    """The motion in pixels at the border that a turn and growth explain, by one linear step."""
    x, y = points
    values, design = _linear(a, points, center)
    moved = _sample(b, x + np.float32(alignment.shift[0]), y + np.float32(alignment.shift[1]))
    error = moved - np.float32(alignment.gain) * values - np.float32(alignment.offset)
    size = np.abs(error)
    inliers = design * (size <= max(2.0, 2.5 * float(np.median(size))))[:, None]
    square = (inliers.T @ design).astype(np.float64) + np.diag([1.0] * 4 + [1e-3] * 2)
    step = np.linalg.solve(square, (inliers.T @ error).astype(np.float64))
    return float(np.hypot(step[2], step[3]))


def _similarity(
    a: Gray,
    b: Gray,
    points: tuple[Gray, Gray],
    shift: tuple[float, float],
    center: tuple[float, float],
) -> Alignment:
    """The similarity, gain and offset from `a` to `b` at the given pixels, from a first shift."""
    x, y = points
    unit = float(max(a.shape)) / 2
    motion = np.array(
        [*shift, 0.0, 0.0]
    )  # in pixels: shift, growth and turn at `unit` from the center
    gain, offset = 1.0, 0.0
    for reduction in _REDUCTIONS:
        low, other = (_lowered(gray, reduction) for gray in (a, b))
        values, design = _linear(low, points, center)
        for step in range(5):
            trial = Alignment(
                (motion[0], motion[1]), 1.0, 0.0, 0.0, motion[2] / unit, motion[3] / unit, center
            )
            target = _sample(other, *_mapped(trial.matrix(), x, y))
            error = np.abs(target - gain * values - offset)
            inliers = error <= max(2.0, 2.5 * float(np.median(error)), 16.0 * 0.5**step)
            weighted = inliers[:, None] * design
            square = (weighted.T @ design).astype(np.float64) + np.diag([1.0] * 4 + [1e-3] * 2)
            solution = np.linalg.solve(square, (weighted.T @ target).astype(np.float64))
            move = np.clip(solution[:4] / max(solution[4], 0.5), -reduction - 1, reduction + 1)
            motion += move
            limit = _MAX_SIMILARITY * unit
            motion[2:] = np.clip(motion[2:], -limit, limit)
            gain, offset = float(np.clip(solution[4], *_GAIN_RANGE)), float(solution[5])
            if np.abs(move).max() < 0.02:
                break
    return Alignment(
        (float(motion[0]), float(motion[1])), gain, offset, 0.0,
        float(motion[2] / unit), float(motion[3] / unit), center,
    )  # fmt: skip


def _lowered(gray: Gray, reduction: int) -> Gray:
    if reduction == 1:
        return gray
    return cv2.GaussianBlur(gray, (0, 0), float(reduction)).astype(np.float32, copy=False)


def _mapped(matrix: NDArray[np.float64], x: Gray, y: Gray) -> tuple[NDArray[Any], NDArray[Any]]:
    """Points under a [2, 3] map."""
    (a, b, c), (d, e, f) = matrix.tolist()
    return a * x + b * y + c, d * x + e * y + f


def _sample(image: NDArray[Any], x: NDArray[Any], y: NDArray[Any]) -> Gray:
    """Values of `image` at points, bilinear; float32 [N]."""
    if not len(x):
        return np.zeros(0, np.float32)
    # remap accepts at most 32767 per side: one column of points.
    column = (x.astype(np.float32)[:, None], y.astype(np.float32)[:, None])
    values = cv2.remap(image, *column, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)
    return values.astype(np.float32, copy=False).ravel()
