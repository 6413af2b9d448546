"""How faces lie in pictures: measured, packed, kept with a model, and held against what is judged."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from data_pipeline.faces.cropper import FaceCropper
from data_pipeline.packed import face_geometry
from data_pipeline.packed.builder import pack
from data_pipeline.packed.reader import PackedSplit
from jax_vlffd import geometry
from jax_vlffd.errors import UserError
from jax_vlffd.inference import trained as pretrained
from jax_vlffd.inference.detector import Detector
from jax_vlffd.preprocessing import FaceGeometry
from jax_vlffd.preprocessing import face_geometry as measure
from launch.experiment import training_data
from launch.prediction import console, pipeline
from launch.prediction.pipeline import PredictSettings
from tests.launch.prediction.test_predict import put, scene
from tests.support import packed_sets, tiny, tiny_workdir
from tests.support.packed_sets import write_annotations
from tests.support.video_trees import DiscDetector, landmarks

TIGHT = FaceGeometry(0.75, 1.0, 0.0, 0.125, 40.0, 0.0)


def entry(face: FaceGeometry, **changes: float) -> dict[str, Any]:
    """As training keeps a set whose faces all lie about so."""
    rows = np.array([face._replace(**changes)] * 20, np.float32)
    return geometry.quantiles(rows + np.linspace(-0.01, 0.01, 20, dtype=np.float32)[:, None])


def describe(workdir: Path, *entries: Any) -> Path:
    sets = [
        {"set": "s", "digest": "d", "records": 20, "methods": [], "card": None, "geometry": result}
        for result in entries
    ]
    training_data.save(workdir, {"version": 1, "train": sets, "validation": []})
    return workdir


def test_a_face_is_measured_in_the_centered_square() -> None:
    points = landmarks((20.0, 10.0, 60.0, 50.0))
    result = measure(points, 80, 100)  # the square reaches from 10 to 90
    assert result.pixels == pytest.approx(40)
    assert result.width == pytest.approx(40 / 80)
    assert result.x == pytest.approx((40 - 50) / 80)
    assert result.height == pytest.approx(np.ptp(points[:, 1]) / 80)
    assert result.roll == pytest.approx(0, abs=1e-4)
    turned = points @ np.array([[0.0, 1.0], [-1.0, 0.0]])
    assert measure(turned, 80, 100).roll == pytest.approx(90)
    assert measure(np.vstack([points, np.zeros((13, 2))]), 80, 100) == result  # no forehead


def test_a_face_is_judged_by_what_training_kept() -> None:
    wide = FaceGeometry(0.35, 0.45, 0.0, 0.1, 40.0, 0.0)
    trained = geometry.Trained.of([entry(TIGHT)])
    assert trained.judge(TIGHT) == "as_trained"
    assert trained.judge(TIGHT._replace(pixels=400.0)) == "as_trained"
    others = (wide, TIGHT._replace(x=0.3), TIGHT._replace(roll=40.0), TIGHT._replace(width=0.6))
    assert {trained.judge(face) for face in others} == {"outside"}
    assert trained.judge(None) == geometry.Trained().judge(TIGHT) == "unknown"
    mixed = geometry.Trained.of([entry(TIGHT), None])
    assert (mixed.judge(TIGHT), mixed.judge(wide)) == ("as_trained", "unknown")
    assert geometry.Trained.of([entry(TIGHT), entry(wide)]).judge(wide) == "as_trained"
    assert geometry.Trained.of([entry(TIGHT), entry(wide)]).placement() is None
    placed = trained.placement()
    assert (placed.height, placed.width) == pytest.approx((0.75, 1.0), abs=0.01)
    # What launch.prepare makes is cropped as ever.
    assert geometry.Trained.of([entry(FaceGeometry(0.48, 0.53, 0, 0.12, 9, 0))]).placement() is None


def test_few_measured_faces_say_nothing_of_a_set() -> None:
    rows = np.full((10, 6), np.nan, np.float32)
    rows[:4] = TIGHT
    assert geometry.quantiles(rows) is None
    rows[4] = TIGHT
    assert geometry.quantiles(rows)["faces"] == 5
    assert geometry.quantiles(None) is None


@pytest.mark.parametrize(
    "entry",
    [3, [], {}, {"height": [1, 2, 3]}, {name: [1, 1, "x"] for name in FaceGeometry._fields},
     {name: [3, 2, 1] for name in FaceGeometry._fields},
     {name: [0, 0, float("nan")] for name in FaceGeometry._fields}],
)  # fmt: skip
def test_a_damaged_description_is_one_line(workdir: Path, tmp_path: Path, entry: Any) -> None:
    folder = describe(shutil.copytree(workdir, tmp_path / "run"), entry)
    with pytest.raises(UserError, match="not a description of training sets") as error:
        pretrained.open_trained(folder)
    assert "\n" not in str(error.value)


def test_packing_stores_the_geometry_of_annotations_and_of_prepared_crops(tmp_path: Path) -> None:
    said = {name: round(value, 3) for name, value in TIGHT._asdict().items()}
    files = [
        write_annotations(tmp_path / "a", 3, ("One",), split="train", geometry=said),
        write_annotations(tmp_path / "b", 2, ("Two",), split="test"),
    ]
    np.save(tmp_path / "b" / "real_0.npy", landmarks((0, 0, 30, 30)))
    files[1].write_text(files[1].read_text().replace('"id": "', '"id": "b-'))
    pack(files, tmp_path / "packed")
    folder = tmp_path / "packed"
    rows = face_geometry.read(folder, "train", 6)
    np.testing.assert_allclose(rows, [TIGHT] * 6, atol=1e-3)
    test = face_geometry.read(folder, "test", 4)
    known = [PackedSplit(folder, "test")[n].id for n in range(4) if np.isfinite(test[n]).all()]
    assert known == ["b-Two_0/real"]
    assert test[np.isfinite(test).all(axis=1)][0][1] == pytest.approx(30 / 40)
    assert "index/train.geometry.npy" in (folder / "SHA256SUMS").read_text()
    # Kept by training; null where few faces are known, and for a set of before.
    _, data = tiny.settings(folder, validation=())
    (kept,) = training_data.describe(data)["train"]
    assert kept["geometry"]["height"] == pytest.approx([0.75] * 3)
    assert geometry.quantiles(test) is None
    (folder / "index" / "train.geometry.npy").unlink()
    (kept,) = training_data.describe(data)["train"]
    assert kept["geometry"] is None
    np.save(folder / "index" / "train.geometry.npy", rows[:2])
    with pytest.raises(UserError, match="is not of the set's 6 records; pack the set again"):
        training_data.describe(data)


@pytest.mark.parametrize("value", [3, {}, {"height": 1}, {k: "x" for k in FaceGeometry._fields}])
def test_a_line_with_a_wrong_geometry_is_named(tmp_path: Path, value: Any) -> None:
    file = write_annotations(tmp_path / "a", 1, geometry=value)
    with pytest.raises(UserError, match=r"annotations.jsonl:1: has a geometry that is not"):
        pack([file], tmp_path / "packed")


def lines(detector: Detector, path: Path, **crop: Any) -> list[dict[str, Any]]:
    """As `launch.predict` predictions of a picture."""
    finder = FaceCropper(DiscDetector(), size=64, smallest=20, **crop)
    finder = finder.fitted(detector.trained.geometry.placement())
    (done,) = pipeline.classify([pipeline.read_input(path, finder, PredictSettings())], detector, 8)
    return pipeline.lines(done, {"model": {}, "preprocessing": {}})


def test_pictures_are_cropped_as_trained_or_it_is_said_that_they_are_not(
    workdir: Path, tmp_path: Path
) -> None:
    path = put(tmp_path / "p.png", scene((60, 20, 50)))
    run = describe(shutil.copytree(workdir, tmp_path / "run"), entry(TIGHT))
    detector = Detector.from_pretrained(run)
    (line,) = lines(detector, path)
    assert line["geometry"] == "as_trained"
    (crop,) = FaceCropper(DiscDetector(), 64).fitted(detector.trained.geometry.placement()).crops(
        scene((60, 20, 50))
    )  # fmt: skip
    assert np.sqrt(crop.geometry.height * crop.geometry.width) == pytest.approx(0.866, rel=0.05)
    assert (crop.geometry.x, crop.geometry.y) == pytest.approx((0, 0.125), abs=0.01)
    (line,) = lines(detector, path, margin=1.3)
    assert line["geometry"] == "outside"
    assert any("geometry: outside" in text for text in console.describe([line], False))
    tally = console.Tally()
    tally.add([line])
    assert any("another geometry than the model's training set" in text for text in tally.summary())
    # The library alike; a model of before, and a picture that is a crop, are unknown.
    faces = FaceCropper(DiscDetector(), 64, margin=1.3, smallest=20)
    (prediction,) = Detector(detector.trained, faces)(scene((60, 20, 50)))
    assert (prediction.geometry, prediction.as_dict()["geometry"]) == ("outside", "outside")
    (prediction,) = detector(scene((60, 20, 50)))
    assert prediction.geometry == "unknown"
    (line,) = lines(Detector.from_pretrained(workdir), path)
    assert line["geometry"] == "unknown"


@pytest.mark.parametrize("shape", [(120, 120), (120, 200), (300, 260)])
def test_a_picture_that_is_as_trained_is_taken_whole(
    workdir: Path, tmp_path: Path, shape: tuple[int, int]
) -> None:
    image = np.full((*shape, 3), 90, np.uint8)
    side, middle = min(shape), (shape[1] // 2, shape[0] // 2 + min(shape) // 12)
    cv2.circle(image, middle, round(0.42 * side), (230, 40, 60), -1)
    (face,) = DiscDetector().detect(image)
    own = measure(face.landmarks, *shape)
    run = describe(shutil.copytree(workdir, tmp_path / "run"), entry(own._replace(x=0.03)))
    detector = Detector.from_pretrained(run)
    (prediction,) = Detector(detector.trained, FaceCropper(DiscDetector(), 64))(image)
    assert prediction.geometry == "as_trained"
    if side <= 4 * 64:  # the very pixels that --crops would give
        assert prediction.logit == detector.predict([image])[0].logit
    judge = detector.trained.geometry.judge
    (crop,) = FaceCropper(DiscDetector(), 64).fitted(None, judge).crops(image)
    assert crop.image.shape == (min(side, 256), min(side, 256), 3)
    moved = measure(
        face.landmarks @ crop.matrix[:, :2].T + crop.matrix[:, 2], *crop.image.shape[:2]
    )
    assert moved[:4] == pytest.approx(own[:4], abs=0.01)
    for own_way in ({"margin": 1.3}, {"align": False}):  # as the user asks, it is cropped
        (crop,) = FaceCropper(DiscDetector(), 64, **own_way).fitted(None, judge).crops(image)
        assert crop.image.shape == (64, 64, 3)


@pytest.mark.slow
def test_an_evaluation_says_that_a_set_has_another_geometry(tmp_path: Path) -> None:
    said = {name: value for name, value in TIGHT._asdict().items()}
    run = tiny_workdir.write_scoring(tmp_path / "run")
    packed_sets.make_set(tmp_path, 4, split="test", geometry=said)
    for trained, verdict in ((TIGHT, "as_trained"), (TIGHT._replace(height=0.4), "outside")):
        describe(run, entry(trained))
        out = tmp_path / verdict
        done = tiny.command(
            "launch.evaluate", f"--workdir={run}", f"--data=s={tmp_path / 'packed'}",
            f"--out={out}", "--bootstrap=0",
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        result = json.loads((out / "metrics.json").read_text())["geometry"]["run"]["s"]
        assert (result["verdict"], result["set"]["faces"]) == (verdict, 12)
        error = "100% of the faces lie in their pictures otherwise"
        assert (error in done.stderr) == (verdict == "outside")
        assert (error in (out / "report.html").read_text()) == (verdict == "outside")
