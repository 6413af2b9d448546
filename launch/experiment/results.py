"""Writes and checks the three files of an evaluation.

`metrics.json` holds, under `request`, the models with their steps and hashes (or the scores files with their
digests), the sets with theirs, the split and the settings; and under `files` the digests of `scores.csv` and
`report.html`.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from data_pipeline.packed import remote
from jax_vlffd.errors import UserError
from jax_vlffd.file_writing import write_together
from jax_vlffd.files import read_regular

if TYPE_CHECKING:
    from jax_vlffd.geometry import Trained
    from launch.experiment.workdir import TrainedRun

#: The files, in the order in which they are written.
SCORES, REPORT, METRICS = "scores.csv", "report.html", "metrics.json"
#: Bytes of `scores.csv` that are read.
MAX_BYTES: Final = 4 << 30


def described_sets(sets: Mapping[str, str | Path]) -> dict[str, dict[str, str]]:
    """Path and digest of each packed set, by name.

    Raises:
      UserError: one of them cannot be read.
    """
    from data_pipeline.packed.reader import split_names

    described = {}
    for name, path in sets.items():
        folder = remote.local(path)
        split_names(folder)  # raises UserError if the folder is not a packed set
        described[name] = {"path": str(path), "digest": remote.set_digest(folder)}
    return described


def described_model(name: str, folder: str | Path, run: TrainedRun) -> dict[str, Any]:
    """Name, workdir, step and hash of a model, the hash as in the output of `launch.predict`."""
    return {"name": name, "workdir": str(folder), "step": run.step, "hash": run.hash()}


def compared_geometry(
    trained: Trained, sets: Mapping[str, str | Path], split: str
) -> dict[str, dict[str, Any]]:
    """Compares the face geometry of packed sets with that of a run's training sets; see `Trained.compare`."""
    from data_pipeline.packed import face_geometry
    from data_pipeline.packed.reader import PackedSplit

    compared = {}
    for name, path in sets.items():
        opened = PackedSplit(path, split)
        rows = face_geometry.read(opened.folder, split, len(opened))
        compared[name] = trained.compare(rows)
    return compared


def outside_text(compared: Mapping[str, Any]) -> str:
    """A sentence on a set of another geometry."""
    return (
        f"{1 - compared['as_trained']:.0%} of the faces lie in their pictures otherwise (size, place or turn) "
        "than those the model was trained on, so its figures here say little of it"
    )


def write(out: Path, content: Mapping[str, Any], scores: str, page: str) -> None:
    """Writes the files so that `metrics.json` is never beside another evaluation's scores or report.

    Args:
      out: folder to write to; created if missing.
      content: of `metrics.json`, with its `request`.
      scores: the text of `scores.csv`.
      page: of `report.html`.

    Raises:
      UserError: they cannot be written.
    """
    files = {SCORES: scores.encode(), REPORT: page.encode()}
    digests = {name: hashlib.sha256(data).hexdigest() for name, data in files.items()}
    metrics = json.dumps({**content, "files": digests}, indent=2, allow_nan=False) + "\n"
    write_together(out, {**files, METRICS: metrics.encode()})


def check_companions(path: Path, content: Mapping[str, Any]) -> None:
    """Checks that scores and report beside a `metrics.json`, if any, were written with it.

    Raises:
      UserError: they were not.
    """
    digests = content.get("files")
    for name, digest in (digests if isinstance(digests, dict) else {}).items():
        beside = path.parent / name
        if name not in (SCORES, REPORT) or not beside.exists():
            continue
        if hashlib.sha256(read_regular(beside, MAX_BYTES)).hexdigest() != digest:
            raise UserError(
                f"{path}: {name} beside it is of another evaluation; run launch.evaluate again"
            )


def is_of(content: Mapping[str, Any], step: int, digest: str) -> bool | None:
    """Whether the first model of a `metrics.json` has this step and hash; None if it names no model."""
    request = content.get("request")
    models = request.get("models") if isinstance(request, dict) else None
    if not isinstance(models, list) or not models or not isinstance(models[0], dict):
        return None
    return (models[0].get("step"), models[0].get("hash")) == (step, digest)
