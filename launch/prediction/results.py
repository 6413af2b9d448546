"""The file of predictions: JSON lines, appended input by input, that a killed run leaves whole."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from data_pipeline.core.jsonl import JsonLog
from jax_vlffd.errors import UserError

Line = dict[str, Any]
#: Its index has (path, SHA-256) of the inputs that are in it.
PredictionLog = JsonLog[tuple[str, str], None]


def open_predictions(path: Path, model: str, preprocessing: Line) -> PredictionLog:
    """Opens a file of predictions to go on with. Those of an input that a kill cut short are dropped.

    Args:
      path: of the file; made when missing.
      model: the hash of the model that predicts.
      preprocessing: how it is fed.

    Raises:
      UserError: another process writes it, it holds other things, or it belongs to another model or
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
    """Appends all lines of one input, the last of them marked so."""
    log.append(*({**line, "last": i == len(lines) - 1} for i, line in enumerate(lines)))
