"""The table of pairs that is annotated: one job a row."""

from __future__ import annotations

import csv
import os
from collections.abc import Iterable
from pathlib import Path
from typing import Final

from data_pipeline.fftg.annotator import AnnotationTask
from jax_vlffd.errors import UserError

#: Columns that mean something to the annotator; all others are passed through.
_OWN: Final = ("id", "real", "fake", "mask")
#: Fields that the annotator writes, so a column of that name would be lost.
_WRITTEN: Final = (
    *("label", "regions", "raw_caption", "caption", "source", "error", "captions", "caption_key"),
    *("real_captions", "real_caption_key", "key", "provenance", "refinement"),
)


def read_pairs(path: Path) -> list[AnnotationTask]:
    """Reads a CSV with at least the columns `real` and `fake`.

    Paths are relative to the CSV's folder and may not leave it. `id` is a column or follows from
    the path of the fake; an empty `fake` is a real image alone, an empty `real` a fake whose real
    is not known. A row at fault gives a job with `refused` set: `missing_value`, `path_outside` or
    `duplicate_id`.

    Raises:
      UserError: the file cannot be read, is not a CSV in UTF-8, lacks a column or has no rows.
    """
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            reader = csv.DictReader(file, restval="")
            names = reader.fieldnames or []
            for column in ("real", "fake"):
                if column not in names:
                    raise UserError(
                        f"{path}: column '{column}' is missing; found: {', '.join(names)}"
                    )
            clash = [name for name in _WRITTEN if name in names]
            if clash:
                raise UserError(
                    f"{path}: column '{clash[0]}' is one the annotator writes; rename it"
                )
            rows = list(reader)
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror})") from error
    except (UnicodeDecodeError, csv.Error) as error:
        raise UserError(f"{path}: not a CSV in UTF-8 ({error})") from error
    if not rows:
        raise UserError(f"{path}: has no rows")
    jobs: list[AnnotationTask] = []
    seen: set[str] = set()
    for number, row in enumerate(rows, start=2):
        job = _job(path, number, row)
        if job.id in seen:
            again = f"{job.id}#row{number}"
            reason = f"duplicate_id: row {number} of {path.name} repeats id '{job.id}'"
            job = AnnotationTask(again, job.real, job.fake, job.mask, job.columns, reason)
        seen.add(job.id)
        jobs.append(job)
    return jobs


def _job(path: Path, number: int, row: dict[str, str]) -> AnnotationTask:
    folder = Path(os.path.abspath(path.parent))
    values = {name: (row.get(name) or "").strip().replace("\\", "/") for name in _OWN}
    columns = {name: text for name, text in row.items() if name and name not in _OWN and text}
    files: dict[str, Path | None] = {}
    refused = None
    for name in ("real", "fake", "mask"):
        # Lexical on purpose: a link that the user laid into the folder may point anywhere.
        whole = Path(os.path.abspath(folder / values[name])) if values[name] else None
        if whole and not whole.is_relative_to(folder):
            refused = f"path_outside: {name} '{values[name]}' of row {number} leaves {folder}"
        if "\0" in values[name]:
            refused = f"path_outside: {name} of row {number} holds a character no path may hold"
            whole = None
        files[name] = whole
    if not values["real"] and not values["fake"]:
        refused = f"missing_value: row {number} of {path.name} names no image"
    row_name = f"row{number}"
    named = Path(values["fake"] or values["real"] or row_name)
    id_ = (
        values["id"]
        or (named.with_suffix("") if named.name else named).as_posix().strip("./")
        or row_name
    )
    return AnnotationTask(id_, files["real"], files["fake"], files["mask"], columns, refused)


def check_masks(folder: Path, jobs: Iterable[AnnotationTask]) -> None:
    """Sees that no mask is written over a picture that is read.

    Raises:
      UserError: the folder for the masks holds a picture of a pair; it is named.
    """
    whole = Path(os.path.realpath(folder))
    for job in jobs:
        for path in filter(None, (job.real, job.fake, job.mask)):
            if Path(os.path.realpath(path)).is_relative_to(whole):
                raise UserError(
                    f"--masks={folder} holds {path}, which is read: name a folder for the masks alone"
                )
