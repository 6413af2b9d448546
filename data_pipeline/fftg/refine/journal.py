"""The replies that were paid for: append-only JSON lines, each synced before anything else happens.

A line is one reply of the endpoint, under the key of what was asked (`prompts.content_key`) and the
turn (0, or 1 for the repair). Whatever kills the program, the next run finds every line that was
written and asks for none of them again.
"""

from __future__ import annotations

import fcntl
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from data_pipeline.core.json_reading import parse_json
from data_pipeline.fftg.refine.redaction import redacted
from jax_vlffd.errors import UserError

_MOST_USD: Final = 1_000.0  # no reply costs more


class Journal:
    """The replies in a file, open for appending and locked against a second writer.

    Attributes:
      path: the file; made if it is missing.
      repaired: bytes of a torn last line that were cut off on opening.

    Raises:
      UserError: another process holds the file, it cannot be written, or a line inside it (not the
        last, which a kill may tear) is damaged.
    """

    def __init__(self, path: str | os.PathLike[str]):
        self.path = Path(path)
        self.repaired = 0
        self._replies: dict[tuple[str, int], dict[str, Any]] = {}
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            self._file = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o666)
        except OSError as error:
            raise UserError(f"{self.path}: cannot be written ({error.strerror})") from error
        try:
            self._lock()
            self._load()
        except BaseException:
            os.close(self._file)
            raise

    def __enter__(self) -> Journal:
        return self

    def __exit__(self, *_: object) -> None:
        os.close(self._file)  # gives the lock back too

    def __len__(self) -> int:
        return len(self._replies)

    def get(self, key: str, turn: int) -> dict[str, Any] | None:
        """Returns the reply to a question, or None where none was paid for yet."""
        return self._replies.get((key, turn))

    def append(self, record: Mapping[str, Any]) -> None:
        """Writes a reply and syncs it; only then can `get` find it.

        Args:
          record: JSON values, with `key` (str), `turn` (int) and `text` (str) among them.

        Raises:
          UserError: the file cannot be written (a full disk). The reply is lost if it does not fit.
        """
        line = json.dumps(record, ensure_ascii=True, sort_keys=True).encode() + b"\n"
        try:
            written = 0
            while written < len(line):
                written += os.write(self._file, line[written:])
            os.fsync(self._file)
        except OSError as error:
            raise UserError(f"{self.path}: a reply cannot be written ({error.strerror})") from error
        self._replies[record["key"], record["turn"]] = json.loads(line)

    def cost(self) -> float:
        """Returns what all replies in the file cost together, in US dollars."""
        return sum(usd(record) for record in self._replies.values())

    def _lock(self) -> None:
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            raise UserError(
                f"{self.path}: another run is writing it; wait for it or give another --out"
            ) from error

    def _load(self) -> None:
        data = self.path.read_bytes()
        whole = data.rfind(b"\n") + 1
        if whole < len(data):
            if _parse(data[whole:]) is not None:  # only the newline was lost: the reply is whole
                os.write(self._file, b"\n")
                data += b"\n"
            else:
                self.repaired = len(data) - whole
                os.ftruncate(self._file, whole)
                data = data[:whole]
            os.fsync(self._file)
        else:
            _sync_folder(self.path.parent)
        for number, line in enumerate(data.splitlines(), 1):
            record = _parse(line)
            if record is None:
                raise UserError(
                    f"{self.path}: line {number} is damaged; mend it, or delete it to ask again"
                )
            # The first of two replies counts: what was used once stays.
            self._replies.setdefault((record["key"], record["turn"]), record)


def usd(record: Mapping[str, Any]) -> float:
    """What a reply cost in US dollars; 0 where its line says nothing that can be believed."""
    cost = record.get("cost_usd")
    return float(cost) if isinstance(cost, int | float) and 0 <= cost < _MOST_USD else 0.0


def _parse(line: bytes) -> dict[str, Any] | None:
    try:
        # The key is out of what comes from an endpoint; lines of older versions may hold it yet.
        record = parse_json(redacted(line.decode()), lenient=True)
    except ValueError:
        return None
    if not isinstance(record, dict):
        return None
    fields = (("key", str), ("turn", int), ("text", str))
    return record if all(isinstance(record.get(name), kind) for name, kind in fields) else None


def _sync_folder(folder: Path) -> None:
    """Makes the file's own entry in its folder survive a power cut."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
