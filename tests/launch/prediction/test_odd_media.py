"""`launch.predict` on media as people have them: odd timing, odd pixels, crowds, faces at an edge."""

from __future__ import annotations

import shutil
import sys
from collections import Counter
from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest

from data_pipeline.faces.cropper import FaceCropper
from data_pipeline.faces.detection import Face
from jax_vlffd import geometry
from jax_vlffd.inference import heatmaps
from jax_vlffd.inference.detector import Detector
from launch.prediction import console, pipeline, run
from launch.prediction.pipeline import PredictSettings
from tests.launch.prediction.test_predict import judged, lines_of, predict, put, scene
from tests.support.packed_sets import draw
from tests.support.video_trees import DiscDetector, landmarks


@pytest.fixture(scope="module")
def detector(workdir: Path) -> Detector:
    return Detector.from_pretrained(workdir, batch_size=8)


def encode(
    path: Path, times: Sequence[int], aspect: Fraction = Fraction(1), transfer: int = 1
) -> Path:
    """Writes frames with a face at times in milliseconds."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264" if path.suffix != ".webm" else "libvpx", rate=25)
        stream.width, stream.height, stream.pix_fmt = 200, 120, "yuv420p"
        stream.codec_context.sample_aspect_ratio = aspect
        stream.codec_context.color_trc = transfer
        for number, time in enumerate(times):
            frame = av.VideoFrame.from_ndarray(scene((60, 20, 80), seed=number))
            frame.pts, frame.time_base, frame.color_trc = time, Fraction(1, 1000), transfer
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    return path


@pytest.mark.parametrize("suffix", [".mp4", ".mkv", ".webm"])
def test_seconds_are_the_time_stamps_of_the_frames(
    detector: Detector, tmp_path: Path, suffix: str
) -> None:
    times = [*range(0, 400, 40), *range(3000, 3400, 40), *range(9000, 9200, 40)]
    *faces, whole = judged(encode(tmp_path / f"a{suffix}", times), detector, frames=5)
    # The frames of a Matroska file are counted, as its length tells too many of a variable rate.
    assert [face["frame"] for face in faces] == [0, 6, 12, 18, 24]
    assert [face["second"] for face in faces] == pytest.approx(
        [times[n] / 1000 for n in (0, 6, 12, 18, 24)], abs=0.002
    )
    assert whole["frames_looked_at"] == 5
    assert not any(note.startswith("unreadable_frames") for note in whole["notes"])


@pytest.mark.parametrize("suffix", [".mp4", ".webm"])
def test_a_video_that_starts_late_is_read_whole(
    detector: Detector, tmp_path: Path, suffix: str
) -> None:
    path = encode(tmp_path / f"a{suffix}", range(60_000, 61_000, 40))
    *faces, _ = judged(path, detector, frames=5)
    assert [face["frame"] for face in faces] == [0, 6, 12, 18, 24]


def test_frames_are_judged_in_the_size_that_is_shown(detector: Detector, tmp_path: Path) -> None:
    for name, aspect, size in (("wide", 2, (400, 120)), ("tall", Fraction(1, 2), (200, 240))):
        path = encode(tmp_path / f"{name}.mp4", range(0, 200, 40), Fraction(aspect))
        *_, whole = judged(path, detector, frames=2)
        assert (whole["width"], whole["height"]) == size
        assert [note.partition(":")[0] for note in whole["notes"]] == ["stretched"]
    *_, whole = judged(encode(tmp_path / "plain.mp4", range(0, 200, 40)), detector, frames=2)
    assert (whole["width"], whole["height"], whole["notes"]) == (200, 120, [])


@pytest.mark.parametrize("transfer", [16, 18])
def test_high_dynamic_range_is_noted(detector: Detector, tmp_path: Path, transfer: int) -> None:
    path = encode(tmp_path / "a.mp4", range(0, 200, 40), transfer=transfer)
    *_, whole = judged(path, detector, frames=2)
    assert [note.partition(":")[0] for note in whole["notes"]] == ["hdr"]


def test_of_a_crowd_the_number_is_said(detector: Detector, tmp_path: Path) -> None:
    crowd = np.full((400, 500, 3), 90, np.uint8)
    for number in range(40):
        left, top = 10 + 60 * (number % 8), 10 + 60 * (number // 8)
        crowd[top : top + 40, left : left + 40] = scene((0, 0, 40))[:40, :40]
    lines = judged(put(tmp_path / "crowd.png", crowd), detector)
    assert len(lines) == 32
    assert lines[0]["notes"] == ["many_faces: only the largest 32 of 40 faces were judged"]
    assert "face 1 of 32+" in next(console.describe(lines, False))
    (line,) = judged(put(tmp_path / "one.png", scene((60, 20, 80))), detector)
    assert line["notes"] == []


def test_a_face_at_the_edge_is_noted_and_has_no_map_beyond_it(
    detector: Detector, tmp_path: Path
) -> None:
    image = scene((-30, 20, 80), (110, 20, 60))

    class Edge(DiscDetector):
        def detect(self, image: np.ndarray) -> list[Face]:
            boxes = [(-30.0, 20.0, 50.0, 100.0), (110.0, 20.0, 170.0, 80.0)]
            return [Face(box, landmarks(box), 1.0) for box in boxes]

    path = put(tmp_path / "a.png", image)
    result = pipeline.read_input(path, FaceCropper(Edge(), size=64), PredictSettings())
    (done,) = pipeline.classify([result], detector, 8)
    first, second = pipeline.lines(done, {"model": {}, "preprocessing": {}})
    assert (first["cut_off"], second["cut_off"]) == (True, False)
    assert any("cut off by the edge" in text for text in console.describe([first], False))
    prediction = done.faces[0].prediction
    assert prediction is not None
    beyond = np.isnan(prediction.classifier_map)
    assert beyond[:, 0].all()
    assert not beyond[:, -1].any()
    assert all((np.isnan(values) == beyond).all() for values in prediction.reason_maps)
    face = np.full((64, 64, 3), 90, np.uint8)
    drawn = heatmaps.heat(face, prediction.classifier_map)
    assert (drawn[:, :8] == 90).all()
    assert (drawn[:, -8:] != 90).any()
    (crop,) = judged(path, detector, crops=True)
    assert crop["cut_off"] is None


def test_what_is_passed_over_and_not_calibrated_is_said(workdir: Path, tmp_path: Path) -> None:
    copied = shutil.copytree(workdir, tmp_path / "run")
    (copied / "calibration.json").unlink()
    (tmp_path / "in").mkdir()
    put(tmp_path / "in/a.png", draw(0))
    for name in ("b.heic", "c.HEIC", "._a.png"):
        (tmp_path / "in" / name).write_text("x")
    out = tmp_path / "a.jsonl"
    done = predict(f"--checkpoint={copied}", "--crops", f"--out={out}", tmp_path / "in")
    assert done.returncode == 0, done.stderr
    assert "not calibrated: " in done.stderr
    assert (
        "2 other files in the folders have no suffix of a picture or video that can be read: 2 .heic"
        in (done.stdout)
    )
    (line,) = lines_of(out)
    assert line["model"]["calibration"] is None
    assert "not calibrated" not in " ".join(
        console.remarks(Detector.from_pretrained(workdir), False, False)
    )


def test_a_changed_geometry_is_another_preprocessing(detector: Detector) -> None:
    rows = np.tile(np.array([[0.7, 0.8, 0.0, 0.1, 90.0, 0.0]], np.float32), (20, 1))
    first = geometry.Trained.of([geometry.quantiles(rows)])
    other = geometry.Trained.of([geometry.quantiles(rows + np.float32(0.001))])
    mixed = geometry.Trained.of([geometry.quantiles(rows), None])
    digests = {trained.digest() for trained in (first, other, mixed)}
    assert len(digests) == 3
    assert first.digest() == geometry.Trained.of([geometry.quantiles(rows)]).digest()
    cropping, cropper = run.Cropping(), FaceCropper(DiscDetector())
    shared = run._shared_fields(detector, cropping, cropper, PredictSettings())
    assert "geometry" not in shared["preprocessing"]  # this model has none: its files go on


def test_the_summary_counts_the_most_frequent_suffixes() -> None:
    tally = console.Tally(ignored=Counter({f".x{n}": 20 - n for n in range(12)} | {"": 30}))
    (text,) = [text for text in tally.summary() if "other files" in text]
    assert "30 without a suffix, 20 .x0" in text
    assert text.endswith(", ...")


def test_a_new_file_costs_the_same_beside_many_answers(
    detector: Detector, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    picture = put(tmp_path / "a.png", draw(0))
    run.predict([picture], detector, None, run.Outputs(str(tmp_path / "first.jsonl")))
    first = (tmp_path / "first.jsonl").read_text()

    def calls(answers: int, new: int) -> int:
        """Calls of functions while `new` files are added to a file of answers."""
        out = tmp_path / f"{answers}_{new}.jsonl"
        out.write_text("".join(first.replace("a.png", f"old{n}.png") for n in range(answers)))
        paths = [tmp_path / f"new{n}.png" for n in range(new)]
        count = 0

        def profile(*_: object) -> None:
            nonlocal count
            count += 1

        sys.setprofile(profile)
        try:
            run.predict([picture, *paths], detector, None, run.Outputs(str(out)))
        finally:
            sys.setprofile(None)
        assert len(lines_of(out)) == answers + new + 1
        return count

    calls(2, 2)  # imports and compiles
    few, many = ((calls(answers, 22) - calls(answers, 2)) / 20 for answers in (10, 1000))
    assert many < 2 * few
    capsys.readouterr()
