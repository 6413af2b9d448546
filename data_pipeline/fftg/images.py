"""Reading pictures of any kind as RGB, and saying what had to be done for it."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Final

import cv2
import numpy as np
import PIL.Image
from numpy.typing import NDArray

from data_pipeline.core.discovery import MAX_BYTES, MAX_PIXELS
from data_pipeline.core.files import read_regular
from data_pipeline.core.images import BadImageError, stated_size
from data_pipeline.fftg.measure.difference_mask import PairError
from jax_vlffd.errors import UserError

Image = NDArray[np.uint8]

_ORIENTATION: Final = 0x0112
_BITS_PER_SAMPLE: Final = 0x0102
#: Markers of a JPEG: baseline and progressive frames, EXIF or XMP, the first scan.
_FRAMES: Final = (0xC0, 0xC1, 0xC2)
_EXIF: Final = 0xE1
_SCAN: Final = 0xDA
#: Pixels of a JPEG; what has more is left to Pillow, which refuses bombs.
_LARGEST: Final = 1 << 26


def read_image(path: Path) -> tuple[Image, str | None]:
    """Reads a picture as RGB.

    Grey, transparent, 16-bit and rotated pictures are brought to RGB uint8, upright.

    Returns:
      uint8 [H, W, 3], and a remark `code: message` where the picture was not plain RGB.

    Raises:
      PairError: `missing_file` or `unreadable_image`.
    """
    data = _bytes(path)
    try:
        _check_size(data)
        remark = None
        if not _is_plain_jpeg(data):
            with PIL.Image.open(io.BytesIO(data)) as header:
                remark = _remark(header, data, path)
        pixels = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR)
    except Exception as error:  # decoders raise what they like
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise PairError("unreadable_image", f"{path} is no picture ({reason})") from error
    if pixels is None:
        raise PairError("unreadable_image", f"{path} is damaged or of an unknown format")
    if _cut_off(data):
        raise PairError("unreadable_image", f"{path} is cut off: the end of the JPEG is missing")
    return np.asarray(cv2.cvtColor(pixels, cv2.COLOR_BGR2RGB, dst=pixels), np.uint8), remark


def read_mask(path: Path, real: Image, fake: Image) -> Image:
    """Reads a forgery mask, uint8 [H, W]; PairError `bad_mask` where it fits neither image."""
    try:
        data = _bytes(path)
        _check_size(data)
        pixels = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_GRAYSCALE)
    except (cv2.error, BadImageError):  # larger than is read
        pixels = None
    if pixels is None or pixels.shape not in (real.shape[:2], fake.shape[:2]):
        found = "no picture" if pixels is None else f"{pixels.shape[1]}x{pixels.shape[0]}"
        raise PairError(
            "bad_mask", f"{path} is {found}; the images are {real.shape[1]}x{real.shape[0]}"
        )
    return pixels.astype(np.uint8)


def _check_size(data: bytes) -> None:
    """Raises BadImageError where the header states more pixels than are decoded."""
    width, height = stated_size(data)
    if width * height > MAX_PIXELS:
        raise BadImageError(f"it states {width}x{height} pixels; {MAX_PIXELS} are allowed")


def _bytes(path: Path) -> bytes:
    try:
        data = read_regular(path, MAX_BYTES)
    except UserError as error:
        raise PairError("missing_file", str(error)) from error
    if not data:
        raise PairError("unreadable_image", f"{path} is empty")
    return data


def _remark(header: PIL.Image.Image, data: bytes, path: Path) -> str | None:
    if header.mode in ("L", "LA", "1"):
        return f"grey_image: {path.name} is grey; read as RGB"
    if header.mode.startswith("I") or _png_depth(data) == 16 or _tiff_depth(header) == 16:
        return f"deep_image: {path.name} has 16 bits; reduced to 8"
    if header.mode in ("RGBA", "PA"):
        return f"alpha_image: {path.name} is transparent; its alpha was ignored"
    # Asking a PNG for its EXIF would decode all of it.
    read_exif = header.format != "PNG" or b"eXIf" in data
    if read_exif and header.getexif().get(_ORIENTATION, 1) in range(2, 9):
        return f"rotated_image: {path.name} is rotated by its EXIF; turned upright"
    return None


def _is_plain_jpeg(data: bytes) -> bool:
    """Whether this is a JPEG of three 8-bit channels without EXIF, in which there is naught to remark.

    Most pictures are, and their segments are walked in a tenth of the time that Pillow takes.
    """
    at, plain = 2, False
    while data[:2] == b"\xff\xd8" and at + 10 <= len(data) and data[at] == 0xFF:
        marker, length = data[at + 1], int.from_bytes(data[at + 2 : at + 4], "big")
        if marker == _SCAN:
            return plain
        if marker == _EXIF or length < 2:
            return False
        if marker in _FRAMES:
            height, width = (int.from_bytes(data[at + n : at + n + 2], "big") for n in (5, 7))
            plain = data[at + 4] == 8 and data[at + 9] == 3 and height * width <= _LARGEST
        at += 2 + length
    return False


def _cut_off(data: bytes) -> bool:
    """Whether a JPEG lacks its end, of which OpenCV makes grey; scans hold neither mark."""
    return data[:2] == b"\xff\xd8" and data.rfind(b"\xff\xd9") < data.rfind(b"\xff\xda")


def _tiff_depth(header: PIL.Image.Image) -> int:
    bits = getattr(header, "tag_v2", {}).get(_BITS_PER_SAMPLE, (8,))
    return int(max(bits)) if isinstance(bits, tuple) else 8


def _png_depth(data: bytes) -> int:
    return data[24] if data[:8] == b"\x89PNG\r\n\x1a\n" and len(data) > 24 else 8
