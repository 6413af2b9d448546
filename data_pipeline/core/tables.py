"""Tables and JSON that users and data sets bring, read and checked."""

from __future__ import annotations

import csv
import io
from pathlib import Path
from typing import Any, Final

from jax_vlffd import files
from jax_vlffd.errors import UserError

#: The names of splits, in full and as data sets and users write them.
_SPLITS: Final = {
    "train": "train",
    "validation": "validation",
    "val": "validation",
    "valid": "validation",
    "test": "test",
}


def split_name(name: str) -> str | None:
    """The split that a name stands for, such as `validation` for `Val`; None where it is not one."""
    return _SPLITS.get(name.strip().lower())


def read_json(path: Path) -> Any:
    """Reads a JSON file; raises UserError where it cannot be read or is not JSON."""
    return files.read_json(path, files.MAX_TEXT)


def read_rows(path: Path, *columns: str) -> list[dict[str, str]]:
    """Reads a CSV with at least `columns`; raises UserError where it cannot or they are missing."""
    try:
        reader = csv.DictReader(io.StringIO(files.read_text(path), newline=""), restval="")
        missing = [name for name in columns if name not in (reader.fieldnames or ())]
        if missing:
            columns_there = ", ".join(reader.fieldnames or ())[:300]
            raise UserError(f"{path}: column '{missing[0]}' is missing; found: {columns_there}")
        return [
            {k: v.strip() for k, v in row.items() if k and isinstance(v, str)} for row in reader
        ]
    except csv.Error as error:
        raise UserError(f"{path} is not a CSV ({error})") from error
