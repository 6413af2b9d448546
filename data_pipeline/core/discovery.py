"""Pictures and videos that a user hands in: found by paths, folders, globs and lists, and read with care.

Nothing about such a file is believed before it is checked: its size in bytes, the number of pixels that its
header states, its kind. Pictures are decoded by the function that training decodes by.
"""

from __future__ import annotations

import glob
import hashlib
import io
import os
import stat
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
import PIL.ExifTags
import PIL.Image
import PIL.ImageOps
from numpy.typing import NDArray

from data_pipeline.core.frame_numbers import IMAGE_SUFFIXES, VIDEO_SUFFIXES
from data_pipeline.core.images import BadImageError, decode_image, image_size
from jax_vlffd.errors import UserError

Image = NDArray[np.uint8]

#: The largest picture that is decoded: a little more than the 108 megapixels of some cameras.
MAX_PIXELS: Final = 120_000_000
#: The largest picture file that is read.
MAX_BYTES: Final = 512 << 20
PICTURE_SUFFIXES: Final = (*IMAGE_SUFFIXES, ".gif", ".avif")
_CHUNK: Final = 1 << 22
#: EXIF that says where a picture came from; text of others' making, to be escaped wherever it is shown.
_EXIF: Final = ("Make", "Model", "Software", "DateTime", "Artist", "Copyright", "ImageDescription")
_EXIF_LONGEST: Final = 200


class InputError(Exception):
    """A file that cannot be read.

    Attributes:
      code: `missing_file`, `unreadable`, `too_large`.
    """

    def __init__(self, code: str, message: str):
        super().__init__(message)
        self.code = code


@dataclass(frozen=True)
class Picture:
    """A picture and the facts of its file.

    Attributes:
      image: uint8 [H, W, 3], RGB, upright.
      format: as Pillow names it, such as 'JPEG'.
      notes: `code: sentence` for what is unusual about it and was dealt with.
      exif: some of its EXIF as text.
    """

    image: Image
    format: str
    notes: tuple[str, ...]
    exif: dict[str, str]


def find(given: Iterable[str]) -> list[Path]:
    """The files that paths, folders and globs name, each once, in the order given.

    Folders are searched to any depth for files with the suffix of a picture or a video; links to folders
    are not followed. A file that is named itself is taken whatever its suffix, also when it is missing.

    Raises:
      UserError: a folder or a glob holds none.
    """
    found: dict[Path, None] = {}
    for text in given:
        path = Path(text)
        if path.is_dir():
            inside = list(_inside(path))
            if not inside:
                raise UserError(f"{path} holds no picture and no video")
            found.update(dict.fromkeys(inside))
        elif not path.exists() and glob.has_magic(text):
            matched = [Path(name) for name in sorted(glob.glob(text, recursive=True))]
            if not matched:
                raise UserError(f"nothing matches {text}")
            for match in matched:
                found.update(dict.fromkeys(_inside(match) if match.is_dir() else [match]))
        else:
            found[path] = None
    return list(found)


def read_list(path: Path) -> list[str]:
    """The paths of a text file, one a line, relative to its folder; empty lines are passed over.

    Raises:
      UserError: it cannot be read or names nothing.
    """
    try:
        lines = path.read_text("utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{path}: cannot be read as a list of paths ({error})") from error
    named = [str(path.parent / line.strip()) for line in lines if line.strip()]
    if not named:
        raise UserError(f"{path}: names no file")
    return named


def _inside(folder: Path) -> Iterator[Path]:
    for root, folders, files in os.walk(folder):
        folders.sort()
        for name in sorted(files):
            if name.lower().endswith((*PICTURE_SUFFIXES, *VIDEO_SUFFIXES)):
                yield Path(root, name)


def sha256(path: Path) -> str:
    """The SHA-256 of a file, in hexadecimal.

    Raises:
      InputError: it cannot be read.
    """
    digest = hashlib.sha256()
    try:
        if not stat.S_ISREG(path.stat().st_mode):  # a device or a pipe might never end
            raise InputError("unreadable", f"{path} is no ordinary file")
        with path.open("rb") as file:
            while chunk := file.read(_CHUNK):
                digest.update(chunk)
    except OSError as error:
        raise _unreadable(path, error) from error
    return digest.hexdigest()


def is_video(path: Path) -> bool:
    """Whether a file is taken for a video: by its suffix, or because it starts as no picture does."""
    suffix = path.suffix.lower()
    if suffix in VIDEO_SUFFIXES:
        return True
    if suffix in PICTURE_SUFFIXES:
        return False
    try:
        with PIL.Image.open(path):
            return False
    except Exception:  # Pillow's readers raise what they like
        return True


def read_picture(path: Path) -> Picture:
    """Reads a picture of any common kind.

    Animated ones give their first frame; grey, transparent, CMYK and 16-bit ones are brought to RGB; EXIF
    orientation is applied.

    Raises:
      InputError: it is missing, no picture, damaged, or too large.
    """
    try:
        if path.stat().st_size > MAX_BYTES:
            raise InputError("too_large", f"{path} has more than {MAX_BYTES >> 20} MB")
        data = path.read_bytes()
    except OSError as error:
        raise _unreadable(path, error) from error
    try:
        with PIL.Image.open(io.BytesIO(data)) as header:  # reads the header alone
            width, height = header.size
            if width * height > MAX_PIXELS:
                raise InputError(
                    "too_large", f"{path} states {width}x{height} pixels; {MAX_PIXELS} are allowed"
                )
            notes = _notes(header, data)
            exif = _exif(header, data)
            kind = header.format or ""
            image = _decode(header, data)
    except InputError:
        raise
    except PIL.Image.DecompressionBombError as error:
        raise InputError("too_large", f"{path} states more pixels than are allowed") from error
    except PIL.UnidentifiedImageError as error:
        raise InputError("unreadable", f"{path} is no picture of a known kind") from error
    except Exception as error:  # Pillow's readers raise what they like
        reason = " ".join(str(error).split())[:200] or type(error).__name__
        raise InputError("unreadable", f"{path} is no picture, or damaged ({reason})") from error
    return Picture(image, kind, notes, exif)


def _decode(header: PIL.Image.Image, data: bytes) -> Image:
    if header.format in ("JPEG", "MPO", "PNG", "WEBP", "BMP") and not _animated(header):
        stated = image_size(data)  # of the header that OpenCV will believe
        if stated[0] * stated[1] > MAX_PIXELS:
            raise BadImageError("its headers state two sizes")
        return decode_image(data, MAX_PIXELS).astype(np.uint8)
    header.seek(0)
    image = PIL.ImageOps.exif_transpose(header)
    return np.asarray(image.convert("RGB"), np.uint8)


def _animated(header: PIL.Image.Image) -> bool:
    return header.format != "MPO" and getattr(header, "n_frames", 1) > 1


def _notes(header: PIL.Image.Image, data: bytes) -> tuple[str, ...]:
    notes = []
    if _animated(header):
        frames = getattr(header, "n_frames", 1)
        notes.append(f"animated: only the first of {frames} frames was looked at")
    if header.mode == "CMYK":
        notes.append("cmyk: converted to RGB without a colour profile")
    if header.mode in ("RGBA", "LA", "PA") or "transparency" in header.info:
        notes.append("transparent: its transparency was ignored")
    if header.mode in ("L", "LA", "1"):
        notes.append("grey: it has no colour")
    if header.mode.startswith(("I", "F")):
        notes.append("deep: reduced to 8 bits")
    if _orientation(header, data) != 1:
        notes.append("rotated: turned upright by its EXIF")
    return tuple(notes)


def _getexif(header: PIL.Image.Image, data: bytes) -> Any:
    # Asking a PNG for its EXIF would decode all of it.
    return header.getexif() if header.format != "PNG" or b"eXIf" in data else {}


def _orientation(header: PIL.Image.Image, data: bytes) -> int:
    return int(_getexif(header, data).get(PIL.ExifTags.Base.Orientation, 1) or 1)


def _exif(header: PIL.Image.Image, data: bytes) -> dict[str, str]:
    tags = _getexif(header, data)
    found = {}
    for name in _EXIF:
        value = tags.get(PIL.ExifTags.Base[name])
        if isinstance(value, str) and value.strip("\x00 "):
            found[name] = value.strip("\x00 ")[:_EXIF_LONGEST]
    if PIL.ExifTags.Base.GPSInfo in tags:
        found["GPS"] = "present"
    return found


def _unreadable(path: Path, error: OSError) -> InputError:
    code = "missing_file" if isinstance(error, FileNotFoundError) else "unreadable"
    return InputError(code, f"{path} cannot be read ({error.strerror})")
