"""A prediction run: reads and classifies inputs; writes, prints and reports their lines."""

from __future__ import annotations

import contextlib
import sys
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final

from data_pipeline.core import discovery
from data_pipeline.core.images import InputError
from data_pipeline.faces.cropper import FaceCropper
from jax_vlffd.errors import UserError
from jax_vlffd.inference.detector import Detector
from jax_vlffd.reports.case import ShownFile
from launch.cli.progress import note, progress
from launch.prediction import console, pipeline, report, results
from launch.prediction.pipeline import InputResult, Line, PredictSettings

#: Maximum number of inputs in a report: browsers cannot open a page of thousands.
_MAX_ITEMS: Final = 200
#: Maximum side of a report's images, in pixels.
_THUMBNAIL: Final = 640


@dataclass(frozen=True)
class Cropping:
    """How faces are detected and cropped; see `FaceCropper`."""

    detector: str = "dlib"
    size: int = 256
    margin: float | None = None
    align: bool | None = None
    min_size: int = 40


@dataclass(frozen=True)
class Outputs:
    """Output files; an empty path writes nothing.

    Attributes:
      lines: JSON lines file to write or to continue.
      overlay: folder for a PNG of each face.
      html: file for a report.
      maps: whether overlays and report show heat maps; None: if the model learned from masks.
    """

    lines: str = ""
    overlay: str = ""
    html: str = ""
    maps: bool | None = None


def predict(
    paths: Sequence[Path],
    detector: Detector,
    cropping: Cropping | None,
    outputs: Outputs,
    *,
    frames: int = 16,
    max_frames: int = 20_000,
    batch_size: int = 32,
    ignored: Counter[str] | None = None,
) -> None:
    """Classifies every file; prints the verdicts to stdout, and remarks to stderr.

    Args:
      paths: images and videos.
      detector: the model.
      cropping: None if the files are face crops already.
      outputs: the files to write.
      frames: number of frames per video, evenly spaced.
      max_frames: only this many first frames of a video are used.
      batch_size: faces per batch.
      ignored: files that were left out of folders, by suffix.

    Raises:
      UserError: a file cannot be written or belongs to another model, or no input could be read.
    """
    maps = detector.trained.learned_from_masks if outputs.maps is None else outputs.maps
    cropper = None
    if cropping is not None:
        cropper = FaceCropper(
            cropping.detector, cropping.size, cropping.margin, cropping.align, cropping.min_size
        ).fitted(detector.trained.geometry.placement(), detector.trained.geometry.judge)
    drawn = bool(outputs.overlay or outputs.html)
    for text in console.remarks(detector, cropper is None, drawn and outputs.maps is None):
        note(text)
    settings = PredictSettings(frames, max_frames, _THUMBNAIL if outputs.html else 0)
    shared = _shared_fields(detector, cropping, cropper, settings)
    log: results.PredictionLog | None = None
    with contextlib.ExitStack() as stack:
        if outputs.lines:
            opened = results.open_predictions(
                Path(outputs.lines), shared["model"]["hash"], shared["preprocessing"]
            )
            log = stack.enter_context(opened)
        done = set(log.index) if log else set()
        names = {name for name, _ in done}
        # A report shows every input, so earlier inputs are classified again, but not written twice.
        report_all = bool(outputs.html)
        tally = console.Tally(ignored=ignored or Counter())

        def inputs() -> Iterator[InputResult]:
            for path in paths:
                if not report_all and str(path) in names and _is_done(path, done):
                    tally.skipped += 1
                    continue
                yield pipeline.read_input(path, cropper, settings)

        items: list[ShownFile] = []
        color = sys.stdout.isatty()
        update = stack.enter_context(progress("predicting"))
        for result in pipeline.classify(inputs(), detector, batch_size):
            overlays = {}
            if outputs.overlay:
                overlays = report.write_overlays(Path(outputs.overlay), result, maps)
            lines = pipeline.lines(result, shared, overlays)
            if log and (str(result.path), result.sha256) not in done:
                results.append(log, lines)
            tally.add(lines)
            for text in console.describe(lines, color):
                print(text, flush=True)
            if report_all and len(items) < _MAX_ITEMS:
                items.append(report.item(result, lines, maps))
            result.release()
            update(tally.inputs + tally.skipped, len(paths))
    if report_all:
        omitted = tally.inputs - len(items)
        report.write_report(Path(outputs.html), items, omitted, detector, shared)
        print(f"wrote {outputs.html}")
    for text in tally.summary():
        print(text)
    if tally.inputs and tally.failed == tally.inputs:
        raise UserError("none of the files could be read; see the reasons above")


def _is_done(path: Path, done: set[tuple[str, str]]) -> bool:
    try:
        return (str(path), discovery.sha256(path)) in done
    except InputError:
        return (str(path), "") in done


def _shared_fields(
    detector: Detector,
    cropping: Cropping | None,
    cropper: FaceCropper | None,
    settings: PredictSettings,
) -> Line:
    """The fields that are equal in every line: the model and the preprocessing."""
    trained, calibration = detector.trained, detector.calibration
    cropped: dict[str, Any] = {"crops": True}
    if cropping is not None and cropper is not None:
        placement, align = cropper.placement, cropping.align
        cropped = {
            "crops": False, "detector": cropping.detector, "size": cropping.size,
            "margin": (cropping.margin or 1.3) if placement is None else None,
            "align": align if align is not None else placement is None or placement.upright,
            "smallest": cropping.min_size, "border": "continued",
            "placement": None if placement is None else placement._asdict(),
        }  # fmt: skip
        if trained.geometry.sets:  # else every face is `unknown`
            cropped["geometry"] = trained.geometry.digest()
    return {
        "model": {
            "name": trained.name, "step": trained.step, "hash": trained.hash(),
            "calibration": None if trained.calibration is None else asdict(calibration),
        },
        "preprocessing": {
            **cropped, "image_size": trained.model.clip.vision.image_size,
            "frames": settings.frames, "most_frames": settings.max_frames,
        },
    }  # fmt: skip
