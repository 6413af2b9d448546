"""Detectors of faces and their landmarks, behind one small interface.

dlib is the default (extra `faces`); its landmark model was trained on iBUG 300-W, whose terms exclude
commercial use.
"""

from __future__ import annotations

import importlib.util
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Protocol

import cv2
import numpy as np

from data_pipeline.core.images import Image
from data_pipeline.faces.landmarks import Points, box_of
from jax_vlffd.errors import UserError

#: Longest side that dlib searches at twice its size; a larger picture is searched as it is.
_UPSAMPLED_SIDE: Final = 800
#: Pixels of the shorter side below which a picture is not searched: dlib sees faces from 40 pixels on.
_SEARCHED_SIDE: Final = 20
#: dlib's score (0 is its own threshold) of a doubtful face, and the share of the picture's shorter
#: side that such a one must fill.
_DOUBTFUL: Final = -0.5
_FILLS: Final = 0.4
#: Points of MediaPipe's face mesh that stand for the 68 of iBUG.
_MESH_68: Final = (
    *(162, 234, 93, 58, 172, 136, 149, 148, 152, 377, 378, 365, 397, 288, 323, 454, 389),
    *(71, 63, 105, 66, 107, 336, 296, 334, 293, 301),
    *(168, 197, 5, 4, 75, 97, 2, 326, 305),
    *(33, 160, 158, 133, 153, 144, 362, 385, 387, 263, 373, 380),
    *(61, 39, 37, 0, 267, 269, 291, 405, 314, 17, 84, 181),
    *(78, 82, 13, 312, 308, 317, 14, 87),
)


@dataclass(frozen=True)
class Face:
    """One face of an image.

    Attributes:
      box: left, top, right, bottom in pixels; may reach outside the image.
      landmarks: float32 [68, 2] or [81, 2], x and y in pixels.
      confidence: the detector's own score, higher is surer; comparable within one detector only.
    """

    box: tuple[float, float, float, float]
    landmarks: Points
    confidence: float

    @property
    def size(self) -> float:
        """The longer side of the box, in pixels."""
        return max(self.box[2] - self.box[0], self.box[3] - self.box[1])


class FaceDetector(Protocol):
    """Finds the faces of an image: what a detector of faces has to do."""

    def detect(self, image: Image, unsure: bool = False) -> list[Face]:
        """Returns the faces of `image` (uint8 [H, W, 3], RGB), largest first; maybe none.

        With `unsure`, what would else be too doubtful counts where it fills the picture as a face
        fills its crop: for those who know that there is one.
        """
        ...


class DlibFaces:
    """dlib's HOG detector and its 68-point shape model.

    A picture without a face is searched again with a margin around it (faces that fill a crop) and
    then brightened (dark faces, which the detector misses more often).
    """

    def __init__(self) -> None:
        """Loads the models; raises UserError when the extra `faces` is not installed."""
        spec = importlib.util.find_spec("face_recognition_models")
        folders = list(spec.submodule_search_locations or ()) if spec else []
        if not folders or importlib.util.find_spec("dlib") is None:
            raise UserError(
                "the dlib face detector is not installed; run: pip install 'jax-vlffd[faces]'"
            )
        import dlib

        # Found by its path: importing face_recognition_models would need pkg_resources.
        model = Path(folders[0]) / "models" / "shape_predictor_68_face_landmarks.dat"
        self._detector: Any = dlib.get_frontal_face_detector()
        self._predictor: Any = dlib.shape_predictor(str(model))

    def detect(self, image: Image, unsure: bool = False) -> list[Face]:
        """See `FaceDetector.detect`."""
        # A strip with its margin would be a large picture.
        if min(image.shape[:2]) < _SEARCHED_SIDE:
            return []
        margin = max(image.shape[:2]) // 4
        faces = (
            self._search(image, 0)
            or self._search(image, margin)
            or self._search(_brighten(image), 0)
        )
        if faces or not unsure:
            return faces
        guesses = [
            face
            for picture in (image, _brighten(image))
            for face in self._search(picture, margin, _DOUBTFUL)
            if face.size > _FILLS * min(image.shape[:2])
        ]
        return [max(guesses, key=lambda face: face.confidence)] if guesses else []

    def _search(self, image: Image, pad: int, min_score: float = 0.0) -> list[Face]:
        if pad:
            image = cv2.copyMakeBorder(image, pad, pad, pad, pad, cv2.BORDER_REPLICATE).astype(
                np.uint8
            )
        image = np.ascontiguousarray(image)
        boxes, scores, _ = self._detector.run(
            image, int(max(image.shape[:2]) <= _UPSAMPLED_SIDE), min_score
        )
        faces = []
        for box, score in zip(boxes, scores, strict=True):
            parts = self._predictor(image, box).parts()
            points = np.array([(part.x, part.y) for part in parts], np.float32) - pad
            corners = (box.left() - pad, box.top() - pad, box.right() - pad, box.bottom() - pad)
            faces.append(Face(corners, points, float(score)))
        return sorted(faces, key=lambda face: -face.size)


def _brighten(image: Image) -> Image:
    table = np.round(255.0 * (np.arange(256) / 255.0) ** 0.4).astype(np.uint8)
    return cv2.LUT(image, table).astype(np.uint8)


class MediapipeFaces:
    """MediaPipe's face mesh, for those who have a version that ships models (0.10.21 or older)."""

    def __init__(self) -> None:
        """Loads the mesh; raises UserError when MediaPipe is missing or ships no models."""
        if importlib.util.find_spec("mediapipe") is None:
            raise UserError("mediapipe is not installed; run: pip install 'mediapipe<=0.10.21'")
        import mediapipe

        if not hasattr(mediapipe, "solutions"):
            raise UserError("this mediapipe ships no face mesh; install 'mediapipe<=0.10.21'")
        self._mesh: Any = mediapipe.solutions.face_mesh.FaceMesh(
            static_image_mode=True, max_num_faces=16, min_detection_confidence=0.5
        )

    def detect(self, image: Image, unsure: bool = False) -> list[Face]:
        """See `FaceDetector.detect`; the mesh gives no score, so the confidence is 1."""
        meshes = self._mesh.process(np.ascontiguousarray(image)).multi_face_landmarks or ()
        scale = np.array([image.shape[1], image.shape[0]], np.float32)
        faces = []
        for mesh in meshes:
            marks = [mesh.landmark[i] for i in _MESH_68]
            points = np.array([(mark.x, mark.y) for mark in marks], np.float32) * scale
            faces.append(Face(box_of(points), points, 1.0))
        return sorted(faces, key=lambda face: -face.size)


def open_detector(name: str) -> FaceDetector:
    """The face detector called `name`: 'dlib' or 'mediapipe'. Raises UserError when it cannot be had."""
    if name == "dlib":
        return DlibFaces()
    if name == "mediapipe":
        return MediapipeFaces()
    raise UserError(f"unknown face detector '{name}': use dlib or mediapipe")


def face_box(face: Face, height: int, width: int, margin: float) -> tuple[int, int, int, int]:
    """The box (left, top, right, bottom) of a face with a margin, within the image.

    Args:
      face: as detected.
      height: of the image.
      width: of the image.
      margin: share of the face's size to add on each side.
    """
    low, high = face.landmarks.min(axis=0), face.landmarks.max(axis=0)
    spare = margin * float(np.max(high - low))
    left, top = np.clip(np.floor(low - spare), 0, [width - 1, height - 1]).astype(int)
    right, bottom = np.clip(np.ceil(high + spare), [left + 1, top + 1], [width, height]).astype(int)
    return int(left), int(top), int(right), int(bottom)
