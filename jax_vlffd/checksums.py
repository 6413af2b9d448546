"""Digests of a folder's files, and digests within JSON files.

A folder that is handed on has `SHA256SUMS`, as `sha256sum -c` reads it. A checkpoint has `CRC32CSUMS`, which
notices damage as surely and takes a third of the time.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Final

import google_crc32c

from jax_vlffd.errors import UserError
from jax_vlffd.files import MAX_CONFIG, read_regular

FILE: Final = "SHA256SUMS"
FAST_FILE: Final = "CRC32CSUMS"
_KEY: Final = "sha256"
_THREADS: Final = 8  # both digests let go of Python's lock
_CHUNK: Final = 1 << 20


class ChangedError(ValueError):
    """JSON values that are not those that were sealed."""


def write(folder: Path, parts: Sequence[str] = ("",), file: str = FILE) -> None:
    """Writes the list for every file of a folder, or of some of its parts; `file` decides the digest."""
    paths = {path for part in parts for path in (folder / part).rglob("*") if path.is_file()}
    names = sorted(path.relative_to(folder).as_posix() for path in paths - {folder / file})
    lines = [f"{digest}  {name}\n" for name, digest in _digests(folder, names, file).items()]
    (folder / file).write_text("".join(lines), "utf-8")


def read(folder: Path, file: str = FILE) -> dict[str, str]:
    """Name -> digest of the files that the list has, all of them inside the folder.

    Raises:
      UserError: it is missing, cannot be read, or is not such a list; the message ends with the fault.
    """
    path = folder / file
    listed = {}
    for line in read_regular(path, MAX_CONFIG).decode("utf-8", "replace").splitlines():
        digest, _, name = line.partition("  ")
        if not name or Path(name).is_absolute() or ".." in Path(name).parts:
            raise UserError(f"{path}: not a list of a folder's files")
        listed[name] = digest
    if not listed:
        raise UserError(f"{path}: lists no files")
    return listed


def changed(folder: Path, listed: Mapping[str, str], file: str = FILE) -> list[str]:
    """The names of the listed files that are missing or have another digest.

    Raises:
      OSError: a file is there and cannot be read.
    """
    present = [name for name in listed if (folder / name).is_file()]
    now = _digests(folder, present, file)
    return [name for name, digest in listed.items() if now.get(name) != digest]


def _digests(folder: Path, names: Iterable[str], file: str) -> dict[str, str]:
    digest = _crc32c if file == FAST_FILE else _sha256
    names = list(names)
    with ThreadPoolExecutor(_THREADS) as pool:
        digests = pool.map(digest, [folder / name for name in names])
        return dict(zip(names, digests, strict=True))


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _crc32c(path: Path) -> str:
    value = 0
    with path.open("rb", buffering=0) as file:
        while chunk := file.read(_CHUNK):
            value = google_crc32c.extend(value, chunk)
    return f"{value:08x}"


def seal(values: Mapping[str, Any]) -> dict[str, Any]:
    """JSON values with a digest of their own, for a file that is replaced alone.

    A copy to the last level: what is saved in the background may go on changing.
    """
    copy: dict[str, Any] = json.loads(json.dumps(values))
    return {**copy, _KEY: _json_digest(copy)}


def unseal(values: Mapping[str, Any], required: bool = False) -> dict[str, Any]:
    """The values without their digest.

    Args:
      values: as read.
      required: whether they must have a digest; those of older versions have none.

    Raises:
      ChangedError: they are not those that were sealed.
    """
    if not isinstance(values, Mapping):
        raise ChangedError("its contents are not those that were saved")
    rest = {name: value for name, value in values.items() if name != _KEY}
    expected = _json_digest(rest)
    if values.get(_KEY, "" if required else expected) != expected:
        raise ChangedError("its contents are not those that were saved")
    return rest


def _json_digest(values: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()
