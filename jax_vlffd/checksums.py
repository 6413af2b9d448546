"""`SHA256SUMS` of a folder, as `sha256sum -c` reads it, and digests within JSON files."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Final

from jax_vlffd.errors import UserError
from jax_vlffd.files import MAX_CONFIG, read_regular

FILE: Final = "SHA256SUMS"
_KEY: Final = "sha256"
_THREADS: Final = 8  # hashlib lets go of Python's lock


class ChangedError(ValueError):
    """JSON values that are not those that were sealed."""


def write(folder: Path, parts: Sequence[str] = ("",)) -> None:
    """Writes `SHA256SUMS` for every file of a folder, or of some of its parts."""
    paths = {path for part in parts for path in (folder / part).rglob("*") if path.is_file()}
    names = sorted(path.relative_to(folder).as_posix() for path in paths - {folder / FILE})
    lines = [f"{digest}  {name}\n" for name, digest in _digests(folder, names).items()]
    (folder / FILE).write_text("".join(lines), "utf-8")


def read(folder: Path) -> dict[str, str]:
    """Name -> digest of the files that `SHA256SUMS` lists, all of them inside the folder.

    Raises:
      UserError: it is missing, cannot be read, or is not such a list; the message ends with the fault.
    """
    path = folder / FILE
    listed = {}
    for line in read_regular(path, MAX_CONFIG).decode("utf-8", "replace").splitlines():
        digest, _, name = line.partition("  ")
        if not name or Path(name).is_absolute() or ".." in Path(name).parts:
            raise UserError(f"{path}: not a list of a folder's files")
        listed[name] = digest
    if not listed:
        raise UserError(f"{path}: lists no files")
    return listed


def changed(folder: Path, listed: Mapping[str, str]) -> list[str]:
    """The names of the listed files that are missing or have another digest.

    Raises:
      OSError: a file is there and cannot be read.
    """
    present = [name for name in listed if (folder / name).is_file()]
    now = _digests(folder, present)
    return [name for name, digest in listed.items() if now.get(name) != digest]


def _digests(folder: Path, names: Iterable[str]) -> dict[str, str]:
    def digest(name: str) -> str:
        with (folder / name).open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()

    names = list(names)
    with ThreadPoolExecutor(_THREADS) as pool:
        return dict(zip(names, pool.map(digest, names), strict=True))


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
