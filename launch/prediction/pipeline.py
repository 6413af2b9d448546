"""Inference pipeline: read inputs, detect faces, classify in batches, format result lines.

Every face has its own line; a video has one more, which aggregates the frames of one person. docs/predict.md
describes the schema, which has a version.
"""

from __future__ import annotations

import contextlib
import dataclasses
import time
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import cv2
import numpy as np

from data_pipeline.core import discovery, video
from data_pipeline.core.images import InputError, read_picture
from data_pipeline.core.video import Frames, VideoError, evenly_spaced, open_frames
from data_pipeline.faces.cropper import FaceCrop, FaceCropper
from jax_vlffd.errors import UserError, fault
from jax_vlffd.explanation import Reason
from jax_vlffd.inference.detector import FACE_TOO_SMALL, NO_FACE, Detector, Prediction

#: Version of the lines; incremented when a key changes its meaning.
SCHEMA: Final = 1
#: A face in the next sampled frame is the same person if its center moved by at most this many of its sizes.
_MAX_MOVE: Final = 1.0
#: A person counts for a video's verdict if present in this fraction of the frames with faces.
_MIN_SHARE: Final = 0.25
#: Maximum number of frames named as drivers of a video's verdict.
_MAX_DRIVERS: Final = 3

Line = dict[str, Any]


@dataclass(frozen=True)
class PredictSettings:
    """How inputs are read.

    Attributes:
      frames: number of frames per video, evenly spaced.
      max_frames: only this many first frames of a video are used.
      thumbnail: maximum side of the image kept for a report, in pixels; 0 keeps none.
    """

    frames: int = 16
    max_frames: int = 20_000
    thumbnail: int = 0


@dataclass(eq=False)
class FaceObservation:
    """One face of an input, or an input or frame without a face (`crop` is None); `timestamp` in seconds."""

    crop: FaceCrop | None
    frame: int | None = None
    timestamp: float | None = None
    face: int = 0
    person: int | None = None
    prediction: Prediction | None = None


@dataclass
class InputResult:
    """One input: its metadata, its faces with predictions, and the aggregate of a video."""

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
    frames_read: list[int] = field(default_factory=list)
    faces: list[FaceObservation] = field(default_factory=list)
    picture: np.ndarray | None = None  # reduced
    video_prediction: Prediction | None = None
    drivers: list[FaceObservation] = field(default_factory=list)
    people: list[Line] = field(default_factory=list)

    @property
    def classifiable(self) -> list[FaceObservation]:
        """The faces that are large enough to be classified."""
        return [face for face in self.faces if face.crop and face.crop.image is not None]

    def release(self) -> None:
        """Releases the memory of the images."""
        self.picture = None
        self.faces = []


def classify(
    results: Iterable[InputResult], detector: Detector, batch_size: int
) -> Iterator[InputResult]:
    """Classifies the faces of inputs in batches, and yields the inputs in order."""
    waiting: list[InputResult] = []
    faces = 0
    for result in results:
        waiting.append(result)
        faces += len(result.classifiable)
        if faces >= batch_size or len(waiting) >= batch_size:
            yield from _classified(waiting, detector)
            waiting, faces = [], 0
    yield from _classified(waiting, detector)


def _classified(results: list[InputResult], detector: Detector) -> list[InputResult]:
    faces = [face for result in results for face in result.classifiable]
    crops = [face.crop.image for face in faces if face.crop and face.crop.image is not None]
    for face, prediction in zip(faces, detector.predict(crops), strict=True):
        face.prediction = prediction
    for result in results:
        for face in result.faces:
            if face.crop is None:
                face.prediction = Prediction(NO_FACE)
            else:
                face.prediction = detector.placed(face.prediction, face.crop)
        if result.kind == "video" and not result.code:
            _aggregate(result, detector)
    return results


def read_input(path: Path, cropper: FaceCropper | None, settings: PredictSettings) -> InputResult:
    """Reads one file and crops its faces; an error becomes the result's `code` and `message`.

    Args:
      path: of an image or a video.
      cropper: None if each image or frame is a face crop already.
      settings: see `PredictSettings`.
    """
    result = InputResult(path)
    try:
        result.sha256 = discovery.sha256(path)
        if discovery.is_video(path):
            result.kind = "video"
            _read_video(result, cropper, settings)
        else:
            picture = read_picture(path)
            result.height, result.width = picture.image.shape[:2]
            result.format, result.notes, result.exif = picture.format, picture.notes, picture.exif
            result.picture = _reduced(picture.image, settings.thumbnail)
            result.faces = _faces(picture.image, cropper)
            result.notes += _many_faces(result.faces)
    except (InputError, VideoError) as error:
        result.code, result.message = error.code, str(error)
    except UserError:
        raise
    except Exception as error:  # a fault in one file must not end the run
        result.code, result.message = "unreadable", f"{path}: cannot be processed ({fault(error)})"
    if result.code:
        result.release()
    return result


def _reduced(image: np.ndarray, side: int) -> np.ndarray | None:
    """A copy with at most `side` pixels per side; None for 0."""
    if not side:
        return None
    scale = min(1.0, side / max(image.shape[:2]))
    size = (max(round(image.shape[1] * scale), 1), max(round(image.shape[0] * scale), 1))
    return cv2.resize(image, size, interpolation=cv2.INTER_AREA)


def _faces(image: np.ndarray, cropper: FaceCropper | None) -> list[FaceObservation]:
    if cropper is None:
        return [FaceObservation(FaceCrop(image, None, np.eye(2, 3), 1.0))]
    faces = [FaceObservation(crop, face=i) for i, crop in enumerate(cropper.crops(image))]
    return faces or [FaceObservation(None)]


def _many_faces(faces: list[FaceObservation]) -> tuple[str, ...]:
    """A note where more faces were detected in an image, or a frame, than are cropped of one."""
    cropped = max(Counter(face.frame for face in faces).values())
    faces_detected = max(face.crop.faces if face.crop else 0 for face in faces)
    if faces_detected <= cropped:
        return ()
    return (f"many_faces: only the largest {cropped} of {faces_detected} faces were judged",)


def _read_video(
    result: InputResult, cropper: FaceCropper | None, settings: PredictSettings
) -> None:
    with contextlib.closing(open_frames(result.path)) as frames:
        stated = frames.count
        _read_frames(result, frames, min(stated, settings.max_frames), cropper, settings)
    notes = []
    count = min(stated, settings.max_frames)
    if evenly_spaced(count, settings.frames)[-1] not in result.frames_read:
        # The header may state more frames than there are: choose again among those that exist.
        actual = video.count_frames(result.path)
        if actual < count:
            notes.append(f"cut: the header states {stated} frames, the file has {actual}")
            result.frames_read, result.faces, count = [], [], actual
            with contextlib.closing(open_frames(result.path)) as frames:
                _read_frames(result, frames, count, cropper, settings)
    wanted = len(evenly_spaced(count, settings.frames))
    if missing := wanted - len(result.frames_read):
        notes.append(f"unreadable_frames: {missing} of {wanted} could not be read")
    notes += _many_faces(result.faces) if result.faces else ()
    if frames.pixel_aspect != 1:
        notes.append(
            "stretched: its pixels are not square; frames were stretched to their shown size"
        )
    if frames.hdr:
        notes.append(
            "hdr: high dynamic range was not converted, so its colors are paler than they are shown"
        )
    if stated > settings.max_frames:
        notes.append(f"long: only the first {settings.max_frames} frames were used")
    if frames.lost_start:
        notes.append(f"lost_start: {frames.lost_start} frames before the first key frame are lost")
    if not result.frames_read:
        raise VideoError("no_frames", f"{result.path} has no frame that can be decoded")
    result.count, result.notes = stated, tuple(notes)


def _read_frames(
    result: InputResult,
    frames: Frames,
    count: int,
    cropper: FaceCropper | None,
    settings: PredictSettings,
) -> None:
    people: list[tuple[int, np.ndarray]] = []
    for index in evenly_spaced(count, settings.frames):
        image = frames.read(index)
        if image is None:
            continue
        result.frames_read.append(index)
        result.height, result.width = image.shape[:2]
        if result.picture is None and settings.thumbnail:
            result.picture = _reduced(image, settings.thumbnail)
        faces = _faces(image, cropper)
        people = _track(faces, people)
        for face in faces:
            face.frame = index
            face.timestamp = round(frames.timestamp(), 3) if frames.rate else None
        result.faces += faces


def _track(
    faces: list[FaceObservation], people: list[tuple[int, np.ndarray]]
) -> list[tuple[int, np.ndarray]]:
    """Numbers the faces of a frame by person: the nearest known person, else a new one.

    Returns:
      All people so far, each with the latest box.
    """
    boxes = dict(people)
    unmatched = set(boxes)
    for face in faces:
        if face.crop is None:
            continue
        box = np.zeros(4) if face.crop.box is None else np.array(face.crop.box)
        size = max(box[2] - box[0], box[3] - box[1], 1.0)
        distances = {
            person: float(np.hypot(*(other[:2] + other[2:] - box[:2] - box[2:]))) / 2 / size
            for person, other in boxes.items()
            if person in unmatched
        }
        nearest = min(distances, key=distances.__getitem__, default=-1)
        if nearest < 0 or distances[nearest] > _MAX_MOVE:
            nearest = len(boxes)
        unmatched.discard(nearest)
        boxes[nearest] = box
        face.person = nearest
    return list(boxes.items())


def _aggregate(result: InputResult, detector: Detector) -> None:
    """The verdict on a video: that of the person with the highest mean probability of being fake."""
    people: dict[int, list[FaceObservation]] = {}
    for face in result.classifiable:
        people.setdefault(face.person or 0, []).append(face)
    if not people:
        codes = {face.prediction.verdict for face in result.faces if face.prediction}
        result.video_prediction = Prediction(FACE_TOO_SMALL if FACE_TOO_SMALL in codes else NO_FACE)
        return
    min_frames = _MIN_SHARE * len({face.frame for face in result.classifiable})
    frequent = [person for person, faces in people.items() if len(faces) >= min_frames]
    means = {
        person: _mean([_prediction(face).probability for face in faces])
        for person, faces in people.items()
    }
    result.people = [
        {"person": person, "frames": len(faces), "probability": means[person]}
        for person, faces in people.items()
    ]
    chosen = max(frequent or people, key=lambda person: means[person] or 0.0)
    faces, probability = people[chosen], means[chosen] or 0.0
    verdict = detector.calibration.verdict(probability)
    fakest = sorted(faces, key=lambda face: -(_prediction(face).probability or 0.0))
    if verdict == "real":
        fakest.reverse()
    result.drivers = fakest[:_MAX_DRIVERS]
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
    result.video_prediction = Prediction(
        verdict, probability, _mean([a.logit for a in predictions]), regions, types,
        _reasons([_prediction(face) for face in result.drivers], verdict),
        geometry=Counter(a.geometry for a in predictions).most_common(1)[0][0],
        cut_off=Counter(a.cut_off for a in predictions).most_common(1)[0][0],
    )  # fmt: skip


def _reasons(predictions: list[Prediction], verdict: str) -> tuple[Reason, ...]:
    """The reasons of some frames, once per region and type, compared with the verdict on the video."""
    best: dict[tuple[str, str], Reason] = {}
    for prediction in predictions:
        for reason in prediction.reasons:
            key = reason.region, reason.type
            if key not in best or reason.score > best[key].score:
                against = verdict == ("real" if reason.region else "fake")
                best[key] = dataclasses.replace(reason, contradiction=against)
    return tuple(sorted(best.values(), key=lambda r: (r.contradiction, -r.score)))


def _prediction(face: FaceObservation) -> Prediction:
    assert face.prediction is not None  # set by `classify`
    return face.prediction


def _mean(values: list[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return float(np.mean(known)) if known else None


def lines(result: InputResult, shared: Line, overlays: dict[int, str] | None = None) -> list[Line]:
    """The lines of a classified input: one per face, and one more for a video.

    Args:
      result: with predictions.
      shared: the fields `model` and `preprocessing`, equal in every line.
      overlays: the overlay's path by the face's index in `result.faces`.
    """
    base = {
        "schema": SCHEMA,
        "kind": "face",
        "path": str(result.path),
        "sha256": result.sha256 or None,
        "time": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
    }
    about = {
        "width": result.width, "height": result.height, "format": result.format or None,
        "notes": list(result.notes), "exif": result.exif,
    }  # fmt: skip
    if result.code:
        prediction = Prediction(result.code).as_dict()
        line = {**base, "kind": result.kind, **prediction, "message": result.message}
        return [{**line, **about, **shared}]
    formatted = []
    for index, face in enumerate(result.faces):
        line = {
            **base, **_prediction(face).as_dict(),
            "frame": face.frame, "second": face.timestamp, "face": face.face, "person": face.person,
            "confidence": face.crop.confidence if face.crop else None,
            "overlay": (overlays or {}).get(index),
            **(about if result.kind == "image" else {}), **shared,
        }  # fmt: skip
        formatted.append(line)
    if result.video_prediction is not None:
        formatted.append(
            {
                **base, "kind": "video", **result.video_prediction.as_dict(),
                "frames": result.count, "frames_looked_at": len(result.frames_read),
                "people": result.people,
                "drove": [
                    {"frame": f.frame, "second": f.timestamp, "face": f.face, "person": f.person,
                     "probability": _prediction(f).probability}
                    for f in result.drivers
                ],
                **about, **shared,
            }
        )  # fmt: skip
    return formatted
