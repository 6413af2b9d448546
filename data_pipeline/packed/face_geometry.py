"""Face geometry of a packed set: one row a record, stored beside the index.

`index/SPLIT.geometry.npy` is float32 [records, 6], columns as in `jax_vlffd.preprocessing.FaceGeometry`, NaN
where no landmarks were known. Sets of before have none.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np

from data_pipeline.core.images import image_size
from data_pipeline.faces.landmarks import stored_landmarks
from data_pipeline.packed import set_files
from data_pipeline.packed.annotation import Annotation
from data_pipeline.packed.record import INDEX_FOLDER, Record
from jax_vlffd.errors import UserError, fault
from jax_vlffd.preprocessing import FaceGeometry, face_geometry

#: Bytes of rows that are kept before they are written.
_KEPT: Final = 1 << 16
_ROW: Final = struct.Struct(f"={len(FaceGeometry._fields)}f")

UNKNOWN: Final = FaceGeometry(*[math.nan] * len(FaceGeometry._fields))


def of_record(pairs: Sequence[Annotation], path: Path, record: Record) -> FaceGeometry:
    """That of a record: as its annotation has it, else by the landmarks that lie with its picture.

    Args:
        pairs: the annotations that the record comes from.
        path: of its picture.
        record: with the picture.
    """
    known = next((pair.geometry for pair in pairs if pair.geometry), None)
    if known:
        return known
    try:
        landmarks = stored_landmarks(path)
    except UserError:  # reported when the pair was annotated
        landmarks = None
    if landmarks is None:
        return UNKNOWN
    width, height = image_size(record.image)
    return face_geometry(landmarks, height, width)


class Rows:
    """The rows of a set that is being written; they lie in files, because there may be many.

    Args:
        folder: where to keep them meanwhile.
    """

    def __init__(self, folder: Path):
        self._folder = folder
        self._kept: dict[str, bytearray] = {}

    def add(self, split: str, row: FaceGeometry) -> None:
        """Adds the row of the next record of a split."""
        kept = self._kept.setdefault(split, bytearray())
        kept += _ROW.pack(*row)
        if len(kept) >= _KEPT:
            self._append(split)

    def _append(self, split: str) -> Path:
        path = self._folder / f"{split}.geometry"
        with path.open("ab") as file:
            file.write(self._kept[split])
        self._kept[split].clear()
        return path

    def write(self, folder: Path) -> None:
        """Writes the rows of each split into a finished set."""
        for split in self._kept:
            table = np.memmap(self._append(split), np.float32, "r")
            rows = table.reshape(-1, len(FaceGeometry._fields))
            np.save(_path(folder, split), rows, allow_pickle=False)


def read(folder: Path, split: str, records: int) -> np.ndarray | None:
    """The rows of a split, float32 [records, 6]; None in a set of before.

    Raises:
        UserError: the file is damaged.
    """
    if not _path(folder, split).exists():
        return None
    path = set_files.regular(folder, f"{INDEX_FOLDER}/{split}.geometry.npy")
    try:
        rows: Any = np.lib.format.open_memmap(path, mode="r")
    except Exception as error:  # NumPy's reader of headers raises what it likes
        raise UserError(f"{path} cannot be read ({fault(error)}); pack the set again") from error
    if rows.dtype != np.float32 or rows.shape != (records, len(FaceGeometry._fields)):
        raise UserError(f"{path} is not of the set's {records} records; pack the set again")
    return np.asarray(rows)


def _path(folder: Path, split: str) -> Path:
    return folder / INDEX_FOLDER / f"{split}.geometry.npy"
