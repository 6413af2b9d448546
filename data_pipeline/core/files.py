"""Folders that appear only when they are whole; names from files of strangers as paths."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import os
import re
import shutil
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

from jax_vlffd.errors import UserError
from jax_vlffd.file_writing import locked_handle
from jax_vlffd.files import read_json

#: Bytes of a name: what file systems take, and what leaves room for a suffix.
_LIMIT: Final = 255
_MAX_NAME: Final = 240
#: What no part of a name may hold: separators of other systems, ends of lines, the end of a C string.
_FORBIDDEN: Final = re.compile(r"[\\\0\r\n]|^[A-Za-z]:")

_MAX_OBJECT = 64 << 20
#: What the system says of storage that is full or cannot be written.
_STORAGE_WORDS: Final = tuple(
    os.strerror(number)
    for number in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS, errno.EACCES, errno.EIO)
)


@contextlib.contextmanager
def new_folder(out: Path) -> Iterator[Path]:
    """A folder beside `out` to fill, which takes its name when the `with` block ends well, and else goes.

    Makes the parent folder when it is missing. At `out` there may be an empty folder, nothing else.

    Raises:
      UserError: what is in the block cannot be written.
    """
    with folder_aside(out) as aside:
        built = aside / "new"
        built.mkdir()
        yield built
        os.replace(built, out)


@contextlib.contextmanager
def folder_aside(out: Path) -> Iterator[Path]:
    """An empty folder beside `out`, which goes when the `with` block ends; so do those that a kill left.

    If such a one holds `old`, the folder that was at `out` and was to be replaced, it is put back.

    Raises:
      UserError: what is in the block cannot be written.
    """
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        prefix = f".{file_name(out.name, _LIMIT // 2)}.partial-"
        for left in out.parent.iterdir():
            if left.name.startswith(prefix) and (lock := locked_handle(left)) is not None:
                _remove_aside(left, out, lock)
        aside, lock = None, None
        while lock is None:  # another process may take it for one that was left
            aside = Path(tempfile.mkdtemp(dir=out.parent, prefix=prefix))
            lock = locked_handle(aside)
        assert aside is not None
    except OSError as error:
        raise UserError(f"{out} cannot be written ({error.strerror or error})") from error
    try:
        yield aside
    except OSError as error:
        if error.filename is not None and not str(error.filename).startswith(str(aside)):
            raise
        raise UserError(f"{out} cannot be written ({error.strerror or error})") from error
    except Exception as error:
        # ArrayRecord and TensorStore raise RuntimeError and ValueError with the system's words.
        reasons = [words for words in _STORAGE_WORDS if words in str(error)]
        if not reasons or isinstance(error, UserError):
            raise
        raise UserError(f"{out} cannot be written ({reasons[0]})") from error
    finally:
        _remove_aside(aside, out, lock)


def _remove_aside(aside: Path, out: Path, lock: int) -> None:
    old = aside / "old"
    if old.is_dir() and not out.exists():
        old.rename(out)
    # After an error, a library's threads may write on for a while.
    writing = sys.exc_info()[0] is not None
    checks = 0
    for _ in range(100):
        shutil.rmtree(aside, ignore_errors=True)
        checks = 0 if aside.exists() else checks + 1
        if checks == (3 if writing else 1):
            break
        time.sleep(0.1)
    os.close(lock)


def file_name(name: str, max_bytes: int = _MAX_NAME) -> str:
    """A name as one that every file system takes: in UTF-8, of at most `max_bytes` bytes.

    One that is longer, or not UTF-8, is cut and told apart by a hash.
    """
    raw = os.fsencode(name)
    text = raw.decode("utf-8", errors="replace").replace("\ufffd", "_")
    if text == name and len(raw) <= max_bytes:
        return name
    end = f"-{hashlib.sha256(raw).hexdigest()[:12]}"
    return raw[: max_bytes - len(end)].decode("utf-8", errors="ignore") + end


def safe_path(name: str, record: str, max_bytes: int = _MAX_NAME) -> str:
    """A relative path, with slashes, of a name that came out of a file: each part as `file_name` has it.

    Args:
      name: one part or several with slashes between them.
      record: what is named in an error.
      max_bytes: of a part.

    Raises:
      UserError: it is empty, absolute, holds `..`, or what cannot be part of a name on some system.
    """
    parts = name.split("/")
    if any(part in ("", ".", "..") or _FORBIDDEN.search(part) for part in parts):
        raise UserError(
            f"{record}: {name!r} cannot be a name of a file or folder here; rename it (it may not be "
            "empty, absolute or climb by '..', nor hold a backslash or an end of line)"
        )
    return "/".join(file_name(part, max_bytes) for part in parts)


def inside(folder: Path, name: str, record: str = "") -> Path:
    """The path below `folder` for a name that comes from a file.

    Args:
      folder: of the output.
      name: see `safe_path`.
      record: what is named in an error; the path where it is empty.

    Raises:
      UserError: see `safe_path`; or a link on the way leads out of the folder.
    """
    path = folder / safe_path(name, record or str(folder), _LIMIT)
    if not Path(os.path.realpath(path)).is_relative_to(os.path.realpath(folder)):
        raise UserError(f"{record or path}: {path} is a link that leads out of {folder}; remove it")
    return path


def read_object(path: Path) -> dict[str, Any] | None:
    """The JSON object in a file; None where it is missing, damaged, no regular file or above 64 MiB."""
    try:
        value = read_json(path, _MAX_OBJECT)
    except UserError:
        return None
    return value if isinstance(value, dict) else None
