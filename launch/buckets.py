"""Workdirs in a bucket, as gs://BUCKET/RUN: checkpoints, heartbeat and lock lie there and nowhere else.

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
from pathlib import Path
from typing import TYPE_CHECKING

from data_pipeline.copied_sets import told
from data_pipeline.errors import UserError as DataError
from jax_vlffd.errors import UserError

if TYPE_CHECKING:
    from etils import epath

#: Within the local folder: the address that it stands for. Its time is that of the last copy up.
ORIGIN = ".origin"
#: What is brought down, beside the files at the top.
_FOLDERS = ("tokenizer",)
#: Bytes of a file that is brought down.
_LARGEST = 1 << 30
_UNUSABLE = (
    "is a bucket that cannot be used",
    "see that it is there and that this machine may read and write it, as by "
    "`gcloud auth application-default login`, and start again",
)
#: A file's time may be this much behind the clock.
_TICK_NS = 20_000_000


def is_address(place: str | os.PathLike[str]) -> bool:
    """Whether it is an address, and no path of this machine."""
    return "://" in os.fspath(place)


@contextlib.contextmanager
def local(place: str) -> Iterator[Path]:
    """The folder to work in: `place` itself, or one for the time being with the small files of a bucket's.

    What is told within names the bucket's place, not that folder.

    Raises:
      UserError: it is another kind of address, or the bucket cannot be read.
    """
    if not is_address(place):
        yield Path(place)
        return
    if not place.startswith("gs://"):
        raise UserError(
            f"{place}: of addresses only gs:// is known; give a folder or gs://BUCKET/RUN"
        )
    with tempfile.TemporaryDirectory(prefix="jax_vlffd-") as made:
        workdir = Path(made) / (place.rstrip("/").rpartition("/")[2] or "run")
        workdir.mkdir()
        with told(place, *_UNUSABLE):
            _bring(place, workdir)
        try:
            yield workdir
        except (UserError, DataError) as error:
            raise UserError(str(error).replace(str(workdir), place.rstrip("/"))) from error


def origin(workdir: Path) -> Path | epath.Path:
    """Where a workdir really lies: itself, or the bucket's folder that it stands for."""
    mark = workdir / ORIGIN
    if not mark.is_file():
        return workdir
    from etils import epath

    return epath.Path(mark.read_text("utf-8"))


def publish(workdir: Path) -> None:
    """Copies to the bucket what has changed since the last time; does nothing for an ordinary workdir.

    Raises:
      UserError: the bucket cannot be written.
    """
    mark = workdir / ORIGIN
    if not mark.is_file():
        return
    target, since = origin(workdir), mark.stat().st_mtime_ns
    now = time.time_ns() - _TICK_NS
    with told(str(target), *_UNUSABLE):
        for file in sorted(workdir.rglob("*")):
            if file.is_file() and file != mark and file.stat().st_mtime_ns >= since:
                (target / file.relative_to(workdir)).write_bytes(file.read_bytes())
    os.utime(mark, ns=(now, now))


def _bring(place: str, workdir: Path) -> None:
    from etils import epath

    from jax_vlffd.training.watch import HEARTBEAT

    source = epath.Path(place.rstrip("/"))
    for folder in (source, *(source / name for name in _FOLDERS)):
        for path in folder.iterdir() if folder.is_dir() else ():
            if path.name == HEARTBEAT or path.is_dir():
                continue
            if path.stat().length > _LARGEST:
                raise DataError(f"{path} is larger than any file of a run; use another --workdir")
            copy = workdir / path.relative_to(source)
            copy.parent.mkdir(exist_ok=True)
            copy.write_bytes(path.read_bytes())
    (workdir / ORIGIN).write_text(str(source), "utf-8")
