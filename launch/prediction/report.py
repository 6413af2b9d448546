"""What `launch.predict` draws: a picture of heat maps for each face, and a report on all inputs."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

from data_pipeline.core.files import atomic_write_bytes, file_name
from jax_vlffd.inference import heatmaps
from jax_vlffd.inference.detector import Detector
from jax_vlffd.reports import case as case_report
from jax_vlffd.reports.case import Item, Shown
from launch.experiment.config import versions
from launch.prediction.pipeline import InputResult, Line

#: Faces of one video in a report.
_MAX_FACES: Final = 4


def write_overlays(folder: Path, case: InputResult, maps: bool) -> dict[int, str]:
    """Writes a PNG for each judged face of an input.

    Args:
      folder: to write to.
      case: with predictions.
      maps: whether heat maps are drawn, or the face alone.

    Returns:
      The paths by the face's place in `case.faces`.
    """
    found = {}
    for place, face in enumerate(case.faces):
        if face.prediction is None or face.prediction.probability is None or face.crop is None:
            continue
        assert face.crop.image is not None  # it was judged
        frame = "" if face.frame is None else f"-{face.frame:06d}"
        # The digest keeps files of one name in different folders apart.
        stem = file_name(case.path.stem, 80)
        path = folder / f"{stem}-{case.sha256[:8]}{frame}-{face.face}.png"
        panels = heatmaps.panels(face.crop.image, face.prediction, maps)
        atomic_write_bytes(path, heatmaps.sheet(panels))
        found[place] = str(path)
    return found


def item(case: InputResult, lines: Sequence[Line], maps: bool) -> Item:
    """An input as the report shows it: its picture, and of a video the faces that drove the verdict."""
    picture = b""
    if case.picture is not None and case.faces:
        first = [face for face in case.faces if face.frame == case.faces[0].frame]
        boxes = [face.crop.box if face.crop else None for face in first]
        scale = case.picture.shape[1] / case.width
        picture = heatmaps.jpeg(heatmaps.numbered(case.picture, boxes, scale))
    if case.code:
        return Item(lines[-1], picture)
    chosen = list(range(len(case.faces)))
    if case.kind == "video":
        chosen = [p for p, face in enumerate(case.faces) if face in case.drove][:_MAX_FACES]
    faces = []
    for place in chosen:
        face = case.faces[place]
        panels = []
        if face.crop and face.crop.image is not None and face.prediction:
            shown = heatmaps.panels(face.crop.image, face.prediction, maps)
            panels = [(panel.title, heatmaps.jpeg(panel.image)) for panel in shown]
        faces.append(Shown(lines[place], panels))
    line = lines[-1] if case.kind == "video" else lines[0]
    return Item(line, picture, faces, len(case.faces) - len(faces))


def write_report(
    path: Path, items: Sequence[Item], left_out: int, detector: Detector, fixed: dict[str, Any]
) -> None:
    """Writes the HTML page.

    Args:
      path: of the page.
      items: the inputs shown.
      left_out: inputs that are not.
      detector: that judged them.
      fixed: `model` and `preprocessing` of the lines.
    """
    calibration, found = detector.calibration, versions()
    facts = {
        "Model": f"{fixed['model']['name']}, step {fixed['model']['step']}",
        "Model hash": fixed["model"]["hash"],
        "Preprocessing": ", ".join(f"{k} {v}" for k, v in fixed["preprocessing"].items()),
        "Versions": ", ".join(f"{name} {found[name]}" for name in ("jax-vlffd", "jax", "numpy")),
    }
    if detector.trained.calibration is None:
        facts["Calibration"] = "none: probabilities are the raw ones"
    if left_out:
        facts["Not shown"] = f"{left_out} further files"
    limits = (calibration.low, calibration.threshold, calibration.high)
    text = case_report.render(items, facts, limits)
    # A file name need not be valid UTF-8.
    atomic_write_bytes(path, text.encode("utf-8", "replace"))
