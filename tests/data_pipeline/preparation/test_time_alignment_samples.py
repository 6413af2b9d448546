"""DeepFakeDetection's fakes drop frames: their pairs against a search over all frames nearby."""

from __future__ import annotations

import csv
import itertools
from collections.abc import Iterator
from pathlib import Path

import av
import cv2
import numpy as np
import pytest

from data_pipeline.core.video import open_frames
from data_pipeline.datasets import COMPRESSED
from data_pipeline.faces.alignment import CropSettings
from data_pipeline.faces.cropper import detect_faces
from data_pipeline.faces.detection import FaceDetector, open_detector
from data_pipeline.preparation.runner import Preparer, video_groups
from data_pipeline.preparation.store import load, write_tables

pytestmark = pytest.mark.slow

#: Frames before and after that are searched, and the width that they are searched at.
NEARBY = 150
WIDTH = 320
#: Frames that a real has more than the first 240 of its fakes.
DROPPED = 30


def blurred(frame: np.ndarray) -> np.ndarray:
    gray = cv2.cvtColor(frame, cv2.COLOR_RGB2GRAY)
    return cv2.GaussianBlur(gray.astype(np.float32), (0, 0), 3)


def frames_of(path: Path, numbers: set[int] | None = None) -> Iterator[tuple[int, np.ndarray]]:
    frames = open_frames(path)
    for number in range(frames.count) if numbers is None else sorted(numbers):
        frame = frames.read(number)
        assert frame is not None
        yield number, frame
    frames.close()


def small(frame: np.ndarray) -> np.ndarray:
    gray = cv2.cvtColor(frame, cv2.COLOR_RGB2GRAY)
    height = round(WIDTH * gray.shape[0] / gray.shape[1])
    return cv2.resize(gray, (WIDTH, height), interpolation=cv2.INTER_AREA).astype(np.int16)


def outside_faces(face_detector: FaceDetector, frame: np.ndarray) -> np.ndarray:
    outside = np.ones(frame.shape[:2], bool)
    for face in detect_faces(face_detector, frame):
        low, high = face.landmarks.min(axis=0), face.landmarks.max(axis=0)
        (left, top), (right, bottom) = low - 0.5 * (high - low), high + 0.5 * (high - low)
        outside[max(int(top), 0) : int(bottom) + 1, max(int(left), 0) : int(right) + 1] = False
    return outside


def first_part(root: Path, out: Path, frames: int) -> Path:
    """The same folders with so many frames of each fake, and some more of a real, as whole ones have."""
    for path in root.rglob("*.mp4"):
        count = frames + DROPPED * ("original_sequences" in path.parts)
        made = out / path.relative_to(root)
        made.parent.mkdir(parents=True, exist_ok=True)
        with av.open(str(path)) as whole, av.open(str(made), "w") as part:
            stream = whole.streams.video[0]
            copy = part.add_stream_from_template(stream)
            packets = (packet for packet in whole.demux(stream) if packet.dts is not None)
            for packet in itertools.islice(packets, count):
                packet.stream = copy
                part.mux(packet)
    return out


@pytest.mark.parametrize(
    ("frames", "length"), [(8, 240), pytest.param(32, None, marks=pytest.mark.campaign)]
)
def test_pairs_of_deepfakedetection_show_one_moment(
    shared_dir: Path, tmp_path: Path, frames: int, length: int | None
) -> None:
    root = shared_dir / "data/DFD"
    if not root.is_dir():
        pytest.skip("no sample of DeepFakeDetection")
    if length is not None:
        root = first_part(root, tmp_path / "set", length)
    face_detector = open_detector("dlib")
    result = COMPRESSED["dfd"](root, "c40")
    [group] = video_groups(result.videos)
    Preparer(tmp_path / "out", frames, CropSettings(), face_detector=face_detector).prepare(group)
    outcomes = {video.key: load(tmp_path / "out", video) for video in group.videos}
    write_tables(tmp_path / "out", group.videos, {k: o for k, o in outcomes.items() if o})
    with (tmp_path / "out/pairs.csv").open(newline="") as file:
        rows = [row for row in csv.DictReader(file) if row["real"] and row["fake"]]
    pairs = {
        video.name: [
            (int(row["frame"]), int(row.get("real_frame") or row["frame"]))
            for row in rows
            if row["video"] == video.name
        ]
        for video in group.manipulated
    }
    used = {real for numbers in pairs.values() for _, real in numbers}
    reals, sharp, outside = [], {}, {}
    for number, frame in frames_of(group.reference.path):
        reals.append(small(frame))
        if number in used:
            sharp[number], outside[number] = blurred(frame), outside_faces(face_detector, frame)
    for video in group.manipulated:
        numbers = dict(pairs[video.name])
        assert len(numbers) >= 0.875 * frames
        apart = []
        for number, frame in frames_of(video.path, set(numbers)):
            real = numbers[number]
            mask = outside[real]
            apart.append(float(np.abs(blurred(frame) - sharp[real])[mask].mean()))
            little = cv2.resize(mask.astype(np.uint8), reals[0].shape[::-1]) > 0
            picture = small(frame)
            first = max(real - NEARBY, 0)
            away = [
                float(np.abs(other - picture)[little].mean())
                for other in reals[first : real + NEARBY + 1]
            ]
            best = first + int(np.argmin(away))
            assert abs(best - real) <= 1, (video.name, number, real, best)
        assert np.mean(np.array(apart) <= 3.0) >= 0.95, sorted(apart)
