"""The one writer of files: aside, on to the disk, then renamed, so that nothing half-written is ever seen."""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import os
import tempfile
from collections.abc import Iterator, Mapping
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
    name = next(iter(files))
    try:
        with contextlib.ExitStack() as stack:
            aside = {}
            for name, data in files.items():
                aside[name] = stack.enter_context(_written_aside(folder / name, data))
            (folder / last).unlink(missing_ok=True)
            for name in files:
                os.replace(aside[name], folder / name)
    except OSError as error:
        raise UserError(f"{folder / name} cannot be written ({error.strerror or error})") from error


def locked_handle(path: Path, how: int = os.O_DIRECTORY) -> int | None:
    """A handle of a folder or file that no other process holds; None where one does, or it is gone."""
    try:
        handle = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC | how)
    except (FileNotFoundError, NotADirectoryError):
        return None
    return _lock(handle, path)


def _write(target: Path, data: bytes) -> None:
    with _written_aside(target, data) as temporary:
        os.replace(temporary, target)


@contextlib.contextmanager
def _written_aside(target: Path, data: bytes) -> Iterator[Path]:
    """A new file beside `target` with `data`, on the disk; it goes with the block unless it is renamed."""
    if target.exists() and not target.is_file() and not target.is_dir():
        # A rename would put a file in the place of a device such as /dev/null.
        raise UserError(f"{target} is not a regular file; name another")
    target.parent.mkdir(parents=True, exist_ok=True)
    handle, temporary = _open_aside(target)
    with os.fdopen(handle, "wb") as file:
        try:
            file.write(data)
            file.flush()
            os.fsync(handle)
            # It was made with 0600; a result is an ordinary file.
            os.fchmod(handle, 0o666 & ~_umask())
            yield temporary
        finally:
            with contextlib.suppress(FileNotFoundError):  # renamed, and maybe another writer's now
                if os.path.samestat(os.fstat(handle), os.lstat(temporary)):
                    temporary.unlink()


def _open_aside(target: Path) -> tuple[int, Path]:
    """A new, locked file beside `target`; one that a killed writer left there is removed first."""
    # The name follows from the target's, and has no suffix by which it might be taken for a picture.
    path = target.with_name(f".new.{hashlib.sha256(os.fsencode(target.name)).hexdigest()[:16]}")
    with contextlib.suppress(OSError):  # another writer's, a link, or storage without locks
        if (left := locked_handle(path, os.O_NONBLOCK)) is not None:
            path.unlink()
            os.close(left)
        created = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
        handle = os.open(path, created, 0o600)
        # Between these two calls another writer may take it for one that was left.
        if (locked := _lock(handle, path)) is not None:
            return locked, path
    handle, name = tempfile.mkstemp(dir=target.parent, prefix=".new.")
    return handle, Path(name)


def _lock(handle: int, path: Path) -> int | None:
    """The handle, locked, if `path` still is its file; else it is closed."""
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        if os.path.samestat(os.fstat(handle), os.stat(path)):
            return handle
    except (BlockingIOError, FileNotFoundError):
        pass
    except BaseException:
        os.close(handle)
        raise
    os.close(handle)
    return None


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask
