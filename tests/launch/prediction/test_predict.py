"""`python -m launch.predict`: images and videos to lines, overlays and a report; hostile files; resuming."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import PIL.Image
import pytest

from data_pipeline.faces.cropper import FaceCropper
from jax_vlffd.config import LossConfig
from jax_vlffd.errors import UserError
from jax_vlffd.inference.detector import Detector
from launch.prediction import console, pipeline
from launch.prediction.pipeline import PredictSettings
from tests.support import tiny, tiny_workdir
from tests.support.packed_sets import draw
from tests.support.video_trees import DiscDetector, write_video

FIXED: dict[str, Any] = {"model": {"hash": "x"}, "preprocessing": {}}


@pytest.fixture(scope="module")
def detector(workdir: Path) -> Detector:
    return Detector.from_pretrained(workdir, batch_size=8)


def scene(*discs: tuple[int, int, int], seed: int = 0) -> np.ndarray:
    """uint8 [120, 200, 3]: red discs (left, top, size) for faces, their insides different by seed."""
    image = np.full((120, 200, 3), 90, np.uint8)
    for left, top, size in discs:
        center = (left + size // 2, top + size // 2)
        cv2.circle(image, center, size // 2, (230, 40 + 17 * seed % 90, 60), -1)
    return image


def judged(path: Path, detector: Detector, crops: bool = False, **settings: Any) -> list[dict]:
    """The lines of one file."""
    finder = None if crops else FaceCropper(DiscDetector(), size=64, smallest=30)
    case = pipeline.read_input(path, finder, PredictSettings(**settings))
    (done,) = pipeline.classify([case], detector, 8)
    lines = pipeline.lines(done, FIXED)
    json.dumps(lines, allow_nan=False)
    return lines


def put(path: Path, image: np.ndarray) -> Path:
    PIL.Image.fromarray(image).save(path)
    return path


# --- images ---


def test_every_face_has_a_line_with_its_own_prediction(detector: Detector, tmp_path: Path) -> None:
    path = put(tmp_path / "two.png", scene((10, 20, 70), (120, 30, 50), (180, 5, 17)))
    lines = judged(path, detector)
    assert [line["face"] for line in lines] == [0, 1, 2]
    assert [line["verdict"] for line in lines][2] == "face_too_small"
    finder = FaceCropper(DiscDetector(), size=64, smallest=30)
    library = Detector(detector.trained, finder)(np.asarray(PIL.Image.open(path)))
    for line, prediction in zip(lines, library, strict=True):
        assert line["verdict"] == prediction.verdict
        assert line["probability"] == pytest.approx(prediction.probability, abs=1e-6)
        assert line["box"] == list(prediction.box)
        assert [r["text"] for r in line["reasons"]] == [r.text for r in prediction.reasons]
    assert lines[0]["probability"] is not None
    assert set(lines[0]["regions"]) == {"mouth", "nose", "eyes", "face"}


def test_codes_say_why_there_is_no_verdict(detector: Detector, tmp_path: Path) -> None:
    (tmp_path / "text.jpg").write_text("no picture")
    cases = {
        "no_face": put(tmp_path / "empty.png", scene()),
        "unreadable": tmp_path / "text.jpg",
        "missing_file": tmp_path / "gone.png",
        "no_frames": write_video(tmp_path / "none.avi", []),
    }
    for code, path in cases.items():
        (line,) = judged(path, detector)
        assert (line["verdict"], line["probability"], line["reasons"]) == (code, None, [])
        assert bool(line.get("message")) == (code != "no_face")


def test_crops_are_classified_uncropped(detector: Detector, tmp_path: Path) -> None:
    crop = draw(5, 48)
    (line,) = judged(put(tmp_path / "crop.png", crop), detector, crops=True)
    assert line["probability"] == pytest.approx(detector.predict([crop])[0].probability, abs=1e-6)
    assert line["box"] is None


def test_faces_of_a_batch_keep_their_own_predictions(detector: Detector, tmp_path: Path) -> None:
    paths = [put(tmp_path / f"{n}.png", draw(n, 40)) for n in range(11)]
    cases = [pipeline.read_input(path, None, PredictSettings()) for path in paths]
    results = list(pipeline.classify(iter(cases), detector, 4))
    assert [result.path for result in results] == paths
    expected = [detector.predict([draw(n, 40)])[0].probability for n in range(11)]
    probabilities = [result.faces[0].prediction.probability for result in results]
    np.testing.assert_allclose(probabilities, expected, atol=1e-6)


# --- videos ---


def test_a_video_has_an_aggregate_and_its_driving_frames(
    detector: Detector, tmp_path: Path
) -> None:
    frames = [scene((20 + n // 4, 20, 60), seed=n) for n in range(20)]
    *faces, whole = judged(write_video(tmp_path / "a.avi", frames), detector, frames=5)
    assert [face["frame"] for face in faces] == [0, 4, 9, 14, 19]
    assert {face["person"] for face in faces} == {0}
    assert (whole["kind"], whole["frames"], whole["frames_looked_at"]) == ("video", 20, 5)
    by_frame = {face["frame"]: face["probability"] for face in faces}
    assert whole["probability"] == pytest.approx(np.mean(list(by_frame.values())))
    ordered = sorted(by_frame, key=by_frame.get, reverse=whole["verdict"] != "real")
    assert [driver["frame"] for driver in whole["drove"]] == ordered[:3]
    assert whole["drove"][0]["second"] == pytest.approx(ordered[0] / 25, abs=0.2)
    said = {reason["text"] for face in faces for reason in face["reasons"]}
    assert {reason["text"] for reason in whole["reasons"]} <= said


def test_people_are_distinguished_and_the_most_suspicious_decides(
    detector: Detector, tmp_path: Path
) -> None:
    frames = [scene((10, 20, 70), (120, 30, 50), seed=n) for n in range(12)]
    *faces, whole = judged(write_video(tmp_path / "a.avi", frames), detector, frames=4)
    assert len(faces) == 8
    means = {
        who: np.mean([face["probability"] for face in faces if face["person"] == who])
        for who in (0, 1)
    }
    assert whole["probability"] == pytest.approx(max(means.values()))
    assert {p["person"]: p["frames"] for p in whole["people"]} == {0: 4, 1: 4}
    assert {d["person"] for d in whole["drove"]} == {max(means, key=means.get)}


def test_only_the_start_of_a_long_video_is_used(detector: Detector, tmp_path: Path) -> None:
    path = write_video(tmp_path / "a.avi", [scene((10, 20, 70))] * 90)
    *faces, whole = judged(path, detector, frames=3, max_frames=31)
    assert [face["frame"] for face in faces] == [0, 15, 30]
    assert whole["frames"] == 90
    assert whole["notes"] == ["long: only the first 31 frames were used"]


def test_a_header_that_states_a_million_frames_is_checked(
    detector: Detector, tmp_path: Path
) -> None:
    path = write_video(tmp_path / "a.avi", [scene((10, 20, 70), seed=n) for n in range(30)])
    data = bytearray(path.read_bytes())
    for mark, offset in ((b"avih", 24), (b"strh", 40)):  # the two fields that state the length
        at = data.index(mark) + offset
        assert data[at : at + 4] == (30).to_bytes(4, "little")
        data[at : at + 4] = (1_000_000).to_bytes(4, "little")
    data[data.index(b"idx1") : data.index(b"idx1") + 4] = b"junk"  # the index has the true length
    path.write_bytes(data)
    *faces, whole = judged(path, detector, frames=4)
    assert [face["frame"] for face in faces] == [0, 9, 19, 29]
    assert whole["frames_looked_at"] == 4


def test_a_video_without_faces_says_so(detector: Detector, tmp_path: Path) -> None:
    *_, whole = judged(write_video(tmp_path / "a.avi", [scene()] * 9), detector, frames=3)
    assert (whole["kind"], whole["verdict"], whole["probability"]) == ("video", "no_face", None)


# --- the terminal ---


def test_a_file_name_cannot_control_the_terminal(detector: Detector, tmp_path: Path) -> None:
    path = put(tmp_path / "a\x1b[2J\nfake.png", draw(0))
    (text, *_) = console.describe(judged(path, detector, crops=True), color=False)
    assert "\x1b" not in text
    assert "\n" not in text


# --- the command ---


def predict(*arguments: object, **kwargs: Any) -> subprocess.CompletedProcess[str]:
    return tiny.command("launch.predict", *arguments, **kwargs)


def lines_of(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_a_model_trained_without_masks_shows_no_maps(workdir: Path, tmp_path: Path) -> None:
    picture = put(tmp_path / "p.png", draw(1, 64))
    done = predict(
        f"--checkpoint={workdir}", "--crops", f"--overlay={tmp_path / 'o'}",
        f"--html={tmp_path / 'r.html'}", picture,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "no heat maps: this model was trained without forgery masks" in done.stderr
    assert "geometry unknown: with --crops" in done.stderr
    (path,) = (tmp_path / "o").iterdir()
    with PIL.Image.open(path) as overlay:
        assert overlay.width < 2 * 256  # the face alone
    assert "Where the classifier finds it fake" not in (tmp_path / "r.html").read_text()
    masked = tiny_workdir.write(tmp_path / "masked", LossConfig(local=0.5))
    assert Detector.from_pretrained(masked).trained.learned_from_masks


def test_a_head_that_was_never_trained_gives_no_verdicts(workdir: Path, tmp_path: Path) -> None:
    copied = shutil.copytree(workdir, tmp_path / "run")
    config = json.loads((copied / "config.json").read_text())
    config["config"]["loss"]["image"] = 0.0
    (copied / "config.json").write_text(json.dumps(config))
    with pytest.raises(UserError, match=r"loss\.image is 0, so the head"):
        Detector.from_pretrained(copied)


def test_the_command_writes_lines_overlays_and_a_report_and_resumes(
    workdir: Path, tmp_path: Path
) -> None:
    name = "<img src=x onerror=alert(1)>&.png"
    pictures = tmp_path / "pictures"
    pictures.mkdir()
    exif = PIL.Image.Exif()
    exif[0x010F] = "<script>alert(2)</script>"
    PIL.Image.fromarray(draw(1, 64)).save(pictures / name, exif=exif)
    put(pictures / "b.png", draw(2, 64))
    (pictures / "c.jpg").write_text("no picture")
    common = (f"--checkpoint={workdir}", f"--out={tmp_path / 'a.jsonl'}", "--crops")
    done = predict(
        *common, "--maps", f"--overlay={tmp_path / 'maps'}", f"--html={tmp_path / 'r.html'}",
        pictures,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    actual = lines_of(tmp_path / "a.jsonl")
    assert [Path(line["path"]).name for line in actual] == [name, "b.png", "c.jpg"]
    assert actual[2]["verdict"] == "unreadable"
    assert all(line["schema"] == 1 and len(line["model"]["hash"]) == 64 for line in actual)
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ", actual[0]["time"])
    for line in actual[:2]:
        with PIL.Image.open(line["overlay"]) as overlay:
            assert overlay.width > 2 * 256
            assert np.asarray(overlay.convert("L")).std() > 10
    page = (tmp_path / "r.html").read_text()
    assert "&lt;script&gt;alert(2)" in page
    assert "<script" not in page
    assert "<img src=x" not in page
    assert not re.search(r"(src|href)=[\"']?https?:", page)
    assert actual[0]["sha256"] in page
    assert done.stdout.splitlines()[-1].startswith("3 files: ")

    # A kill in the middle of a line; then a file that is new and one that is changed.
    whole = (tmp_path / "a.jsonl").read_bytes()
    (tmp_path / "a.jsonl").write_bytes(whole[: whole.rindex(b"\n", 0, -1) + 40])
    put(pictures / "b.png", draw(4, 64))
    put(pictures / "d.png", draw(3, 64))
    again = predict(*common, pictures)
    assert again.returncode == 0, again.stderr
    names = [Path(line["path"]).name for line in lines_of(tmp_path / "a.jsonl")]
    assert names == [name, "b.png", "b.png", "c.jpg", "d.png"]
    assert (tmp_path / "a.jsonl").read_bytes().startswith(whole[: whole.index(b"\n")])
    assert "1 files were answered before" in again.stdout

    for wrong, says in (
        (("--frames=3",), "another model or preprocessing"),
        ((f"--out={pictures / 'b.png'}",), "not a prediction of this version"),
    ):
        refused = predict(*common, *wrong, pictures)
        assert refused.returncode == 1
        *remarks, error = refused.stderr.strip().splitlines()
        assert says in error
        assert all(text.startswith("geometry unknown") for text in remarks)


def test_mistakes_are_one_line_and_leave_nothing(workdir: Path, tmp_path: Path) -> None:
    (tmp_path / "bad.png").write_text("no picture")
    out = tmp_path / "a.jsonl"
    shutil.copytree(workdir, tmp_path / "hf")
    (tmp_path / "hf/config.json").write_text('{"model_type": "clip"}')
    cases = [
        ([f"--checkpoint={workdir}"], "no inputs"),
        ([f"--checkpoint={tmp_path}", f"--out={out}", tmp_path / "bad.png"], "is not a trained workdir"),
        ([f"--checkpoint={tmp_path / 'hf'}", f"--out={out}", tmp_path / "bad.png"], "not a run's config"),
    ]  # fmt: skip
    for arguments, says in cases:
        done = predict(*arguments)
        assert done.returncode == 1
        assert says in done.stderr
        assert len(done.stderr.strip().splitlines()) == 1
        assert not out.exists()
    done = predict(f"--checkpoint={workdir}", "--crops", tmp_path / "bad.png")
    assert done.returncode == 1
    assert "none of the files could be read" in done.stderr
    assert "unreadable" in done.stdout
