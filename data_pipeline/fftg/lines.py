"""The file of annotations: append-only JSON lines that survive a kill, one writer at a time."""

from __future__ import annotations

import fcntl
import json
import os
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

from data_pipeline.errors import UserError
from data_pipeline.files import atomic_write_bytes
from data_pipeline.json_reading import parse_json

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
    """Appends lines to a file that other runs may have begun.

    Attributes:
      keys: id -> `key` of the lines that were there.

    Raises:
      UserError: another process writes the file, or it cannot be written or read.
    """

    def __init__(self, path: Path):
        self._path = path
        self._stale = False
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            # The lock lies beside, as the file itself is replaced when stale lines are dropped.
            self._lock = open(path.with_name(f".{path.name}.lock"), "w")  # noqa: SIM115
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise UserError(f"{path}: another process is writing this file") from error
        except OSError as error:
            raise UserError(f"{path}: cannot be written ({error.strerror})") from error
        lines = read_lines(path) if path.exists() else []
        self.keys: dict[str, str] = {line["id"]: line.get("key", "") for line in lines}
        if lines:
            self._rewrite(lines)
        self._file = path.open("ab")
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
        os.fsync(self._file.fileno())
        self._file.close()
        if self._stale:
            self._rewrite(read_lines(self._path))
        self._lock.close()
        Path(self._lock.name).unlink(missing_ok=True)

    def _rewrite(self, lines: list[Line]) -> None:
        data = b"".join(_encode(line) for line in lines)
        if data != self._path.read_bytes():
            atomic_write_bytes(self._path, data)


def _encode(line: Line) -> bytes:
    return json.dumps(line, ensure_ascii=False).encode("utf-8") + b"\n"
