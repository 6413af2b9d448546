"""One pair to one line of annotation: faces, mask, regions, types, words.

The steps are those of the paper (section 3.1); the line is the contract of `launch.annotate`. A
pair that cannot be annotated gives a line too, with a code and a reason in `error`.
"""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Final

import cv2
import numpy as np
from numpy.typing import NDArray

from data_pipeline import captions
from data_pipeline.core.files import atomic_write_bytes, inside
from data_pipeline.faces.detection import Face, FaceDetector, open_detector
from data_pipeline.faces.landmarks import landmark_paths, stored_landmarks
from data_pipeline.faces.regions import face_outline
from data_pipeline.fftg.findings import RegionFinding, annotate_pair
from data_pipeline.fftg.images import read_image, read_mask
from data_pipeline.fftg.measure.difference_mask import Comparison, PairError, compare, full_mask
from data_pipeline.fftg.measure.thresholds import DEFAULT, Settings
from jax_vlffd.errors import UserError, fault
from jax_vlffd.preprocessing import face_geometry
from jax_vlffd.vocabulary import FAKE, LABEL_NAMES, REAL, REGIONS, VERDICTS

Image = NDArray[np.uint8]
Points = NDArray[np.float32]
Line = dict[str, Any]

#: Raised whenever the same input may give another annotation, so that old lines are done again.
VERSION: Final = 2


@dataclass(frozen=True)
class AnnotationTask:
    """One row of the pairs.

    Attributes:
      id: unique among the rows.
      real: the real image; None for a fake whose real is not known.
      fake: its forgery; None for a real image alone.
      mask: a forgery mask of the data set's own, to take instead of the difference.
      columns: further columns, copied into the line.
      refused: `code: message` where the row itself is at fault and no image is to be read.
    """

    id: str
    real: Path | None
    fake: Path | None
    mask: Path | None = None
    columns: Mapping[str, str] = field(default_factory=dict)
    refused: str | None = None


class Annotator:
    """Annotates jobs, one by one.

    Args:
      detector: name of the face detector (`faces.open_detector`), opened when a pair without stored
        landmarks comes up.
      settings: thresholds.
      wordings: captions an image, the first of which is `caption`.
      root: the folder that paths in the lines are relative to; a path outside it stays absolute.
      masks: a folder for the forgery masks, as PNG; None to write none. It may not hold what is read.
    """

    def __init__(
        self,
        detector: str = "dlib",
        settings: Settings = DEFAULT,
        wordings: int = 3,
        root: Path | None = None,
        masks: Path | None = None,
    ):
        self._detector = detector
        self._face_detector: FaceDetector | None = None
        self._settings = settings
        self._wordings = wordings
        self._root = os.path.join(os.path.abspath(root), "") if root else None
        self._masks = masks
        values = ", ".join(f"{name}={value!r}" for name, value in asdict(settings).items())
        # Spelled as in the keys of the first release, whose lines still hold: "Settings" names no class here.
        self._how = f"({VERSION}, Settings({values}), {detector!r}, {wordings}, {masks is None})"

    def annotate(self, job: AnnotationTask, done: str | None = None) -> Line | None:
        """Annotates one job.

        Args:
          job: the row.
          done: the `key` of the line that an earlier run wrote for it.

        Returns:
          The line, or None where the earlier line still holds: same pictures, same settings.

        Raises:
          UserError: no face detector is installed and the pair has no landmarks stored.
        """
        key = self._key(job)
        if key == done:
            return None
        line = self._blank(job, key)
        if job.refused:
            return line | {"error": job.refused}
        try:
            return line | self._describe(job)
        except PairError as error:
            return line | {"error": str(error)}
        except UserError:
            raise
        except Exception as error:  # of this pair alone, whatever it is: the others go on
            return line | {"error": f"fault: {fault(error)}"}

    def compare(self, job: AnnotationTask) -> Comparison:
        """Compares a pair as `annotate` does, for those who want to see it.

        Raises:
          PairError: the pair cannot be compared.
        """
        if job.real is None or job.fake is None:
            raise PairError("missing_value", "it takes a real and a fake to compare")
        real, fake = read_image(job.real)[0], read_image(job.fake)[0]
        mask = read_mask(job.mask, real, fake) if job.mask else None
        return compare(real, fake, self._landmarks(job, real, fake), self._settings, mask)

    def _describe(self, job: AnnotationTask) -> Line:
        if job.real is None:
            return self._label_alone(job)
        real, real_remark = read_image(job.real)
        if job.fake is None:
            points = _landmarks(job.real)
            points = self._faces(real)[0].landmarks if points is None else points
            geometry = _geometry(points, real)
            return {"error": real_remark, "geometry": geometry} | self._words(job, REAL, {})
        fake, fake_remark = read_image(job.fake)
        remark = real_remark or fake_remark
        if _is_gray(real_remark) != _is_gray(fake_remark):
            raise PairError("gray_image", "one of the pair is gray and the other is not")
        mask = read_mask(job.mask, real, fake) if job.mask else None
        landmarks = self._landmarks(job, real, fake)
        findings, comparison = annotate_pair(real, fake, landmarks, self._settings, mask)
        forged = {name: found.types for name, found in findings.items() if found.forged}
        line = {"error": remark, "regions": _regions(findings)} | self._words(job, FAKE, forged)
        line["geometry"] = _geometry(landmarks, real)
        if self._masks:
            path = inside(self._masks, _file_name(job.id), job.id)
            picture = full_mask(comparison, real, fake)
            atomic_write_bytes(path, cv2.imencode(".png", picture)[1].tobytes())
            line["mask"] = self._path(path)
        return line

    def _label_alone(self, job: AnnotationTask) -> Line:
        """A fake without its real: nothing to compare, so the caption is the verdict alone."""
        assert job.fake is not None
        image = read_image(job.fake)[0]
        points = _landmarks(job.fake)
        points = self._faces(image)[0].landmarks if points is None else points
        return {
            "geometry": _geometry(points, image),
            "error": "no_real: the fake's real is not known; its caption is the verdict alone",
            "raw_caption": VERDICTS[FAKE],
            "caption": VERDICTS[FAKE],
            "captions": [],
            "caption_key": LABEL_NAMES[FAKE],
            "real_captions": [],
        }

    def _words(
        self, job: AnnotationTask, label: int, forged: Mapping[str, tuple[str, ...]]
    ) -> Line:
        texts = captions.paraphrases(label, forged, job.id, self._wordings)
        words: Line = {
            "raw_caption": texts[0],
            "caption": texts[0],
            "source": "raw",
            "captions": texts[1:],
            "caption_key": captions.caption_key(label, forged),
        }
        real_texts = captions.paraphrases(REAL, {}, job.id, self._wordings)
        return words | {
            "real_captions": real_texts,
            "real_caption_key": captions.caption_key(REAL, {}),
        }

    def _landmarks(self, job: AnnotationTask, real: Image, fake: Image) -> Points:
        """Stored with the real or the fake, else found on the real or the fake.

        Only where neither shows a sure face is a doubtful one taken: that there is a face is what
        the table says.
        """
        for path, image in ((job.real, real), (job.fake, fake)):
            stored = _landmarks(path) if path else None
            if stored is not None:
                if not _in_view(stored, image):
                    raise PairError(
                        "bad_landmarks", f"most landmarks stored with {path} lie outside of it"
                    )
                return stored
        for unsure in (False, True):
            for image in (real, fake):
                faces = self._find(image, unsure)
                if faces:
                    return _where_they_differ(faces, real, fake).landmarks
        raise PairError("no_face", "no face was found in the real image or in the fake")

    def _faces(self, image: Image) -> list[Face]:
        faces = self._find(image, unsure=True)
        if not faces:
            raise PairError("no_face", "no face was found")
        return faces

    def _find(self, image: Image, unsure: bool) -> list[Face]:
        if self._face_detector is None:
            self._face_detector = open_detector(self._detector)
        return self._face_detector.detect(image, unsure)

    def _key(self, job: AnnotationTask) -> str:
        """A hash of everything that the annotation follows from."""
        paths = [self._path(path) if path else None for path in (job.real, job.fake, job.mask)]
        what = (job.id, job.refused, sorted(job.columns.items()), paths)
        digest = hashlib.sha256(f"({self._how}, {what!r})".encode())
        pictures = [path for path in (job.real, job.fake) if path]
        for path in (
            *pictures,
            job.mask,
            *(at for picture in pictures for at in landmark_paths(picture)),
        ):
            try:
                data = path.read_bytes() if path and not job.refused else b""
            except OSError:
                data = b"unreadable"
            digest.update(len(data).to_bytes(8, "little") + data)
        return digest.hexdigest()[:32]

    def _blank(self, job: AnnotationTask, key: str) -> Line:
        return {
            **job.columns,
            "id": job.id,
            "real": self._path(job.real) if job.real else None,
            "fake": self._path(job.fake) if job.fake else None,
            "label": FAKE if job.fake else REAL,
            "regions": _regions({}),
            "raw_caption": "",
            "caption": "",
            "source": "raw",
            "error": None,
            "mask": self._path(job.mask) if job.mask else None,
            "key": key,
        }

    def _path(self, path: Path) -> str:
        whole = os.path.abspath(path)
        inside = self._root is not None and whole.startswith(self._root)
        return (whole[len(self._root) :] if inside and self._root else whole).replace(os.sep, "/")


def _regions(findings: Mapping[str, RegionFinding]) -> Line:
    blank = RegionFinding(False, 0.0, 0.0, (), {})
    found = {name: findings.get(name, blank) for name in REGIONS}
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
        for name, finding in found.items()
    }


def _geometry(points: Points, image: Image) -> dict[str, float]:
    found = face_geometry(points, *image.shape[:2])._asdict()
    return {name: round(value, 4) for name, value in found.items()}


def _landmarks(path: Path) -> Points | None:
    try:
        return stored_landmarks(path)
    except UserError as error:
        raise PairError("bad_landmarks", str(error)) from error


def _file_name(id_: str) -> str:
    """A path below a folder for an id, which is the user's text: it may not climb out of it.

    Ids that are not such a path as they stand get a hash.
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


def _where_they_differ(faces: list[Face], real: Image, fake: Image) -> Face:
    """Of several faces the one that the pair differs on most, else the largest."""
    if len(faces) == 1 or real.shape != fake.shape:
        return faces[0]
    difference = cv2.blur(cv2.absdiff(real, fake).max(axis=2).astype(np.float32), (5, 5))

    def changed(face: Face) -> float:
        inside = np.zeros(difference.shape, np.uint8)
        hull = cv2.convexHull(face_outline(face.landmarks)).round().astype(np.int32)
        cv2.fillConvexPoly(inside, hull, 1)
        values = difference[inside > 0]
        # Above what codecs do; otherwise the noisiest face would win.
        return float(np.maximum(values - 12.0, 0.0).mean()) if values.size else 0.0

    return max(faces, key=lambda face: (round(changed(face), 1), face.size))


def _is_gray(remark: str | None) -> bool:
    return bool(remark) and str(remark).startswith("gray_image")
