"""The replies that were paid for: append-only JSON lines, each synced before anything else happens.

A line is one reply of the endpoint, under the key of what was asked (`prompts.content_key`) and the
turn (0, or 1 for the repair). Whatever kills the program, the next run finds every line that was
written and asks for none of them again.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any, Final

from data_pipeline.core.json_reading import parse_json
from data_pipeline.core.jsonl import JsonLog
from data_pipeline.fftg.refine.redaction import redacted

_MAX_USD: Final = 1_000.0  # no reply costs more


class Journal(JsonLog[tuple[str, int], dict[str, Any]]):
    """The replies in a file, open for appending: JSON values, with `key` (str), `turn` (int) and `text` (str).

    The first of two replies counts: what was used once stays.

    Raises:
      UserError: see `JsonLog`.
    """

    def __init__(self, path: str | os.PathLike[str]):
        fault = "damaged; mend it, or delete it to ask again"
        super().__init__(path, _parse, fault=fault, sync_seconds=0.0)

    def get(self, key: str, turn: int) -> dict[str, Any] | None:
        """Returns the reply to a question, or None where none was paid for yet."""
        return self.index.get((key, turn))

    def cost(self) -> float:
        """Returns what all replies in the file cost together, in US dollars."""
        return sum(map(usd, self.index.values()))


def usd(record: Mapping[str, Any]) -> float:
    """What a reply cost in US dollars; 0 where its line says nothing that can be believed."""
    cost = record.get("cost_usd")
    return float(cost) if isinstance(cost, int | float) and 0 <= cost < _MAX_USD else 0.0


def _parse(line: bytes) -> tuple[tuple[str, int], dict[str, Any]]:
    # The key is out of what comes from an endpoint; lines of older versions may hold it yet.
    record = parse_json(redacted(line.decode()), lenient=True)
    for name, kind in (("key", str), ("turn", int), ("text", str)):
        if not isinstance(record[name], kind):
            raise TypeError(f"{name} is not {kind.__name__}")
    return (record["key"], record["turn"]), record
