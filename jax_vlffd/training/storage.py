"""Orbax on the disk: plain paths, barriers that no failed save waits at, what an error proves."""

from __future__ import annotations

import json
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any, TypeAlias

import orbax.checkpoint as ocp
from etils import epath
from etils.epath import gpath

from jax_vlffd.errors import UserError

Folder: TypeAlias = Path | epath.Path

#: How TensorStore begins what it says of files that are gone, cut or changed ...
_OF_DAMAGE = ("NOT_FOUND", "DATA_LOSS", "FAILED_PRECONDITION", "OUT_OF_RANGE", "INVALID_ARGUMENT")
#: ... and of reads that did not come about.
_OF_READING = (
    "PERMISSION_DENIED", "UNAUTHENTICATED", "RESOURCE_EXHAUSTED", "UNAVAILABLE", "DEADLINE_EXCEEDED",
    "ABORTED", "CANCELED", "INTERNAL", "UNKNOWN",
)  # fmt: skip


class Damaged(UserError):
    """What is stored is proved not to be what was saved."""


class _PlainPath(gpath.PosixGPath):
    """A path of this machine in which `[`, `*` and `?` are letters; only what `glob` is given is a pattern.

    etils would take the folder's own name for a part of the pattern, and Orbax, which looks for the parts of a
    save by one, would find none and commit a checkpoint that nothing can read.
    """

    def glob(self, pattern: str) -> Iterator[Any]:
        """The files below that match."""
        return (type(self)(path) for path in Path(self).glob(pattern))


def for_orbax(folder: Folder) -> epath.Path:
    """The folder as Orbax is to be given it."""
    return _PlainPath(folder.absolute()) if isinstance(folder, Path) else folder


def barrier(*, key: str, timeout_ms: int) -> None:
    """Waits for the other processes; for none of them in a thread whose save has failed.

    Orbax would wait there for as long as a save may take, and keep the error until then.
    """
    failed = sys.exc_info()[0] is not None
    if not (failed and threading.current_thread() is not threading.main_thread()):
        ocp.multihost.get_barrier_sync_fn()(key=key, timeout_ms=timeout_ms)


def unread(folder: Folder, error: Exception) -> UserError:
    """Why a checkpoint cannot be read: `Damaged` where that is proved."""
    while error.__cause__ is not None and isinstance(error.__cause__, Exception):
        error = error.__cause__  # Orbax wraps what TensorStore says
    code = str(error).split(":")[0]
    if code in _OF_READING or isinstance(error, (MemoryError, RuntimeError)) or _of_system(error):
        return UserError(
            f"{folder}: the checkpoint cannot be read now ({first_line(error)}); it is left as it is: see that "
            "this user may read it and that there is memory for it, and start again"
        )
    text = (
        f"{folder}: the checkpoint is damaged or of another model ({first_line(error)}); "
        "remove that folder to go back to the one before, or use another workdir"
    )
    # A model that does not fit raises a plain ValueError.
    gone = isinstance(error, (FileNotFoundError, NotADirectoryError, IsADirectoryError, KeyError))
    garbled = isinstance(error, (json.JSONDecodeError, UnicodeDecodeError))
    return Damaged(text) if code in _OF_DAMAGE or gone or garbled else UserError(text)


def _of_system(error: Exception) -> bool:
    gone = (FileNotFoundError, NotADirectoryError, IsADirectoryError)
    return isinstance(error, OSError) and not isinstance(error, gone)


def first_line(error: Exception) -> str:
    """The first line of what an error says, shortened."""
    first = str(error).strip().split("\n")[0] or type(error).__name__
    # TensorStore names the place in hundreds of letters before it comes to the reason.
    return first if len(first) < 280 else f"{first[:140]} ... {first[-120:]}"
