"""Aligns the frames of a fake with those of its real in time.

Some fakes drop, repeat or resample frames of their real (DeepFakeDetection, sets at another frame rate),
so equal frame numbers may show different moments. Both videos are read once as gray thumbnails and
compared outside the face; the cheapest path that never goes back in time says what belongs together.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Final, NamedTuple

import cv2
import numpy as np
from numpy.typing import NDArray

from data_pipeline.core.frame_numbers import pictures
from data_pipeline.core.video import Frames, evenly_spaced, open_frames
from data_pipeline.faces.detection import Face

Image = NDArray[np.uint8]
Matrix = NDArray[np.float64]
Floats = NDArray[np.float64]

#: Longest side of a thumbnail in pixels.
_SIDE: Final = 96
#: Frames of a video that are aligned, from its start: 12,000 thumbnails take 60 MB.
_MAX_FRAMES: Final = 12_000
#: Frames around the expected one that are candidates, beside those that the shorter video lacks.
_SLACK: Final = 60
_WIDEST: Final = 4_000
#: What leaving the expected rhythm costs, in gray levels of one frame. Frames of one moment differ by
#: 1 to 2 levels, neighbors in motion by 3 to 4.
_GAP: Final = 1.0
#: What a frame off the expected one costs on top, so that a still picture keeps the rhythm.
_OFF: Final = 0.01
#: What codecs alone change in a still picture, likewise.
_CODEC: Final = 1.0
#: Equal frame numbers stand while their frames are at most this much less alike than the best ones.
_EQUAL: Final = 1.5
#: Frames are of one moment up to this root mean square in gray levels, or this share of what the
#: frames of the two videos differ by as a rule (a fake may be graded otherwise than its real).
_ALIKE: Final = 4.0
_ALIKE_SHARE: Final = 0.25
#: Frames of the real on which faces are sought, how much wider than the landmarks a face is taken, and
#: the minimal share of the picture that must be left to compare.
_SEARCHED: Final = 8
_WIDER: Final = 0.5
_LEFT: Final = 0.2
#: Rows of distances that are computed at a time, and that say what is usual.
_BLOCK: Final = 64
_SAMPLED: Final = 16


class Thumbnails(NamedTuple):
    """The readable frames of a video, small.

    Attributes:
      pictures: uint8 [N, h, w], gray.
      numbers: int64 [N], the frame numbers.
      seconds: float64 [N], the time stamps; all 0 where there are none.
      compared: bool [h, w], the pixels that are to be compared: covered, and no face.
    """

    pictures: Image
    numbers: NDArray[np.int64]
    seconds: Floats
    compared: NDArray[np.bool_]


def may_slip(real: Path, real_frames: Frames, fake: Path, fake_frames: Frames) -> bool:
    """Whether equal numbers may be different moments: counts, rates or numbers of pictures differ."""
    rates = real_frames.rate, fake_frames.rate
    if real_frames.count != fake_frames.count:
        return True
    if all(rates) and abs(rates[0] - rates[1]) > 1e-3 * max(rates):
        return True
    return real.is_dir() and fake.is_dir() and list(pictures(real)) != list(pictures(fake))


def read_thumbnails(
    path: Path,
    size: tuple[int, int],
    onto: Matrix | None = None,
    detect: Callable[[Image], list[Face]] | None = None,
) -> Thumbnails:
    """Reads a video once, small.

    Args:
      path: of the video; it has been opened before.
      size: width and height of the real's frames.
      onto: the matrix [2, 3] from points of a frame to points of the real's; None for the real.
      detect: detects faces, which are then left out of what is compared.

    Raises:
      VideoError: see `open_frames`.
    """
    scale = min(1.0, _SIDE / max(size))
    small = (max(round(size[0] * scale), 1), max(round(size[1] * scale), 1))
    frames = open_frames(path)
    count = min(frames.count, _MAX_FRAMES)
    searched = set(evenly_spaced(count, _SEARCHED))
    thumbnails, numbers, seconds = [], [], []
    covered = np.ones((small[1], small[0]), np.uint8)
    faces = np.zeros_like(covered)
    try:
        for number in range(count):
            frame = frames.read(number)
            if frame is None:
                continue
            gray = cv2.cvtColor(frame, cv2.COLOR_RGB2GRAY).astype(np.uint8)
            if onto is None:
                thumbnail = cv2.resize(gray, small, interpolation=cv2.INTER_AREA)
            else:
                thumbnail, part = _moved(gray, onto, size, small)
                covered &= part
            thumbnails.append(thumbnail.astype(np.uint8))
            numbers.append(number)
            seconds.append(frames.timestamp())
            if detect and number in searched:
                _paint(faces, detect(frame), frame.shape)
    finally:
        frames.close()
    compared = (covered > 0) & (faces == 0)
    if compared.mean() < _LEFT:  # a face that fills the picture: its edges are compared as well
        compared = covered > 0
    shape = (0, small[1], small[0])
    stack = np.stack(thumbnails) if thumbnails else np.zeros(shape, np.uint8)
    return Thumbnails(stack, np.array(numbers, np.int64), np.array(seconds), compared)


def _moved(
    gray: Image, onto: Matrix, size: tuple[int, int], small: tuple[int, int]
) -> tuple[Image, Image]:
    """A frame of another size as it lies on its real's, and which pixels it covers (0 or 1)."""
    height, width = gray.shape
    scale = np.array([small[0] / size[0], small[1] / size[1]])
    own = np.maximum(np.round(scale * np.diag(onto) * (width, height)), 1).astype(int)
    # Reduced by area before it is moved, or the warp would alias.
    reduced = cv2.resize(gray, (int(own[0]), int(own[1])), interpolation=cv2.INTER_AREA)
    shift = np.column_stack([np.eye(2), scale * onto[:, 2]])
    moved = cv2.warpAffine(reduced, shift, small)
    part = cv2.warpAffine(np.full_like(reduced, 255), shift, small)
    return moved.astype(np.uint8), (part > 250).astype(np.uint8)


def _paint(mask: Image, faces: list[Face], shape: tuple[int, ...]) -> None:
    """Sets the pixels of a small mask where faces of a frame of `shape` are, with room around them."""
    scale = np.array([mask.shape[1] / shape[1], mask.shape[0] / shape[0]])
    for face in faces:
        low, high = face.landmarks.min(axis=0), face.landmarks.max(axis=0)
        room = _WIDER * (high - low)
        left, top = np.maximum(np.floor((low - room) * scale), 0).astype(int)
        right, bottom = np.maximum(np.ceil((high + room) * scale), 0).astype(int)
        mask[top:bottom, left:right] = 1


def align(fake: Thumbnails, real: Thumbnails) -> dict[int, int] | None:
    """Pairs the frames of one moment.

    The expected rhythm is one frame to a frame, or that of the time stamps, whichever explains the
    pictures better.

    Returns:
      Frame number of the real -> that of the fake, rising; frames that the other video lacks, or that
      stay unlike all of it, are left out. None where all equal numbers are of one moment.
    """
    if not len(fake.numbers) or not len(real.numbers):
        return {}
    position = np.searchsorted(real.numbers, fake.numbers).astype(np.float64)
    last = len(real.numbers) - 1
    by_number = np.minimum(position, last)
    rhythms = [by_number]
    if _rises(fake.seconds) and _rises(real.seconds):
        by_time = np.interp(fake.seconds, real.seconds, np.arange(last + 1))
        if np.abs(by_time - by_number).max() >= 1.0:
            rhythms.append(by_time)
    if len(fake.numbers) != len(real.numbers):
        rhythms.reverse()  # as many frames in another time are the same frames, played faster
    choices = [_Path(fake, real, rhythm) for rhythm in rhythms]
    best = choices[0]
    if len(choices) > 1 and choices[1].cost < best.cost - 2 * _GAP:
        best = choices[1]
    if best.rhythm is by_number and best.equal_numbers_stand():
        return None
    return best.moments()


def _rises(seconds: Floats) -> bool:
    return len(seconds) > 1 and bool(np.all(np.diff(seconds) > 0))


class _Path:
    """The cheapest path through the distances of two videos, near an expected rhythm."""

    def __init__(self, fake: Thumbnails, real: Thumbnails, rhythm: Floats):
        self._fake, self._real, self.rhythm = fake, real, rhythm
        self._compared = (fake.compared & real.compared).ravel()
        if not self._compared.any():
            self._compared = np.ones_like(self._compared)
        lacking = len(real.numbers) - 1 - rhythm[-1]
        self._below = _SLACK + min(max(len(rhythm) - len(real.numbers), 0), _WIDEST)
        self._above = _SLACK + min(int(max(lacking, 0.0)), _WIDEST)
        usual = [
            np.median(self._distances(row, row + 1, *self._band(row)))
            for row in evenly_spaced(len(rhythm), _SAMPLED)
        ]
        self._limit = max(_ALIKE, _ALIKE_SHARE * float(np.median(usual)))
        self._walk()

    def _band(self, row: int) -> tuple[int, int]:
        low = max(int(self.rhythm[row]) - self._below, 0)
        return low, min(int(self.rhythm[row]) + self._above + 1, len(self._real.numbers))

    def _walk(self) -> None:
        rows, columns = len(self.rhythm), len(self._real.numbers)
        cost = np.full(columns, np.inf)
        pointers = np.zeros((rows, min(self._below + self._above + 1, columns)), np.int16)
        own = np.arange(columns)
        for start in range(0, rows, _BLOCK):
            stop = min(start + _BLOCK, rows)
            first, end = self._band(start)[0], self._band(stop - 1)[1]
            # What codecs do says nothing, nor how unlike those are that the real lacks.
            distances = self._distances(start, stop, first, end)
            distances = np.clip(distances, _CODEC, 1.5 * self._limit)
            for row in range(start, stop):
                low, high = self._band(row)
                apart = distances[row - start, low - first : high - first]
                apart += _OFF * np.abs(own[low:high] - self.rhythm[row])
                if row == 0:
                    cost[low:high] = apart + _GAP * (np.abs(own[low:high] - self.rhythm[0]) >= 1)
                    continue
                # Any frame that is not earlier may follow, for a price; the expected one for nothing.
                cheapest = np.minimum.accumulate(cost)
                came = np.maximum.accumulate(np.where(cost == cheapest, own, 0))[low:high]
                reached = cheapest[low:high] + _GAP
                step = round(self.rhythm[row] - self.rhythm[row - 1], 6)
                for free in {math.floor(step), math.ceil(step)}:
                    before = own[low:high] - free
                    cheaper = np.where(before >= 0, cost[before], np.inf)
                    better = cheaper <= reached
                    reached = np.where(better, cheaper, reached)
                    came = np.where(better, before, came)
                cost = np.full(columns, np.inf)
                cost[low:high] = reached + apart
                pointers[row, : high - low] = came
        self.cost = float(cost.min())
        at = int(cost.argmin())
        path = [at]
        for row in range(rows - 1, 0, -1):
            at = int(pointers[row, at - self._band(row)[0]])
            path.append(at)
        self._path = np.array(path[::-1])
        self._path_differences = self._differences(np.arange(rows), self._path)

    def _distances(self, start: int, stop: int, first: int, end: int) -> Floats:
        """Root mean square differences in gray levels, [stop - start, end - first]."""
        fake_pixels = self._flat(self._fake.pictures[start:stop])
        real_pixels = self._flat(self._real.pictures[first:end])
        middle = real_pixels.mean(axis=0)  # taken off, so that float32 is exact enough
        fake_pixels, real_pixels = fake_pixels - middle, real_pixels - middle
        squares = (
            (fake_pixels**2).sum(axis=1)[:, None]
            + (real_pixels**2).sum(axis=1)
            - 2 * fake_pixels @ real_pixels.T
        )
        return np.sqrt(np.maximum(squares, 0.0) / fake_pixels.shape[1]).astype(np.float64)

    def _differences(self, fake: NDArray[np.int64], real: NDArray[np.int64]) -> Floats:
        """The same of pairs of positions, [N]."""
        blocks = [np.zeros(0)]
        for i in range(0, len(fake), _BLOCK):
            fake_pixels = self._flat(self._fake.pictures[fake[i : i + _BLOCK]])
            real_pixels = self._flat(self._real.pictures[real[i : i + _BLOCK]])
            blocks.append(
                np.sqrt(((fake_pixels - real_pixels) ** 2).mean(axis=1)).astype(np.float64)
            )
        return np.concatenate(blocks)

    def _flat(self, thumbnails: Image) -> NDArray[np.float32]:
        return thumbnails.reshape(len(thumbnails), -1)[:, self._compared].astype(np.float32)

    def equal_numbers_stand(self) -> bool:
        """Whether frames of equal numbers are alike, and hardly any other frame is more so."""
        _, fake_rows, real_rows = np.intersect1d(
            self._fake.numbers, self._real.numbers, assume_unique=True, return_indices=True
        )
        differences = self._differences(fake_rows, real_rows)
        return bool(
            np.all(
                differences <= np.minimum(self._limit, self._path_differences[fake_rows] + _EQUAL)
            )
        )

    def moments(self) -> dict[int, int]:
        """Frame number of the real -> that of the fake, of those that are alike."""
        best: dict[int, int] = {}  # position in the real -> position in the fake
        for row, at in enumerate(self._path.tolist()):
            # Of frames that repeat a moment the first, unless a later one is clearly nearer.
            if self._path_differences[row] > self._limit:
                continue
            if (
                at not in best
                or self._path_differences[row] < self._path_differences[best[at]] - _GAP
            ):
                best[at] = row
        return {
            int(self._real.numbers[at]): int(self._fake.numbers[row]) for at, row in best.items()
        }
