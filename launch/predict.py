"""Verdicts with reasons for pictures and videos.

  python -m launch.predict --checkpoint=DIR [--out=FILE.jsonl] [--overlay=DIR] [--html=FILE.html] PATH...

PATHs are pictures, videos, folders and globs; --list names a file of further paths. Every face is found,
cropped as in training and judged. The same command again goes on where the first stopped.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from absl import flags

from launch.cli import command

if TYPE_CHECKING:
    from data_pipeline.faces.cropper import FaceFinder
    from jax_vlffd.inference.detector import Detector
    from jax_vlffd.reports.case import Item
    from launch.prediction.pipeline import Case

FLAGS = flags.FLAGS
flags.DEFINE_string("checkpoint", None, "A trained workdir, or an exported folder.", required=True)
flags.DEFINE_string("out", "", "File of JSON lines to write or to go on with.")
flags.DEFINE_string("overlay", "", "Folder for a PNG of each face with its heat maps.")
flags.DEFINE_string("html", "", "File for a self-contained report on all that is given.")
flags.DEFINE_bool(
    "maps", None, "Draw heat maps. Unless given, of a model that learned from forgery masks alone: others' "
    "maps mean nothing.",
)  # fmt: skip
flags.DEFINE_string("list", "", "File of further paths, one a line, relative to its folder.")
flags.DEFINE_bool("crops", False, "The pictures are face crops already, as packed sets hold them.")
flags.DEFINE_integer("frames", 16, "Frames of a video, evenly spaced.", lower_bound=1)
flags.DEFINE_integer(
    "most_frames", 20_000, "Of a video, the first so many frames are looked at.", lower_bound=1
)
flags.DEFINE_integer("batch_size", 32, "Faces that are judged together.", lower_bound=1)
flags.DEFINE_enum("detector", "dlib", ["dlib", "mediapipe"], "Face detector.")
flags.DEFINE_integer("smallest", 40, "Smallest face that is judged, in pixels.", lower_bound=1)
flags.DEFINE_integer("size", 256, "Side of a crop in pixels.", lower_bound=16, upper_bound=4096)
flags.DEFINE_float(
    "margin", None, "Width of a crop over that of ArcFace's template. Unless given, faces lie in their crops "
    "as in the model's training; 1.3 where that is not known.", lower_bound=1,
)  # fmt: skip
flags.DEFINE_bool(
    "align", None, "Turn faces upright; --align=false crops without rotation. Unless given, as in the training."
)  # fmt: skip

#: Files in a report, and faces of one video in it: a page of thousands would open nowhere.
_MOST_ITEMS, _MOST_FACES, _THUMBNAIL = 200, 4, 640


def main(argv: Sequence[str]) -> None:
    """Judges what the paths name."""
    from data_pipeline.core import discovery
    from jax_vlffd.errors import UserError

    given = [*argv[1:], *(discovery.read_list(Path(FLAGS.list)) if FLAGS.list else [])]
    if not given:
        raise UserError("nothing to look at: give pictures, videos or folders, or a file by --list")
    paths = discovery.find(given)
    command.use_compilation_cache()
    from jax_vlffd.inference.detector import Detector
    from launch.prediction.results import open_predictions

    detector = Detector.from_pretrained(FLAGS.checkpoint, batch_size=FLAGS.batch_size)
    if detector.trained.explainer is None:
        print("reasons unavailable: this model was trained without the alignment of captions")
    maps = detector.trained.learned_from_masks if FLAGS.maps is None else FLAGS.maps
    if (FLAGS.overlay or FLAGS.html) and not maps and FLAGS.maps is None:
        print(
            "no heat maps: this model was trained without forgery masks (loss.local is 0), so its maps would "
            "mean nothing; --maps draws them all the same"
        )
    finder = _finder()
    if finder is None:
        print(
            "geometry unknown: with --crops it is not measured how faces lie in the pictures; see that they "
            "lie as in those of the model's training"
        )
    else:
        finder = finder.fitted(detector.trained.geometry.placement())
        if not detector.trained.geometry.sets:
            print(
                "geometry unknown: how faces lay in the pictures of this model's training was not measured; "
                "crop as its training set was prepared (--margin, --align, --crops)"
            )
    fixed = _fixed(detector, finder)
    if not FLAGS.out:
        _run(paths, detector, finder, fixed, maps, None)
        return
    with open_predictions(Path(FLAGS.out), fixed["model"]["hash"], fixed["preprocessing"]) as file:
        _run(paths, detector, finder, fixed, maps, file)


def _finder() -> FaceFinder | None:
    if FLAGS.crops:
        return None
    from data_pipeline.faces.cropper import FaceFinder

    return FaceFinder(
        FLAGS.detector, FLAGS.size, FLAGS.margin, FLAGS.align, smallest=FLAGS.smallest
    )


def _fixed(detector: Detector, finder: FaceFinder | None) -> dict[str, Any]:
    """What is the same in every line: the model, and how it is fed."""
    from dataclasses import asdict

    trained, calibration = detector.trained, detector.calibration
    cropped: dict[str, Any] = {"crops": True}
    if finder is not None:
        place = finder.placement
        cropped = {
            "crops": False, "detector": FLAGS.detector, "size": FLAGS.size,
            "margin": (FLAGS.margin or 1.3) if place is None else None,
            "align": FLAGS.align if FLAGS.align is not None else place is None or place.upright,
            "smallest": FLAGS.smallest, "border": "continued",
            "placement": None if place is None else place._asdict(),
        }  # fmt: skip
    return {
        "model": {
            "name": trained.name, "step": trained.step, "hash": trained.hash(),
            "calibration": None if trained.calibration is None else asdict(calibration),
        },
        "preprocessing": {
            **cropped, "image_size": trained.model.clip.vision.image_size,
            "frames": FLAGS.frames, "most_frames": FLAGS.most_frames,
        },
    }  # fmt: skip


def _run(
    paths: Sequence[Path],
    detector: Detector,
    finder: FaceFinder | None,
    fixed: dict[str, Any],
    maps: bool,
    file: Any,
) -> None:
    from jax_vlffd.errors import UserError
    from launch.prediction import console, pipeline, results

    settings = pipeline.Looking(FLAGS.frames, FLAGS.most_frames, _THUMBNAIL if FLAGS.html else 0)
    done = set(file.index) if file else set()
    # A report shows everything, so what was answered before is looked at again, and not written twice.
    again = bool(FLAGS.html)
    tally = console.Tally()

    def cases() -> Iterator[Case]:
        for path in paths:
            if not again and done and _is_done(path, done):
                tally.skipped += 1
                continue
            yield pipeline.look(path, finder, settings)

    items: list[Item] = []
    for case in pipeline.judge(cases(), detector, FLAGS.batch_size):
        overlays = _overlays(case, maps) if FLAGS.overlay else {}
        lines = pipeline.lines(case, fixed, overlays)
        if file and (str(case.path), case.sha256) not in done:
            results.append(file, lines)
        tally.add(lines)
        for text in console.told(lines, sys.stdout.isatty()):
            print(text, flush=True)
        if again and len(items) < _MOST_ITEMS:
            items.append(_item(case, lines, maps))
        case.forget()
    if again:
        _write_report(items, tally.inputs - len(items), detector, fixed)
    for text in tally.summary():
        print(text)
    if tally.inputs and tally.failed == tally.inputs:
        raise UserError("none of the files could be read; the reasons are above")


def _is_done(path: Path, done: set[tuple[str, str]]) -> bool:
    from data_pipeline.core import discovery
    from data_pipeline.core.images import InputError

    if not any(name == str(path) for name, _ in done):
        return False
    try:
        return (str(path), discovery.sha256(path)) in done
    except InputError:
        return (str(path), "") in done


def _overlays(case: Case, maps: bool) -> dict[int, str]:
    """Writes a PNG for each judged face; their paths by the face's place."""
    from data_pipeline.core.files import atomic_write_bytes, file_name
    from jax_vlffd.inference import heatmaps

    found = {}
    for place, face in enumerate(case.faces):
        if face.answer is None or face.answer.probability is None or face.crop is None:
            continue
        assert face.crop.image is not None  # it was judged
        frame = "" if face.frame is None else f"-{face.frame:06d}"
        # The digest keeps files of one name in different folders apart.
        stem = file_name(case.path.stem, 80)
        name = f"{stem}-{case.sha256[:8]}{frame}-{face.face}.png"
        path = Path(FLAGS.overlay) / name
        atomic_write_bytes(
            path, heatmaps.sheet(heatmaps.panels(face.crop.image, face.answer, maps))
        )
        found[place] = str(path)
    return found


def _item(case: Case, lines: Sequence[dict[str, Any]], maps: bool) -> Item:
    from jax_vlffd.inference import heatmaps
    from jax_vlffd.reports.case import Item, Shown

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
        drove = [place for place, face in enumerate(case.faces) if face in case.drove]
        chosen = drove[:_MOST_FACES]
    faces = []
    for place in chosen:
        face = case.faces[place]
        panels = []
        if face.crop and face.crop.image is not None and face.answer:
            shown = heatmaps.panels(face.crop.image, face.answer, maps)
            panels = [(panel.title, heatmaps.jpeg(panel.image)) for panel in shown]
        faces.append(Shown(lines[place], panels))
    return Item(
        lines[-1] if case.kind == "video" else lines[0],
        picture,
        faces,
        len(case.faces) - len(faces),
    )


def _write_report(
    items: Sequence[Item], left_out: int, detector: Detector, fixed: dict[str, Any]
) -> None:
    from data_pipeline.core.files import atomic_write_bytes
    from jax_vlffd.reports import case
    from launch.experiment.config import versions

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
    text = case.render(items, facts, (calibration.low, calibration.threshold, calibration.high))
    # A file name need not be valid UTF-8.
    atomic_write_bytes(Path(FLAGS.html), text.encode("utf-8", "replace"))
    print(f"wrote {FLAGS.html}")


if __name__ == "__main__":
    command.run(main, positional=True)
