"""The four facial regions as pixel maps, and the decision which of them are forged.

Paper section 3.1: landmarks split the face into mouth, nose, eyes and face; a region is forged when
the mean of the forgery mask in it passes a threshold. The outlines are ours: `eyes` includes the
brows, `nose` begins halfway down its bridge, `face` is the skin, that is the hull of the face with its
forehead less the organs. The maps do not overlap.
"""

from __future__ import annotations

from typing import Final

import cv2
import numpy as np
from numpy.typing import NDArray

from jax_vlffd.vocabulary import REGIONS

#: Margins around the outlines, as a share of the face's size (see `face_size`).
_EYE_MARGIN: Final = 0.02
_NOSE_MARGIN: Final = 0.035
_MOUTH_MARGIN: Final = 0.035
#: How far the forehead reaches above the brows, in distances from the brows to the tip of the nose.
_FOREHEAD: Final = 0.75


def face_size(landmarks: NDArray[np.float32]) -> float:
    """The size of a face in pixels: the root of the area of its landmarks' hull, robust to pose."""
    hull = cv2.convexHull(np.ascontiguousarray(landmarks[:68], np.float32))
    return float(np.sqrt(max(cv2.contourArea(hull), 1.0)))


def region_labels(landmarks: NDArray[np.float32], height: int, width: int) -> NDArray[np.uint8]:
    """The regions as one map, uint8 [height, width]: 0 outside the face, 1 + index in REGIONS.

    Args:
      landmarks: [68 or 81, 2], x and y in pixels; points may lie outside the image.
      height: of the image.
      width: of the image.
    """
    points = np.asarray(landmarks, np.float32)
    size = face_size(points)
    labels = np.zeros((height, width), np.uint8)
    _fill(labels, face_outline(points), 1 + REGIONS.index("face"), 0.0)
    # Later fills win: where the margins meet, the nose yields to the mouth and to the eyes.
    _fill(labels, _nose_outline(points), 1 + REGIONS.index("nose"), _NOSE_MARGIN * size)
    for brow, eye in ((slice(17, 22), slice(36, 42)), (slice(22, 27), slice(42, 48))):
        outline = np.concatenate([points[brow], points[eye]])
        _fill(labels, outline, 1 + REGIONS.index("eyes"), _EYE_MARGIN * size)
    _fill(labels, points[48:60], 1 + REGIONS.index("mouth"), _MOUTH_MARGIN * size)
    return labels


def region_maps(
    landmarks: NDArray[np.float32], height: int, width: int
) -> dict[str, NDArray[np.bool_]]:
    """The regions as disjoint boolean maps [height, width], keyed by name; see `region_labels`."""
    labels = region_labels(landmarks, height, width)
    return {name: labels == 1 + i for i, name in enumerate(REGIONS)}


def face_outline(landmarks: NDArray[np.float32]) -> NDArray[np.float32]:
    """Points whose hull is the face with its forehead, float32 [N, 2].

    The 81-point scheme brings the forehead along; for 68 points it is put above the brows, along
    the axis from the tip of the nose to the middle of the brows.
    """
    points = np.asarray(landmarks, np.float32)
    if len(points) > 68:
        return points
    brows = points[17:27]
    up = brows.mean(axis=0) - points[30]
    # Lower towards the temples, as a forehead is round.
    rise = _FOREHEAD * np.array([0.6, 0.85, 1, 1, 1, 1, 1, 1, 0.85, 0.6], np.float32)
    return np.concatenate([points[:27], brows + rise[:, None] * up])


def _nose_outline(points: NDArray[np.float32]) -> NDArray[np.float32]:
    # The landmarks run down the bridge and under the nostrils: the wings are put beside the tip. The upper
    # half of the bridge, between the eyes, is skin: edits of the eyes reach it.
    wings = points[[31, 35]] + 0.35 * (points[30] - points[33])
    spread = 0.25 * (points[[31, 35]] - points[33])
    return np.concatenate([(points[27:28] + points[30]) / 2, points[29:36], wings + spread])


def _fill(
    labels: NDArray[np.uint8], outline: NDArray[np.float32], value: int, margin: float
) -> None:
    """Writes `value` over the hull of `outline` grown by `margin` pixels, in place."""
    hull = cv2.convexHull(outline)
    shift = 4  # sixteenths of a pixel
    polygon = np.round(hull * (1 << shift)).astype(np.int32)
    cv2.fillConvexPoly(labels, polygon, value, cv2.LINE_8, shift)
    if margin >= 0.5:
        cv2.polylines(labels, [polygon], True, value, round(2 * margin), cv2.LINE_8, shift)
