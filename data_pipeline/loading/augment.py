"""Images: decoding with bounds, and the augmentations of training.

Every random choice comes from the `np.random.Generator` that is passed in. An augmented example is
made in two steps: a `picture.Geometry` (flip and crop, shared by a fake and its real) and `degrade`
(JPEG, blur, noise, colour, cut-out, drawn for each image).
"""

from __future__ import annotations

import functools
import io
import struct
from typing import Final

import cv2
import numpy as np
import PIL.Image

from data_pipeline.loading.settings import AugmentSettings
from jax_vlffd.preprocessing import Geometry

#: Larger images are refused before anything is decoded: no face crop comes near it.
MAX_PIXELS: Final = 32 << 20

#: CLIP's mean colour, what a cut-out is filled with: close to 0 once normalised.
FILL: Final = (123, 117, 104)

# JPEG markers that start a frame and so state its size (SOF0 to SOF15, without DHT, JPG and DAC).
_FRAMES: Final = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}


# What does not decode is told by an exception; OpenCV's own lines would only tear the progress
# line.
cv2.utils.logging.setLogLevel(cv2.utils.logging.LOG_LEVEL_SILENT)


class BadImageError(ValueError):
    """The bytes are no image that can be decoded; the message says why."""


def image_size(data: bytes) -> tuple[int, int]:
    """Width and height as the header of a PNG, JPEG, WebP or BMP states them; decodes nothing.

    Raises:
        BadImageError: another format, or a header that is cut or states no size.
    """
    try:
        if data.startswith(b"\x89PNG\r\n\x1a\n"):
            width, height = struct.unpack(">II", data[16:24])
        elif data.startswith(b"\xff\xd8"):
            width, height = _jpeg_size(data)
        elif data[:4] == b"RIFF" and data[8:12] == b"WEBP":
            width, height = _webp_size(data)
        elif data.startswith(b"BM"):
            width, height = struct.unpack("<ii", data[18:26])
            height = abs(height)
        else:
            raise BadImageError("not a PNG, JPEG, WebP or BMP image")
    except struct.error as error:
        raise BadImageError("the image's header is cut off") from error
    if width < 1 or height < 1:
        raise BadImageError(f"the image's header states a size of {width} x {height}")
    return width, height


def stated_size(data: bytes) -> tuple[int, int]:
    """Width and height that the header of a picture of any format states; decodes nothing.

    Raises:
        BadImageError: it is no picture, or of absurd size.
    """
    try:
        return image_size(data)  # of the header that OpenCV will believe
    except BadImageError:
        try:
            with PIL.Image.open(io.BytesIO(data)) as header:
                return header.size
        except Exception as error:  # Pillow's readers raise what they like
            raise BadImageError(f"no picture ({error})") from error


def decode_image(data: bytes, max_pixels: int = MAX_PIXELS) -> np.ndarray:
    """Decodes a PNG, JPEG, WebP or BMP to uint8 [H, W, 3], RGB.

    EXIF orientation is applied; grey, alpha, CMYK and 16 bit come out as 8-bit RGB (alpha is
    dropped).

    Raises:
        BadImageError: too many pixels (checked before decoding), cut off, or damaged.
    """
    width, height = image_size(data)
    if width * height > max_pixels:
        raise BadImageError(f"{width} x {height} pixels are more than the {max_pixels} allowed")
    # OpenCV fills what is missing of a cut file with grey and calls it a success. The end is nearly always
    # the file's, which is seen at once; looking for the last scan takes longer.
    if (
        data.startswith(b"\xff\xd8")
        and not data.endswith(b"\xff\xd9")
        and data.rfind(b"\xff\xd9") < data.rfind(b"\xff\xda")
    ):
        raise BadImageError("the JPEG is cut off")
    if data.startswith(b"\x89PNG") and data.rfind(b"IEND") < 0:
        raise BadImageError("the PNG is cut off")
    try:
        image = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR_RGB)
    except cv2.error as error:
        raise BadImageError(f"the image does not decode ({error.err})") from error
    if image is None:
        raise BadImageError("the image does not decode")
    return image


def draw_geometry(settings: AugmentSettings, rng: np.random.Generator) -> Geometry:
    """Draws flip and crop; all-zero probabilities give `picture.CENTRE`."""
    flip = bool(rng.random() < settings.flip)
    if rng.random() >= settings.resize_crop:
        return Geometry(flip=flip)
    return Geometry(rng.uniform(*settings.resize_crop_side), rng.random(), rng.random(), flip)


def degrade(image: np.ndarray, settings: AugmentSettings, rng: np.random.Generator) -> np.ndarray:
    """Colour, blur, noise, JPEG and cut-out, each with its probability, in that order.

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
    grey = cv2.cvtColor(cv2.cvtColor(image, cv2.COLOR_RGB2GRAY), cv2.COLOR_GRAY2RGB)
    return cv2.addWeighted(image, saturation, grey, 1 - saturation, 0)


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


def _jpeg_size(data: bytes) -> tuple[int, int]:
    place = 2
    while True:
        (marker,) = struct.unpack(">H", data[place : place + 2])
        if marker == 0xFFFF:  # fill bytes may precede a marker
            place += 1
            continue
        if marker >> 8 != 0xFF or marker in (0xFFD9, 0xFFDA):
            raise BadImageError("the JPEG states no size")
        if marker & 0xFF in _FRAMES:
            height, width = struct.unpack(">HH", data[place + 5 : place + 9])
            return width, height
        alone = marker & 0xFF == 0x01 or 0xD0 <= marker & 0xFF <= 0xD8
        place += 2 if alone else 2 + struct.unpack(">H", data[place + 2 : place + 4])[0]


def _webp_size(data: bytes) -> tuple[int, int]:
    kind = data[12:16]
    if kind == b"VP8X":
        low_w, high_w, low_h, high_h = struct.unpack("<HBHB", data[24:30])
        return (low_w | high_w << 16) + 1, (low_h | high_h << 16) + 1
    if kind == b"VP8L":
        (bits,) = struct.unpack("<I", data[21:25])
        return (bits & 0x3FFF) + 1, (bits >> 14 & 0x3FFF) + 1
    if kind == b"VP8 ":
        width, height = struct.unpack("<HH", data[26:30])
        return width & 0x3FFF, height & 0x3FFF
    raise BadImageError("the WebP states no size")
