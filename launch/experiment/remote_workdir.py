"""Workdirs in a bucket (gs://BUCKET/RUN): checkpoints, heartbeat and lock are stored only there.

Small files (config, tokenizer, logs, summary) are written to a local folder and uploaded before every save and
at the end, because an object cannot be appended to. A start downloads them again.
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
from jax_vlffd.errors import UserError
from jax_vlffd.path_containment import check_contained

if TYPE_CHECKING:
    from etils import epath

#: Folders that are downloaded, besides the files at the top.
_FOLDERS = ("tokenizer",)
#: A larger file is not downloaded.
_MAX_BYTES = 1 << 30
_UNUSABLE = (
    "is a bucket that cannot be used",
    "check that it exists and that this machine may read and write it (as by "
    "`gcloud auth application-default login`), and start again",
)
#: A file's modification time may be this much behind the clock.
_CLOCK_SLACK_NS = 20_000_000


@dataclass
class _Origin:
    """The address of a local folder's bucket, and when the two were last synchronized."""

    address: str
    published_ns: int


#: By the local folders that `local` yields, while they exist. Addresses come only from the user, never from a
#: file in a workdir.
_ORIGINS: dict[Path, _Origin] = {}


def is_address(path: str | os.PathLike[str]) -> bool:
    """Whether a path is the address of a bucket."""
    return "://" in os.fspath(path)


@contextlib.contextmanager
def local(path: str) -> Iterator[Path]:
    """Yields the folder to work in: `path` itself, or a temporary one with a bucket's small files.

    Errors raised within name the bucket's address, not the temporary folder.

    Raises:
      UserError: the address is not gs://, the bucket cannot be read, or a link leads out of the folder.
    """
    if not is_address(path):
        if Path(path).is_dir():
            check_contained(Path(path))
        yield Path(path)
        return
    if not path.startswith("gs://"):
        raise UserError(f"{path}: not a supported address; give a folder or gs://BUCKET/RUN")
    if set(path) & set("*?[]"):
        raise UserError(
            f"{path}: *, ?, [ and ] are patterns to the bucket's client; give an address without them"
        )
    with tempfile.TemporaryDirectory(prefix="jax_vlffd-") as temporary:
        workdir = Path(temporary) / (path.rstrip("/").rpartition("/")[2] or "run")
        workdir.mkdir()
        with bucket_errors(path, *_UNUSABLE):
            _download(path, workdir)
        _ORIGINS[workdir] = _Origin(path.rstrip("/"), time.time_ns() - _CLOCK_SLACK_NS)
        try:
            yield workdir
        except UserError as error:
            raise UserError(str(error).replace(str(workdir), path.rstrip("/"))) from error
        finally:
            del _ORIGINS[workdir]


def origin(workdir: Path) -> Path | epath.Path:
    """The real folder of a workdir: itself, or that in the bucket."""
    entry = _ORIGINS.get(workdir)
    if entry is None:
        return workdir
    from etils import epath

    return epath.Path(entry.address)


def publish(workdir: Path) -> None:
    """Uploads the files changed since the last call; does nothing for a local workdir.

    Raises:
      UserError: the bucket cannot be written.
    """
    entry = _ORIGINS.get(workdir)
    if entry is None:
        return
    target, now = origin(workdir), time.time_ns() - _CLOCK_SLACK_NS
    with bucket_errors(entry.address, *_UNUSABLE):
        for file in sorted(workdir.rglob("*")):
            if file.is_file() and file.stat().st_mtime_ns >= entry.published_ns:
                (target / file.relative_to(workdir)).write_bytes(file.read_bytes())
    entry.published_ns = now


def _download(address: str, workdir: Path) -> None:
    from etils import epath

    from jax_vlffd.training.heartbeat import HEARTBEAT

    source = epath.Path(address.rstrip("/"))
    for folder in (source, *(source / name for name in _FOLDERS)):
        for path in folder.iterdir() if folder.is_dir() else ():
            if path.name == HEARTBEAT or path.is_dir():
                continue
            if path.stat().length > _MAX_BYTES:
                raise UserError(
                    f"{path} is larger than a file of a run can be; use another --workdir"
                )
            copy = workdir / path.relative_to(source)
            copy.parent.mkdir(exist_ok=True)
            copy.write_bytes(path.read_bytes())
