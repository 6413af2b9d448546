"""Small encoded videos with discs for faces, and a face detector that finds the discs."""

from __future__ import annotations

import struct
from collections.abc import Iterable, Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import cv2
import numpy as np

from data_pipeline.faces.detection import Face

#: Left, top and size of a disc.
Disc = tuple[int, int, int]


class DiscDetector:
    """Finds red discs; `calls` counts the pictures that were searched."""

    def __init__(self) -> None:
        self.calls = 0

    def detect(self, image: np.ndarray) -> list[Face]:
        self.calls += 1
        red = image[..., 0].astype(int) - image[..., 1]
        mask = cv2.morphologyEx(
            (red > 60).astype(np.uint8), cv2.MORPH_CLOSE, np.ones((9, 9), np.uint8)
        )
        count, _, stats, _ = cv2.connectedComponentsWithStats(mask)
        faces = []
        for left, top, width, height, area in stats[1:count]:
            if area > 150:
                box = (float(left), float(top), float(left + width), float(top + height))
                faces.append(Face(box, landmarks(box), 1.0))
        return sorted(faces, key=lambda face: -face.size)


def landmarks(box: tuple[float, float, float, float]) -> np.ndarray:
    """68 points in the order of iBUG, spread over a box as over a face."""
    angle = np.linspace(np.pi, 0, 17)
    jaw = np.stack([0.5 + 0.5 * np.cos(angle), 0.4 + 0.6 * np.sin(angle)], axis=1)
    brows = [(x, 0.25) for x in (*np.linspace(0.12, 0.4, 5), *np.linspace(0.6, 0.88, 5))]
    nose = [(0.5, y) for y in np.linspace(0.35, 0.55, 4)]
    nose += [(x, 0.62) for x in np.linspace(0.42, 0.58, 5)]
    eyes = [
        (center + 0.09 * np.cos(a), 0.38 + 0.03 * np.sin(a))
        for center in (0.3, 0.7)
        for a in np.linspace(np.pi, -np.pi, 6, endpoint=False)
    ]
    mouth = [
        (0.5 + width * np.cos(a), 0.8 + 0.5 * width * np.sin(a))
        for width, points in ((0.18, 12), (0.12, 8))
        for a in np.linspace(np.pi, -np.pi, points, endpoint=False)
    ]
    unit = np.concatenate([jaw, brows, nose, eyes, mouth])
    low, high = np.array(box[:2]), np.array(box[2:])
    return (low + unit * (high - low)).astype(np.float32)


def scene(
    seed: int, discs: Sequence[Disc], forged: Iterable[int] = (), size: tuple[int, int] = (240, 180)
) -> np.ndarray:
    """A frame, RGB: a background that follows from `seed`, discs, and blue mouths on the forged."""
    rng = np.random.default_rng(seed)
    small = rng.integers(20, 120, (6, 8, 1)).astype(np.uint8).repeat(3, axis=2)
    frame = cv2.resize(small, size, interpolation=cv2.INTER_CUBIC)
    for number, (left, top, side) in enumerate(discs):
        middle = (left + side // 2, top + side // 2)
        cv2.circle(frame, middle, side // 2, (220, 60, 60), -1)
        for x in (0.3, 0.7):
            eye = (left + round(x * side), top + round(0.38 * side))
            cv2.circle(frame, eye, max(side // 16, 1), (150, 40, 40), -1)
        if number in set(forged):
            mouth = (left + round(0.3 * side), top + round(0.65 * side))
            corner = (left + round(0.7 * side), top + round(0.85 * side))
            cv2.rectangle(frame, mouth, corner, (230, 110, 180), -1)
    return frame


def clip(
    seed: int, count: int, discs: Sequence[Disc] = ((80, 50, 72),), forged: Iterable[int] = ()
) -> list[np.ndarray]:
    """Frames of a scene whose discs move to the right by a pixel a frame."""
    forged = tuple(forged)
    return [scene(seed, [(x + i, y, side) for x, y, side in discs], forged) for i in range(count)]


def write_video(path: Path, frames: Sequence[np.ndarray], code: str = "MJPG") -> Path:
    """Encodes frames; MJPG keeps every frame a key frame and changes little."""
    path.parent.mkdir(parents=True, exist_ok=True)
    height, width = frames[0].shape[:2] if len(frames) else (48, 64)
    fourcc = cv2.VideoWriter.fourcc(*code)
    writer = cv2.VideoWriter(str(path), cv2.CAP_FFMPEG, fourcc, 25, (width, height))
    assert writer.isOpened()
    for frame in frames:
        writer.write(cv2.cvtColor(frame, cv2.COLOR_RGB2BGR))
    writer.release()
    return path


def write_timed(
    path: Path,
    frames: Sequence[np.ndarray],
    seconds: Sequence[float],
    codec: str = "mpeg4",
    gop: int = 12,
    **context: Any,
) -> Path:
    """Encodes frames with time stamps of their own; those below 0 are stored, and not shown.

    Args:
      path: of the video, whose suffix says the container.
      frames: uint8 [H, W, 3], RGB.
      seconds: the time stamp of each.
      codec: of FFmpeg's encoders.
      gop: frames from one key frame to the next.
      context: further attributes of the encoder.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    first = round(seconds[0] * 1000)
    with av.open(str(path), "w") as file:
        stream = file.add_stream(codec, rate=25)
        stream.height, stream.width = frames[0].shape[:2]
        stream.pix_fmt = "yuv420p"
        stream.bit_rate, stream.codec_context.time_base = 4_000_000, Fraction(1, 1000)
        stream.codec_context.gop_size = gop
        for name, value in context.items():
            setattr(stream.codec_context, name, value)
        packets = []
        for picture, second in zip(frames, seconds, strict=True):
            frame = av.VideoFrame.from_ndarray(picture, format="rgb24")
            frame.pts, frame.time_base = round(second * 1000) - first, Fraction(1, 1000)
            packets += stream.encode(frame)
        for packet in [*packets, *stream.encode(None)]:
            packet.pts, packet.dts = packet.pts + first, packet.dts + first
            file.mux(packet)
    return path


def write_picture(path: Path, picture: np.ndarray | None = None) -> Path:
    """Writes a picture, a gray one unless it is given."""
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.full((32, 32, 3), 90, np.uint8) if picture is None else picture
    assert cv2.imwrite(str(path), cv2.cvtColor(pixels, cv2.COLOR_RGB2BGR))
    return path


def blank_frames(path: Path, numbers: set[int]) -> None:
    """Wipes the content of some frames of an AVI."""
    data = bytearray(path.read_bytes())
    at = data.index(b"movi")
    for number in range(max(numbers) + 1):
        at = data.index(b"00dc", at)
        length = struct.unpack("<I", data[at + 4 : at + 8])[0]
        if number in numbers:
            data[at + 8 : at + 8 + length] = bytes(length)
        at += 8 + length
    path.write_bytes(data)
