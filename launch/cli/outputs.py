"""Checks where a command writes before it works: addresses, what is in the way, inputs that would be lost."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, Final

from jax_vlffd.errors import UserError

#: Kinds of outputs: a file; a folder; a folder that may lie in a bucket.
FILE, FOLDER, RUN = "file", "folder", "run"
_SHOWN: Final = 200  # letters of a path in an error


def check(writes: Mapping[str, tuple[str, Any]], reads: Mapping[str, Any]) -> None:
    """Checks the outputs of a command against the file system and its inputs.

    Args:
      writes: by flag, the kind of the output and the flag's value: a path, several, or None.
      reads: by flag, the paths of inputs, `NAME=PATH` among them.

    Raises:
      UserError: an output is an address of a bucket, lies below a file, is of the other kind, cannot be
        written, or is or holds an input.
    """
    inputs = [path for value in reads.values() for path in _paths(value)]
    for flag, (kind, value) in writes.items():
        for path in [value] if isinstance(value, str) else list(value or ()):
            try:
                _check(flag, kind, path)
                if kind in (FILE, FOLDER):
                    _check_inputs(flag, kind, path, inputs)
            except (OSError, ValueError) as error:
                why = error.strerror if isinstance(error, OSError) else error
                raise UserError(f"--{flag}={path[:_SHOWN]}: cannot be written ({why})") from error


def _check(flag: str, kind: str, text: str) -> None:
    if "://" in text:
        if kind == RUN:
            return
        raise UserError(
            f"--{flag}={text}: this command writes no bucket; give a local path and copy it there "
            "afterwards, as by `gcloud storage cp -r`"
        )
    if not text:
        raise UserError(f"--{flag}= is empty; give a path")
    path = Path(text)
    if path.exists() and path.is_dir() == (kind == FILE):
        way_out = "name a file in it" if kind == FILE else "name a folder"
        raise UserError(f"--{flag}={text} is {'a folder' if kind == FILE else 'a file'}; {way_out}")
    if kind == FILE and path.exists() and not path.is_file():
        raise UserError(f"--{flag}={text} is a device or a pipe; name a file")
    above = Path(os.path.abspath(path)).parent
    while not os.path.lexists(above):
        above = above.parent
    if not above.is_dir():
        raise UserError(f"--{flag}={text}: {above} is not a folder, so nothing can be below it")
    nearest = path if path.exists() else above
    if not os.access(nearest, os.W_OK):
        read_only = os.statvfs(nearest).f_flag & os.ST_RDONLY
        why = os.strerror(errno.EROFS if read_only else errno.EACCES)
        raise UserError(f"--{flag}={text}: {nearest} cannot be written ({why})")


def _check_inputs(flag: str, kind: str, text: str, inputs: Iterable[str]) -> None:
    out = os.path.realpath(text)
    for path in inputs:
        real = os.path.realpath(path)
        if real == out or (kind == FOLDER and Path(real).is_relative_to(out)):
            held = "is" if real == out else "holds"
            beside = "a folder beside it" if kind == FOLDER else "another file"
            raise UserError(f"--{flag}={text} {held} {path}, which is read: name {beside}")


def _paths(value: Any) -> list[str]:
    """The paths in a flag's value."""
    texts = [value] if isinstance(value, str) else list(value or ())
    paths = []
    for text in texts:
        name, equals, path = text.partition("=")
        paths.append(path if equals and "/" not in name and not os.path.exists(text) else text)
    return [path for path in paths if path and "://" not in path]
