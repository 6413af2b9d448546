"""Frames of a video by their number: of a video file, a folder of pictures or one picture.

Files are decoded by FFmpeg (PyAV) from their first frame on, never by seeking, because a seek lands on
another frame in many containers; frame i is then the same in a fake and in its real. FFmpeg is given an open
file and never a name: a name may be an address, and it would be followed.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final, Protocol

import av
import numpy as np
from av.video.reformatter import Interpolation, VideoReformatter

from data_pipeline.core.frame_numbers import is_picture, pictures
from data_pipeline.core.images import Image, read_image
from jax_vlffd.errors import UserError
from jax_vlffd.files import open_regular

#: Pixels of the largest frame that is read: 8K. A larger one is most likely a damaged header.
MAX_PIXELS: Final = 8192 * 4608
#: The containers that are opened, by FFmpeg's names. Others would draw a text as a film of letters, or follow a
#: play list to other files and hosts.
_CONTAINERS: Final = "mov,matroska,avi,mpegts,mpeg,mpegvideo,flv,asf,ogg"
#: How much wider or higher than others the pixels of a video are at most; a header may state anything.
_MAX_ASPECT: Final = 4.0
#: Transfer characteristics of HDR: PQ and HLG.
_HDR: Final = (16, 18)
#: Packets in a row that may fail to decode before the rest of a video is given up.
_MAX_FAILURES: Final = 300


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
      pixel_aspect: width of a pixel by its height, as the file states it; frames are read as they are shown.
      hdr: its colors are HDR (PQ, HLG), and are read as if they were not: flatter than they were seen.
    """

    count: int
    rate: float
    lost_start: int
    pixel_aspect: float
    hdr: bool

    def read(self, index: int) -> Image | None:
        """Frame `index`, uint8 [H, W, 3], RGB, upright, of square pixels; None where it cannot be read.

        Indices must increase from call to call.
        """
        ...

    def timestamp(self) -> float:
        """The time stamp of the frame that was read last, in seconds; 0 where there is none."""
        ...

    def close(self) -> None:
        """Frees the decoder."""
        ...


def open_frames(path: Path) -> Frames:
    """Opens a video file, a folder of pictures or one picture.

    Raises:
      VideoError: it does not exist, is not a video, has no frame that can be decoded, or is too large.
    """
    if not os.path.exists(path):  # a name that is too long, too
        raise VideoError("missing_file", f"{path} does not exist")
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
        self.pixel_aspect, self.hdr = 1.0, False
        self._files = files

    def read(self, index: int) -> Image | None:
        """See `Frames.read`."""
        return read_image(self._files[index]) if index < self.count else None

    def timestamp(self) -> float:
        """See `Frames.timestamp`."""
        return 0.0

    def close(self) -> None:
        """See `Frames.close`."""


class FileFrames:
    """A video file, decoded in one thread (the processes are the parallelism)."""

    def __init__(self, path: Path):
        self._container = _open(path)
        try:
            self._check(path)
        except VideoError:
            self.close()
            raise

    def _check(self, path: Path) -> None:
        if not self._container.streams.video:
            raise VideoError("unreadable_video", f"{path} holds no pictures, only sound or text")
        stream = self._container.streams.video[0]
        decoder = stream.codec_context
        if decoder is None:
            raise VideoError(
                "unreadable_video", f"{path} needs a decoder that is not here; store it as H.264"
            )
        if decoder.width * decoder.height > MAX_PIXELS:
            raise VideoError(
                "too_large", f"{path} says that it is {decoder.width}x{decoder.height}"
            )
        decoder.options = {"max_pixels": str(MAX_PIXELS)}  # a later frame may be larger
        decoder.thread_count = 1
        self._stream = stream
        self._frames = _decode(self._container, stream)
        self._frame: Any = None
        self._to_rgb = VideoReformatter()
        rate = float(stream.guessed_rate or 0)
        self.rate = rate if 0 < rate < 1000 else 0.0
        self._at, self.lost_start = -1, 0
        if not self._advance():
            if not decoder.width:  # the decoder takes no size above the limit
                wrong = f"{path} states no size, or one of more than {MAX_PIXELS:,} pixels"
                raise VideoError("too_large", wrong)
            raise VideoError(
                "no_frames",
                f"{path} has no frame that can be decoded by '{decoder.name}'; if it plays elsewhere, store it "
                "as H.264",
            )
        aspect = float(stream.sample_aspect_ratio or 1)
        self.pixel_aspect = aspect if 1 / _MAX_ASPECT <= aspect <= _MAX_ASPECT else 1.0
        self.hdr = decoder.color_trc in _HDR
        self._at, self.lost_start = 0, self._clock()
        stated = stream.frames or int(self._seconds() * self.rate + 0.5)
        self.count = stated - self.lost_start if stated > self.lost_start else count_frames(path)

    def _seconds(self) -> float:
        """The length that the container states; 0 where it states none."""
        if self._container.duration:
            return self._container.duration / float(av.time_base)
        return float((self._stream.duration or 0) * (self._stream.time_base or 0))

    def _advance(self) -> bool:
        """Goes to the next frame that can be decoded."""
        for failures, frame in enumerate(self._frames):
            if frame is not None:
                self._at, self._frame = self._at + 1, frame
                if failures:  # only the clock tells how many frames were lost
                    self._at = max(self._at, self._clock())
                return True
            if failures + 1 == _MAX_FAILURES:
                break
        return False

    def _clock(self) -> int:
        """The number of the frame by its time, for a constant frame rate; at least 0."""
        return max(round(self.timestamp() * self.rate) - self.lost_start, 0)

    def read(self, index: int) -> Image | None:
        """See `Frames.read`."""
        while self._at < index and self._advance():
            pass
        if self._at != index:  # it cannot be decoded, or the video ends before it
            return None
        width, height = self._display_size()
        try:
            pixels = self._to_rgb.reformat(
                self._frame,
                width,
                height,
                format="rgb24",
                interpolation=Interpolation.BICUBIC,
                threads=1,
            ).to_ndarray()
        except (av.FFmpegError, ValueError):  # colors that cannot be converted
            return None
        # Upright, as the file states it.
        turned = np.rot90(pixels, round(self._frame.rotation / 90))
        return np.ascontiguousarray(turned, np.uint8)

    def _display_size(self) -> tuple[int, int]:
        """Width and height of the frame as it is shown: of square pixels, none of them lost."""
        width, height = self._frame.width, self._frame.height
        wide = round(width * max(self.pixel_aspect, 1)), round(height / min(self.pixel_aspect, 1))
        return wide if wide[0] * wide[1] <= MAX_PIXELS else (width, height)

    def timestamp(self) -> float:
        """See `Frames.timestamp`."""
        stamp = self._frame.dts if self._frame.pts is None else self._frame.pts
        if stamp is None:
            return 0.0
        return float((stamp - (self._stream.start_time or 0)) * self._frame.time_base)

    def close(self) -> None:
        """See `Frames.close`."""
        self._container.close()


def _open(path: Path) -> Any:
    """The container in a file, which FFmpeg reads by our handle alone."""
    wrong = VideoError(
        "unreadable_video",
        f"{path} is damaged, empty or not a video (MP4, MOV, MKV, WebM, AVI, MPEG, TS, FLV, WMV, Ogg)",
    )
    try:
        file = open_regular(path)
    except UserError as error:
        raise VideoError("unreadable_video", str(error)) from error
    try:
        return av.open(
            file,
            "r",
            options={
                "format_whitelist": _CONTAINERS,
                "protocol_whitelist": "file",
                "max_pixels": str(MAX_PIXELS),
            },
            metadata_errors="replace",
            buffer_size=1 << 18,
            io_open=_refuse,
        )
    except Exception as error:  # hostile bytes end in many kinds of errors
        file.close()
        raise wrong from error


def _refuse(url: str, flags: int, options: dict[str, str]) -> None:
    raise PermissionError("a video may not open another file")


def _decode(container: Any, stream: Any) -> Iterator[Any]:
    """The frames of a video in the order in which they are shown; None for each packet that is damaged."""
    packets = container.demux(stream)
    while True:
        try:
            packet = next(packets, None)
        except av.FFmpegError:  # nothing after this can be read
            packet = None
        try:
            # Without a packet, the decoder gives what it still holds.
            yield from stream.codec_context.decode(packet)
        except av.EOFError:
            return
        except av.FFmpegError:
            yield None
        if packet is None:
            return


def count_frames(path: Path) -> int:
    """Counts the frames that a file really holds; its header may state none, or others."""
    container = _open(path)
    try:
        stream = container.streams.video[0]
        stream.codec_context.options = {"max_pixels": str(MAX_PIXELS)}
        stream.codec_context.thread_count = 1
        return sum(frame is not None for frame in _decode(container, stream))
    finally:
        container.close()


def count_packets(path: Path) -> int:
    """Counts the frames that a file stores, but for those that it says are not shown; decodes none.

    A header may state none of them, or those of before the file was cut, or guess by length and rate.
    """
    container = _open(path)
    try:
        packets = container.demux(container.streams.video[0])
        count = 0
        while True:
            try:
                packet = next(packets, None)
            except av.FFmpegError:  # nothing after this can be read
                packet = None
            if packet is None:
                return count
            count += bool(packet.size) and not packet.is_discard
    finally:
        container.close()


def evenly_spaced(count: int, frames: int) -> list[int]:
    """At most `frames` different frame numbers below `count`, first and last included.

    The rule is DeepfakeBench's: `linspace(0, count - 1, frames)` cut to whole numbers.
    """
    return sorted(set(np.linspace(0, max(count - 1, 0), frames, dtype=int).tolist()))
