"""Images written by `launch.predict`: heat maps of each face, and an HTML report on all inputs."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

from data_pipeline.core.files import file_name
from jax_vlffd.file_writing import atomic_write_bytes
from jax_vlffd.inference import heatmaps
from jax_vlffd.inference.detector import Detector
from jax_vlffd.reports import case as case_report
from jax_vlffd.reports.case import ShownFace, ShownFile
from launch.experiment.config import versions
from launch.prediction.pipeline import InputResult, Line

#: Maximum number of faces of one video in a report.
_MAX_FACES: Final = 4


def write_overlays(folder: Path, result: InputResult, maps: bool) -> dict[int, str]:
    """Writes a PNG for each classified face of an input.

    Args:
      folder: to write to.
      result: with predictions.
      maps: whether heat maps are drawn, or only the face.

    Returns:
      The paths by the face's index in `result.faces`.
    """
    paths = {}
    for index, face in enumerate(result.faces):
        if face.prediction is None or face.prediction.probability is None or face.crop is None:
            continue
        assert face.crop.image is not None  # it was classified
        frame = "" if face.frame is None else f"-{face.frame:06d}"
        # The digest distinguishes files of the same name in different folders.
        stem = file_name(result.path.stem, 80)
        path = folder / f"{stem}-{result.sha256[:8]}{frame}-{face.face}.png"
        panels = heatmaps.panels(face.crop.image, face.prediction, maps)
        atomic_write_bytes(path, heatmaps.sheet(panels))
        paths[index] = str(path)
    return paths


def item(result: InputResult, lines: Sequence[Line], maps: bool) -> ShownFile:
    """The report's item for an input: its image, and its faces (of a video the drivers of the verdict)."""
    picture = b""
    if result.picture is not None and result.faces:
        first = [face for face in result.faces if face.frame == result.faces[0].frame]
        boxes = [face.crop.box if face.crop else None for face in first]
        scale = result.picture.shape[1] / result.width
        picture = heatmaps.jpeg(heatmaps.numbered(result.picture, boxes, scale))
    if result.code:
        return ShownFile(lines[-1], picture)
    chosen = list(range(len(result.faces)))
    if result.kind == "video":
        chosen = [p for p, face in enumerate(result.faces) if face in result.drivers][:_MAX_FACES]
    faces = []
    for index in chosen:
        face = result.faces[index]
        panels = []
        if face.crop and face.crop.image is not None and face.prediction:
            panels = [
                (panel.title, heatmaps.jpeg(panel.image))
                for panel in heatmaps.panels(face.crop.image, face.prediction, maps)
            ]
        faces.append(ShownFace(lines[index], panels))
    line = lines[-1] if result.kind == "video" else lines[0]
    return ShownFile(line, picture, faces, len(result.faces) - len(faces))


def write_report(
    path: Path, items: Sequence[ShownFile], omitted: int, detector: Detector, shared: dict[str, Any]
) -> None:
    """Writes the HTML report.

    Args:
      path: of the report.
      items: the inputs shown.
      omitted: number of further inputs.
      detector: that classified them.
      shared: `model` and `preprocessing` of the lines.
    """
    calibration, packages = detector.calibration, versions()
    facts = {
        "Model": f"{shared['model']['name']}, step {shared['model']['step']}",
        "Model hash": shared["model"]["hash"],
        "Preprocessing": ", ".join(f"{k} {v}" for k, v in shared["preprocessing"].items()),
        "Versions": ", ".join(f"{name} {packages[name]}" for name in ("jax-vlffd", "jax", "numpy")),
    }
    if detector.trained.calibration is None:
        facts["Calibration"] = "none: probabilities are the raw ones"
    if omitted:
        facts["Not shown"] = f"{omitted} further files"
    limits = (calibration.low, calibration.threshold, calibration.high)
    text = case_report.render(items, facts, limits)
    # File names may be invalid UTF-8.
    atomic_write_bytes(path, text.encode("utf-8", "replace"))
