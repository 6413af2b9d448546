"""Finds the input pictures and videos by paths, folders, globs and lists."""

from __future__ import annotations

import fnmatch
import glob
import hashlib
import io
import os
from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Final, cast

from data_pipeline.core.frame_numbers import IMAGE_SUFFIXES, VIDEO_SUFFIXES
from data_pipeline.core.images import InputError, is_picture
from jax_vlffd.errors import UserError
from jax_vlffd.files import open_regular, read_text

PICTURE_SUFFIXES: Final = (
    *IMAGE_SUFFIXES,
    *(".gif", ".avif", ".jfif", ".jpe", ".mpo", ".jp2", ".j2k", ".dib"),
    *(".ppm", ".pgm", ".pnm", ".tga", ".pcx"),
)
#: What systems and archivers put beside files, which a folder's search leaves out without a word.
_BESIDE: Final = ("._*", ".DS_Store", "Thumbs.db", "desktop.ini")


def find_files(patterns: Iterable[str | Path], ignored: Counter[str] | None = None) -> list[Path]:
    """Returns the files that paths, folders and globs (in a `str`) name, each once, in their order.

    Folders are searched to any depth for files with the suffix of a picture or a video; links to folders
    are not followed. A file that is paths itself is taken whatever its suffix, also when it is missing.

    Args:
      patterns: the paths.
      ignored: if given, counts the files of folders that are left out for their suffix, by suffix.

    Raises:
      UserError: a folder or a glob holds none.
    """
    files: dict[Path, None] = {}
    for text in patterns:
        path = Path(text)
        if path.is_dir():
            inside = list(_inside(path, ignored))
            if not inside:
                raise UserError(f"{path} holds no pictures or videos")
            files.update(dict.fromkeys(inside))
        elif isinstance(text, str) and not path.exists() and glob.has_magic(text):
            matched = [Path(name) for name in sorted(glob.glob(text, recursive=True))]
            if not matched:
                raise UserError(f"nothing matches {text}")
            for match in matched:
                files.update(dict.fromkeys(_inside(match, ignored) if match.is_dir() else [match]))
        else:
            files[path] = None
    return list(files)


def read_list(path: Path) -> list[Path]:
    """The paths of a text file, one a line, relative to its folder; empty lines are passed over.

    Raises:
      UserError: it cannot be read or names nothing.
    """
    lines = read_text(path).splitlines()
    paths = [path.parent / line.strip() for line in lines if line.strip()]
    if not paths:
        raise UserError(f"{path}: names no file")
    return paths


def _inside(folder: Path, ignored: Counter[str] | None) -> Iterator[Path]:
    for root, folders, files in os.walk(folder):
        folders[:] = sorted(name for name in folders if name != "__MACOSX")
        for name in sorted(files):
            if any(fnmatch.fnmatchcase(name, pattern) for pattern in _BESIDE):
                continue
            if name.lower().endswith((*PICTURE_SUFFIXES, *VIDEO_SUFFIXES)):
                yield Path(root, name)
            elif ignored is not None:
                ignored[Path(name).suffix.lower()] += 1


def sha256(path: Path) -> str:
    """The SHA-256 of a file, in hexadecimal.

    Raises:
      InputError: it cannot be read.
    """
    try:
        with io.BufferedReader(cast(io.RawIOBase, open_regular(path))) as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except (OSError, UserError) as error:
        missing = isinstance(error.__cause__, FileNotFoundError)
        raise InputError("missing_file" if missing else "unreadable", str(error)) from error


def is_video(path: Path) -> bool:
    """Whether a file is a video, by its suffix, else because its header is not a picture's."""
    suffix = path.suffix.lower()
    return suffix in VIDEO_SUFFIXES or (suffix not in PICTURE_SUFFIXES and not is_picture(path))
