"""The one bounded reader of small files: regular files alone, of at most so many bytes.

What is read may be untrusted: a pipe would hold the reader for ever, a device or a sparse file fill the memory.
"""

from __future__ import annotations

import io
import os
import stat
from typing import Any, BinaryIO, Final, cast

from jax_vlffd.errors import UserError, printable
from jax_vlffd.json_reading import parse_json

#: Bytes of a text, a table or a JSON file that is read whole.
MAX_TEXT: Final = 256 << 20
#: Bytes of a config, a manifest, a calibration and the like, which have kilobytes.
MAX_CONFIG: Final = 16 << 20
_CHUNK: Final = 1 << 20


def open_regular(path: str | os.PathLike[str]) -> BinaryIO:
    """A regular file, opened to read without a buffer; devices and pipes are never waited for.

    Raises:
      UserError: it is missing, another kind of file, or cannot be opened.
    """
    try:
        # Without O_NONBLOCK, to open a pipe that nobody writes to would wait forever.
        file = os.fdopen(os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC), "rb", 0)
    except (OSError, ValueError) as error:
        why = error.strerror if isinstance(error, OSError) else None
        raise UserError(f"{path}: cannot be read ({why or error})") from error
    if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
        file.close()
        raise UserError(f"{path}: not a regular file; give a copy of the file itself")
    return cast(BinaryIO, file)


def read_regular(path: str | os.PathLike[str], max_bytes: int) -> bytes:
    """The bytes of a regular file of at most `max_bytes`; see `open_regular`.

    Raises:
      UserError: it is missing, another kind of file, larger, or cannot be read.
    """
    with open_regular(path) as file:
        size = os.fstat(file.fileno()).st_size
        if size > max_bytes:  # nothing is read: it may be sparse
            raise _too_large(path, max_bytes)
        try:
            data = file.read(size + 1) or b""
            while len(data) <= max_bytes and (
                more := file.read(_CHUNK)
            ):  # it grows, or states no size
                data += more
        except OSError as error:
            raise UserError(f"{path}: cannot be read ({error.strerror or error})") from error
    if len(data) > max_bytes:
        raise _too_large(path, max_bytes)
    return data


def open_buffered(path: str | os.PathLike[str]) -> BinaryIO:
    """A regular file as `open_regular` has it, with a buffer."""
    return io.BufferedReader(cast(io.RawIOBase, open_regular(path)))


def read_text(path: str | os.PathLike[str], max_bytes: int = MAX_TEXT) -> str:
    """A text file in UTF-8, with or without a byte-order mark; see `read_regular`.

    Raises:
      UserError: see `read_regular`; or it is not UTF-8.
    """
    try:
        return read_regular(path, max_bytes).decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise UserError(f"{path}: cannot be read: not text in UTF-8 ({error.reason})") from error


def read_json(path: str | os.PathLike[str], max_bytes: int = MAX_CONFIG) -> Any:
    """The value in a JSON file; see `read_regular` and `json_reading.parse_json`.

    Raises:
      UserError: see `read_regular`; or it is not JSON.
    """
    try:
        return parse_json(read_regular(path, max_bytes))
    except ValueError as error:
        raise UserError(f"{path} is not JSON ({printable(str(error))[:200]})") from error


def check_regular(path: str | os.PathLike[str], max_bytes: int) -> None:
    """Checks a file that a library opens by its name: a regular file of at most `max_bytes`.

    Raises:
      UserError: it is missing, another kind of file, or larger.
    """
    with open_regular(path) as file:
        if os.fstat(file.fileno()).st_size > max_bytes:
            raise _too_large(path, max_bytes)


def _too_large(path: str | os.PathLike[str], max_bytes: int) -> UserError:
    size = f"{max_bytes >> 20:,} MiB" if max_bytes >> 20 else f"{max_bytes:,} bytes"
    return UserError(f"{path}: larger than {size}, which such a file never is")
