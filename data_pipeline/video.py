"""Frames of a video by their number: of a video file, a folder of pictures or one picture.

Files are decoded by OpenCV from their first frame on, never by seeking, because a seek lands on
another frame in many containers; frame i is then the same in a fake and in its real.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any, Final, Protocol

import cv2
import numpy as np
from numpy.typing import NDArray

from data_pipeline.datasets.video_records import is_picture, pictures

Image = NDArray[np.uint8]

#: Pixels of the largest frame that is read: 8K. A larger one is most likely a damaged header.
MAX_PIXELS: Final = 8192 * 4608
#: What the containers that are opened begin with: (offset, bytes). FFmpeg would also draw a text file as a
#: film of letters, and follow a play list to other files and hosts.
_CONTAINERS: Final = (
    *((4, box) for box in (b"ftyp", b"moov", b"mdat", b"free", b"skip", b"wide", b"pnot")),  # MP4, MOV
    (0, b"\x1aE\xdf\xa3"),  # Matroska, WebM
    (8, b"AVI "),
    (0, b"\x00\x00\x01\xba"), (0, b"\x00\x00\x01\xb3"),  # MPEG
    (0, b"FLV\x01"), (0, b"OggS"),
    (0, b"0&\xb2u\x8ef\xcf\x11"),  # ASF, WMV
)  # fmt: skip
#: A transport stream has this at every packet of 188 bytes, or 4 bytes into every 192.
_SYNC: Final = b"G"
#: Packets in a row that may fail to decode before the rest of a video is given up.
_PATIENCE: Final = 300


class VideoError(Exception):
    """A video that cannot be read.

    Attributes:
      code: `missing_file`, `unreadable_video`, `no_frames` or `too_large`.
    """

    def __init__(self, code: str, message: str):
        super().__init__(f"{code}: {message}")
        self.code = code


class Frames(Protocol):
    """The frames of one video.

    Attributes:
      count: frames that the video says it has; fewer may be readable.
      rate: frames a second, 0 where that is not known.
      lost_start: frames before the first that can be decoded, for want of a key frame. They do not
        count: frame 0 is the first that can be decoded.
    """

    count: int
    rate: float
    lost_start: int

    def read(self, index: int) -> Image | None:
        """Frame `index`, uint8 [H, W, 3], RGB, upright; None where it cannot be read.

        Indices must increase from call to call.
        """
        ...

    def close(self) -> None:
        """Frees the decoder."""
        ...


def open_frames(path: Path) -> Frames:
    """Opens a video file, a folder of pictures or one picture.

    Raises:
      VideoError: it is not there, is no video, has no frame that can be decoded, or is too large.
    """
    if not path.exists():
        raise VideoError("missing_file", f"{path} is not there")
    if path.is_dir() or is_picture(path):
        files = list(pictures(path).values()) if path.is_dir() else [path]
        if not files:
            raise VideoError("no_frames", f"{path} holds no pictures")
        return PictureFrames(files)
    return FileFrames(path)


class PictureFrames:
    """Pictures as the frames of a video, in the order of their numbers."""

    def __init__(self, files: list[Path]):
        self.count = len(files)
        self.rate = 0.0
        self.lost_start = 0
        self._files = files

    def read(self, index: int) -> Image | None:
        """See `Frames.read`."""
        return read_picture(self._files[index]) if index < self.count else None

    def close(self) -> None:
        """See `Frames.close`."""


class FileFrames:
    """A video file, decoded by OpenCV in one thread (the processes are the parallelism)."""

    def __init__(self, path: Path):
        if not _is_container(path):
            raise VideoError(
                "unreadable_video",
                f"{path} is damaged, empty or no video (MP4, MOV, MKV, WebM, AVI, MPEG, TS, FLV, WMV, Ogg)",
            )
        # Read when the first video is opened; a damaged one would fill the terminal otherwise.
        os.environ.setdefault("OPENCV_FFMPEG_LOGLEVEL", "-8")
        self._video: Any = _open(path)
        try:
            self._check(path)
        except VideoError:
            self.close()
            raise

    def _check(self, path: Path) -> None:
        video = self._video
        if not video.isOpened():
            raise VideoError("unreadable_video", f"{path} is damaged, empty or no video")
        width, height = (
            video.get(p) for p in (cv2.CAP_PROP_FRAME_WIDTH, cv2.CAP_PROP_FRAME_HEIGHT)
        )
        if width * height > MAX_PIXELS:
            raise VideoError("too_large", f"{path} says that it is {width:.0f}x{height:.0f}")
        self._at, self.lost_start = -1, 0
        if not self._advance():
            raise VideoError("no_frames", f"{path} has no frame that can be decoded")
        self._at, self.lost_start = 0, self._clock()
        rate = video.get(cv2.CAP_PROP_FPS)
        self.rate = float(rate) if np.isfinite(rate) and 0 < rate < 1000 else 0.0
        stated = int(video.get(cv2.CAP_PROP_FRAME_COUNT))
        self.count = stated - self.lost_start if stated > self.lost_start else count_frames(path)

    def _advance(self) -> bool:
        """Goes to the next frame that can be decoded."""
        for failures in range(_PATIENCE):
            if self._video.grab():
                self._at += 1
                if failures:  # only the clock tells how many frames were lost
                    self._at = max(self._at, self._clock())
                return True
        return False

    def _clock(self) -> int:
        """The number of the frame by its time, for a constant frame rate; at least 0."""
        seconds = self._video.get(cv2.CAP_PROP_POS_MSEC) / 1000.0
        number = seconds * self._video.get(cv2.CAP_PROP_FPS)
        return max(round(number) - self.lost_start, 0) if np.isfinite(number) else 0

    def read(self, index: int) -> Image | None:
        """See `Frames.read`."""
        while self._at < index and self._advance():
            pass
        if self._at != index:  # it cannot be decoded, or the video ends before it
            return None
        ok, frame = self._video.retrieve()
        return cv2.cvtColor(frame, cv2.COLOR_BGR2RGB).astype(np.uint8) if ok else None

    def close(self) -> None:
        """See `Frames.close`."""
        self._video.release()


def _is_container(path: Path) -> bool:
    try:
        with path.open("rb") as file:
            head = file.read(4 + 192 + 1)
    except OSError:
        return False
    if any(head[place : place + len(start)] == start for place, start in _CONTAINERS):
        return True
    return any(
        head[first : first + 1] == head[second : second + 1] == _SYNC
        for first, second in ((0, 188), (4, 196))
    )


def _open(path: Path) -> Any:
    # By FFmpeg alone: other back ends take a name with digits for a sequence of pictures. It turns
    # frames upright by the rotation that the file states.
    return cv2.VideoCapture(str(path), cv2.CAP_FFMPEG, [cv2.CAP_PROP_N_THREADS, 1])


def count_frames(path: Path) -> int:
    """Counts the frames that a file really holds; its header may state none, or others."""
    video = _open(path)
    count = 0
    while video.grab():
        count += 1
    video.release()
    return count


def read_picture(path: Path) -> Image | None:
    """A picture as uint8 [H, W, 3], RGB, upright; None where it cannot be read or is too large."""
    try:
        data = np.fromfile(path, np.uint8)
        pixels = cv2.imdecode(data, cv2.IMREAD_COLOR) if data.size else None
    except (OSError, cv2.error):
        return None
    if pixels is None or pixels.shape[0] * pixels.shape[1] > MAX_PIXELS:
        return None
    return cv2.cvtColor(pixels, cv2.COLOR_BGR2RGB).astype(np.uint8)


def evenly_spaced(count: int, frames: int) -> list[int]:
    """At most `frames` different frame numbers below `count`, first and last included.

    The rule is DeepfakeBench's: `linspace(0, count - 1, frames)` cut to whole numbers.
    """
    return sorted(set(np.linspace(0, max(count - 1, 0), frames, dtype=int).tolist()))
