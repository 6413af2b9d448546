"""One input that nobody foresaw is that input's own: the others are read."""

from __future__ import annotations

import struct
import subprocess
import sys
import zlib
from pathlib import Path

import cv2
import numpy as np
import pytest

from data_pipeline.core import images
from data_pipeline.datasets import PLAIN
from data_pipeline.faces.cropper import detect_faces
from data_pipeline.fftg.annotator import AnnotationTask, Annotator
from data_pipeline.fftg.images import read_image
from data_pipeline.fftg.measure.difference_mask import PairError
from launch.prediction import pipeline
from launch.prediction.pipeline import PredictSettings
from tests.support import tiny
from tests.support.preparing import prepare
from tests.support.video_trees import DiscDetector, clip, scene, write_picture, write_video

#: What `launch.predict` says of the tiny model.
REMARKS = ("no heat maps: ", "geometry unknown: ")


def bomb(path: Path, side: int) -> Path:
    """A PNG of black that is small on the disk alone."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return (
            struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
        )

    packer = zlib.compressobj(9)
    rows = b"".join(packer.compress(bytes(1 + 3 * side)) for _ in range(side)) + packer.flush()
    header = struct.pack(">IIBBBBB", side, side, 8, 2, 0, 0, 0)
    path.write_bytes(
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", rows) + chunk(b"IEND", b"")
    )
    return path


@pytest.mark.parametrize("shape", [(1, 8000), (8000, 1), (1, 1)])
def test_a_strip_is_searched_for_faces(shape: tuple[int, int]) -> None:
    assert detect_faces(DiscDetector(), np.zeros((*shape, 3), np.uint8)) == []


def test_a_strip_among_pictures_is_one_line(tmp_path: Path, workdir: Path) -> None:
    pytest.importorskip("dlib")
    for name, shape in {"a": (90, 90), "b": (1, 8000), "c": (90, 90)}.items():
        write_picture(tmp_path / f"in/{name}.png", np.full((*shape, 3), 90, np.uint8))
    out = tmp_path / "predictions.jsonl"
    done = tiny.command(
        "launch.predict", f"--checkpoint={workdir}", f"--out={out}", f"--overlay={tmp_path / 'maps'}",
        tmp_path / "in",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert all(line.startswith(REMARKS) for line in done.stderr.splitlines()), done.stderr
    assert len(out.read_text().splitlines()) == 3


class Broken(DiscDetector):
    """Fails on bright pictures, as decoders and filters do on what they were not made for."""

    def detect(self, image, unsure=False):
        if image.mean() > 200:
            raise RuntimeError("no\nsuch filter")
        return super().detect(image)


def test_any_error_of_a_file_is_its_own_line(tmp_path: Path) -> None:
    class Crops:
        def crops(self, image):
            return Broken().detect(image)

    path = write_picture(tmp_path / "a.png", np.full((64, 64, 3), 255, np.uint8))
    case = pipeline.read_input(path, Crops(), PredictSettings())
    assert (case.code, case.faces) == ("unreadable", [])
    assert case.message.endswith("(RuntimeError: no such filter)")


def test_any_error_of_a_frame_is_counted_and_the_rest_is_cropped(tmp_path: Path, out: Path) -> None:
    root = tmp_path / "set"
    bright = [np.full_like(frame, 255) for frame in clip(0, 5)]
    write_video(root / "real/a.avi", bright)
    write_video(root / "real/b.avi", clip(1, 5))
    outcomes, rows = prepare(PLAIN["folder"](root), out, face_detector=Broken())
    assert outcomes["real/a"].skipped == {"fault": 4}
    assert len(rows) == 4


def test_any_error_of_a_pair_is_its_own_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    picture = write_picture(tmp_path / "a.png", scene(0, [(30, 20, 72)]))
    annotator = Annotator()
    monkeypatch.setattr(annotator, "_face_detector", Broken())
    line = annotator.annotate(
        AnnotationTask(
            "1", write_picture(tmp_path / "b.png", 255 * np.ones((9, 9, 3), np.uint8)), None
        )
    )
    assert line is not None
    assert line["error"] == "fault: RuntimeError: no such filter"
    assert annotator.annotate(AnnotationTask("2", picture, None)) is not None


@pytest.mark.slow
def test_a_picture_bomb_is_refused_by_its_header(tmp_path: Path) -> None:
    path = bomb(tmp_path / "bomb.png", 12_500)  # 470 MB once decoded
    code = (
        "import sys; from pathlib import Path; from data_pipeline.core import images;"
        "from data_pipeline.fftg.images import read_image\n"
        "import resource; at = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss\n"
        "assert images.read_image(Path(sys.argv[1])) is None\n"
        "try: read_image(Path(sys.argv[1]))\n"
        "except Exception as error: print(error)\n"
        "print((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - at) // 1024)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(path)],
        env=tiny.environment(),
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    error, grown = done.stdout.splitlines()
    assert error.startswith("unreadable_image")
    assert "12500x12500 pixels" in error
    assert int(grown) < 100


@pytest.mark.parametrize("suffix", [".png", ".jpg", ".webp", ".bmp", ".tif", ".jp2"])
def test_every_format_is_read_as_before(tmp_path: Path, suffix: str) -> None:
    image = scene(0, [(30, 20, 72)])
    path = tmp_path / f"a{suffix}"
    cv2.imwrite(str(path), cv2.cvtColor(image, cv2.COLOR_RGB2BGR))
    for read in (images.read_image(path), read_image(path)[0]):
        assert read is not None
        assert np.abs(read.astype(int) - image).mean() < 8


def test_a_pipe_is_not_waited_for(tmp_path: Path) -> None:
    import os

    os.mkfifo(tmp_path / "a.png")
    assert images.read_image(tmp_path / "a.png") is None
    with pytest.raises(PairError, match="not a regular file"):
        read_image(tmp_path / "a.png")


def test_a_long_name_has_an_overlay(tmp_path: Path, workdir: Path) -> None:
    name = "面" * 80
    write_picture(tmp_path / f"{name}.png", scene(0, [(30, 20, 72)]))
    done = tiny.command(
        "launch.predict", f"--checkpoint={workdir}", "--crops", f"--overlay={tmp_path / 'maps'}",
        tmp_path / f"{name}.png",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert all(line.startswith(REMARKS) for line in done.stderr.splitlines()), done.stderr
    (made,) = (tmp_path / "maps").iterdir()
    assert made.name.startswith("面面")
