"""The forgery mask of a pair: where the fake differs from the real by more than noise.

Paper section 3.1: the absolute pixel difference of the aligned pair, normalized. Ours: both images
are cut to the face and its surroundings, a small misalignment is undone, and a noise floor is
subtracted. Compression and rescaling change a pixel the more, the more detail there is around it;
so the floor is `a + b * detail`, and both numbers are measured outside the face, where no forgery
reaches.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import cv2
import numpy as np
from numpy.typing import NDArray

from data_pipeline.faces.regions import face_outline, face_size, region_labels
from data_pipeline.fftg.measure import registration
from data_pipeline.fftg.measure.pixels import (
    SAMPLES,
    averaged,
    channels,
    flat,
    maximum,
    quantile,
    rank_of,
    thinned,
)
from data_pipeline.fftg.measure.thresholds import Settings
from jax_vlffd.vocabulary import REGIONS

Image = NDArray[np.uint8]
Floats = NDArray[np.float32]
Labels = NDArray[np.uint8]
Map = NDArray[np.bool_]


class PairError(Exception):
    """A pair that cannot be annotated.

    Attributes:
      code: one word for the summary, such as `not_a_pair`.
    """

    def __init__(self, code: str, message: str):
        super().__init__(f"{code}: {message}")
        self.code = code


@dataclass(frozen=True)
class Comparison:
    """A pair, cut to the face, aligned and compared.

    Attributes:
      real: uint8 [h, w, 3].
      fake: uint8 [h, w, 3], aligned to the real.
      landmarks: float32 [68 or 81, 2] on the cut.
      labels: uint8 [h, w], 0 outside the face, 1 + index in REGIONS.
      outside: bool [h, w], the surroundings in which noise is measured.
      mask: float32 [h, w] in [0, 1], the forgery mask.
      detail: float32 [h, w], gray levels of fine detail in the real.
      noise: `a` and `b` of the expected noise, a + b * detail.
      alignment: what was undone.
      box: left, top, right, bottom of the cut in the image.
      size: the size of the face on the cut, in pixels (see `regions.face_size`).
    """

    real: Image
    fake: Image
    landmarks: Floats
    labels: Labels
    outside: Map
    mask: Floats
    detail: Floats
    noise: tuple[float, float]
    alignment: registration.Alignment
    box: tuple[int, int, int, int]
    size: float


def compare(
    real: Image, fake: Image, landmarks: Floats, settings: Settings, mask: Image | None = None
) -> Comparison:
    """Compares a pair around one face.

    Args:
      real: uint8 [H, W, 3], RGB.
      fake: uint8 [H, W, 3]; may be a few pixels smaller or larger where one is a center crop.
      landmarks: float32 [68 or 81, 2] on the real.
      settings: thresholds.
      mask: uint8 [H, W], a mask of the data set's own to take instead of the difference; of the
        size of either image.

    Raises:
      PairError: `size_mismatch`, `tiny_face`, `misaligned` or `not_a_pair`.
    """
    real, fake, landmarks = _same_size(real, fake, landmarks, settings)
    shared = real.shape[:2]
    size = face_size(landmarks)
    if size < settings.smallest_face:
        raise PairError(
            "tiny_face", f"the face measures {size:.0f} px; {settings.smallest_face} needed"
        )
    box = _surroundings(landmarks, size, real.shape[0], real.shape[1])
    scale = min(1.0, settings.largest_face / size)
    real, fake = _cut(real, box, scale), _cut(fake, box, scale)
    landmarks = ((landmarks - np.array(box[:2], np.float32) + 0.5) * scale - 0.5).astype(np.float32)
    size *= scale
    height, width = real.shape[:2]
    labels = region_labels(landmarks, height, width)
    outside = _outside(landmarks, size, height, width)
    around = thinned(flat(outside))
    alignment = registration.estimate(real, fake, around, thinned(flat(labels > 0)))
    if alignment.agreement < settings.least_agreement:
        raise PairError(
            "not_a_pair",
            f"only {alignment.agreement:.0%} of the picture is the same outside the face",
        )
    if max(abs(alignment.shift[0]), abs(alignment.shift[1])) > settings.largest_shift * size:
        raise PairError(
            "misaligned",
            f"not a pair as it lies: the fake is ({alignment.shift[0]:.0f}, "
            f"{alignment.shift[1]:.0f}) px beside the real",
        )
    real, fake, moved = registration.undo(real, fake, alignment)
    if moved != (0.0, 0.0):
        landmarks = landmarks + np.array(moved, np.float32)
        labels = region_labels(landmarks, height, width)
    detail = _detail(real, size)
    if mask is None:
        difference = _difference(real, fake, size)
        a, b = _noise(difference, detail, around, settings)
        expected = a + b * detail
        factor = _motion(difference, expected, labels, settings)
        noise = (factor * a, factor * b)
        # In place, as a new array of this size takes as long as what is done with it.
        expected *= settings.noise_margin * factor
        values = np.subtract(difference, expected, out=difference)
        values /= 255.0
        np.maximum(values, 0.0, out=values)
    else:
        noise = (0.0, 0.0)
        values = _cut(_center(mask, *shared), box, scale).astype(np.float32) / 255.0
    return Comparison(
        real, fake, landmarks, labels, outside, values, detail, noise, alignment, box, size
    )


def full_mask(comparison: Comparison, real: Image, fake: Image) -> Image:
    """The mask laid over the whole fake, where that lies: uint8 [H, W], 255 for a difference of 1."""
    left, top, right, bottom = comparison.box
    cut = cv2.resize(comparison.mask, (right - left, bottom - top), interpolation=cv2.INTER_LINEAR)
    height, width = fake.shape[:2]
    # From what both images share to the fake, which may be the larger one and lie aside.
    scale = (right - left) / comparison.mask.shape[1]
    x, y = (round(moved * scale) for moved in comparison.alignment.shift)
    x += left + max(0, width - real.shape[1]) // 2
    y += top + max(0, height - real.shape[0]) // 2
    place = np.array([[1, 0, x], [0, 1, y]], np.float64)
    whole = cv2.warpAffine(np.rint(255 * cut).astype(np.uint8), place, (width, height))
    return whole.astype(np.uint8)


def _same_size(
    real: Image, fake: Image, landmarks: Floats, settings: Settings
) -> tuple[Image, Image, Floats]:
    """Cuts both images about their centers to the size that they share, if they nearly do."""
    sizes = np.array([real.shape[:2], fake.shape[:2]])
    height, width = sizes.min(axis=0)
    if (np.abs(sizes[0] - sizes[1]) > settings.largest_crop * sizes.max(axis=0)).any():
        raise PairError(
            "size_mismatch",
            f"real is {real.shape[1]}x{real.shape[0]}, fake {fake.shape[1]}x{fake.shape[0]}",
        )
    top, left = (sizes[0] - (height, width)) // 2
    moved = landmarks - np.array([left, top], np.float32)
    return _center(real, height, width), _center(fake, height, width), moved


def _center(image: Image, height: int, width: int) -> Image:
    top, left = (image.shape[0] - height) // 2, (image.shape[1] - width) // 2
    return image[top : top + height, left : left + width]


def _surroundings(
    landmarks: Floats, size: float, height: int, width: int
) -> tuple[int, int, int, int]:
    """The box of the face with a margin of `_MARGIN` of its size, within the image."""
    outline = face_outline(landmarks)
    low = np.floor(outline.min(axis=0) - _MARGIN * size).astype(int)
    high = np.ceil(outline.max(axis=0) + _MARGIN * size).astype(int)
    left, top = np.clip(low, 0, [width - 1, height - 1])
    right, bottom = np.clip(high, [left + 1, top + 1], [width, height])
    return int(left), int(top), int(right), int(bottom)


def _cut(image: Image, box: tuple[int, int, int, int], scale: float) -> Image:
    left, top, right, bottom = box
    cut = image[top:bottom, left:right]
    if scale < 1.0:
        size = (max(1, round((right - left) * scale)), max(1, round((bottom - top) * scale)))
        return cv2.resize(cut, size, interpolation=cv2.INTER_AREA).astype(np.uint8)
    return np.ascontiguousarray(cut)


def _outside(landmarks: Floats, size: float, height: int, width: int) -> Map:
    """Pixels a little away from the face; the border of the image where the face fills it."""
    hull = cv2.convexHull(face_outline(landmarks)).round().astype(np.int32)
    for gap in (_GAP, 0.0):
        near = np.zeros((height, width), np.uint8)
        cv2.fillConvexPoly(near, hull, 1)
        if gap:
            cv2.polylines(near, [hull], True, 1, max(1, round(2 * gap * size)))
        outside = near == 0
        if np.count_nonzero(outside) > 0.02 * outside.size:
            return outside
    outside[:2], outside[-2:], outside[:, :2], outside[:, -2:] = True, True, True, True
    return outside


def _difference(real: Image, fake: Image, size: float) -> Floats:
    """The largest of the channels' absolute differences, averaged; float32 [h, w], 0 to 255."""
    side = _odd(_AVERAGED * size)
    return averaged(maximum(channels(cv2.absdiff(real, fake))), side)


def _detail(real: Image, size: float) -> Floats:
    """Gray levels of detail around each pixel: the mean absolute high-pass, largest of the channels.

    Of the channels, as JPEG and H.264 store color at half the resolution: lips and eyes lose most.
    """
    low = cv2.GaussianBlur(real, (0, 0), max(0.5, _HIGH_PASS * size))
    side = _odd(_DETAIL * size)
    return averaged(maximum(channels(cv2.absdiff(real, low))), side)


def _odd(length: float) -> int:
    """The odd whole number nearest to a length, at least 1."""
    return 2 * max(0, round((length - 1) / 2)) + 1


def _noise(
    difference: Floats, detail: Floats, around: NDArray[np.intp], settings: Settings
) -> tuple[float, float]:
    """`a` and `b` of the noise floor, measured on pixels outside the face (flat indices).

    `a` is the median difference of the plainer half; `b` the median of what is left over per level
    of detail in the more detailed quarter. Medians, so that a background that was replaced in part
    does not count.
    """
    change, fine = difference.ravel()[around], detail.ravel()[around]
    low, high = quantile(fine, 0.5), quantile(fine, 0.75)
    plain = quantile(change[fine <= low], 0.5)
    busy = fine >= max(high, 1.0)
    slope = 0.0
    if busy.sum() >= 50:
        slope = quantile((change[busy] - plain) / fine[busy], 0.5)
    a = float(np.clip(plain, settings.least_noise, settings.largest_noise))
    b = float(np.clip(slope, settings.least_noise_slope, settings.largest_noise_slope))
    return a, b


def _motion(difference: Floats, expected: Floats, labels: Labels, settings: Settings) -> float:
    """How much noisier the face is than what lies around it, from 1 to `largest_motion`.

    A codec spends its errors where things move, and a face moves more than a background. What
    counts is the region that changed least, by the median of difference over expected noise, so
    that a forgery of some regions is no motion; one of all regions is held by the limit.
    """
    step = 1 + int(np.sqrt(labels.size / (4 * SAMPLES)))
    thin = np.s_[::step, ::step]
    difference, expected = difference[thin].copy(), expected[thin].copy()
    labels = labels[thin].copy()
    calm = difference <= expected
    regions = []
    for value in range(1, 1 + len(REGIONS)):
        inside = labels == value
        count = int(np.count_nonzero(inside))
        # A median of at most 1 decides without being known.
        if count and np.count_nonzero(inside & calm) > rank_of(count, 0.5):
            return 1.0
        if count:
            regions.append(flat(inside))
    ratio = (difference / expected).ravel()
    calmest = min((quantile(ratio[region], 0.5) for region in regions), default=1.0)
    return float(np.clip(calmest, 1.0, settings.largest_motion))


#: Margin of the cut around the face, and gap between the face and what counts as outside, as shares
#: of the face's size.
_MARGIN: Final = 0.3
_GAP: Final = 0.06
#: Lengths over which differences and detail are averaged, and the scale of detail, as such shares.
_AVERAGED: Final = 0.03
_DETAIL: Final = 0.04
_HIGH_PASS: Final = 0.0045
