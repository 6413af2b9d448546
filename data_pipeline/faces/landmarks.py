"""Landmarks of faces: their schemes, and the files that they are stored in.

They follow the 68-point scheme of iBUG 300-W (0-16 jaw, 17-26 brows, 27-35 nose, 36-47 eyes, 48-67 mouth);
81 points are the same with 13 more along the forehead (68-80).
"""

from __future__ import annotations

import io
import os
from pathlib import Path
from tokenize import TokenError
from typing import Final

import numpy as np
from numpy.typing import NDArray

from data_pipeline.core.frame_numbers import swap_folder
from jax_vlffd.errors import UserError
from jax_vlffd.files import read_regular

Points = NDArray[np.float32]

#: A file of landmarks is a kilobyte or two; a larger one is something else.
_MAX_FILE: Final = 1 << 16


def box_of(landmarks: Points) -> tuple[float, float, float, float]:
    """The box (left, top, right, bottom) around `landmarks` ([N, 2])."""
    low, high = landmarks.min(axis=0), landmarks.max(axis=0)
    return float(low[0]), float(low[1]), float(high[0]), float(high[1])


def landmark_paths(image_path: Path) -> tuple[Path, Path]:
    """Where landmarks of an image may lie: beside it, or in the folder `landmarks` for `frames`."""
    # The root of all folders, which a table may name too, has no name.
    beside = image_path.with_suffix(".npy") if image_path.name else image_path / ".npy"
    return beside, swap_folder(beside, "landmarks")


def stored_landmarks(image_path: Path) -> Points | None:
    """Landmarks stored with an image, float32 [68 or 81, 2], or None where there are none.

    Raises:
      UserError: a file is there and is not a finite array of 68 or 81 points.
    """
    for path in landmark_paths(image_path):
        if os.path.isfile(path):
            return _read_points(path)
    return None


def _read_points(path: Path) -> Points:
    try:
        points = np.load(io.BytesIO(read_regular(path, _MAX_FILE)), allow_pickle=False)
    except (ValueError, OSError, EOFError, MemoryError, SyntaxError, TokenError) as error:
        reason = " ".join(str(error).split())[:120]
        raise UserError(f"{path}: landmarks cannot be read ({reason}); remove the file") from error
    shape, kind = getattr(points, "shape", "an archive"), getattr(points, "dtype", np.dtype(object))
    if shape not in {(68, 2), (81, 2)} or kind.kind not in "fiu":
        raise UserError(f"{path}: landmarks must be [68, 2] or [81, 2] numbers, not {shape} {kind}")
    if not (np.abs(points) < 1e6).all():  # nor for NaN
        raise UserError(f"{path}: landmarks must be pixels; one is not finite or far off")
    return np.asarray(points, np.float32)
