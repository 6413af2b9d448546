"""Alignment of faces: the matrix from a frame to a crop, and the crop that it gives.

The crop is DeepfakeBench's: five points of the face on ArcFace's template, with a margin of 1.3.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import cv2
import numpy as np
from numpy.typing import NDArray

from data_pipeline.core.images import Image
from data_pipeline.faces.landmarks import Points
from jax_vlffd.preprocessing import Placement, face_geometry

Matrix = NDArray[np.float64]

#: The 112 px template of ArcFace (Deng et al. 2019): eyes, nose tip, corners of the mouth.
_ARCFACE: Final = np.array(
    [
        [38.2946, 51.6963],
        [73.5318, 51.5014],
        [56.0252, 71.7366],
        [41.5493, 92.3655],
        [70.7299, 92.2041],
    ],
    np.float64,
)
#: Which of the 68 points DeepfakeBench lays on that template (upper lids, tip, lips): kept as it
#: has them, so that crops equal those of published numbers.
_FIVE_OF_68: Final = (37, 44, 30, 49, 55)


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


def crop_matrix(landmarks: Points, settings: CropSettings) -> Matrix:
    """The matrix [2, 3] that takes points of a frame to the crop of the face with `landmarks`."""
    target = (_ARCFACE / 112.0 - 0.5) / settings.margin + 0.5
    five = landmarks[list(_FIVE_OF_68)].astype(np.float64)
    matrix = similarity(five, target * settings.size)
    if settings.align:
        return matrix
    # The same square, unturned: its center and its scale stay.
    scale = float(np.hypot(matrix[0, 0], matrix[1, 0]))
    middle = np.full(2, settings.size / 2)
    center = np.linalg.solve(matrix[:, :2], middle - matrix[:, 2])
    return np.column_stack([scale * np.eye(2), middle - scale * center])


def placed_matrix(
    landmarks: Points, size: int, place: Placement, align: bool | None = None
) -> Matrix:
    """As `crop_matrix`, for a crop that has its face where another set of pictures has it.

    Args:
      landmarks: of the face.
      size: side of the crop in pixels.
      place: size and place of the face on the crop.
      align: turned upright; as `place` says by default.
    """
    upright = place.upright if align is None else align
    matrix = crop_matrix(landmarks, CropSettings(size, align=upright))
    geometry = face_geometry(move(landmarks, matrix), size, size)
    grow = (place.height / geometry.height + place.width / geometry.width) / 2
    middle = np.array([geometry.x + 0.5, geometry.y + 0.5]) * size
    wanted = np.array([place.x + 0.5, place.y + 0.5]) * size
    return np.column_stack([grow * matrix[:, :2], grow * (matrix[:, 2] - middle) + wanted])


def similarity(source: NDArray[np.float64], target: NDArray[np.float64]) -> NDArray[np.float64]:
    """The least-squares similarity [2, 3] from points `source` to `target` ([N, 2]).

    Umeyama's (1991) problem without reflection, solved in closed form.
    """
    source_mean, target_mean = source.mean(axis=0), target.mean(axis=0)
    centered = source - source_mean
    # As complex numbers a rotation with scale is one factor: target = factor * source.
    s = centered[:, 0] + 1j * centered[:, 1]
    t = (target - target_mean)[:, 0] + 1j * (target - target_mean)[:, 1]
    factor = np.vdot(s, t) / max(float(np.vdot(s, s).real), 1e-12)
    linear = np.array([[factor.real, -factor.imag], [factor.imag, factor.real]])
    return np.column_stack([linear, target_mean - linear @ source_mean])


def crop(frame: Image, matrix: Matrix, size: int, border: int = cv2.BORDER_CONSTANT) -> Image:
    """Cuts a face out, uint8 [size, size, 3]; outside the frame black, or what OpenCV's `border` gives."""
    pixels = cv2.warpAffine(frame, matrix, (size, size), flags=cv2.INTER_LINEAR, borderMode=border)
    return pixels.astype(np.uint8)


def compose(outer: Matrix, inner: Matrix) -> Matrix:
    """The matrix [2, 3] that does `inner` first and then `outer`."""
    return np.column_stack([outer[:, :2] @ inner[:, :2], outer[:, :2] @ inner[:, 2] + outer[:, 2]])


def move(points: Points, matrix: Matrix) -> Points:
    """Points [N, 2] moved by a matrix [2, 3]."""
    return (points.astype(np.float64) @ matrix[:, :2].T + matrix[:, 2]).astype(np.float32)
