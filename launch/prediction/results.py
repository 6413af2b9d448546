"""The file of answers: JSON lines, appended input by input, that a killed run leaves whole and goes on with."""

from __future__ import annotations

import fcntl
import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from jax_vlffd.errors import UserError

Line = dict[str, Any]


class AnswerFile:
    """Appends the lines of whole inputs.

    Args:
      path: of the file; made when missing.
      model: the hash of the model that answers.
      preprocessing: how it is fed.

    Attributes:
      done: (path, SHA-256) of the inputs that were answered before.

    Raises:
      UserError: another process writes it, it holds other things, or it belongs to another model or
        preprocessing.
    """

    def __init__(self, path: Path, model: str, preprocessing: Line):
        self._path = path
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            self._file = path.open("ab+")
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise UserError(f"{path}: another process is writing this file") from error
        except OSError as error:
            raise UserError(f"{path}: cannot be written ({error.strerror})") from error
        try:
            self.done = self._read(model, preprocessing)
        except BaseException:
            self._file.close()
            raise

    def _read(self, model: str, preprocessing: Line) -> set[tuple[str, str]]:
        self._file.seek(0)
        done: set[tuple[str, str]] = set()
        whole = place = 0
        for number, text in enumerate(self._file, start=1):
            place += len(text)
            if not text.endswith(b"\n"):
                break  # torn by a kill
            try:
                line = json.loads(text)
                key, last = (line["path"], line["sha256"] or ""), line["last"]
                same = line["model"]["hash"] == model and line["preprocessing"] == preprocessing
            except (ValueError, KeyError, TypeError, RecursionError) as error:
                raise UserError(
                    f"{self._path}, line {number}: is no answer of this version; use another --out"
                ) from error
            if not same:
                raise UserError(
                    f"{self._path} holds answers of another model or preprocessing (line {number}); "
                    "use another --out"
                )
            if last:
                done.add(key)
                whole = place
        # The lines of an input that a kill cut short go, and the input is answered again.
        self._file.truncate(whole)
        return done

    def write(self, lines: Sequence[Line]) -> None:
        """Appends all lines of one input, the last of them marked so."""
        marked = [{**line, "last": i == len(lines) - 1} for i, line in enumerate(lines)]
        # ASCII alone: a file name need not be valid UTF-8.
        text = "".join(json.dumps(line, allow_nan=False) + "\n" for line in marked)
        try:
            self._file.write(text.encode("ascii"))
            self._file.flush()
        except OSError as error:
            raise UserError(f"{self._path}: cannot be written ({error.strerror})") from error

    def __enter__(self) -> AnswerFile:
        return self

    def __exit__(self, *_: object) -> None:
        os.fsync(self._file.fileno())
        self._file.close()
