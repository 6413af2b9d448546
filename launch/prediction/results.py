"""The file of predictions: JSON lines, appended one input at a time, so that a killed run can resume."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from jax_vlffd.errors import UserError
from jax_vlffd.jsonl import JsonLog

Line = dict[str, Any]
#: Its index has the (path, SHA-256) of every complete input.
PredictionLog = JsonLog[tuple[str, str], None]


def open_predictions(path: Path, model: str, preprocessing: Line) -> PredictionLog:
    """Opens a file of predictions for appending. Lines of an incomplete input are dropped.

    Args:
      path: of the file; created if missing.
      model: hash of the predicting model.
      preprocessing: the field of the lines.

    Raises:
      UserError: another process is writing it, it has other content, or it belongs to another model or
        preprocessing.
    """

    def parse(text: bytes) -> tuple[tuple[str, str], None] | None:
        line = json.loads(text)
        key, last = (str(line["path"]), str(line["sha256"] or "")), line["last"]
        if line["model"]["hash"] != model or line["preprocessing"] != preprocessing:
            raise UserError("a prediction of another model or preprocessing; use another --out")
        return (key, None) if last else None

    return JsonLog(path, parse, fault="not a prediction of this version; use another --out")


def append(log: PredictionLog, lines: Sequence[Line]) -> None:
    """Appends all lines of one input; the last has `last` set."""
    log.append(*({**line, "last": i == len(lines) - 1} for i, line in enumerate(lines)))
