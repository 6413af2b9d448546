"""From a frame to a face crop, and from the crop of a real to the same crop of its fake.

The crop is DeepfakeBench's (five points to ArcFace's template, margin 1.3); how the frames of a
fake are brought onto those of its real, and which face of several is taken, is ours.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import cv2
import numpy as np
from numpy.typing import NDArray

from data_pipeline.faces.detection import Face, Finder, Points, align_crop
from jax_vlffd.preprocessing import Placement, face_geometry

Image = NDArray[np.uint8]
Matrix = NDArray[np.float64]

#: Longest side that faces are searched at; larger frames are reduced for the search alone.
_SEARCH_SIDE: Final = 1920
#: Size at which two frames are compared, and the least correlation of two frames of one scene.
#: FaceForensics++ pairs have 0.98 and more, unrelated scenes under 0.5.
_COMPARED_SIDE: Final = 320
_SAME_SCENE: Final = 0.8
#: Grey levels that codecs change, and the mean excess over them that makes a face differ.
_CODEC_LEVELS: Final = 12.0
_DIFFERS: Final = 1.0
#: Landmarks found again may be this far off those that were expected, as a share of the crop.
_SAME_FACE: Final = 0.1


@dataclass(frozen=True)
class CropSettings:
    """How faces are cropped.

    Attributes:
      size: side of the square crop in pixels.
      margin: how much wider than ArcFace's template the crop is.
      align: turned upright; False crops the same square without rotation.
    """

    size: int = 256
    margin: float = 1.3
    align: bool = True


def find_faces(finder: Finder, frame: Image) -> list[Face]:
    """The faces of a frame, largest first, in its own pixels."""
    scale = max(frame.shape[:2]) / _SEARCH_SIDE
    if scale <= 1.0:
        return finder.find(frame)
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
        for face in finder.find(reduced)
    ]


def crop_matrix(frame: Image, landmarks: Points, settings: CropSettings) -> Matrix:
    """The matrix [2, 3] that takes points of a frame to the crop of the face with `landmarks`."""
    matrix = align_crop(frame, landmarks, settings.size, settings.margin)[2]
    if settings.align:
        return matrix
    # The same square, unturned: its centre and its scale stay.
    scale = float(np.hypot(matrix[0, 0], matrix[1, 0]))
    middle = np.full(2, settings.size / 2)
    centre = np.linalg.solve(matrix[:, :2], middle - matrix[:, 2])
    return np.column_stack([scale * np.eye(2), middle - scale * centre])


def placed_matrix(
    frame: Image, landmarks: Points, size: int, place: Placement, align: bool | None = None
) -> Matrix:
    """As `crop_matrix`, for a crop that has its face where another set of pictures has it.

    Args:
      frame: uint8 [H, W, 3].
      landmarks: of the face.
      size: side of the crop in pixels.
      place: size and place of the face on the crop.
      align: turned upright; as `place` says by default.
    """
    upright = place.upright if align is None else align
    matrix = crop_matrix(frame, landmarks, CropSettings(size, align=upright))
    found = face_geometry(move(landmarks, matrix), size, size)
    grow = (place.height / found.height + place.width / found.width) / 2
    middle = np.array([found.x + 0.5, found.y + 0.5]) * size
    wanted = np.array([place.x + 0.5, place.y + 0.5]) * size
    return np.column_stack([grow * matrix[:, :2], grow * (matrix[:, 2] - middle) + wanted])


def crop(frame: Image, matrix: Matrix, size: int, border: int = cv2.BORDER_CONSTANT) -> Image:
    """Cuts a face out, uint8 [size, size, 3]; outside the frame black, or what OpenCV's `border` gives."""
    found = cv2.warpAffine(frame, matrix, (size, size), flags=cv2.INTER_LINEAR, borderMode=border)
    return found.astype(np.uint8)


def compose(outer: Matrix, inner: Matrix) -> Matrix:
    """The matrix [2, 3] that does `inner` first and then `outer`."""
    return np.column_stack([outer[:, :2] @ inner[:, :2], outer[:, :2] @ inner[:, 2] + outer[:, 2]])


def move(points: Points, matrix: Matrix) -> Points:
    """Points [N, 2] moved by a matrix [2, 3]."""
    return (points.astype(np.float64) @ matrix[:, :2].T + matrix[:, 2]).astype(np.float32)


def landmarks_on_crop(finder: Finder, image: Image, expected: Points) -> tuple[Points, bool]:
    """Finds the landmarks of a crop again.

    Returns:
      Those of the face nearest to `expected`, and True; or `expected` itself and False, where no
      face is found there.
    """
    found = finder.find(image)
    if not found:
        return expected, False
    apart = [_apart(face.landmarks, expected) for face in found]
    nearest = int(np.argmin(apart))
    if apart[nearest] > _SAME_FACE * max(image.shape[:2]):
        return expected, False
    return found[nearest].landmarks, True


def _apart(a: Points, b: Points) -> float:
    shared = min(len(a), len(b))
    return float(np.linalg.norm(a[:shared] - b[:shared], axis=1).mean())


def onto_real(fake: Image, real: Image) -> Matrix | None:
    """How a fake's frame lies on its real's.

    A frame of another size is a centre crop of the real (some of FaceForensics++ are) or a resized
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


def _best(fake: Image, real: Image) -> tuple[float, Matrix]:
    (height, width), (h, w) = real.shape[:2], fake.shape[:2]
    choices = [np.array([[1, 0, (width - w) // 2], [0, 1, (height - h) // 2]], np.float64)]
    if (height, width) != (h, w):
        choices.append(np.array([[width / w, 0, 0], [0, height / h, 0]], np.float64))
    agreements = [_agreement(fake, real, matrix) for matrix in choices]
    best = int(np.argmax(agreements))
    return agreements[best], choices[best]


def same_scene(fake: Image, real: Image, onto: Matrix) -> bool:
    """Whether a fake's frame, laid on its real's by `onto`, shows the same scene."""
    return _agreement(fake, real, onto) >= _SAME_SCENE


def _agreement(fake: Image, real: Image, matrix: Matrix) -> float:
    """Correlation of the grey levels where the fake covers the real, at reduced size; -1 to 1."""
    scale = min(1.0, _COMPARED_SIDE / max(real.shape[:2]))
    size = (max(round(real.shape[1] * scale), 1), max(round(real.shape[0] * scale), 1))
    reduce = np.diag([scale, scale])
    small = cv2.resize(_grey(real), size, interpolation=cv2.INTER_AREA)
    # Reduced by area as well before it is moved, or the warp would alias.
    by = min(1.0, scale * float(matrix[0, 0]))
    shrunk = cv2.resize(_grey(fake), None, fx=by, fy=by, interpolation=cv2.INTER_AREA)
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


def _grey(image: Image) -> NDArray[np.float32]:
    return cv2.cvtColor(image, cv2.COLOR_RGB2GRAY).astype(np.float32)


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
    most = int(np.argmax(differences))
    return most if differences[most] >= _DIFFERS else 0


def _difference(face: Face, real: Image, fake: Image, onto: Matrix) -> float:
    """Mean difference inside a face's landmarks, less what codecs do; in grey levels."""
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
