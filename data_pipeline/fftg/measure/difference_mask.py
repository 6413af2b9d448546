"""The forgery mask of a pair: where the fake differs from the real by more than noise.

Paper section 3.1: the absolute pixel difference of the aligned pair, normalized. Ours: both images
are cropped to the face and its surroundings, a small misalignment is undone, and a noise floor is
subtracted. Compression and rescaling change pixels more where there is more detail, so the floor is
`a + b * detail`, with both numbers measured outside the face, where there is no forgery.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import cv2
import numpy as np
from numpy.typing import NDArray

from data_pipeline.faces.regions import face_outline, face_size, region_labels
from data_pipeline.fftg.measure import registration, tone
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
from data_pipeline.fftg.measure.thresholds import AnnotatorSettings
from jax_vlffd.vocabulary import REGIONS

Image = NDArray[np.uint8]
Floats = NDArray[np.float32]
Labels = NDArray[np.uint8]
Map = NDArray[np.bool_]

#: Lengths as fractions of the face's size: margin of the crop around the face, gap between the face and
#: the pixels that count as outside, widths over which differences and detail are averaged, and the
#: scale of detail.
_MARGIN: Final = 0.3
_GAP: Final = 0.06
_DIFFERENCE_WIDTH: Final = 0.03
_DETAIL_WIDTH: Final = 0.04
_HIGH_PASS: Final = 0.0045
#: The averages of a pair with more noise than this (`sqrt(a b)`) are compared too: their width, as a fraction
#: of the face's size, and their noise floor as a multiple of the measured noise.
_AVERAGED_FROM: Final = 0.5
_AVERAGE_WIDTH: Final = 0.07
_AVERAGE_MARGIN: Final = 2.5
#: Largest misalignment that is undone: a turn in radians, a growth, and a shift in pixels, for small faces.
#: Limits of 3 degrees, 4% and 5 px, with a tolerance. Not settings: paid replies are stored by their values.
_MAX_TURN: Final = 0.0611
_MAX_GROWTH: Final = 0.047
_MAX_SHIFT: Final = 6.0


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
    """A pair, cropped to the face, aligned and compared.

    Attributes:
      real: uint8 [h, w, 3].
      fake: uint8 [h, w, 3], aligned to the real.
      landmarks: float32 [68 or 81, 2] on the crop.
      labels: uint8 [h, w], 0 outside the face, 1 + index in REGIONS.
      mask: float32 [h, w] in [0, 1], the forgery mask.
      noise: `a` and `b` of the expected noise, a + b * detail.
      alignment: the misalignment that was undone.
      box: left, top, right, bottom of the crop in the image.
      size: the size of the face on the crop, in pixels (see `regions.face_size`).
    """

    real: Image
    fake: Image
    landmarks: Floats
    labels: Labels
    mask: Floats
    noise: tuple[float, float]
    alignment: registration.Alignment
    box: tuple[int, int, int, int]
    size: float


def compare(
    real: Image,
    fake: Image,
    landmarks: Floats,
    settings: AnnotatorSettings,
    mask: Image | None = None,
) -> Comparison:
    """Compares a pair around one face.

    Args:
      real: uint8 [H, W, 3], RGB.
      fake: uint8 [H, W, 3]; may be a few pixels smaller or larger where one is a center crop.
      landmarks: float32 [68 or 81, 2] on the real.
      settings: thresholds.
      mask: uint8 [H, W], the data set's own mask, used instead of the difference; of the size of
        either image.

    Raises:
      PairError: `size_mismatch`, `tiny_face`, `misaligned` or `not_a_pair`.
    """
    real, fake, landmarks = _same_size(real, fake, landmarks, settings)
    shape = real.shape[:2]
    size = face_size(landmarks)
    if size < settings.min_face_size:
        raise PairError(
            "tiny_face",
            f"the face measures {size:.0f} px; at least {settings.min_face_size:g} are needed",
        )
    box = _face_crop(landmarks, size, real.shape[0], real.shape[1])
    scale = min(1.0, settings.max_face_size / size)
    real, fake = _crop(real, box, scale), _crop(fake, box, scale)
    landmarks = ((landmarks - np.array(box[:2], np.float32) + 0.5) * scale - 0.5).astype(np.float32)
    size *= scale
    height, width = real.shape[:2]
    labels = region_labels(landmarks, height, width)
    outside = _outside(landmarks, size, height, width)
    around = thinned(flat(outside))
    alignment = registration.estimate(real, fake, around, thinned(flat(labels > 0)))
    if alignment.agreement < settings.min_agreement:
        raise PairError(
            "not_a_pair",
            f"only {alignment.agreement:.0%} of the pixels outside the face are equal",
        )
    if abs(alignment.turn) > _MAX_TURN or abs(alignment.growth) > _MAX_GROWTH:
        raise PairError(
            "misaligned",
            f"the fake is turned by {np.degrees(alignment.turn):.1f} degrees and scaled by "
            f"{1 + alignment.growth:.2f} against the real; align the pair",
        )
    limit = max(settings.max_shift * size, _MAX_SHIFT * scale)
    if max(abs(alignment.shift[0]), abs(alignment.shift[1])) > limit:
        raise PairError(
            "misaligned",
            f"the fake is shifted by ({alignment.shift[0]:.0f}, {alignment.shift[1]:.0f}) px "
            "against the real; align the pair",
        )
    real, fake, move = registration.undo(real, fake, alignment)
    real, fake = tone.undo(real, fake, alignment, around)
    if move is not None:
        landmarks = (landmarks @ move[:, :2].T + move[:, 2]).astype(np.float32)
        labels = region_labels(landmarks, height, width)
    detail = _detail(real, size)
    if mask is None:
        difference = _difference(real, fake, size)
        a, b = _noise(difference, detail, around, settings)
        expected = a + b * detail
        factor = _motion(difference, expected, labels, settings)
        noise = (factor * a, factor * b)
        # In place, as allocating an array of this size takes as long as the arithmetic.
        expected *= settings.noise_margin * factor
        values = np.subtract(difference, expected, out=difference)
        values /= 255.0
        np.maximum(values, 0.0, out=values)
        if np.sqrt(a * b) * factor > _AVERAGED_FROM:
            np.maximum(
                values, _of_averages(real, fake, detail, around, size, factor, settings), out=values
            )
    else:
        noise = (0.0, 0.0)
        values = _crop(_center(mask, *shape), box, scale).astype(np.float32) / 255.0
    return Comparison(real, fake, landmarks, labels, values, noise, alignment, box, size)


def full_mask(comparison: Comparison, real: Image, fake: Image) -> Image:
    """The mask in the coordinates of the full fake: uint8 [H, W], 255 for a difference of 1."""
    left, top, right, bottom = comparison.box
    mask = cv2.resize(comparison.mask, (right - left, bottom - top), interpolation=cv2.INTER_LINEAR)
    height, width = fake.shape[:2]
    # From the common crop of both images to the fake, which may be larger and shifted.
    scale = (right - left) / comparison.mask.shape[1]
    x, y = (round(pixels * scale) for pixels in comparison.alignment.shift)
    if comparison.alignment.turn or comparison.alignment.growth:
        # The mask lies halfway between real and fake.
        half = comparison.alignment.matrix(0.5)
        half[:, 2] *= scale
        mask = cv2.warpAffine(mask, half, (right - left, bottom - top))
        x, y = 0, 0
    x += left + max(0, width - real.shape[1]) // 2
    y += top + max(0, height - real.shape[0]) // 2
    translation = np.array([[1, 0, x], [0, 1, y]], np.float64)
    full = cv2.warpAffine(np.rint(255 * mask).astype(np.uint8), translation, (width, height))
    return full.astype(np.uint8)


def _same_size(
    real: Image, fake: Image, landmarks: Floats, settings: AnnotatorSettings
) -> tuple[Image, Image, Floats]:
    """Center-crops both images to their common size if their sizes differ little."""
    sizes = np.array([real.shape[:2], fake.shape[:2]])
    height, width = sizes.min(axis=0)
    if (np.abs(sizes[0] - sizes[1]) > settings.max_crop * sizes.max(axis=0)).any():
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


def _face_crop(
    landmarks: Floats, size: float, height: int, width: int
) -> tuple[int, int, int, int]:
    """The box of the face with a margin of `_MARGIN` of its size, within the image."""
    outline = face_outline(landmarks)
    low = np.floor(outline.min(axis=0) - _MARGIN * size).astype(int)
    high = np.ceil(outline.max(axis=0) + _MARGIN * size).astype(int)
    left, top = np.clip(low, 0, [width - 1, height - 1])
    right, bottom = np.clip(high, [left + 1, top + 1], [width, height])
    return int(left), int(top), int(right), int(bottom)


def _crop(image: Image, box: tuple[int, int, int, int], scale: float) -> Image:
    left, top, right, bottom = box
    crop = image[top:bottom, left:right]
    if scale < 1.0:
        size = (max(1, round((right - left) * scale)), max(1, round((bottom - top) * scale)))
        return cv2.resize(crop, size, interpolation=cv2.INTER_AREA).astype(np.uint8)
    return np.ascontiguousarray(crop)


def _outside(landmarks: Floats, size: float, height: int, width: int) -> Map:
    """Pixels at a small distance from the face; the image border if the face fills the image."""
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
    """The maximum of the channels' absolute differences, averaged; float32 [h, w], 0 to 255."""
    side = _odd(_DIFFERENCE_WIDTH * size)
    return averaged(maximum(channels(cv2.absdiff(real, fake))), side)


def _of_averages(
    real: Image,
    fake: Image,
    detail: Floats,
    around: NDArray[np.intp],
    size: float,
    motion: float,
    settings: AnnotatorSettings,
) -> Floats:
    """The mask of a pair's averages, in which the errors of a codec cancel and a change of tone does not."""
    sides = (_odd(_AVERAGE_WIDTH * size),) * 2
    change = maximum(channels(cv2.absdiff(cv2.blur(real, sides), cv2.blur(fake, sides))))
    difference = change.astype(np.float32)
    a, b = (_AVERAGE_MARGIN * motion * x for x in _noise(difference, detail, around, settings))
    floor = np.float32(a) + np.float32(b) * detail
    return np.asarray((difference - floor) / 255.0, np.float32)


def _detail(real: Image, size: float) -> Floats:
    """Gray levels of detail around each pixel: the mean absolute high-pass, maximum of the channels.

    Channels count, as JPEG and H.264 store color at half the resolution: lips and eyes lose most.
    """
    low = cv2.GaussianBlur(real, (0, 0), max(0.5, _HIGH_PASS * size))
    side = _odd(_DETAIL_WIDTH * size)
    return averaged(maximum(channels(cv2.absdiff(real, low))), side)


def _odd(length: float) -> int:
    """The odd integer nearest to a length, at least 1."""
    return 2 * max(0, round((length - 1) / 2)) + 1


def _noise(
    difference: Floats, detail: Floats, around: NDArray[np.intp], settings: AnnotatorSettings
) -> tuple[float, float]:
    """`a` and `b` of the noise floor, measured on pixels outside the face (flat indices).

    `a` is the median difference of the half with less detail; `b` the median of the remaining
    difference per level of detail in the quarter with the most. Medians ignore a partly replaced
    background.
    """
    change, fine = difference.ravel()[around], detail.ravel()[around]
    low, high = quantile(fine, 0.5), quantile(fine, 0.75)
    plain = quantile(change[fine <= low], 0.5)
    busy = fine >= max(high, 1.0)
    slope = 0.0
    if busy.sum() >= 50:
        slope = quantile((change[busy] - plain) / fine[busy], 0.5)
    a = float(np.clip(plain, settings.min_noise, settings.max_noise))
    b = float(np.clip(slope, settings.min_noise_slope, settings.max_noise_slope))
    return a, b


def _motion(
    difference: Floats, expected: Floats, labels: Labels, settings: AnnotatorSettings
) -> float:
    """How much noisier the face is than its surroundings, from 1 to `max_motion`.

    A codec makes larger errors where things move, and a face moves more than a background. The
    region that changed least counts, by the median of difference over expected noise, so that a
    forgery of some regions is not taken for motion; the limit covers a forgery of all regions.
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
        # A median of at most 1 gives a factor of 1: its value is not needed.
        if count and np.count_nonzero(inside & calm) > rank_of(count, 0.5):
            return 1.0
        if count:
            regions.append(flat(inside))
    ratio = (difference / expected).ravel()
    calmest = min((quantile(ratio[region], 0.5) for region in regions), default=1.0)
    return float(np.clip(calmest, 1.0, settings.max_motion))
