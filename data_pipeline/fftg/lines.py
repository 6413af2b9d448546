"""The file of annotations: append-only JSON lines that survive a kill, one writer at a time."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

from data_pipeline.core.files import atomic_write_bytes
from data_pipeline.core.json_reading import parse_json
from jax_vlffd.errors import UserError

Line = dict[str, Any]

#: Seconds between syncs to disk. What a crash of the machine loses is annotated again, at no cost.
_SYNC_SECONDS: Final = 2.0


def read_lines(path: Path, names: Sequence[str] = ("id",)) -> list[Line]:
    """The lines of an annotation file; of several with one id, the last.

    A torn last line, as a kill leaves it, is passed over.

    Args:
      path: the file.
      names: fields that tell lines apart; the first of them that a line holds is its id.

    Raises:
      UserError: the file cannot be read, or a line inside it is no JSON object with an id.
    """
    try:
        raw = path.read_bytes().split(b"\n")
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror})") from error
    found: dict[str, Line] = {}
    for number, text in enumerate(raw, start=1):
        if not text.strip():
            continue
        try:
            line = parse_json(text, lenient=True)
            found[next(str(line[name]) for name in names if line.get(name))] = line
        except (ValueError, StopIteration, AttributeError) as error:
            if number == len(raw):  # no newline behind it: torn
                continue
            raise UserError(
                f"{path}, line {number}: is no annotation with {' or '.join(names)}; remove the line"
            ) from error
    return list(found.values())


class LineWriter:
    """Appends lines to a file that other runs may have begun. Until the `with` block ends, also after `finish`,
    no other process may write the file.

    Attributes:
      keys: id -> `key` of the lines that were there.

    Raises:
      UserError: another process writes the file, or it cannot be written or read.
    """

    def __init__(self, path: Path):
        path = Path(os.path.realpath(path))  # by whatever link it is named, one file has one lock
        self._path = path
        self._stale = False
        # The lock lies beside, as the file itself is replaced when stale lines are dropped.
        self._lock_path = path.with_name(f".{path.name}.lock")
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            self._lock = _lock(self._lock_path)
        except BlockingIOError as error:
            raise UserError(
                f"{path}: another process is writing this file; wait for it or give another --out"
            ) from error
        except OSError as error:
            raise UserError(f"{path}: cannot be written ({error.strerror})") from error
        try:
            lines = read_lines(path) if path.exists() else []
            self.keys: dict[str, str] = {line["id"]: line.get("key", "") for line in lines}
            if lines:
                self._rewrite(lines)
            self._file = path.open("ab")
        except BaseException:
            self._release()
            raise
        self._synced = time.monotonic()

    def write(self, line: Line) -> None:
        """Appends one line; a line of an earlier run with the same id is dropped in the end."""
        self._stale = self._stale or line["id"] in self.keys
        try:
            self._file.write(_encode(line))
            self._file.flush()
            if time.monotonic() - self._synced > _SYNC_SECONDS:
                os.fsync(self._file.fileno())
                self._synced = time.monotonic()
        except OSError as error:
            raise UserError(
                f"{self._path}: cannot be written ({error.strerror}); run again to go on"
            ) from error

    def __enter__(self) -> LineWriter:
        return self

    def __exit__(self, *_: object) -> None:
        try:
            self.finish()
        finally:
            self._release()

    def finish(self) -> None:
        """Ends the writing of lines: the file is whole, and may be replaced by whoever holds this writer."""
        if self._file.closed:
            return
        os.fsync(self._file.fileno())
        self._file.close()
        if self._stale:
            self._rewrite(read_lines(self._path))

    def _release(self) -> None:
        # Removed while it is held: whoever opened it meanwhile finds that it is no longer the lock.
        self._lock_path.unlink(missing_ok=True)
        os.close(self._lock)

    def _rewrite(self, lines: list[Line]) -> None:
        data = b"".join(_encode(line) for line in lines)
        if data != self._path.read_bytes():
            atomic_write_bytes(self._path, data)


def _lock(path: Path) -> int:
    """A handle of the locked file; raises BlockingIOError where another holds it."""
    while True:
        handle = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            with contextlib.suppress(FileNotFoundError):
                if os.path.samestat(os.fstat(handle), os.stat(path)):
                    return handle
        except BaseException:
            os.close(handle)
            raise
        os.close(handle)


def _encode(line: Line) -> bytes:
    return json.dumps(line, ensure_ascii=False).encode("utf-8") + b"\n"
