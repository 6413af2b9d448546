"""Annotates one pair: faces, mask, regions, types and captions become one annotation line.

The steps are those of the paper (section 3.1). A pair that cannot be annotated gets a line too, with a code
and a reason in `error`.
"""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from data_pipeline import captions
from data_pipeline.core.files import inside
from data_pipeline.core.images import MAX_BYTES
from data_pipeline.faces.detection import Face, FaceDetector, open_detector
from data_pipeline.faces.landmarks import landmark_paths, stored_landmarks
from data_pipeline.faces.regions import face_outline
from data_pipeline.fftg.findings import RegionFinding, annotate_pair
from data_pipeline.fftg.images import read_image, read_mask
from data_pipeline.fftg.measure.difference_mask import Comparison, PairError, compare, full_mask
from data_pipeline.fftg.measure.thresholds import DEFAULT, AnnotatorSettings
from data_pipeline.fftg.measure.versions import OLDER_THRESHOLDS, VERSION
from data_pipeline.fftg.refine.earlier import EarlierLine
from jax_vlffd.errors import UserError, fault
from jax_vlffd.file_writing import atomic_write_bytes
from jax_vlffd.files import read_regular
from jax_vlffd.preprocessing import face_geometry
from jax_vlffd.vocabulary import FAKE, LABEL_NAMES, REAL, REGIONS, VERDICTS

Image = NDArray[np.uint8]
Points = NDArray[np.float32]
Line = dict[str, Any]


@dataclass(frozen=True)
class AnnotationTask:
    """One row of the table of pairs.

    Attributes:
      id: unique among the rows.
      real: the real image; None for a fake whose real is unknown.
      fake: its forgery; None for a real image alone.
      mask: the data set's own forgery mask, used instead of the difference.
      columns: further columns, copied into the line.
      refused: `code: message` where the row itself is invalid, so that no image is read.
    """

    id: str
    real: Path | None
    fake: Path | None
    mask: Path | None = None
    columns: Mapping[str, str] = field(default_factory=dict)
    refused: str | None = None


class Annotator:
    """Annotates pairs, one at a time.

    Args:
      detector: name of the face detector (`faces.open_detector`), opened at the first pair without stored
        landmarks.
      settings: thresholds.
      wordings: captions per image, the first of which is `caption`.
      root: the folder that paths in the lines are relative to; paths outside it stay absolute.
      masks: folder to write the forgery masks to, as PNG; None writes none. It must not hold input images.
      keep_paid: keeps the line of an older version whose caption was paid for.
    """

    def __init__(
        self,
        detector: str = "dlib",
        settings: AnnotatorSettings = DEFAULT,
        wordings: int = 3,
        root: Path | None = None,
        masks: Path | None = None,
        keep_paid: bool = True,
    ):
        self._detector = detector
        self._face_detector: FaceDetector | None = None
        self._settings = settings
        self._wordings = wordings
        self._root = os.path.join(os.path.abspath(root), "") if root else ""
        self._masks = masks
        values = ", ".join(f"{name}={value!r}" for name, value in settings.for_key().items())
        versions = {VERSION: values, **(OLDER_THRESHOLDS if keep_paid else {})}
        # The exact text that the first release hashed: any change would annotate all old lines again.
        self._key_prefixes = {
            version: f"({version}, Settings({thresholds}), {detector!r}, {wordings}, {masks is None})"
            for version, thresholds in versions.items()
        }

    def annotate(self, task: AnnotationTask, done: EarlierLine | None = None) -> Line | None:
        """Annotates one pair.

        Args:
          task: the row.
          done: of the line that an earlier run wrote for it.

        Returns:
          The line, or None where the earlier line is still valid: same images and settings; the version of
          the annotator may be an older one if the caption was paid for.

        Raises:
          UserError: the face detector is not installed and the pair has no stored landmarks.
        """
        key = self._key(task, VERSION)
        if done is not None:
            valid = {key}
            if done.is_older and done.paid_version in self._key_prefixes:
                valid.add(self._key(task, done.paid_version))
            if done.key in valid:
                return None
        line = self._empty_line(task, key)
        if task.refused:
            return line | {"error": task.refused}
        try:
            return line | self._annotation(task)
        except PairError as error:
            return line | {"error": str(error)}
        except UserError:
            raise
        except Exception as error:  # a fault in one pair must not end the run
            return line | {"error": f"fault: {fault(error)}"}

    def compare(self, task: AnnotationTask) -> Comparison:
        """Compares a pair as `annotate` does, to show it.

        Raises:
          PairError: the pair cannot be compared.
        """
        if task.real is None or task.fake is None:
            raise PairError("missing_value", "a comparison needs a real and a fake")
        real, fake = read_image(task.real)[0], read_image(task.fake)[0]
        mask = read_mask(task.mask, real, fake) if task.mask else None
        return compare(real, fake, self._pair_landmarks(task, real, fake), self._settings, mask)

    def _annotation(self, task: AnnotationTask) -> Line:
        if task.real is None:
            return self._fake_without_real(task)
        real, real_remark = read_image(task.real)
        if task.fake is None:
            geometry = _geometry(self._landmarks_of(task.real, real), real)
            return {"error": real_remark, "geometry": geometry} | self._words(task, REAL, {})
        fake, fake_remark = read_image(task.fake)
        remark = real_remark or fake_remark
        if _is_gray(real_remark) != _is_gray(fake_remark):
            raise PairError("gray_image", "one image of the pair is gray and the other is not")
        mask = read_mask(task.mask, real, fake) if task.mask else None
        landmarks = self._pair_landmarks(task, real, fake)
        findings, comparison = annotate_pair(real, fake, landmarks, self._settings, mask)
        forged = {name: finding.types for name, finding in findings.items() if finding.forged}
        line = {"error": remark, "regions": _regions(findings)} | self._words(task, FAKE, forged)
        line["geometry"] = _geometry(landmarks, real)
        if self._masks:
            path = inside(self._masks, _mask_name(task.id), task.id)
            png = cv2.imencode(".png", full_mask(comparison, real, fake))[1]
            atomic_write_bytes(path, png.tobytes())
            line["mask"] = self._path(path)
        return line

    def _fake_without_real(self, task: AnnotationTask) -> Line:
        """With nothing to compare, the caption is the verdict alone."""
        assert task.fake is not None
        image = read_image(task.fake)[0]
        return {
            "geometry": _geometry(self._landmarks_of(task.fake, image), image),
            "error": "no_real: the fake's real is not known; its caption is the verdict alone",
            "raw_caption": VERDICTS[FAKE],
            "caption": VERDICTS[FAKE],
            "captions": [],
            "caption_key": LABEL_NAMES[FAKE],
            "real_captions": [],
        }

    def _words(
        self, task: AnnotationTask, label: int, forged: Mapping[str, tuple[str, ...]]
    ) -> Line:
        texts = captions.paraphrases(label, forged, task.id, self._wordings)
        real_texts = captions.paraphrases(REAL, {}, task.id, self._wordings)
        return {
            "raw_caption": texts[0],
            "caption": texts[0],
            "source": "raw",
            "captions": texts[1:],
            "caption_key": captions.caption_key(label, forged),
            "real_captions": real_texts,
            "real_caption_key": captions.caption_key(REAL, {}),
        }

    def _pair_landmarks(self, task: AnnotationTask, real: Image, fake: Image) -> Points:
        """Landmarks stored with the real or the fake, else detected on the real or the fake.

        Uncertain detections count only where neither image has a certain one: the table says that there is
        a face.
        """
        for path, image in ((task.real, real), (task.fake, fake)):
            stored = _stored(path) if path else None
            if stored is not None:
                if not _in_view(stored, image):
                    raise PairError(
                        "bad_landmarks", f"most landmarks stored with {path} are outside the image"
                    )
                return stored
        for unsure in (False, True):
            for image in (real, fake):
                faces = self._detect(image, unsure)
                if faces:
                    return _most_changed(faces, real, fake).landmarks
        raise PairError("no_face", "no face was found in the real image or in the fake")

    def _landmarks_of(self, path: Path, image: Image) -> Points:
        """Landmarks stored with an image, else those of the largest face detected on it."""
        stored = _stored(path)
        if stored is not None:
            return stored
        faces = self._detect(image, unsure=True)
        if not faces:
            raise PairError("no_face", "no face was found")
        return faces[0].landmarks

    def _detect(self, image: Image, unsure: bool) -> list[Face]:
        if self._face_detector is None:
            self._face_detector = open_detector(self._detector)
        return self._face_detector.detect(image, unsure)

    def _key(self, task: AnnotationTask, version: int) -> str:
        """A hash of everything that decides the annotation by a version."""
        paths = [self._path(path) if path else None for path in (task.real, task.fake, task.mask)]
        row = (task.id, task.refused, sorted(task.columns.items()), paths)
        digest = hashlib.sha256(f"({self._key_prefixes[version]}, {row!r})".encode())
        images = [path for path in (task.real, task.fake) if path]
        landmarks = (path for image in images for path in landmark_paths(image))
        for path in (*images, task.mask, *landmarks):
            try:
                data = read_regular(path, MAX_BYTES) if path and not task.refused else b""
            except UserError:
                data = b"unreadable"
            digest.update(len(data).to_bytes(8, "little") + data)
        return digest.hexdigest()[:32]

    def _empty_line(self, task: AnnotationTask, key: str) -> Line:
        return {
            **task.columns,
            "id": task.id,
            "real": self._path(task.real) if task.real else None,
            "fake": self._path(task.fake) if task.fake else None,
            "label": FAKE if task.fake else REAL,
            "regions": _regions({}),
            "raw_caption": "",
            "caption": "",
            "source": "raw",
            "error": None,
            "mask": self._path(task.mask) if task.mask else None,
            "key": key,
        }

    def _path(self, path: Path) -> str:
        return os.path.abspath(path).removeprefix(self._root).replace(os.sep, "/")


def _regions(findings: Mapping[str, RegionFinding]) -> Line:
    untouched = RegionFinding(False, 0.0, 0.0, (), {})
    by_name = {name: findings.get(name, untouched) for name in REGIONS}
    return {
        name: {
            "forged": finding.forged,
            "score": round(finding.score, 5),
            "types": list(finding.types),
            "evidence": {
                "mask": {
                    "score": round(finding.score, 5),
                    "threshold": round(finding.threshold, 5),
                    "margin": round(finding.score - finding.threshold, 5),
                },
                **finding.evidence,
            }
            if findings
            else {},
        }
        for name, finding in by_name.items()
    }


def _geometry(points: Points, image: Image) -> dict[str, float]:
    geometry = face_geometry(points, *image.shape[:2])._asdict()
    return {name: round(value, 4) for name, value in geometry.items()}


def _stored(path: Path) -> Points | None:
    try:
        return stored_landmarks(path)
    except UserError as error:
        raise PairError("bad_landmarks", str(error)) from error


def _mask_name(id_: str) -> str:
    """A relative path for an id. Ids are user text: the path must not leave its folder.

    Ids that are changed for this get a hash, so that they stay distinct.
    """
    steps = [step for step in id_.split("/") if step not in ("", ".", "..")]
    name = "/".join(os.fsencode(step)[:100].decode(errors="ignore") for step in steps)
    name = re.sub(r"[\\\0\r\n]|^[A-Za-z]:|(?<=/)[A-Za-z]:", "", name).strip("/")
    if name != id_:
        name = f"{name or 'mask'}-{hashlib.sha256(os.fsencode(id_)).hexdigest()[:12]}"
    return f"{name}.png"


def _in_view(points: Points, image: Image) -> bool:
    """Whether most of the points lie within an image."""
    return bool(np.mean((points >= 0) & (points < (image.shape[1], image.shape[0]))) > 0.5)


def _most_changed(faces: list[Face], real: Image, fake: Image) -> Face:
    """The face on which the images of a pair differ most, else the largest."""
    if len(faces) == 1 or real.shape != fake.shape:
        return faces[0]
    difference = cv2.blur(cv2.absdiff(real, fake).max(axis=2).astype(np.float32), (5, 5))

    def changed(face: Face) -> float:
        inside = np.zeros(difference.shape, np.uint8)
        hull = cv2.convexHull(face_outline(face.landmarks)).round().astype(np.int32)
        cv2.fillConvexPoly(inside, hull, 1)
        values = difference[inside > 0]
        # Only differences above compression noise count; otherwise the noisiest face would win.
        return float(np.maximum(values - 12.0, 0.0).mean()) if values.size else 0.0

    return max(faces, key=lambda face: (round(changed(face), 1), face.size))


def _is_gray(remark: str | None) -> bool:
    return (remark or "").startswith("gray_image")
