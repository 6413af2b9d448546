"""Storage for Orbax: literal paths, digests, a barrier that a failed save skips, and classified read errors."""

from __future__ import annotations

import asyncio
import json
import sys
import threading
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, TypeAlias

import jax
import orbax.checkpoint as ocp
from etils import epath
from etils.epath import gpath

from jax_vlffd import checksums
from jax_vlffd.errors import UserError

StoragePath: TypeAlias = Path | epath.Path

#: The parts of a checkpoint that its list of digests covers; the others' digests are within them.
_SUMMED = ("parameters", "rest")

#: First words of TensorStore's errors about files that are gone, truncated or changed ...
_DAMAGE_CODES = (
    "NOT_FOUND",
    "DATA_LOSS",
    "FAILED_PRECONDITION",
    "OUT_OF_RANGE",
    "INVALID_ARGUMENT",
)
#: ... and about reads that failed, which prove no damage.
_READ_FAILURE_CODES = (
    "PERMISSION_DENIED", "UNAUTHENTICATED", "RESOURCE_EXHAUSTED", "UNAVAILABLE", "DEADLINE_EXCEEDED",
    "ABORTED", "CANCELED", "INTERNAL", "UNKNOWN",
)  # fmt: skip


class DamagedCheckpoint(UserError):
    """A checkpoint that is proven damaged."""


class _LiteralPath(gpath.PosixGPath):
    """A local path in which `[`, `*` and `?` are literal; only the argument of `glob` is a pattern.

    etils would read the folder's own name as part of the pattern, so Orbax, which lists the parts of a save by
    one, would find none and commit a checkpoint that cannot be read.
    """

    def glob(self, pattern: str) -> Iterator[Any]:
        """The paths below this one that match."""
        return (type(self)(path) for path in Path(self).glob(pattern))


def for_orbax(folder: StoragePath) -> epath.Path:
    """The folder as a path for Orbax."""
    return _LiteralPath(folder.absolute()) if isinstance(folder, Path) else folder


class TemporaryPath(ocp.path.atomicity.AtomicRenameTemporaryPath):
    """A save on a file system, which gets its digests just before it is renamed to its step."""

    async def finalize(self) -> None:
        """Completes the save."""
        await asyncio.to_thread(checksums.write, Path(self.get()), _SUMMED, checksums.FAST_FILE)
        await super().finalize()


def has_checksums(folder: StoragePath) -> bool:
    """Whether a checkpoint has digests: older ones have none, nor has one in a bucket, which has its own."""
    return _list_of(folder) is not None


def _list_of(folder: StoragePath) -> str | None:
    """The name of a checkpoint's list of digests; versions before CRC-32C wrote SHA-256."""
    names = (checksums.FAST_FILE, checksums.FILE) if isinstance(folder, Path) else ()
    return next((name for name in names if (folder / name).exists()), None)


def read_checksums(folder: StoragePath) -> dict[str, str]:
    """Name -> digest of a checkpoint's files; empty if it has none.

    Raises:
      DamagedCheckpoint: the list is damaged.
      OSError: it cannot be read.
    """
    if (name := _list_of(folder)) is None:
        return {}
    try:
        return checksums.read(Path(folder), name)
    except UserError as error:
        if isinstance(error.__cause__, OSError):  # which proves no damage
            raise error.__cause__ from error
        raise _damaged(folder, str(error)) from error


def check_files(folder: StoragePath, listed: dict[str, str], items: Iterable[str]) -> None:
    """Checks the files of some items of a checkpoint against their digests.

    Raises:
      DamagedCheckpoint: a file has other bytes than were saved.
      OSError: a file cannot be read.
    """
    wanted = tuple(f"{item}/" for item in items)
    some = {name: digest for name, digest in listed.items() if name.startswith(wanted)}
    if not some or (name := _list_of(folder)) is None:
        return
    if wrong := checksums.changed(Path(folder), some, name):
        raise _damaged(folder, f"{wrong[0]} is not as it was saved")


def barrier(*, key: str, timeout_ms: int) -> None:
    """Waits for the other processes, unless this is a background thread whose save has failed.

    Orbax would wait there as long as a save may take, and report the error only after that.
    """
    failed = sys.exc_info()[0] is not None
    if not (failed and threading.current_thread() is not threading.main_thread()):
        ocp.multihost.get_barrier_sync_fn()(key=key, timeout_ms=timeout_ms)


def _damaged(folder: StoragePath, fault: str) -> DamagedCheckpoint:
    return DamagedCheckpoint(
        f"{folder}: the checkpoint is damaged or of another model ({fault}); "
        "remove that folder to go back to the one before, or use another workdir"
    )


def read_error(folder: StoragePath, error: Exception, whole: bool = False) -> UserError:
    """The error for a checkpoint that cannot be read: `DamagedCheckpoint` where that is proven.

    Args:
      folder: of the checkpoint.
      error: of the read.
      whole: whether its files of arrays have their digests: then an error of TensorStore proves nothing.
    """
    if isinstance(error, UserError):
        return error
    while error.__cause__ is not None and isinstance(error.__cause__, Exception):
        error = error.__cause__  # Orbax wraps TensorStore's errors
    code = str(error).split(":")[0]
    if (
        code in _READ_FAILURE_CODES
        or isinstance(error, (MemoryError, RuntimeError))
        or _is_system_error(error)
    ):
        return UserError(
            f"{folder}: the checkpoint cannot be read now ({first_line(error)}); it is left as it is: see that "
            "this user may read it and that there is memory for it, and start again"
        )
    gone = isinstance(error, (FileNotFoundError, NotADirectoryError, IsADirectoryError, KeyError))
    garbled = isinstance(error, (json.JSONDecodeError, UnicodeDecodeError, checksums.ChangedError))
    if gone or garbled or (code in _DAMAGE_CODES and not whole):
        return _damaged(folder, first_line(error))
    if whole:
        return UserError(
            f"{folder}: the checkpoint is of another model or version ({first_line(error)}); its files are as "
            "they were saved: use another workdir"
        )
    # A model that does not fit raises a plain ValueError.
    return UserError(str(_damaged(folder, first_line(error))))


def partial_restore(
    abstract: Mapping[str, jax.ShapeDtypeStruct], prefixes: tuple[str, ...]
) -> ocp.args.PyTreeRestore:
    """Orbax's arguments to restore only the parameters whose paths begin with one of `prefixes`."""
    wanted = {path: shape for path, shape in abstract.items() if path.startswith(prefixes)}
    restore_args = ocp.checkpoint_utils.construct_restore_args(wanted)
    return ocp.args.PyTreeRestore(wanted, restore_args=restore_args, partial_restore=True)


class OtherShapes(ValueError):
    """Stored parameters that are not those of the model; the message describes three differences."""


def check_shapes(folder: StoragePath, abstract: Mapping[str, jax.ShapeDtypeStruct]) -> None:
    """Checks the shapes of stored parameters; Orbax itself would begin to read before it sees a fault.

    Raises:
      OtherShapes: they are not those of `abstract`.
    """
    # Not by a checkpointer, which warns that a part of a checkpoint has no metadata of a whole one.
    stored = ocp.PyTreeCheckpointHandler().metadata(for_orbax(folder)).tree
    shapes = {name: tuple(leaf.shape) for name, leaf in stored.items()}
    faults = [f"{name} is missing" for name in sorted(abstract.keys() - shapes.keys())]
    faults += [
        f"{name} is not a parameter of the model"
        for name in sorted(shapes.keys() - abstract.keys())
    ]
    faults += [
        f"{name} is {list(shapes[name])}, not {list(abstract[name].shape)}"
        for name in sorted(abstract.keys() & shapes.keys())
        if shapes[name] != abstract[name].shape
    ]
    if faults:
        more = f" and {len(faults) - 3} more" if len(faults) > 3 else ""
        raise OtherShapes(f"{'; '.join(faults[:3])}{more}")


def _is_system_error(error: Exception) -> bool:
    gone = (FileNotFoundError, NotADirectoryError, IsADirectoryError)
    return isinstance(error, OSError) and not isinstance(error, gone)


def first_line(error: Exception) -> str:
    """The first line of an error's message, shortened."""
    first = str(error).strip().split("\n")[0] or type(error).__name__
    # TensorStore prints hundreds of characters of its specification before the reason.
    return first if len(first) < 280 else f"{first[:140]} ... {first[-120:]}"
