"""Registers the frames of a fake to those of its real, and finds the forged face (ours)."""

from __future__ import annotations

from typing import Final

import cv2
import numpy as np
from numpy.typing import NDArray

from data_pipeline.core.images import Image
from data_pipeline.faces.alignment import Matrix
from data_pipeline.faces.detection import Face

#: Size at which two frames are compared, and the minimal correlation of two frames of one scene.
#: FaceForensics++ pairs have 0.98 and more, unrelated scenes under 0.5.
_COMPARED_SIDE: Final = 320
_SAME_SCENE: Final = 0.8
#: Gray levels that codecs change, and the mean excess over them that makes a face differ.
_CODEC_LEVELS: Final = 12.0
_DIFFERS: Final = 1.0


def onto_real(fake: Image, real: Image) -> Matrix | None:
    """How a fake's frame lies on its real's.

    A frame of another size is a center crop of the real (some of FaceForensics++ are) or a resized
    one: whichever agrees better.

    Returns:
      The matrix [2, 3] from points of the fake to points of the real, or None where the two show
      different scenes.
    """
    agreement, matrix = _best(fake, real)
    return matrix if agreement >= _SAME_SCENE else None


def likeness(fake: Image, real: Image) -> float:
    """How alike two pictures are, -1 to 1, the fake laid on the real as by `onto_real`."""
    return _best(fake, real)[0]


def same_scene(fake: Image, real: Image, onto: Matrix) -> bool:
    """Whether a fake's frame, laid on its real's by `onto`, shows the same scene."""
    return _agreement(fake, real, onto) >= _SAME_SCENE


def forged_face(faces: list[Face], real: Image, fake: Image, onto: Matrix) -> int:
    """Which face of a real frame was forged in its fake.

    Args:
      faces: of the real frame, largest first; at least one.
      real: uint8 [H, W, 3].
      fake: uint8 [h, w, 3].
      onto: from `onto_real`.

    Returns:
      The index of the face with the largest difference; of the largest face where no difference
      stands out of what codecs do.
    """
    if len(faces) == 1:
        return 0
    differences = [_difference(face, real, fake, onto) for face in faces]
    forged = int(np.argmax(differences))
    return forged if differences[forged] >= _DIFFERS else 0


def _best(fake: Image, real: Image) -> tuple[float, Matrix]:
    (height, width), (h, w) = real.shape[:2], fake.shape[:2]
    choices = [np.array([[1, 0, (width - w) // 2], [0, 1, (height - h) // 2]], np.float64)]
    if (height, width) != (h, w):
        choices.append(np.array([[width / w, 0, 0], [0, height / h, 0]], np.float64))
    agreements = [_agreement(fake, real, matrix) for matrix in choices]
    best = int(np.argmax(agreements))
    return agreements[best], choices[best]


def _agreement(fake: Image, real: Image, matrix: Matrix) -> float:
    """Correlation of the gray levels where the fake covers the real, at reduced size; -1 to 1."""
    scale = min(1.0, _COMPARED_SIDE / max(real.shape[:2]))
    size = (max(round(real.shape[1] * scale), 1), max(round(real.shape[0] * scale), 1))
    reduce = np.diag([scale, scale])
    small = cv2.resize(_gray(real), size, interpolation=cv2.INTER_AREA)
    # Reduced by area as well before it is moved, or the warp would alias.
    by = min(1.0, scale * float(matrix[0, 0]))
    shrunk = cv2.resize(_gray(fake), None, fx=by, fy=by, interpolation=cv2.INTER_AREA)
    grow = np.diag([fake.shape[1] / shrunk.shape[1], fake.shape[0] / shrunk.shape[0]])
    whole = np.column_stack([reduce @ matrix[:, :2] @ grow, reduce @ matrix[:, 2]])
    moved = cv2.warpAffine(shrunk, whole, size)
    covered = cv2.warpAffine(np.ones_like(shrunk), whole, size) > 0.99
    if not covered.any():
        return -1.0
    a, b = moved[covered], small[covered]
    spread = float(a.std() * b.std())
    if spread <= 1.0:  # two empty frames (a fade from black) are alike
        return 1.0 if abs(float(a.mean() - b.mean())) < _CODEC_LEVELS else -1.0
    return float(((a - a.mean()) * (b - b.mean())).mean()) / spread


def _gray(image: Image) -> NDArray[np.float32]:
    return cv2.cvtColor(image, cv2.COLOR_RGB2GRAY).astype(np.float32)


def _difference(face: Face, real: Image, fake: Image, onto: Matrix) -> float:
    """Mean difference inside a face's landmarks, less what codecs do; in gray levels."""
    low = np.floor(face.landmarks.min(axis=0)).astype(int)
    size = np.maximum(np.ceil(face.landmarks.max(axis=0)).astype(int) - low, 1)
    shift = np.column_stack([np.eye(2), -low.astype(np.float64)])
    moved = np.column_stack([onto[:, :2], onto[:, 2] - low])
    box = (int(size[0]), int(size[1]))
    a, b = cv2.warpAffine(real, shift, box), cv2.warpAffine(fake, moved, box)
    inside = np.zeros((box[1], box[0]), np.uint8)
    hull = cv2.convexHull(face.landmarks - low.astype(np.float32))
    cv2.fillConvexPoly(inside, hull.round().astype(np.int32), 1)
    change = cv2.blur(cv2.absdiff(a, b).max(axis=2).astype(np.float32), (5, 5))[inside > 0]
    return float(np.maximum(change - _CODEC_LEVELS, 0.0).mean()) if change.size else 0.0
