"""The journal of paid replies: append-only JSON lines, each synced to disk before the run goes on.

A line is one reply of the endpoint, under the key of its question (`prompts.content_key`) and the
turn (0, or 1 for the repair). After a kill, the next run reads every written reply and does not ask
for it again.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Mapping
from typing import Any, Final

from data_pipeline.fftg.refine.redaction import redacted_strings
from jax_vlffd.json_reading import parse_json
from jax_vlffd.jsonl import JsonLog, is_torn

_MAX_USD: Final = 1_000.0  # larger costs of a reply are not plausible
_DAMAGED: Final = -1  # the turn of lines that are not replies


class Journal(JsonLog[tuple[str, int], dict[str, Any]]):
    """A file of replies, open for appending: JSON objects with `key` (str), `turn` (int) and `text` (str).

    The first of two replies to a question counts, so that outputs do not change. A damaged line stays in the
    file and is passed over, so that its question is asked again.

    Raises:
      UserError: see `JsonLog`.
    """

    def __init__(self, path: str | os.PathLike[str]):
        super().__init__(path, _parse, fault="damaged; delete it to ask again", sync_seconds=0.0)

    @property
    def remarks(self) -> list[str]:
        """What was wrong with the file, a line each; empty if nothing was."""
        damaged = sum(turn == _DAMAGED for _, turn in self.index)
        remarks = []
        if self.repaired:
            remarks.append(f"removed an incomplete last line of {self.repaired} bytes")
        if damaged:
            remarks.append(f"passed over {damaged} damaged lines, whose questions are asked again")
        return [f"{self.path}: {remark}" for remark in remarks]

    def get(self, key: str, turn: int) -> dict[str, Any] | None:
        """Returns the reply to a question, or None if there is none yet."""
        return self.index.get((key, turn))

    def cost(self) -> float:
        """Returns the cost of all replies in the file, in US dollars."""
        return sum(map(usd, self.index.values()))


def usd(record: Mapping[str, Any]) -> float:
    """The cost of a reply in US dollars; 0 if its line has no plausible one."""
    cost = record.get("cost_usd")
    return float(cost) if isinstance(cost, int | float) and 0 <= cost < _MAX_USD else 0.0


def _parse(line: bytes) -> tuple[tuple[str, int], dict[str, Any]]:
    try:
        return _reply(line)
    except (ValueError, LookupError, TypeError):
        if is_torn(line):
            raise
        return (hashlib.sha256(line).hexdigest(), _DAMAGED), {}


def _reply(line: bytes) -> tuple[tuple[str, int], dict[str, Any]]:
    # Responses are redacted when they arrive, but lines of older versions may still contain the API key.
    record = redacted_strings(parse_json(line, lenient=True), keep=("key",))
    for name, kind in (("key", str), ("turn", int), ("text", str)):
        if not isinstance(record[name], kind):
            raise TypeError(f"{name} is not {kind.__name__}")
    if record["turn"] not in (0, 1):
        raise ValueError("turn is neither 0 nor 1")
    return (record["key"], record["turn"]), record
