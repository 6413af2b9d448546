"""Workdirs in a bucket (gs://BUCKET/RUN): checkpoints, heartbeat and lock lie there and nowhere else.

What is small (config, tokenizer, logs, summary) is written into a local folder and copied up before every
save and at the end, because an object can be replaced and not appended to. A start brings it down again.
Needs the extra `gcs`.
"""

from __future__ import annotations

import contextlib
import os
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from data_pipeline.packed.remote import bucket_errors
from jax_vlffd.contained import check_contained
from jax_vlffd.errors import UserError

if TYPE_CHECKING:
    from etils import epath

#: Folders that are copied down, beside the files at the top.
_FOLDERS = ("tokenizer",)
#: A file larger than this is not copied down.
_MAX_BYTES = 1 << 30
_UNUSABLE = (
    "is a bucket that cannot be used",
    "see that it is there and that this machine may read and write it, as by "
    "`gcloud auth application-default login`, and start again",
)
#: A file's time may be this much behind the clock.
_TICK_NS = 20_000_000


@dataclass
class _Origin:
    """The address that a local folder stands for, and when it was last copied down or up."""

    address: str
    published_ns: int


#: Of the folders that `local` gave, as long as they are. An address is only ever the user's: no file in a
#: workdir can name one.
_ORIGINS: dict[Path, _Origin] = {}


def is_address(place: str | os.PathLike[str]) -> bool:
    """Whether it is an address, not a path of this machine."""
    return "://" in os.fspath(place)


@contextlib.contextmanager
def local(place: str) -> Iterator[Path]:
    """The folder to work in: `place` itself, or one for the time being with the small files of a bucket's.

    Errors that are raised within name the bucket's place, not that folder.

    Raises:
      UserError: it is another kind of address, or the bucket cannot be read; or the folder is not contained.
    """
    if not is_address(place):
        if Path(place).is_dir():
            check_contained(Path(place))
        yield Path(place)
        return
    if not place.startswith("gs://"):
        raise UserError(
            f"{place}: of addresses only gs:// is known; give a folder or gs://BUCKET/RUN"
        )
    if set(place) & set("*?[]"):
        raise UserError(
            f"{place}: a bucket's client takes *, ?, [ and ] for patterns; give an address without them"
        )
    with tempfile.TemporaryDirectory(prefix="jax_vlffd-") as made:
        workdir = Path(made) / (place.rstrip("/").rpartition("/")[2] or "run")
        workdir.mkdir()
        with bucket_errors(place, *_UNUSABLE):
            _copy_down(place, workdir)
        _ORIGINS[workdir] = _Origin(place.rstrip("/"), time.time_ns() - _TICK_NS)
        try:
            yield workdir
        except UserError as error:
            raise UserError(str(error).replace(str(workdir), place.rstrip("/"))) from error
        finally:
            del _ORIGINS[workdir]


def origin(workdir: Path) -> Path | epath.Path:
    """Where a workdir really lies: itself, or the bucket's folder that it stands for."""
    found = _ORIGINS.get(workdir)
    if found is None:
        return workdir
    from etils import epath

    return epath.Path(found.address)


def publish(workdir: Path) -> None:
    """Copies to the bucket what has changed since the last time; does nothing for an ordinary workdir.

    Raises:
      UserError: the bucket cannot be written.
    """
    found = _ORIGINS.get(workdir)
    if found is None:
        return
    target, now = origin(workdir), time.time_ns() - _TICK_NS
    with bucket_errors(found.address, *_UNUSABLE):
        for file in sorted(workdir.rglob("*")):
            if file.is_file() and file.stat().st_mtime_ns >= found.published_ns:
                (target / file.relative_to(workdir)).write_bytes(file.read_bytes())
    found.published_ns = now


def _copy_down(place: str, workdir: Path) -> None:
    from etils import epath

    from jax_vlffd.training.heartbeat import HEARTBEAT

    source = epath.Path(place.rstrip("/"))
    for folder in (source, *(source / name for name in _FOLDERS)):
        for path in folder.iterdir() if folder.is_dir() else ():
            if path.name == HEARTBEAT or path.is_dir():
                continue
            if path.stat().length > _MAX_BYTES:
                raise UserError(f"{path} is larger than any file of a run; use another --workdir")
            copy = workdir / path.relative_to(source)
            copy.parent.mkdir(exist_ok=True)
            copy.write_bytes(path.read_bytes())
