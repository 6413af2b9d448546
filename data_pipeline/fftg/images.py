"""Reading pictures of any kind as RGB, and saying what had to be done for it."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Final

import cv2
import numpy as np
import PIL.Image
from numpy.typing import NDArray

from data_pipeline.fftg.mask import PairError

Image = NDArray[np.uint8]

_ORIENTATION: Final = 0x0112


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
        with PIL.Image.open(io.BytesIO(data)) as header:
            remark = _remark(header, data, path)
        pixels = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR)
    except (OSError, ValueError, SyntaxError, cv2.error, PIL.Image.DecompressionBombError) as error:
        reason = str(error).splitlines()[0]
        raise PairError("unreadable_image", f"{path} is no picture ({reason})") from error
    if pixels is None:
        raise PairError("unreadable_image", f"{path} is damaged or of an unknown format")
    return cv2.cvtColor(pixels, cv2.COLOR_BGR2RGB).astype(np.uint8), remark


def read_mask(path: Path, shape: tuple[int, ...]) -> Image:
    """Reads a forgery mask, uint8 [H, W]; PairError `bad_mask` where it does not fit `shape`."""
    pixels = cv2.imdecode(np.frombuffer(_bytes(path), np.uint8), cv2.IMREAD_GRAYSCALE)
    if pixels is None or pixels.shape != tuple(shape):
        found = "no picture" if pixels is None else f"{pixels.shape[1]}x{pixels.shape[0]}"
        raise PairError("bad_mask", f"{path} is {found}; the images are {shape[1]}x{shape[0]}")
    return pixels.astype(np.uint8)


def _bytes(path: Path) -> bytes:
    try:
        data = path.read_bytes()
    except OSError as error:
        raise PairError("missing_file", f"{path} cannot be read ({error.strerror})") from error
    if not data:
        raise PairError("unreadable_image", f"{path} is empty")
    return data


def _remark(header: PIL.Image.Image, data: bytes, path: Path) -> str | None:
    if header.mode in ("L", "LA", "1"):
        return f"grey_image: {path.name} is grey; read as RGB"
    if header.mode.startswith("I") or _png_depth(data) == 16:
        return f"deep_image: {path.name} has 16 bits; reduced to 8"
    if header.mode in ("RGBA", "PA"):
        return f"alpha_image: {path.name} is transparent; its alpha was ignored"
    # Asking a PNG for its EXIF would decode all of it.
    if (header.format != "PNG" or b"eXIf" in data) and header.getexif().get(_ORIENTATION, 1) != 1:
        return f"rotated_image: {path.name} is rotated by its EXIF; turned upright"
    return None


def _png_depth(data: bytes) -> int:
    return data[24] if data[:8] == b"\x89PNG\r\n\x1a\n" and len(data) > 24 else 8
