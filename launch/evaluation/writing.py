"""Writes an evaluation: `metrics.json`, `scores.csv` and `report.html` with its examples."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import cv2

from data_pipeline.core.images import InputError, decode_image
from data_pipeline.packed.reader import PackedSplit
from jax_vlffd.errors import printable
from jax_vlffd.evaluation import comparison
from jax_vlffd.evaluation import scores as tables
from jax_vlffd.reports import evaluation, gallery
from launch.cli.progress import note
from launch.evaluation.scoring import EvaluateSettings, Scored
from launch.experiment import results

if TYPE_CHECKING:
    from jax_vlffd.evaluation.scores import Scores

#: Longer side of a report's pictures in pixels.
_SIDE: Final = 192


def write(out: Path, scored: Scored, sets: Mapping[str, str], settings: EvaluateSettings) -> None:
    """Writes the three files and prints a line for each detector and set.

    Args:
      out: folder to write to; created if missing.
      scored: the detectors and their scores.
      sets: packed sets by name, for the pictures of the report.
      settings: of the evaluation.

    Raises:
      UserError: they cannot be written.
    """
    detectors = scored.detectors
    first = detectors[0]
    matrix = comparison.matrix(detectors) if settings.matrix else []
    outside = [
        f"{detector}, {name}: {results.outside_text(compared)}"
        for detector, by_set in scored.geometry.items()
        for name, compared in by_set.items()
        if compared["verdict"] == "outside"
    ]
    facts = {
        "Split": settings.split,
        "Detectors": ", ".join(detector.name for detector in detectors),
        "Sets": ", ".join(first.sets),
        "Frames": f"{len(first.scores):,}",
        "Intervals": f"{settings.bootstrap} resamples of videos, seed {settings.seed}",
    }
    if scored.geometry:  # trained runs, not scores files
        facts["Trained on"] = "; ".join(f"{d.name}: {d.methods_text()}" for d in detectors)
    if outside:
        facts["Geometry"] = "; ".join(outside)
    galleries = gallery.galleries(
        detectors,
        settings.examples,
        settings.seed,
        lambda rows: thumbnails(first.scores, rows, sets, settings.split),
    )
    page = evaluation.render(
        f"Evaluation of {first.name}", facts, detectors, galleries, matrix, scored.robustness
    )
    resampling = {"resamples": settings.bootstrap, "seed": settings.seed, "confidence": 0.95}
    content: dict[str, Any] = {
        "version": 1,
        "split": settings.split,
        "bootstrap": resampling,
        "request": {**scored.request, **asdict(settings)},
        **comparison.summary(detectors),
    }
    more = {"geometry": scored.geometry, "matrix": matrix, "robustness": scored.robustness}
    content |= {name: value for name, value in more.items() if value}
    results.write(out, content, tables.to_csv({d.name: d.scores for d in detectors}), page)
    for detector in detectors:
        for name, measured in detector.sets.items():
            print(printable(f"{detector.name}, {name}: {measured.overall.line()}"))
    for text in outside:
        note(f"note: {text}")
    print(f"wrote {out}/metrics.json, scores.csv and report.html")


def thumbnails(
    scores: Scores, rows: Iterable[int], sets: Mapping[str, str], split: str
) -> dict[int, bytes]:
    """Makes small JPEGs of rows of a scores table; returns them by row.

    Args:
      scores: the table.
      rows: of it.
      sets: packed sets by name.
      split: of them.
    """
    row_of = {(str(scores.set_name[row]), str(scores.id[row])): row for row in rows}
    pictures: dict[int, bytes] = {}
    for set_name, folder in sets.items():
        missing = {record: row for (name, record), row in row_of.items() if name == set_name}
        if not missing:
            continue
        packed = PackedSplit(folder, split)
        for index in range(len(packed)):
            if not missing:
                break
            record = packed[index]
            if record.id in missing:
                pictures[missing.pop(record.id)] = _small(record.image)
    return pictures


def _small(data: bytes) -> bytes:
    """A JPEG of at most _SIDE pixels a side; empty if the picture cannot be decoded."""
    try:
        image = decode_image(data)
    except InputError:
        return b""
    scale = _SIDE / max(image.shape[:2])
    if scale < 1:
        image = cv2.resize(image, None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA)
    encoded = cv2.imencode(".jpg", image[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, 88])[1]
    return encoded.tobytes()
