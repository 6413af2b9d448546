"""Inference pipeline: read, detect faces, classify in batches, format results.

Every face has a line of its own; a video has one more, over the frames of one person. The schema is described
in docs/predict.md and has a version.
"""

from __future__ import annotations

import dataclasses
import time
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import cv2
import numpy as np

from data_pipeline.core import discovery
from data_pipeline.core.images import InputError, read_picture
from data_pipeline.core.video import Frames, VideoError, count_frames, evenly_spaced, open_frames
from data_pipeline.faces.cropper import FaceCrop, FaceCropper
from jax_vlffd.errors import UserError, fault
from jax_vlffd.explanation import Reason
from jax_vlffd.inference.detector import FACE_TOO_SMALL, NO_FACE, Detector, Prediction

#: Of the lines; raised when a key changes its meaning.
SCHEMA: Final = 1
#: A face in the next sampled frame is the same person when its center moved by less than its own size.
_MAX_MOVE: Final = 1.0
#: A person counts for a video's verdict when seen in this share of the frames in which anyone is.
_MIN_SHARE: Final = 0.25
#: Frames that are named as what drove a video's verdict.
_MAX_DRIVERS: Final = 3

Line = dict[str, Any]


@dataclass(frozen=True)
class PredictSettings:
    """How files are read.

    Attributes:
      frames: of each video, evenly spaced.
      most_frames: of a video, the first so many count.
      thumbnail: longest side of the picture that is kept for a report; 0 keeps none.
    """

    frames: int = 16
    most_frames: int = 20_000
    thumbnail: int = 0


@dataclass(eq=False)
class FaceObservation:
    """One face, or that there is none; `prediction` comes later."""

    crop: FaceCrop | None
    frame: int | None = None
    second: float | None = None
    face: int = 0
    person: int | None = None
    prediction: Prediction | None = None


@dataclass
class InputResult:
    """One input on its way through: its facts, its faces, and what is to be said of it as a whole."""

    path: Path
    sha256: str = ""
    kind: str = "image"
    code: str = ""
    message: str = ""
    width: int = 0
    height: int = 0
    format: str = ""
    notes: tuple[str, ...] = ()
    exif: dict[str, str] = field(default_factory=dict)
    count: int = 0
    looked_at: list[int] = field(default_factory=list)
    faces: list[FaceObservation] = field(default_factory=list)
    picture: np.ndarray | None = None  # reduced
    whole: Prediction | None = None
    drove: list[FaceObservation] = field(default_factory=list)
    people: list[Line] = field(default_factory=list)

    @property
    def judged(self) -> list[FaceObservation]:
        """The faces that were large enough to be judged."""
        return [
            seen for seen in self.faces if seen.crop is not None and seen.crop.image is not None
        ]

    def forget(self) -> None:
        """Lets go of the pixels."""
        self.picture = None
        self.faces = []


def judge(
    cases: Iterable[InputResult], detector: Detector, batch_size: int
) -> Iterator[InputResult]:
    """Classifies the faces of inputs, many together, and yields the cases in order."""
    waiting: list[InputResult] = []
    faces = 0
    for case in cases:
        waiting.append(case)
        faces += len(case.judged)
        if faces >= batch_size or len(waiting) >= batch_size:
            yield from _predicted(waiting, detector)
            waiting, faces = [], 0
    yield from _predicted(waiting, detector)


def _predicted(cases: list[InputResult], detector: Detector) -> list[InputResult]:
    seen = [face for case in cases for face in case.judged]
    crops = [face.crop.image for face in seen if face.crop and face.crop.image is not None]
    for face, prediction in zip(seen, detector.predict(crops), strict=True):
        face.prediction = prediction
    for case in cases:
        for face in case.faces:
            if face.crop is None:
                face.prediction = Prediction(NO_FACE)
            else:
                face.prediction = detector.placed(face.prediction, face.crop)
        if case.kind == "video" and not case.code:
            _sum_up(case, detector)
    return cases


def look(path: Path, finder: FaceCropper | None, settings: PredictSettings) -> InputResult:
    """Reads one file and cuts out its faces; what is wrong with it becomes the case's code.

    Args:
      path: of a picture or a video.
      finder: None takes each picture, or each frame, for a face crop.
      settings: see `PredictSettings`.
    """
    case = InputResult(path)
    try:
        case.sha256 = discovery.sha256(path)
        if discovery.is_video(path):
            case.kind = "video"
            _look_at_video(case, finder, settings)
        else:
            found = read_picture(path)
            case.height, case.width = found.image.shape[:2]
            case.format, case.notes, case.exif = found.format, found.notes, found.exif
            case.picture = _reduced(found.image, settings.thumbnail)
            case.faces = _faces(found.image, finder)
    except (InputError, VideoError) as error:
        case.code, case.message = error.code, str(error)
    except UserError:
        raise
    except Exception as error:  # of this file alone, whatever it is: the others go on
        case.code, case.message = "unreadable", f"{path} cannot be judged ({fault(error)})"
    if case.code:
        case.forget()
    return case


def _reduced(image: np.ndarray, side: int) -> np.ndarray | None:
    """A copy with at most `side` pixels a side; None for 0."""
    if not side:
        return None
    scale = min(1.0, side / max(image.shape[:2]))
    size = (max(round(image.shape[1] * scale), 1), max(round(image.shape[0] * scale), 1))
    return cv2.resize(image, size, interpolation=cv2.INTER_AREA)


def _faces(image: np.ndarray, finder: FaceCropper | None) -> list[FaceObservation]:
    if finder is None:
        return [FaceObservation(FaceCrop(image, None, np.eye(2, 3), 1.0))]
    found = [FaceObservation(crop, face=i) for i, crop in enumerate(finder.crops(image))]
    return found or [FaceObservation(None)]


def _look_at_video(
    case: InputResult, finder: FaceCropper | None, settings: PredictSettings
) -> None:
    frames = open_frames(case.path)
    try:
        stated = frames.count
        _look_at_frames(case, frames, min(stated, settings.most_frames), finder, settings)
    finally:
        frames.close()
    notes = []
    wanted = min(settings.frames, stated, settings.most_frames)
    if 2 * len(case.looked_at) < wanted and not case.path.is_dir():
        # The header states frames that are not there: those that are there are spread anew.
        held = count_frames(case.path)
        notes.append(f"cut: it states {stated} frames and holds {held}")
        case.looked_at, case.faces = [], []
        frames = open_frames(case.path)
        try:
            _look_at_frames(case, frames, min(held, settings.most_frames), finder, settings)
        finally:
            frames.close()
    elif len(case.looked_at) < wanted:
        missing = wanted - len(case.looked_at)
        notes.append(f"unreadable_frames: {missing} of {wanted} could not be read")
    if stated > settings.most_frames:
        notes.append(f"long: only the first {settings.most_frames} frames were looked at")
    if frames.lost_start:
        notes.append(f"lost_start: {frames.lost_start} frames before the first key frame are lost")
    if not case.looked_at:
        raise VideoError("no_frames", f"{case.path} has no frame that can be decoded")
    case.count, case.notes = stated, tuple(notes)


def _look_at_frames(
    case: InputResult,
    frames: Frames,
    within: int,
    finder: FaceCropper | None,
    settings: PredictSettings,
) -> None:
    people: list[tuple[int, np.ndarray]] = []
    for index in evenly_spaced(within, settings.frames):
        image = frames.read(index)
        if image is None:
            continue
        case.looked_at.append(index)
        case.height, case.width = image.shape[:2]
        if case.picture is None and settings.thumbnail:
            case.picture = _reduced(image, settings.thumbnail)
        seen = _faces(image, finder)
        people = _follow(seen, people)
        for face in seen:
            face.frame = index
            face.second = round(index / frames.rate, 3) if frames.rate else None
        case.faces += seen


def _follow(
    faces: list[FaceObservation], people: list[tuple[int, np.ndarray]]
) -> list[tuple[int, np.ndarray]]:
    """Numbers the faces of a frame by person: the nearest of those seen so far, else a new one.

    Returns:
      The people seen so far, each with the box last seen.
    """
    found = dict(people)
    free = set(found)
    for face in faces:
        if face.crop is None:
            continue
        box = np.zeros(4) if face.crop.box is None else np.array(face.crop.box)
        size = max(box[2] - box[0], box[3] - box[1], 1.0)
        apart = {
            who: float(np.hypot(*(found[who][:2] + found[who][2:] - box[:2] - box[2:]))) / 2 / size
            for who in free
        }
        who = min(apart, key=lambda key: apart[key]) if apart else -1
        if who < 0 or apart[who] > _MAX_MOVE:
            who = len(found)
        free.discard(who)
        found[who] = box
        face.person = who
    return list(found.items())


def _sum_up(case: InputResult, detector: Detector) -> None:
    """The verdict on a video: that of the person whose frames look most like a fake's on average."""
    people: dict[int, list[FaceObservation]] = {}
    for face in case.judged:
        people.setdefault(face.person or 0, []).append(face)
    if not people:
        codes = {face.prediction.verdict for face in case.faces if face.prediction}
        case.whole = Prediction(FACE_TOO_SMALL if FACE_TOO_SMALL in codes else NO_FACE)
        return
    with_a_face = len({face.frame for face in case.judged})
    frequent = {
        w: faces for w, faces in people.items() if len(faces) >= _MIN_SHARE * with_a_face
    } or people
    mean = {
        who: _mean([_prediction(face).probability for face in faces])
        for who, faces in people.items()
    }
    case.people = [
        {"person": who, "frames": len(faces), "probability": mean[who]}
        for who, faces in people.items()
    ]
    who = max(frequent, key=lambda key: mean[key] or 0.0)
    faces = people[who]
    probability = mean[who] or 0.0
    verdict = detector.calibration.verdict(probability)
    fakest = sorted(faces, key=lambda face: -(_prediction(face).probability or 0.0))
    if verdict == "real":
        fakest.reverse()
    case.drove = fakest[:_MAX_DRIVERS]
    predictions = [_prediction(face) for face in faces]
    regions = types = None
    if predictions[0].regions is not None:
        regions = {
            r: _mean([(a.regions or {})[r] for a in predictions]) for r in predictions[0].regions
        }
        types = {
            region: {
                kind: _mean([(a.types or {})[region][kind] for a in predictions]) for kind in kinds
            }
            for region, kinds in (predictions[0].types or {}).items()
        }
    case.whole = Prediction(
        verdict, probability, _mean([a.logit for a in predictions]), regions, types,
        _reasons([_prediction(face) for face in case.drove], verdict),
        geometry=Counter(a.geometry for a in predictions).most_common(1)[0][0],
    )  # fmt: skip


def _reasons(predictions: list[Prediction], verdict: str) -> tuple[Reason, ...]:
    """The reasons of some frames, each subject once, held against the verdict on the whole video."""
    found: dict[tuple[str, str], Reason] = {}
    for prediction in predictions:
        for reason in prediction.reasons:
            key = reason.region, reason.type
            if key not in found or reason.score > found[key].score:
                against = verdict == ("real" if reason.region else "fake")
                found[key] = dataclasses.replace(reason, contradiction=against)
    return tuple(sorted(found.values(), key=lambda r: (r.contradiction, -r.score)))


def _prediction(face: FaceObservation) -> Prediction:
    assert face.prediction is not None  # it has been judged
    return face.prediction


def _mean(values: list[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return float(np.mean(known)) if known else None


def lines(case: InputResult, fixed: Line, overlays: dict[int, str] | None = None) -> list[Line]:
    """The lines of a judged case.

    Args:
      case: with predictions.
      fixed: `model` and `preprocessing`, the same in every line.
      overlays: the overlay's path by the face's place in `case.faces`.
    """
    base = {
        "schema": SCHEMA,
        "kind": "face",
        "path": str(case.path),
        "sha256": case.sha256 or None,
        "time": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
    }
    about = {
        "width": case.width, "height": case.height, "format": case.format or None,
        "notes": list(case.notes), "exif": case.exif,
    }  # fmt: skip
    if case.code:
        prediction = Prediction(case.code).as_dict()
        return [
            {**base, "kind": case.kind, **prediction, "message": case.message, **about, **fixed}
        ]
    found = []
    for place, face in enumerate(case.faces):
        line = {
            **base, **_prediction(face).as_dict(),
            "frame": face.frame, "second": face.second, "face": face.face, "person": face.person,
            "confidence": face.crop.confidence if face.crop else None,
            "overlay": (overlays or {}).get(place),
            **(about if case.kind == "image" else {}), **fixed,
        }  # fmt: skip
        found.append(line)
    if case.whole is not None:
        found.append(
            {
                **base, "kind": "video", **case.whole.as_dict(),
                "frames": case.count, "frames_looked_at": len(case.looked_at),
                "people": case.people,
                "drove": [
                    {"frame": f.frame, "second": f.second, "face": f.face, "person": f.person,
                     "probability": _prediction(f).probability}
                    for f in case.drove
                ],
                **about, **fixed,
            }
        )  # fmt: skip
    return found
