"""Fast operations on maps of pixels, shared by the measures.

NumPy's own `mean`, `sum` and `any` of booleans take tens of microseconds for a face, as long as a
filter of OpenCV; a pair has a few milliseconds in all.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

import cv2
import numpy as np
from numpy.typing import NDArray

Map = NDArray[np.bool_]
Indices = NDArray[np.intp]

#: Pixels that are enough for a mean or a quantile.
SAMPLES: Final = 4000


def flat(where: Map) -> Indices:
    """Flat indices of the pixels of a map, in order."""
    return where.ravel().nonzero()[0]


def thinned(chosen: Indices) -> Indices:
    """All of some pixels, or every n-th where there are more than enough."""
    return chosen[:: 1 + len(chosen) // SAMPLES]


def quantile(values: NDArray[np.float32], share: float) -> float:
    """The value that a share of `values` lies below; numpy's own takes ten times as long."""
    rank = rank_of(len(values), share)
    return float(np.partition(values, rank)[rank])


def rank_of(count: int, share: float) -> int:
    """The place, from 0, of the value that `quantile` gives among `count` values in order."""
    return min(int(share * count), count - 1)


def box_of(where: Map, margin: int = 0) -> tuple[slice, slice]:
    """Rows and columns of the box around a map's pixels, of which there are some, with a margin."""
    left, top, width, height = cv2.boundingRect(as_bytes(where))
    return (
        slice(max(0, top - margin), top + height + margin),
        slice(max(0, left - margin), left + width + margin),
    )


def as_bytes(where: Map) -> NDArray[np.uint8]:
    """A map as OpenCV takes it, 0 or 1; the same memory."""
    return where.view(np.uint8)


def channels(image: NDArray[Any]) -> list[NDArray[Any]]:
    """The channels of [h, w, C], each [h, w]."""
    # What OpenCV allocates for a list it copies once more: twice the time.
    places = [np.empty(image.shape[:2], image.dtype) for _ in range(image.shape[2])]
    return list(cv2.split(image, places))


def maximum(maps: Sequence[NDArray[Any]]) -> NDArray[Any]:
    """The maximum of several maps at each pixel, written over the first of them."""
    first, *others = maps
    for other in others:
        cv2.max(first, other, dst=first)
    return first


def averaged(image: NDArray[np.uint8], side: int) -> NDArray[np.float32]:
    """The mean over a square of `side` pixels around each pixel; float32 [h, w]."""
    # Whole numbers from bytes to floats, and one division: faster than a mean of floats, and exact.
    sums = cv2.boxFilter(image, cv2.CV_32F, (side, side), normalize=False)
    return np.divide(sums, np.float32(side * side), out=sums)  # type: ignore[no-any-return]


def mean_within(values: NDArray[np.float32], where: NDArray[np.uint8]) -> float:
    """The mean of `values` where a map is not 0; 0 for a map without pixels."""
    count = cv2.countNonZero(where)
    # Copying first is faster than OpenCV's mean under a mask.
    return cv2.sumElems(cv2.copyTo(values, where))[0] / count if count else 0.0


def grown(image: NDArray[Any], reach: int) -> NDArray[Any]:
    """The maximum within a square of `reach` pixels around each pixel."""
    return cv2.dilate(image, np.ones((2 * reach + 1, 2 * reach + 1), np.uint8))
