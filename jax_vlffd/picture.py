"""The model's square view of a picture, bit for bit the data pipeline's (a test compares the two).

It stands here a second time because this package reads nothing of the data pipeline, and a detector must see
a face exactly as training did.
"""

from __future__ import annotations

import cv2
import numpy as np

from jax_vlffd.errors import UserError


def square_view(image: np.ndarray, size: int) -> np.ndarray:
    """The largest centred square of uint8 [H, W, 3], resized with antialiasing to [size, size, 3]."""
    height, width = image.shape[:2]
    side = min(height, width)
    left, top = round((width - side) * 0.5), round((height - side) * 0.5)
    return np.ascontiguousarray(_resize(image[top : top + side, left : left + side], size))


def _resize(image: np.ndarray, size: int) -> np.ndarray:
    side = image.shape[0]
    if side == size:
        return image
    if (factor := side // size) >= 2:
        side //= factor
        whole = image[: side * factor, : side * factor]
        image = cv2.resize(whole, (side, side), interpolation=cv2.INTER_AREA)
        if side == size:
            return image
    if side > size:
        sigma = 0.5 * np.sqrt((side / size) ** 2 - 1)
        image = cv2.GaussianBlur(image, (3, 3), sigma)
    return cv2.resize(image, (size, size), interpolation=cv2.INTER_CUBIC)


def as_rgb(image: object) -> np.ndarray:
    """A picture as uint8 [H, W, 3], RGB: an array of that shape, or a PIL image of any mode, turned upright.

    Raises:
      UserError: it is neither.
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
    return np.asarray(PIL.ImageOps.exif_transpose(image).convert("RGB"))
