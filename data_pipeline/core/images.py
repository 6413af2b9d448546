"""Encoded images: the size that a header states, and decoding to RGB with bounds."""

from __future__ import annotations

import io
import struct
from typing import Final

import cv2
import numpy as np
import PIL.Image

#: Larger images are refused before anything is decoded: no face crop comes near it.
MAX_PIXELS: Final = 32 << 20


# JPEG markers that start a frame and so state its size (SOF0 to SOF15, without DHT, JPG and DAC).
_FRAMES: Final = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}


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
