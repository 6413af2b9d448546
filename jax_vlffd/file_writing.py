"""The one writer of files: aside, on to the disk, then renamed, so that nothing half-written is ever seen."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Mapping
from pathlib import Path

from jax_vlffd.errors import UserError


def atomic_write_bytes(path: str | os.PathLike[str], data: bytes) -> None:
    """Writes `data` to `path` by writing aside, syncing and renaming.

    Makes the parent folder when it is missing. On failure the old file stays and no temporary is left.

    Raises:
      UserError: it cannot be written there.
    """
    target = Path(path)
    try:
        _write(target, data)
    except OSError as error:
        raise UserError(f"{target} cannot be written ({error.strerror or error})") from error


def atomic_write_text(path: str | os.PathLike[str], text: str) -> None:
    """Writes `text` as UTF-8; see `atomic_write_bytes`."""
    atomic_write_bytes(path, text.encode("utf-8"))


def write_together(folder: Path, files: Mapping[str, bytes]) -> None:
    """Writes files that belong together: where the last one is, the others are of the same writing.

    All are written aside first; then the last one's old file is removed, the others are renamed, and it comes
    after them. Whoever is killed in between leaves the old files, or no last one, or the new ones.

    Raises:
      UserError: they cannot be written there; the old files are then still there.
    """
    *_, last = files
    aside: dict[str, Path] = {}
    name = next(iter(files))
    try:
        for name, data in files.items():
            aside[name] = _write_aside(folder / name, data)
        (folder / last).unlink(missing_ok=True)
        for name in files:
            os.replace(aside[name], folder / name)
    except OSError as error:
        raise UserError(f"{folder / name} cannot be written ({error.strerror or error})") from error
    finally:
        for path in aside.values():
            path.unlink(missing_ok=True)


def _write(target: Path, data: bytes) -> None:
    temporary = _write_aside(target, data)
    try:
        os.replace(temporary, target)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def _write_aside(target: Path, data: bytes) -> Path:
    """Writes `data` to a new file beside `target`, and on to the disk."""
    target.parent.mkdir(parents=True, exist_ok=True)
    handle, temporary = tempfile.mkstemp(dir=target.parent, prefix=".new.")
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.chmod(temporary, 0o666 & ~_umask())  # mkstemp makes 0600; a result is an ordinary file
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise
    return Path(temporary)


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask
