"""Training augmentations: flip and crop, and degradations of the picture.

Every random choice comes from the `np.random.Generator` that is passed in. An augmented example is
made in two steps: a `preprocessing.Geometry` (flip and crop, shared by a fake and its real) and `degrade`
(JPEG, blur, noise, color, cut-out, drawn for each image).
"""

from __future__ import annotations

import functools
from typing import Final

import cv2
import numpy as np

from data_pipeline.loading.settings import AugmentSettings
from jax_vlffd.preprocessing import Geometry

#: CLIP's mean color, what a cut-out is filled with: close to 0 once normalized.
FILL: Final = (123, 117, 104)

# An image that does not decode raises an exception; OpenCV's own messages would only break the
# progress line.
cv2.utils.logging.setLogLevel(cv2.utils.logging.LOG_LEVEL_SILENT)


def draw_geometry(settings: AugmentSettings, rng: np.random.Generator) -> Geometry:
    """Draws flip and crop; all-zero probabilities give `preprocessing.CENTER`."""
    flip = bool(rng.random() < settings.flip)
    if rng.random() >= settings.resize_crop:
        return Geometry(flip=flip)
    return Geometry(rng.uniform(*settings.resize_crop_side), rng.random(), rng.random(), flip)


def degrade(image: np.ndarray, settings: AugmentSettings, rng: np.random.Generator) -> np.ndarray:
    """Color, blur, noise, JPEG and cut-out, each with its probability, in that order.

    The order is a camera's: light first, then optics, sensor, compression, and last what covers it.

    Args:
        image: uint8 [H, W, 3], RGB; left as it is.
        settings: probabilities and ranges.
        rng: source of every choice.

    Returns:
        uint8 [H, W, 3]; `image` itself when nothing was drawn.
    """
    if rng.random() < settings.color:
        image = _color(image, settings.color_strength, rng)
    if rng.random() < settings.blur:
        sigma = max(rng.uniform(*settings.blur_sigma), 1e-3)
        image = cv2.GaussianBlur(image, (0, 0), sigma)
    if rng.random() < settings.noise:
        image = _noise(image, rng.uniform(*settings.noise_std), rng)
    if rng.random() < settings.jpeg:
        low, high = settings.jpeg_quality
        image = recompress(image, int(rng.integers(low, high + 1)))
    if rng.random() < settings.cutout:
        image = _cutout(image, settings.cutout_side, rng)
    return image


def recompress(image: np.ndarray, quality: int) -> np.ndarray:
    """Compresses uint8 [H, W, 3] RGB as JPEG of a quality from 1 to 100 and decodes it again."""
    encoded = cv2.imencode(".jpg", image[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, quality])[1]
    decoded = cv2.imdecode(encoded, cv2.IMREAD_COLOR_RGB)
    assert decoded is not None  # it was encoded one line above
    return decoded


def _color(image: np.ndarray, strength: float, rng: np.random.Generator) -> np.ndarray:
    brightness, contrast, saturation = 1 + strength * rng.uniform(-1, 1, 3)
    levels = np.arange(256, dtype=np.float32) * brightness
    middle = float(np.mean(cv2.mean(image)[:3])) * brightness
    table = np.clip((levels - middle) * contrast + middle, 0, 255).round().astype(np.uint8)
    image = cv2.LUT(image, table)
    gray = cv2.cvtColor(cv2.cvtColor(image, cv2.COLOR_RGB2GRAY), cv2.COLOR_GRAY2RGB)
    return cv2.addWeighted(image, saturation, gray, 1 - saturation, 0)


def _noise(image: np.ndarray, std: float, rng: np.random.Generator) -> np.ndarray:
    """Adds a random stretch of a fixed field of noise: a tenth of the time of drawing it anew."""
    field = _noise_field(1 << max(20, image.size.bit_length()))
    start = int(rng.integers(field.size - image.size + 1))
    noise = field[start : start + image.size].reshape(image.shape) * np.float32(std)
    return cv2.add(image, noise, dtype=cv2.CV_8U)


@functools.cache
def _noise_field(size: int) -> np.ndarray:
    """float32 [size], standard normal, the same in every process."""
    return np.random.Generator(np.random.PCG64(0)).standard_normal(size, dtype=np.float32)


def _cutout(image: np.ndarray, sides: tuple[float, float], rng: np.random.Generator) -> np.ndarray:
    shape = np.array(image.shape[:2])
    extent = np.maximum((shape * rng.uniform(*sides, size=2)).astype(int), 1)
    top, left = (rng.random(2) * (shape - extent + 1)).astype(int)
    image = image.copy()
    image[top : top + extent[0], left : left + extent[1]] = FILL
    return image
