"""Reads the images of a pair, with remarks on conversions."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Final

from data_pipeline.core.images import Image, InputError, read_picture
from data_pipeline.fftg.measure.difference_mask import PairError

#: Remarks on images that are not plain RGB, by the code of the reader's note; the first one applies.
_REMARKS: Final = {
    "gray": "gray_image: {} is gray; read as RGB",
    "deep": "deep_image: {} has 16 bits; reduced to 8",
    "transparent": "alpha_image: {} is transparent; its alpha was ignored",
    "rotated": "rotated_image: {} is rotated by its EXIF; turned upright",
}


def read_image(path: Path) -> tuple[Image, str | None]:
    """Reads an image as RGB; see `core.images.read_picture`.

    Returns:
      uint8 [H, W, 3], and a remark `code: message` where the image was not plain RGB, else None.

    Raises:
      PairError: `missing_file` or `unreadable_image`.
    """
    try:
        picture = read_picture(path)
    except InputError as error:
        code = "unreadable_image" if os.path.isfile(path) else "missing_file"
        raise PairError(code, str(error)) from error
    codes = {note.partition(":")[0] for note in picture.notes}
    remark = next((text for code, text in _REMARKS.items() if code in codes), None)
    return picture.image, remark and remark.format(path.name)


def read_mask(path: Path, real: Image, fake: Image) -> Image:
    """Reads a forgery mask, uint8 [H, W], 0 to 255.

    Raises:
      PairError: `missing_file`, or `bad_mask` where it is not an image or has the size of neither image.
    """
    try:
        mask = read_picture(path, gray=True).image
    except InputError as error:
        code = "bad_mask" if os.path.isfile(path) else "missing_file"
        raise PairError(code, str(error)) from error
    if mask.shape not in (real.shape[:2], fake.shape[:2]):
        sizes = f"{mask.shape[1]}x{mask.shape[0]}; the images are {real.shape[1]}x{real.shape[0]}"
        raise PairError("bad_mask", f"{path} is {sizes}")
    return mask
