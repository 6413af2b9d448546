"""Detection, stored landmarks and aligned crops."""

from __future__ import annotations

import importlib.util
import io
import xml.etree.ElementTree as ElementTree
from pathlib import Path

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from data_pipeline.faces import alignment, detection, landmarks
from jax_vlffd.errors import UserError

needs_dlib = pytest.mark.skipif(
    importlib.util.find_spec("dlib") is None
    or importlib.util.find_spec("face_recognition_models") is None,
    reason="the extra `faces` is not installed",
)


def _points() -> np.ndarray:
    return np.random.default_rng(0).uniform(20, 200, (68, 2)).astype(np.float32)


def _read(path: Path) -> np.ndarray:
    return cv2.cvtColor(cv2.imread(str(path)), cv2.COLOR_BGR2RGB)


@pytest.fixture(scope="module")
def face_detector() -> detection.FaceDetector:
    return detection.open_detector("dlib")


@pytest.mark.slow
@needs_dlib
def test_finds_nearly_all_annotated_faces_at_their_points(
    face_detector: detection.FaceDetector, shared_dir: Path
) -> None:
    folder = shared_dir / "data" / "landmark_faces"
    errors, missed = [], 0
    for name in ("testing_with_face_landmarks.xml", "training_with_face_landmarks.xml"):
        for picture in ElementTree.parse(folder / name).iter("image"):
            result = face_detector.detect(_read(folder / picture.attrib["file"]))
            for box in picture.iter("box"):
                parts = sorted(box.iter("part"), key=lambda part: int(part.attrib["name"]))
                truth = np.array([(int(p.attrib["x"]), int(p.attrib["y"])) for p in parts])
                if len(truth) != 68:
                    continue
                eyes = np.linalg.norm(truth[36] - truth[45])
                distances = [
                    np.linalg.norm(face.landmarks - truth, axis=1).mean() / eyes for face in result
                ]
                if not distances or min(distances) > 0.3:
                    missed += 1
                else:
                    errors.append(min(distances))
    assert missed <= 2
    assert len(errors) >= 18
    assert np.mean(errors) < 0.06


@needs_dlib
def test_no_face_in_a_picture_of_dogs_nor_in_noise(
    face_detector: detection.FaceDetector, shared_dir: Path
) -> None:
    assert face_detector.detect(_read(shared_dir / "data" / "landmark_faces" / "dogs.jpg")) == []
    noise = np.random.default_rng(1).integers(0, 256, (200, 200, 3), dtype=np.uint8)
    assert face_detector.detect(noise) == []


@needs_dlib
def test_several_faces_come_largest_first(
    face_detector: detection.FaceDetector, shared_dir: Path
) -> None:
    result = face_detector.detect(_read(shared_dir / "data" / "landmark_faces" / "2008_004176.jpg"))
    assert len(result) >= 5
    assert [face.size for face in result] == sorted((f.size for f in result), reverse=True)


@needs_dlib
def test_a_dark_face_that_fills_its_crop_is_found(
    face_detector: detection.FaceDetector, shared_dir: Path
) -> None:
    pair = [
        shared_dir / "data" / "edited_faces" / kind / "easy_137_0001.png"
        for kind in ("real", "fake")
    ]
    assert any(face_detector.detect(_read(path)) for path in pair)


@needs_dlib
def test_a_doubtful_face_counts_only_for_those_who_know_of_one(
    face_detector: detection.FaceDetector, shared_dir: Path
) -> None:
    image = _read(shared_dir / "data" / "edited_faces" / "fake" / "easy_137_0001.png")
    small = cv2.resize(image, None, fx=0.6, fy=0.6, interpolation=cv2.INTER_AREA)
    assert face_detector.detect(small) == []
    (face,) = face_detector.detect(small, unsure=True)
    assert face.size > 0.4 * len(small)
    noise = np.random.default_rng(1).integers(0, 256, (200, 200, 3), dtype=np.uint8)
    dogs = _read(shared_dir / "data" / "landmark_faces" / "dogs.jpg")
    for picture in (noise, dogs, np.full((160, 160, 3), 128, np.uint8)):
        assert face_detector.detect(picture, unsure=True) == []


def test_unknown_detector_is_a_users_error() -> None:
    with pytest.raises(UserError, match="dlib or mediapipe"):
        detection.open_detector("haar")


def test_a_missing_extra_names_the_command(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(UserError, match=r"pip install 'jax-vlffd\[faces\]'"):
        detection.open_detector("dlib")
    with pytest.raises(UserError, match="pip install 'mediapipe"):
        detection.open_detector("mediapipe")


@pytest.mark.parametrize("count", [68, 81])
def test_landmarks_are_found_beside_the_image_and_in_the_twin_folder(
    tmp_path: Path, count: int
) -> None:
    points = np.random.default_rng(count).uniform(0, 99, (count, 2))
    frame = tmp_path / "c23" / "frames" / "000_003" / "007.png"
    assert landmarks.stored_landmarks(frame) is None
    twin = tmp_path / "c23" / "landmarks" / "000_003" / "007.npy"
    twin.parent.mkdir(parents=True)
    np.save(twin, points)
    np.testing.assert_allclose(landmarks.stored_landmarks(frame), points, rtol=1e-6)
    frame.parent.mkdir(parents=True)
    np.save(frame.with_suffix(".npy"), points + 1)  # beside the image wins
    np.testing.assert_allclose(landmarks.stored_landmarks(frame), points + 1, rtol=1e-6)


def test_only_the_last_folder_called_frames_is_swapped(tmp_path: Path) -> None:
    path = Path("/frames/set/frames/v/0.png")
    assert landmarks.landmark_paths(path)[1] == Path("/frames/set/landmarks/v/0.npy")


def _saved(points: object) -> bytes:
    file = io.BytesIO()
    np.save(file, np.asarray(points))
    return file.getvalue()


def _archive() -> bytes:
    file = io.BytesIO()
    np.savez(file, np.zeros((68, 2)))
    return file.getvalue()


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"nonsense",
        _saved(np.zeros((5, 2))),
        _saved(np.full((68, 2), "x")),
        _saved(np.full((68, 2), None)),
        _saved(np.full((68, 2), 1j)),
        _saved(np.full((68, 2), np.nan)),
        _saved(np.full((68, 2), 1e30)),
        _saved(np.zeros((500, 500))),
        _saved(np.zeros((68, 2)))[:300],
        _saved(np.zeros((68, 2))).replace(b"(68, 2), }          ", b"(68000000000000, 2), }"[:20]),
        _archive(),
    ],
)
def test_bad_landmark_files_are_reported(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "a.npy").write_bytes(content)
    with pytest.raises(UserError, match=r"a\.npy"):
        landmarks.stored_landmarks(tmp_path / "a.png")


@settings(max_examples=50, deadline=None)
@given(
    angle=st.floats(-3.1, 3.1),
    scale=st.floats(0.1, 10),
    x=st.floats(-100, 100),
    y=st.floats(-100, 100),
)
def test_similarity_recovers_any_rotation_scale_and_shift(
    angle: float, scale: float, x: float, y: float
) -> None:
    source = np.random.default_rng(3).normal(size=(5, 2)) * 30
    turn = scale * np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    target = source @ turn.T + (x, y)
    matrix = alignment.similarity(source, target)
    np.testing.assert_allclose(source @ matrix[:, :2].T + matrix[:, 2], target, atol=1e-6)


def test_align_crop_lays_the_five_points_on_the_template() -> None:
    image = np.random.default_rng(0).integers(0, 256, (220, 220, 3), dtype=np.uint8)
    points = _points()
    template = np.array(
        [
            [38.2946, 51.6963],
            [73.5318, 51.5014],
            [56.0252, 71.7366],
            [41.5493, 92.3655],
            [70.7299, 92.2041],
        ]
    )
    angle, scale = 0.4, 0.8
    turn = scale * np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    points[[37, 44, 30, 49, 55]] = template @ turn.T + 60
    matrix = alignment.crop_matrix(points, alignment.CropSettings(256, margin=1.3))
    crop, moved = alignment.crop(image, matrix, 256), alignment.move(points, matrix)
    assert crop.shape == (256, 256, 3)
    assert crop.dtype == np.uint8
    expected = 256 * ((template / 112 - 0.5) / 1.3 + 0.5)
    np.testing.assert_allclose(moved[[37, 44, 30, 49, 55]], expected, atol=0.01)
    np.testing.assert_allclose(points @ matrix[:, :2].T + matrix[:, 2], moved, atol=0.01)


@pytest.mark.parametrize("margin", [0.0, 0.4, 3.0])
def test_face_box_stays_inside_the_image(margin: float) -> None:
    face = detection.Face((0, 0, 1, 1), _points() - 60, 1.0)
    left, top, right, bottom = detection.face_box(face, 150, 120, margin)
    assert 0 <= left < right <= 120
    assert 0 <= top < bottom <= 150
