"""Fast operations on pixel maps, shared by the measurements.

NumPy's `mean`, `sum` and `any` of booleans take tens of microseconds for a face, as long as a
filter of OpenCV; a whole pair takes a few milliseconds.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

import cv2
import numpy as np
from numpy.typing import NDArray

Map = NDArray[np.bool_]
Indices = NDArray[np.intp]

#: Number of pixels that is enough for a mean or a quantile.
SAMPLES: Final = 4000


def flat(where: Map) -> Indices:
    """Flat indices of the true pixels of a map, in order."""
    return where.ravel().nonzero()[0]


def thinned(indices: Indices) -> Indices:
    """At most SAMPLES of the indices: every n-th where there are more."""
    return indices[:: 1 + len(indices) // SAMPLES]


def quantile(values: NDArray[np.float32], share: float) -> float:
    """The quantile of `values` at `share`, 0 to 1, without interpolation; ten times as fast as NumPy's."""
    rank = rank_of(len(values), share)
    return float(np.partition(values, rank)[rank])


def rank_of(count: int, share: float) -> int:
    """The index of the value that `quantile` returns among `count` sorted values."""
    return min(int(share * count), count - 1)


def box_of(where: Map, margin: int = 0) -> tuple[slice, slice]:
    """Rows and columns of the box around the true pixels of a map that is not empty, with a margin."""
    left, top, width, height = cv2.boundingRect(as_bytes(where))
    return (
        slice(max(0, top - margin), top + height + margin),
        slice(max(0, left - margin), left + width + margin),
    )


def as_bytes(where: Map) -> NDArray[np.uint8]:
    """A view of a map as OpenCV's uint8, 0 or 1."""
    return where.view(np.uint8)


def channels(image: NDArray[Any]) -> list[NDArray[Any]]:
    """The channels of [h, w, C], each [h, w]."""
    # Arrays that OpenCV allocates itself are copied once more, which doubles the time.
    planes = [np.empty(image.shape[:2], image.dtype) for _ in range(image.shape[2])]
    return list(cv2.split(image, planes))


def maximum(maps: Sequence[NDArray[Any]]) -> NDArray[Any]:
    """The maximum of several maps at each pixel, written to the first of them."""
    first, *others = maps
    for other in others:
        cv2.max(first, other, dst=first)
    return first


def averaged(image: NDArray[np.uint8], side: int) -> NDArray[np.float32]:
    """The mean over a square of `side` pixels around each pixel; float32 [h, w]."""
    # Integer sums and one division are exact, and faster than a mean of floats.
    sums = cv2.boxFilter(image, cv2.CV_32F, (side, side), normalize=False)
    return np.divide(sums, np.float32(side * side), out=sums)  # type: ignore[no-any-return]


def mean_within(values: NDArray[np.float32], where: NDArray[np.uint8]) -> float:
    """The mean of `values` where a map is not 0; 0 for an empty map."""
    count = cv2.countNonZero(where)
    # Copying first is faster than OpenCV's mean under a mask.
    return cv2.sumElems(cv2.copyTo(values, where))[0] / count if count else 0.0


def grown(image: NDArray[Any], reach: int) -> NDArray[Any]:
    """The maximum within a square of `reach` pixels around each pixel."""
    return cv2.dilate(image, np.ones((2 * reach + 1, 2 * reach + 1), np.uint8))
