"""Face geometry of a model's training pictures, and whether another face's size and position match it.

A model trained on faces that fill the picture is wrong more often on faces in a wide crop: on held-back crops
of FaceForensics++ its AUC fell from .92 to .75. So training stores quantiles of its sets, and prediction
compares faces with them.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np

from jax_vlffd.errors import UserError
from jax_vlffd.files import read_json
from jax_vlffd.preprocessing import FaceGeometry, Placement

AS_TRAINED, OUTSIDE, UNKNOWN = "as_trained", "outside", "unknown"
#: File of a workdir or an export, written by `launch.experiment.training_data`.
FILE: Final = "training_data.json"

_QUANTILES: Final = (5, 50, 95)
#: Version of how `placement` and `judge` decide a crop, which prediction files keep.
_RULE: Final = 2
#: Tolerance beyond the outer quantiles: sizes by a factor, positions in sides, roll in degrees.
_SIZE, _POSITION, _ROLL = 1.2, 0.08, 10.0
#: Degrees of roll from the 5 % to the 95 % quantile up to which a set's faces count as level: `launch.prepare`
#: gives 6, crops that were not rotated 16.
_LEVEL: Final = 10.0
#: Size and position of a face in the default crop of `launch.prepare` and `FaceCropper` (height, width, x, y;
#: medians over crops of FaceForensics++), and the tolerance within which a set has that crop.
_TEMPLATE: Final = (0.485, 0.537, 0.0, 0.125)
_NEAR_SIZE, _NEAR_POSITION = 1.1, 0.03


def quantiles(rows: np.ndarray | None) -> dict[str, Any] | None:
    """Quantiles of a set's face geometry, which a training run stores.

    Args:
      rows: float32 [n, 6], columns as `FaceGeometry`, NaN where unknown; None for a packed set without it.

    Returns:
      {"faces": those known, "records": n, field: [5 %, 50 %, 95 %]}; None where fewer than half are known.
    """
    if rows is None or not len(rows):
        return None
    known = rows[np.isfinite(rows).all(axis=1)]
    if 2 * len(known) < len(rows):
        return None
    percentiles = np.percentile(known, _QUANTILES, axis=0).T
    parts = {
        name: [round(float(value), 4) for value in values]
        for name, values in zip(FaceGeometry._fields, percentiles, strict=True)
    }
    return {"faces": len(known), "records": len(rows), **parts}


@dataclass(frozen=True)
class Trained:
    """Face geometry of the sets that a model was trained on.

    Attributes:
      sets: for each set, its (5 %, 50 %, 95 %) quantiles by field.
      complete: whether every set was measured.
    """

    sets: tuple[Mapping[str, tuple[float, float, float]], ...] = ()
    complete: bool = False

    @classmethod
    def of(cls, described: Iterable[Any]) -> Trained:
        """From one value of `quantiles` for each set.

        Raises:
          UserError: a value has another form.
        """
        entries = list(described)
        sets = tuple(_checked(entry) for entry in entries if entry is not None)
        return cls(sets, bool(entries) and len(sets) == len(entries))

    def digest(self) -> str:
        """A short digest of all that `judge` and `placement` depend on."""
        rule = (_RULE, _SIZE, _POSITION, _ROLL, _LEVEL, _TEMPLATE, _NEAR_SIZE, _NEAR_POSITION)
        content = [rule, self.complete, [dict(ranges) for ranges in self.sets]]
        text = json.dumps(content, sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()[:16]

    def judge(self, face: FaceGeometry | None) -> str:
        """'as_trained', 'outside', or 'unknown' where the face, or one of the sets, was never measured."""
        if face is None or not self.sets or not all(map(math.isfinite, face)):
            return UNKNOWN
        if any(_within(face, ranges) for ranges in self.sets):
            return AS_TRAINED
        return OUTSIDE if self.complete else UNKNOWN

    def compare(self, rows: np.ndarray | None) -> dict[str, Any]:
        """Compares a set with those of the training.

        Args:
          rows: as for `quantiles`.

        Returns:
          {"verdict": that of `judge` for most of the faces; "as_trained": the share of faces as trained, None
          if unknown; "set": its `quantiles`}.
        """
        measured = quantiles(rows)
        if measured is None or rows is None or not self.sets:
            return {"verdict": UNKNOWN, "as_trained": None, "set": measured}
        known = rows[np.isfinite(rows).all(axis=1)]
        verdicts = [self.judge(FaceGeometry(*map(float, row))) for row in known]
        share = verdicts.count(AS_TRAINED) / len(verdicts)
        other = OUTSIDE if self.complete else UNKNOWN
        return {
            "verdict": AS_TRAINED if share >= 0.5 else other, "as_trained": share, "set": measured,
        }  # fmt: skip

    def placement(self) -> Placement | None:
        """The size and position that a crop should give its face: the medians of the training.

        None where the default crop fits or nothing better is known: the training's faces were cropped by it,
        its sets differ, or one was not measured.
        """
        if not self.sets or not self.complete:
            return None
        first = self.sets[0]
        height, width, x, y = (first[name][1] for name in ("height", "width", "x", "y"))
        for ranges in self.sets:
            median = FaceGeometry(**{name: values[1] for name, values in ranges.items()})
            if not _within(median, first):
                return None
        level = all(s["roll"][2] - s["roll"][0] <= _LEVEL for s in self.sets)
        by_template = (
            all(1 / _NEAR_SIZE < a / b < _NEAR_SIZE for a, b in zip((height, width), _TEMPLATE, strict=False))
            and all(abs(a - b) < _NEAR_POSITION for a, b in zip((x, y), _TEMPLATE[2:], strict=True))
        )  # fmt: skip
        return None if level and by_template else Placement(height, width, x, y, level)


def read(folder: Path) -> Trained:
    """Reads the training geometry of a workdir or an export; unknown where the file does not exist.

    Raises:
      UserError: the file is damaged.
    """
    path = folder / FILE
    if not path.exists():
        return Trained()
    try:
        return Trained.of([entry.get("geometry") for entry in read_json(path)["train"]])
    except (KeyError, TypeError, AttributeError, UserError) as error:
        raise UserError(
            f"{path}: not a description of training sets; copy the folder again"
        ) from error


def _checked(entry: Any) -> dict[str, tuple[float, float, float]]:
    try:
        ranges = {name: tuple(map(float, entry[name])) for name in FaceGeometry._fields}
    except (KeyError, TypeError, ValueError, OverflowError):
        ranges = {"": ()}
    for values in ranges.values():
        sound = len(values) == 3 and all(abs(value) < 1e6 for value in values)
        if not sound or not values[0] <= values[1] <= values[2]:
            raise UserError("a set's geometry is not three rising numbers for each field")
    if ranges["height"][0] <= 0 or ranges["width"][0] <= 0:
        raise UserError("a set's faces have no size")
    return ranges  # type: ignore[return-value]


def _within(face: FaceGeometry, ranges: Mapping[str, tuple[float, float, float]]) -> bool:
    def inside(name: str, factor: float, margin: float) -> bool:
        low, _, high = ranges[name]
        return low / factor - margin <= getattr(face, name) <= high * factor + margin

    return (
        inside("height", _SIZE, 0)
        and inside("width", _SIZE, 0)
        and inside("x", 1, _POSITION)
        and inside("y", 1, _POSITION)
        and inside("roll", 1, _ROLL)
    )
