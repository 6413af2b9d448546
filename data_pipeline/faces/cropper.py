"""Finding the faces of a picture and cutting them out."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final

import cv2
import numpy as np
from numpy.typing import NDArray

from data_pipeline.core.images import Image
from data_pipeline.faces.alignment import (
    CropSettings,
    Matrix,
    crop,
    crop_matrix,
    move,
    placed_matrix,
)
from data_pipeline.faces.detection import Face, FaceDetector, open_detector
from data_pipeline.faces.landmarks import Points
from jax_vlffd.preprocessing import FaceGeometry, Placement, face_geometry, square_view

#: Says of a face in a picture 'as_trained', 'outside' or 'unknown'; see `jax_vlffd.geometry.Trained.judge`.
Judge = Callable[[FaceGeometry], str]

#: Longest side that faces are searched at; larger frames are reduced for the search alone.
_SEARCH_SIDE: Final = 1920
#: Landmarks found again may be this far off those that were expected, as a share of the crop.
_SAME_FACE: Final = 0.1
#: Share of a face's height or width beyond the image from which on it is cut off; landmarks are less exact.
_CUT_OFF: Final = 0.05
#: A picture that is taken whole is reduced to this many times the size of a crop.
_MAX_SIDES: Final = 4
#: Faces of one image that are cropped, the largest.
_MAX_FACES: Final = 32


def detect_faces(face_detector: FaceDetector, frame: Image) -> list[Face]:
    """The faces of a frame, largest first, in its own pixels."""
    scale = max(frame.shape[:2]) / _SEARCH_SIDE
    if scale <= 1.0:
        return face_detector.detect(frame)
    size = (max(round(frame.shape[1] / scale), 1), max(round(frame.shape[0] / scale), 1))
    reduced = cv2.resize(frame, size, interpolation=cv2.INTER_AREA).astype(np.uint8)
    grow = np.array([frame.shape[1] / size[0], frame.shape[0] / size[1]])
    return [
        Face(
            (
                float(face.box[0] * grow[0]),
                float(face.box[1] * grow[1]),
                float(face.box[2] * grow[0]),
                float(face.box[3] * grow[1]),
            ),
            (face.landmarks * grow).astype(np.float32),
            face.confidence,
        )
        for face in face_detector.detect(reduced)
    ]


def landmarks_on_crop(
    face_detector: FaceDetector, image: Image, expected: Points
) -> tuple[Points, bool]:
    """Finds the landmarks of a crop again.

    Returns:
      Those of the face nearest to `expected`, and True; or `expected` itself and False, where no
      face is found there.
    """
    faces = face_detector.detect(image)
    if not faces:
        return expected, False
    distances = [_mean_distance(face.landmarks, expected) for face in faces]
    nearest = int(np.argmin(distances))
    if distances[nearest] > _SAME_FACE * max(image.shape[:2]):
        return expected, False
    return faces[nearest].landmarks, True


def _mean_distance(a: Points, b: Points) -> float:
    shared = min(len(a), len(b))
    return float(np.linalg.norm(a[:shared] - b[:shared], axis=1).mean())


@dataclass(frozen=True)
class FaceCrop:
    """A face cut out of an image as the training's faces were.

    Attributes:
      image: uint8 [size, size, 3], its border continued outside the image, or the largest centered square of
        the image where the face lies in that as in training; None where the face is too small.
      box: left, top, right, bottom of the face in the image, in pixels; None where the image is the crop.
      matrix: [2, 3], from points of the image to points of the crop.
      confidence: see `Face`.
      geometry: how the face lies in the crop, `pixels` being those of the image; None where the image is one.
      cut_off: whether the face reaches beyond the image; None where the image is the crop.
      inside: bool [size, size], the pixels of the crop that the image covers; None where it covers all.
      faces: how many were detected in the image; the largest of them are cropped.
    """

    image: Image | None
    box: tuple[float, float, float, float] | None
    matrix: Matrix
    confidence: float
    geometry: FaceGeometry | None = None
    cut_off: bool | None = None
    inside: NDArray[np.bool_] | None = None
    faces: int = 1


class FaceCropper:
    """Finds the faces of an image and crops them.

    Args:
      detector: 'dlib', 'mediapipe', or a `FaceDetector`.
      size: side of a crop in pixels.
      margin: how much wider than ArcFace's template a crop is, as `launch.prepare` crops. By default crops have
        their faces where the detector's training had them (`fitted`), and 1.3 where that is not known.
      align: turned upright; False crops the same square without rotation. By default as in training.
      smallest: a face whose longer side has fewer pixels is not cropped: enlarged, it would show the
        resampling and nothing else.

    Raises:
      UserError: the detector is not installed.
    """

    def __init__(
        self,
        detector: str | FaceDetector = "dlib",
        size: int = 256,
        margin: float | None = None,
        align: bool | None = None,
        smallest: int = 40,
    ):
        self._face_detector = open_detector(detector) if isinstance(detector, str) else detector
        self._size, self._margin, self._align = size, margin, align
        self._smallest = smallest
        self.placement: Placement | None = None
        self._judge: Judge | None = None

    def fitted(self, placement: Placement | None, judge: Judge | None = None) -> FaceCropper:
        """The same for a detector whose training had its faces so; unchanged where a margin was given.

        Args:
          placement: where the crops should have their faces.
          judge: tells whether a face lies in a picture 'as_trained'. Such a picture is taken whole: to crop it
            again would only blur it and repeat its border. Not used where `align` was given.
        """
        fitted = copy.copy(self)
        if self._margin is None:
            fitted.placement = placement
            fitted._judge = judge if self._align is None else None
        return fitted

    def crops(self, image: Image) -> Sequence[FaceCrop]:
        """The faces of uint8 [H, W, 3], RGB, cropped, largest first."""
        size, crops = self._size, []
        faces = detect_faces(self._face_detector, image)
        for face in faces[:_MAX_FACES]:
            own = face_geometry(face.landmarks, *image.shape[:2])
            cut_off = _reaches_beyond(face.landmarks, image)
            if self._judge and face.size >= self._smallest and self._judge(own) == "as_trained":
                whole, matrix = _square(image, _MAX_SIDES * size)
                crops.append(
                    FaceCrop(
                        whole, face.box, matrix, face.confidence, own, cut_off, None, len(faces)
                    )
                )
                continue
            if self.placement is None:
                settings = CropSettings(size, self._margin or 1.3, self._align is not False)
                matrix = crop_matrix(face.landmarks, settings)
            else:
                matrix = placed_matrix(face.landmarks, size, self.placement, self._align)
            # Continued: no picture of a training has black there, and what is new to a detector counts.
            large = face.size >= self._smallest
            cut = crop(image, matrix, size, cv2.BORDER_REPLICATE) if large else None
            geometry = face_geometry(move(face.landmarks, matrix), size, size)._replace(
                pixels=own.pixels
            )
            covered = _covered(matrix, size, image)
            crops.append(
                FaceCrop(
                    cut, face.box, matrix, face.confidence, geometry, cut_off, covered, len(faces)
                )
            )
        return crops


def _square(image: Image, max_side: int) -> tuple[Image, Matrix]:
    """The largest centered square of an image, of at most `max_side` pixels, and the matrix to it."""
    height, width = image.shape[:2]
    side = min(height, width)
    scale = min(1.0, max_side / side)
    corner = np.array([round((width - side) / 2), round((height - side) / 2)])
    square = square_view(image, min(side, max_side)).astype(np.uint8)
    return square, np.column_stack([scale * np.eye(2), -scale * corner])


def _reaches_beyond(landmarks: Points, image: Image) -> bool:
    """Whether the box of a face's 68 landmarks lies beyond the image by more than `_CUT_OFF` of itself."""
    points = landmarks[:68]
    low, high = points.min(axis=0), points.max(axis=0)
    beyond = np.maximum(-low, high - (image.shape[1] - 1, image.shape[0] - 1))
    return bool((beyond > _CUT_OFF * (high - low)).any())


def _covered(matrix: Matrix, size: int, image: Image) -> NDArray[np.bool_] | None:
    """The pixels of a crop that its image covers, bool [size, size]; None for all of them."""
    x, y = np.meshgrid(np.arange(size), np.arange(size))
    inverse = cv2.invertAffineTransform(matrix)
    height, width = image.shape[:2]
    column, row = (inverse[i, 0] * x + inverse[i, 1] * y + inverse[i, 2] for i in range(2))
    covered = (column > -1) & (column < width) & (row > -1) & (row < height)
    return None if covered.all() else covered
