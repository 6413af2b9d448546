"""The model's square view of a picture, the same in training, evaluation and prediction.

NumPy and OpenCV only: workers of the data pipeline import this module, and they never start JAX.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, NamedTuple

import cv2
import numpy as np

from jax_vlffd.errors import UserError
from jax_vlffd.settings import Resize


@dataclass(frozen=True)
class Geometry:
    """The square of an image that the model sees, and whether it is mirrored.

    Attributes:
      side: the square's side as a share of the image's shorter side, 0 to 1.
      left: 0 (leftmost) to 1 (rightmost).
      top: 0 (topmost) to 1 (bottommost).
      flip: mirrored left and right.
    """

    side: float = 1.0
    left: float = 0.5
    top: float = 0.5
    flip: bool = False


#: The largest centered square, as CLIP's own processor crops; used in evaluation and prediction.
CENTER: Final = Geometry()


class FaceGeometry(NamedTuple):
    """Size and position of a face in the largest centered square of its picture, which is what a model sees.

    Attributes:
      height: of the box around 68 landmarks (brows to chin), as a share of the square's side.
      width: of the same box.
      x: the box's center relative to the square's, rightwards, as a share of the side.
      y: the same downwards.
      pixels: longer side of the box in pixels of the picture.
      roll: clockwise rotation of the line through the eyes, in degrees.
    """

    height: float
    width: float
    x: float
    y: float
    pixels: float
    roll: float


def face_geometry(landmarks: np.ndarray, height: int, width: int) -> FaceGeometry:
    """Measures a face by its landmarks.

    Args:
      landmarks: [68 or 81, 2], x and y in pixels, as from `data_pipeline.faces.landmarks`.
      height: of the picture in pixels.
      width: of the picture in pixels.
    """
    points, side = np.asarray(landmarks, np.float64)[:68], min(height, width)
    low, high = points.min(axis=0), points.max(axis=0)
    size, offset = high - low, (low + high) / 2 - (width / 2, height / 2)
    eyes = points[42:48].mean(axis=0) - points[36:42].mean(axis=0)
    values = (
        *(size[::-1] / side),
        *(offset / side),
        size.max(),
        np.degrees(np.arctan2(*eyes[::-1])),
    )
    return FaceGeometry(*map(float, values))


class Placement(NamedTuple):
    """Size and position of a face in its crop, as in `FaceGeometry`; upright: rotated to level the eyes."""

    height: float
    width: float
    x: float
    y: float
    upright: bool


#: Below this, OpenCV's 8-bit 3 x 3 Gaussian does not change an image (256 to 224 px: 0.277).
_MIN_SIGMA: Final = 0.28


def square_view(
    image: np.ndarray, size: int, geometry: Geometry = CENTER, resize: Resize = "antialiased"
) -> np.ndarray:
    """Crops the square, resizes it with antialiasing, mirrors it.

    Args:
      image: uint8 [H, W, C].
      size: side of the result in pixels.
      geometry: the square; the default is the largest centered one.
      resize: as the model was trained.

    Returns:
      uint8 [size, size, C], contiguous.
    """
    height, width = image.shape[:2]
    side = min(max(round(min(height, width) * geometry.side), 1), height, width)
    left = round((width - side) * geometry.left)
    top = round((height - side) * geometry.top)
    square = _resize(image[top : top + side, left : left + side], size, resize)
    return cv2.flip(square, 1) if geometry.flip else np.ascontiguousarray(square)


def _resize(image: np.ndarray, size: int, resize: Resize) -> np.ndarray:
    """Resizes a square uint8 [S, S, C] to [size, size, C].

    From a factor of 2 on, the nearest smaller multiple of the size is sampled linearly and averaged; below, the
    picture is smoothed and sampled bicubically. Both are as close to PIL's antialiased bicubic as OpenCV's
    INTER_AREA, in less than half its time: it is fast for integer factors only.
    """
    side = image.shape[0]
    if side == size:
        return image
    factor = side // size
    if factor >= 2 and resize == "antialiased":
        if side != (multiple := factor * size):
            image = cv2.resize(image, (multiple, multiple), interpolation=cv2.INTER_LINEAR)
        return cv2.resize(image, (size, size), interpolation=cv2.INTER_AREA)
    if factor >= 2:
        side //= factor
        image = image[: side * factor, : side * factor]
        image = cv2.resize(image, (side, side), interpolation=cv2.INTER_AREA)
        if side == size:
            return image
    sigma = 0.5 * np.sqrt(max((side / size) ** 2 - 1, 0))
    if sigma > _MIN_SIGMA:
        image = cv2.GaussianBlur(image, (3, 3), sigma)
    return cv2.resize(image, (size, size), interpolation=cv2.INTER_CUBIC)


def as_rgb(image: object) -> np.ndarray:
    """Converts a picture to uint8 [H, W, 3], RGB.

    Args:
      image: an array of that shape and dtype, or a PIL image of any mode, which is turned by its EXIF
        orientation; its color profile is not applied. One of more than 8 bits is scaled: from 0 to 65535, or,
        as a file may state no range, from the first of 1 (floats alone), 255, 65535 and 2^32 - 1 that is not
        exceeded.

    Raises:
      UserError: `image` is of another type, shape or dtype.
    """
    if isinstance(image, np.ndarray):
        if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3 or not image.size:
            raise UserError(
                f"the image is {image.dtype} {list(image.shape)}: give uint8 [H, W, 3], RGB"
            )
        return image
    import PIL.Image
    import PIL.ImageOps

    if not isinstance(image, PIL.Image.Image):
        raise UserError(
            f"the image is a {type(image).__name__}: give uint8 [H, W, 3], RGB, or a PIL image"
        )
    upright = PIL.ImageOps.exif_transpose(image)
    if upright.mode.startswith(("I", "F")):  # Pillow would cut off what is above 255
        return np.repeat(_eight_bits(np.asarray(upright))[..., None], 3, axis=2)
    return np.asarray(upright.convert("RGB"))


def _eight_bits(values: np.ndarray) -> np.ndarray:
    """Scales the pixels [H, W] of a PIL image of mode I, I;16 or F to uint8; NaN is 0."""
    finite = np.nan_to_num(values.astype(np.float32), posinf=0, neginf=0)
    if values.dtype.itemsize == 2:
        white = 65535.0
    else:
        highest = float(finite.max(initial=0))
        ranges = (1.0 if values.dtype.kind == "f" else 255.0, 255.0, 65535.0, 2.0**32 - 1, highest)
        white = next(end for end in ranges if highest <= end)
    return np.clip(np.round(finite * (255 / white)), 0, 255).astype(np.uint8)
