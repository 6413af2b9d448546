"""Reads the table of pairs to annotate: one task per row."""

from __future__ import annotations

import csv
import io
import os
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import Final

from data_pipeline.fftg.annotator import AnnotationTask
from jax_vlffd.errors import UserError
from jax_vlffd.files import read_text

#: Columns that the annotator reads; all others are copied into the lines.
_READ: Final = ("id", "real", "fake", "mask")
#: Fields that the annotator writes: a column of the same name would be overwritten.
_WRITTEN: Final = (
    *("label", "regions", "raw_caption", "caption", "source", "error", "captions", "caption_key"),
    *("real_captions", "real_caption_key", "key", "provenance", "refinement"),
)


def read_pairs(path: Path) -> list[AnnotationTask]:
    """Reads a CSV with at least the columns `real` and `fake`.

    Paths are relative to the CSV's folder and must not leave it. `id` is a column or derived from
    the path of the fake; an empty `fake` is a real image alone, an empty `real` a fake whose real
    is unknown. An invalid row gives a task with `refused` set: `missing_value`, `path_outside` or
    `duplicate_id`.

    Raises:
      UserError: the file cannot be read, is not a CSV in UTF-8, lacks a column or has no rows.
    """
    try:
        reader = csv.DictReader(io.StringIO(read_text(path), newline=""), restval="")
        names = reader.fieldnames or []
        for column in ("real", "fake"):
            if column not in names:
                raise UserError(
                    f"{path}: column '{column}' is missing; its columns: {', '.join(names)[:300]}"
                )
        clash = [name for name in _WRITTEN if name in names]
        if clash:
            raise UserError(f"{path}: column '{clash[0]}' is written by the annotator; rename it")
        rows = list(reader)
    except csv.Error as error:
        raise UserError(f"{path}: not a CSV ({error})") from error
    if not rows:
        raise UserError(f"{path}: has no rows")
    tasks: list[AnnotationTask] = []
    ids: set[str] = set()
    for number, row in enumerate(rows, start=2):
        task = _task(path, number, row)
        if task.id in ids:
            reason = f"duplicate_id: row {number} of {path.name} repeats id '{task.id}'"
            task = replace(task, id=f"{task.id}#row{number}", refused=reason)
        ids.add(task.id)
        tasks.append(task)
    return tasks


def _task(path: Path, number: int, row: dict[str, str]) -> AnnotationTask:
    folder = Path(os.path.abspath(path.parent))
    values = {name: (row.get(name) or "").strip().replace("\\", "/") for name in _READ}
    columns = {name: text for name, text in row.items() if name and name not in _READ and text}
    files: dict[str, Path | None] = {}
    refused = None
    for name in ("real", "fake", "mask"):
        # Links are not resolved: a link that the user placed in the folder may point anywhere.
        file = Path(os.path.abspath(folder / values[name])) if values[name] else None
        if file and not file.is_relative_to(folder):
            refused = f"path_outside: {name} '{values[name]}' of row {number} leaves {folder}"
        if file == folder:  # landmarks would be looked for beside the folder
            refused, file = f"missing_file: {name} of row {number} is the folder {folder}", None
        if "\0" in values[name]:
            refused = (
                f"path_outside: {name} of row {number} contains a character that paths cannot have"
            )
            file = None
        files[name] = file
    if not values["real"] and not values["fake"]:
        refused = f"missing_value: row {number} of {path.name} names no image"
    row_name = f"row{number}"
    image = Path(values["fake"] or values["real"] or row_name)
    id_ = (
        values["id"]
        or (image.with_suffix("") if image.name else image).as_posix().strip("./")
        or row_name
    )
    return AnnotationTask(id_, files["real"], files["fake"], files["mask"], columns, refused)


def check_masks(folder: Path, tasks: Iterable[AnnotationTask]) -> None:
    """Checks that no mask can overwrite an input image.

    Raises:
      UserError: the folder for the masks contains an image of a pair; the message names it.
    """
    resolved = Path(os.path.realpath(folder))
    for task in tasks:
        for path in filter(None, (task.real, task.fake, task.mask)):
            if Path(os.path.realpath(path)).is_relative_to(resolved):
                raise UserError(
                    f"--masks={folder} contains the input {path}: name a folder for the masks alone"
                )
