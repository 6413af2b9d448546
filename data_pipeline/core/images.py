"""The one bounded reader of pictures: header, checks, decoding, EXIF orientation, RGB.

Nothing about a picture is believed before it is checked: its size in bytes, its format, the pixels that its
header states. JPEG, PNG, WebP and BMP are decoded by OpenCV, for training and for users alike; other formats
by Pillow.
"""

from __future__ import annotations

import io
import re
import struct
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, Final

import cv2
import numpy as np
import PIL.ExifTags
import PIL.Image
import PIL.ImageOps
from numpy.typing import NDArray

from jax_vlffd.errors import UserError
from jax_vlffd.files import open_buffered, read_regular
from jax_vlffd.preprocessing import as_rgb

Image = NDArray[np.uint8]

#: The largest picture that is decoded: a little more than the 108 megapixels of some cameras.
MAX_PIXELS: Final = 120_000_000
#: The largest picture of a packed record: no face crop comes near it.
MAX_RECORD_PIXELS: Final = 32 << 20
#: The largest picture file that is read.
MAX_BYTES: Final = 512 << 20

#: What Pillow may take a file for. Its other readers are for what nobody photographs in, and one of them runs
#: a program on the file (EPS), another believes a second header (ICO).
_FORMATS: Final[tuple[str, ...]] = (
    *("JPEG", "MPO", "PNG", "WEBP", "BMP", "GIF", "TIFF", "AVIF", "JPEG2000", "PPM", "TGA"),
    *("DIB", "PCX", "SUN"),
)
#: Those that OpenCV decodes.
_OPENCV: Final = ("JPEG", "MPO", "PNG", "WEBP", "BMP")
#: EXIF that says where a picture came from; text of others' making, to be escaped wherever it is shown.
_EXIF: Final = ("Make", "Model", "Software", "DateTime", "Artist", "Copyright", "ImageDescription")
_MAX_EXIF: Final = 200
_TIFF_BITS: Final = 0x0102
# JPEG markers that start a frame and so state its size (SOF0 to SOF15, without DHT, JPG and DAC).
_FRAMES: Final = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}
#: The next marker of a JPEG; not FF00 and the restarts (D0 to D7), which stand within a scan.
_MARKER: Final = re.compile(rb"\xff([\x01-\xcf\xd8-\xfe])")
#: The start of the video that phones put behind a picture.
_VIDEO_BEHIND: Final = re.compile(rb"\0\0\0.ftyp|MotionPhoto_Data", re.DOTALL)


class InputError(ValueError):
    """A picture, or another file that a user names, cannot be read; the message says why, in one line.

    Attributes:
      code: `missing_file`, `unreadable` or `too_large`.
    """

    def __init__(self, code: str, message: str):
        super().__init__(message)
        self.code = code


@dataclass(frozen=True)
class Picture:
    """A picture and the facts of its file.

    Attributes:
      image: uint8 [H, W, 3], RGB, upright; [H, W] where gray was asked for.
      format: as Pillow names it, such as 'JPEG'.
      notes: `code: sentence` for what is unusual about it and was dealt with; the codes are `animated`,
        `cmyk`, `transparent`, `gray`, `deep` (more than 8 bits), `rotated`, `profile` (a color profile
        other than sRGB), `motion` (a video behind the picture) and `cut` (a JPEG of which parts are missing).
      exif: some of its EXIF as text.
    """

    image: Image
    format: str
    notes: tuple[str, ...]
    exif: dict[str, str]


def read_picture(path: Path, *, gray: bool = False) -> Picture:
    """Reads a picture of any common format.

    Of an animation the first frame is read; gray, transparent, CMYK, 16-bit and float pictures are brought to
    RGB, and those with a color profile to sRGB; EXIF orientation is applied.

    Args:
      path: of the file.
      gray: decode to gray instead.

    Raises:
      InputError: it is missing, not a picture, damaged, or too large.
    """
    data = _read(path)
    try:
        with _open(data) as header:  # reads the header alone
            _check_pixels(*header.size, MAX_PIXELS)
            notes, exif = _notes(header, data), _exif(header, data)
            if header.format in _OPENCV:
                image = decode_image(data, MAX_PIXELS, gray=gray)
            else:
                header.seek(0)
                image = as_rgb(header)
                if gray:
                    image = cv2.cvtColor(image, cv2.COLOR_RGB2GRAY).astype(np.uint8)
            if not gray:
                image, more = _in_srgb(image, header)
                notes += more
    except InputError as error:
        raise InputError(error.code, f"{path}: {error}") from error
    except PIL.Image.DecompressionBombError as error:
        raise InputError("too_large", f"{path} states more pixels than are allowed") from error
    except PIL.UnidentifiedImageError as error:
        raise InputError("unreadable", f"{path} is not a picture of a known format") from error
    except Exception as error:  # Pillow's readers raise what they like
        reason = " ".join(str(error).split())[:200] or type(error).__name__
        raise InputError("unreadable", f"{path} is not a picture, or damaged ({reason})") from error
    return Picture(image, header.format or "", notes, exif)


def read_image(path: Path) -> Image | None:
    """The pixels alone, uint8 [H, W, 3], RGB, upright; None where `read_picture` raises."""
    try:
        return read_picture(path).image
    except InputError:
        return None


def is_picture(path: Path) -> bool:
    """Whether a file starts as a picture does; reads its header alone."""
    try:
        with open_buffered(path) as file, _open(file):
            return True
    except Exception:  # Pillow's readers raise what they like
        return False


def image_size(data: bytes) -> tuple[int, int]:
    """Width and height as the header of a PNG, JPEG, WebP or BMP states them; decodes nothing.

    Raises:
      InputError: another format, or a header that is cut or states no size.
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
            raise InputError("unreadable", "not a PNG, JPEG, WebP or BMP image")
    except struct.error as error:
        raise InputError("unreadable", "the image's header is cut off") from error
    if width < 1 or height < 1:
        raise InputError("unreadable", f"the image's header states a size of {width}x{height}")
    return width, height


def decode_image(
    data: bytes, max_pixels: int = MAX_RECORD_PIXELS, *, gray: bool = False
) -> np.ndarray:
    """Decodes a PNG, JPEG, WebP or BMP to uint8 [H, W, 3], RGB, or to gray [H, W].

    EXIF orientation is applied; gray, alpha, CMYK and 16 bit come out as 8-bit RGB (alpha is dropped).

    Raises:
      InputError: too many pixels (checked before decoding), cut off, or damaged.
    """
    _check_pixels(*image_size(data), max_pixels)
    # OpenCV may fill what is missing of a cut file with gray and call it a success.
    if data.startswith(b"\xff\xd8") and not _jpeg_end(data):
        raise InputError("unreadable", "the JPEG is cut off")
    if data.startswith(b"\x89PNG") and data.rfind(b"IEND") < 0:
        raise InputError("unreadable", "the PNG is cut off")
    kind = cv2.IMREAD_GRAYSCALE if gray else cv2.IMREAD_COLOR_RGB
    try:
        image = cv2.imdecode(np.frombuffer(data, np.uint8), kind)
    except cv2.error as error:
        raise InputError("unreadable", f"the image does not decode ({error.err})") from error
    if image is None:
        raise InputError("unreadable", "the image does not decode")
    return image


def _read(path: Path) -> bytes:
    try:
        size = path.stat().st_size
        data = read_regular(path, MAX_BYTES) if size <= MAX_BYTES else b""
    except FileNotFoundError as error:
        raise InputError("missing_file", f"{path} cannot be read ({error.strerror})") from error
    except (OSError, ValueError, UserError) as error:
        reason = str(error) if isinstance(error, UserError) else f"{path} cannot be read ({error})"
        raise InputError("unreadable", reason) from error
    if size > MAX_BYTES:
        raise InputError("too_large", f"{path} has more than {MAX_BYTES >> 20} MB")
    return data


def _open(source: BinaryIO | bytes) -> PIL.Image.Image:
    PIL.Image.init()
    known = [name for name in _FORMATS if name in PIL.Image.OPEN]  # AVIF is in newer ones alone
    return PIL.Image.open(
        io.BytesIO(source) if isinstance(source, bytes) else source, formats=known
    )


def _check_pixels(width: int, height: int, max_pixels: int) -> None:
    if width * height > max_pixels:
        wrong = f"{width}x{height} pixels are more than the {max_pixels} allowed"
        raise InputError("too_large", wrong)


def _notes(header: PIL.Image.Image, data: bytes) -> tuple[str, ...]:
    notes = []
    frames = getattr(header, "n_frames", 1)
    if frames > 1 and header.format != "MPO":
        notes.append(f"animated: only the first of {frames} frames was read")
    if header.mode == "CMYK":
        notes.append("cmyk: converted to RGB without a color profile")
    if header.mode in ("RGBA", "LA", "PA") or "transparency" in header.info:
        notes.append("transparent: its transparency was ignored")
    if header.mode in ("L", "LA", "1"):
        notes.append("gray: it has no color")
    if header.mode.startswith(("I", "F")) or _bits(header, data) > 8:
        notes.append("deep: reduced to 8 bits")
    if int(_getexif(header, data).get(PIL.ExifTags.Base.Orientation, 1) or 1) != 1:
        notes.append("rotated: turned upright by its EXIF")
    if header.format in ("JPEG", "MPO"):
        if _VIDEO_BEHIND.search(data, _jpeg_end(data)):
            notes.append("motion: only the picture was used, not the video behind it")
        if header.mode != "CMYK" and not _decodes_whole(data[: _jpeg_end(data)]):
            notes.append("cut: its data are damaged or end early; what is missing is filled")
    return tuple(notes)


def _in_srgb(image: Image, header: PIL.Image.Image) -> tuple[Image, tuple[str, ...]]:
    """Converts uint8 [H, W, 3] by the color profile of its file, if it has one other than sRGB; and a note."""
    profile = header.info.get("icc_profile")
    if not profile or header.mode == "CMYK":  # which has a note of its own
        return image, ()
    from PIL import ImageCms

    try:
        source = ImageCms.ImageCmsProfile(io.BytesIO(profile))
        name = " ".join(ImageCms.getProfileDescription(source).split())[:60]
        if "sRGB" in name:
            return image, ()
        converted = ImageCms.profileToProfile(
            PIL.Image.fromarray(image), source, ImageCms.createProfile("sRGB"), outputMode="RGB"
        )
    except (ImageCms.PyCMSError, OSError, ValueError, TypeError):  # damaged, or not of RGB
        return image, ("profile: its color profile cannot be applied",)
    return np.asarray(converted, np.uint8), (f"profile: converted to sRGB from {name}",)


def _decodes_whole(data: bytes) -> bool:
    """Whether a JPEG has all of its pixels: libjpeg fills what is missing, FFmpeg can refuse it."""
    import av

    decoder = av.CodecContext.create("mjpeg", "r")
    decoder.options, decoder.thread_count = {"err_detect": "explode"}, 1
    try:
        decoder.decode(av.Packet(data))
    except av.InvalidDataError:
        return False
    except av.FFmpegError:  # a kind that FFmpeg does not read
        return True
    return True


def _bits(header: PIL.Image.Image, data: bytes) -> int:
    """Bits of a sample, of a PNG and of a TIFF; 8 of the others."""
    if header.format == "PNG":
        return data[24]
    return max(getattr(header, "tag_v2", {}).get(_TIFF_BITS, (8,)))


def _getexif(header: PIL.Image.Image, data: bytes) -> Any:
    # Asking a PNG for its EXIF would decode all of it.
    return header.getexif() if header.format != "PNG" or b"eXIf" in data else {}


def _exif(header: PIL.Image.Image, data: bytes) -> dict[str, str]:
    tags = _getexif(header, data)
    known = {}
    for name in _EXIF:
        value = tags.get(PIL.ExifTags.Base[name])
        if isinstance(value, str) and value.strip("\x00 "):
            known[name] = value.strip("\x00 ")[:_MAX_EXIF]
    if PIL.ExifTags.Base.GPSInfo in tags:
        known["GPS"] = "present"
    return known


def _jpeg_size(data: bytes) -> tuple[int, int]:
    offset = 2
    while True:
        (marker,) = struct.unpack(">H", data[offset : offset + 2])
        if marker == 0xFFFF:  # fill bytes may precede a marker
            offset += 1
            continue
        if marker >> 8 != 0xFF or marker in (0xFFD9, 0xFFDA):
            raise InputError("unreadable", "the JPEG states no size")
        if marker & 0xFF in _FRAMES:
            height, width = struct.unpack(">HH", data[offset + 5 : offset + 9])
            return width, height
        alone = marker & 0xFF == 0x01 or 0xD0 <= marker & 0xFF <= 0xD8
        offset += 2 if alone else 2 + struct.unpack(">H", data[offset + 2 : offset + 4])[0]


def _jpeg_end(data: bytes) -> int:
    """The length of the first picture in a JPEG file; 0 where it is cut off, also by another that follows."""
    offset = 2
    while match := _MARKER.search(data, offset):
        offset, marker = match.end(), match[1]
        if marker == b"\xd9":
            return offset
        if marker == b"\xd8":
            return 0
        if marker != b"\x01":
            offset += int.from_bytes(data[offset : offset + 2], "big")
    return 0


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
    raise InputError("unreadable", "the WebP states no size")
