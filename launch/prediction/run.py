"""A whole run of predictions: inputs are read and judged, their lines written, printed and reported."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final

from data_pipeline.core import discovery
from data_pipeline.core.images import InputError
from data_pipeline.faces.cropper import FaceCropper
from jax_vlffd.errors import UserError
from jax_vlffd.inference.detector import Detector
from jax_vlffd.reports.case import Item
from launch.cli.progress import note, progress
from launch.prediction import console, pipeline, report, results
from launch.prediction.pipeline import InputResult, Line, PredictSettings

#: Inputs in a report: a page of thousands would open nowhere.
_MAX_ITEMS: Final = 200
#: Longer side of a report's pictures in pixels.
_THUMBNAIL: Final = 640


@dataclass(frozen=True)
class Cropping:
    """How faces are detected and cropped; see `FaceCropper`."""

    detector: str = "dlib"
    size: int = 256
    margin: float | None = None
    align: bool | None = None
    smallest: int = 40


@dataclass(frozen=True)
class Outputs:
    """What is written, beside what is printed; nothing where a path is empty.

    Attributes:
      lines: file of JSON lines to write or to go on with.
      overlay: folder for a PNG of each face.
      html: file for a report.
      maps: whether these show heat maps; None for those of models that learned from masks.
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
    most_frames: int = 20_000,
    batch_size: int = 32,
) -> None:
    """Judges every file; prints what is found in each on stdout, and remarks on stderr.

    Args:
      paths: pictures and videos.
      detector: that judges.
      cropping: None where the files are face crops already.
      outputs: what is written.
      frames: of each video, evenly spaced.
      most_frames: of a video, the first so many count.
      batch_size: faces that are judged together.

    Raises:
      UserError: a file cannot be written or belongs to another model, or no input could be read.
    """
    maps = detector.trained.learned_from_masks if outputs.maps is None else outputs.maps
    cropper = None
    if cropping is not None:
        cropper = FaceCropper(
            cropping.detector, cropping.size, cropping.margin, cropping.align, cropping.smallest
        ).fitted(detector.trained.geometry.placement())
    drawn = bool(outputs.overlay or outputs.html)
    for text in console.remarks(detector, cropper is None, drawn and outputs.maps is None):
        note(text)
    settings = PredictSettings(frames, most_frames, _THUMBNAIL if outputs.html else 0)
    fixed = _fixed(detector, cropping, cropper, settings)
    log: results.PredictionLog | None = None
    with contextlib.ExitStack() as stack:
        if outputs.lines:
            named = Path(outputs.lines), fixed["model"]["hash"], fixed["preprocessing"]
            log = stack.enter_context(results.open_predictions(*named))
        done = set(log.index) if log else set()
        names = {name for name, _ in done}
        # A report shows everything, so what was judged before is judged again, and not written twice.
        again = bool(outputs.html)
        tally = console.Tally()

        def cases() -> Iterator[InputResult]:
            for path in paths:
                if not again and str(path) in names and _is_done(path, done):
                    tally.skipped += 1
                    continue
                yield pipeline.look(path, cropper, settings)

        items: list[Item] = []
        color = sys.stdout.isatty()
        update = stack.enter_context(progress("predicting"))
        for case in pipeline.judge(cases(), detector, batch_size):
            overlays = {}
            if outputs.overlay:
                overlays = report.write_overlays(Path(outputs.overlay), case, maps)
            lines = pipeline.lines(case, fixed, overlays)
            if log and (str(case.path), case.sha256) not in done:
                results.append(log, lines)
            tally.add(lines)
            for text in console.describe(lines, color):
                print(text, flush=True)
            if again and len(items) < _MAX_ITEMS:
                items.append(report.item(case, lines, maps))
            case.forget()
            update(tally.inputs + tally.skipped, len(paths))
    if again:
        left_out = tally.inputs - len(items)
        report.write_report(Path(outputs.html), items, left_out, detector, fixed)
        print(f"wrote {outputs.html}")
    for text in tally.summary():
        print(text)
    if tally.inputs and tally.failed == tally.inputs:
        raise UserError("none of the files could be read; the reasons are above")


def _is_done(path: Path, done: set[tuple[str, str]]) -> bool:
    try:
        return (str(path), discovery.sha256(path)) in done
    except InputError:
        return (str(path), "") in done


def _fixed(
    detector: Detector,
    cropping: Cropping | None,
    cropper: FaceCropper | None,
    settings: PredictSettings,
) -> Line:
    """What is the same in every line: the model, and how it is fed."""
    trained, calibration = detector.trained, detector.calibration
    cropped: dict[str, Any] = {"crops": True}
    if cropping is not None and cropper is not None:
        place, upright = cropper.placement, cropping.align
        cropped = {
            "crops": False, "detector": cropping.detector, "size": cropping.size,
            "margin": (cropping.margin or 1.3) if place is None else None,
            "align": upright if upright is not None else place is None or place.upright,
            "smallest": cropping.smallest, "border": "continued",
            "placement": None if place is None else place._asdict(),
        }  # fmt: skip
    return {
        "model": {
            "name": trained.name, "step": trained.step, "hash": trained.hash(),
            "calibration": None if trained.calibration is None else asdict(calibration),
        },
        "preprocessing": {
            **cropped, "image_size": trained.model.clip.vision.image_size,
            "frames": settings.frames, "most_frames": settings.most_frames,
        },
    }  # fmt: skip
