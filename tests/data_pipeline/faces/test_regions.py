"""The four region maps and the threshold of a region."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from data_pipeline.faces import regions
from data_pipeline.fftg.measure import forged_regions
from data_pipeline.fftg.measure.thresholds import DEFAULT
from data_pipeline.synthetic.anatomy import draw_identity
from data_pipeline.synthetic.faces import draw_face
from jax_vlffd.vocabulary import REGIONS


def _face(seed: int = 0, size: int = 128) -> np.ndarray:
    rng = np.random.default_rng(seed)
    return draw_face(draw_identity(rng), rng, size)[1]


@pytest.mark.parametrize("seed", range(5))
def test_regions_are_disjoint_and_hold_their_landmarks(seed: int) -> None:
    points = _face(seed)
    maps = regions.region_maps(points, 128, 128)
    assert list(maps) == list(REGIONS)
    assert sum(region.astype(int) for region in maps.values()).max() == 1
    at = points.round().astype(int)
    for name, chosen in {
        "mouth": range(48, 68),
        "nose": range(29, 34),
        "eyes": range(36, 48),
    }.items():
        assert all(maps[name][at[i, 1], at[i, 0]] for i in chosen), name
    assert maps["eyes"][at[19, 1], at[19, 0]]  # brows belong to the eyes
    cheek = (points[2] + points[31]) / 2
    assert maps["face"][int(cheek[1]), int(cheek[0])]


def test_the_forehead_is_face() -> None:
    points = _face(1)
    brow, tip = points[17:27].mean(axis=0), points[30]
    above = brow + 0.5 * (brow - tip)
    assert regions.region_maps(points, 128, 128)["face"][int(above[1]), int(above[0])]


def test_81_points_bring_their_own_forehead() -> None:
    points = _face(2)
    brow, tip = points[17:27].mean(axis=0), points[30]
    high = brow + 1.0 * (brow - tip)
    crown = np.linspace(np.add(high, (-20, 0)), np.add(high, (20, 0)), 13)
    maps = regions.region_maps(np.concatenate([points, crown]).astype(np.float32), 128, 128)
    assert maps["face"][int(high[1]) + 1, int(high[0])]


@settings(max_examples=40, deadline=None)
@given(
    scale=st.floats(0.2, 3.0),
    x=st.floats(-300, 300),
    y=st.floats(-300, 300),
    height=st.integers(8, 200),
    width=st.integers(8, 200),
)
def test_faces_partly_or_wholly_out_of_view_do_no_harm(
    scale: float, x: float, y: float, height: int, width: int
) -> None:
    points = (_face() * scale + (x, y)).astype(np.float32)
    labels = regions.region_labels(points, height, width)
    assert labels.shape == (height, width)
    assert labels.max() <= len(REGIONS)


@settings(max_examples=20, deadline=None)
@given(scale=st.floats(0.5, 2.0))
def test_face_size_follows_the_scale(scale: float) -> None:
    points = _face()
    ratio = regions.face_size((points * scale).astype(np.float32)) / regions.face_size(points)
    assert ratio == pytest.approx(scale, rel=0.01)


def test_region_scores_are_the_means_of_each_region() -> None:
    labels = regions.region_labels(_face(), 128, 128)
    values = np.random.default_rng(0).random((128, 128)).astype(np.float32)
    expected = [values[labels == 1 + i].mean() for i in range(len(REGIONS))]
    np.testing.assert_allclose(forged_regions.region_scores(values, labels), expected, rtol=1e-5)
    assert forged_regions.region_scores(values, np.zeros_like(labels)) == [0, 0, 0, 0]


def test_threshold_rises_with_noise_and_with_the_strongest_region() -> None:
    quiet = forged_regions.region_threshold((0.8, 0.1), 0.0, DEFAULT)
    noisy = forged_regions.region_threshold((4.0, 4.0), 0.0, DEFAULT)
    between = forged_regions.region_threshold((1.4, 1.4), 0.0, DEFAULT)
    assert quiet == pytest.approx(DEFAULT.forged / 255)
    assert noisy == pytest.approx(DEFAULT.forged_noisy / 255)
    assert quiet < between < noisy
    assert forged_regions.region_threshold((0.8, 0.1), 0.5, DEFAULT) == pytest.approx(
        0.25 * DEFAULT.fringe
    )


def test_regions_lie_where_people_put_the_68_points(shared_dir: Path) -> None:
    import xml.etree.ElementTree as ElementTree

    file = shared_dir / "data" / "landmark_faces" / "training_with_face_landmarks.xml"
    seen = 0
    for box in ElementTree.parse(file).iter("box"):
        parts = sorted(box.iter("part"), key=lambda part: int(part.attrib["name"]))
        points = np.array([(int(p.attrib["x"]), int(p.attrib["y"])) for p in parts], np.float32)
        if len(points) != 68:
            continue
        points = points - points.min(axis=0) + 60
        size = int(points.max()) + 60
        areas = {k: v.sum() for k, v in regions.region_maps(points, size, size).items()}
        assert areas["face"] > areas["eyes"] > 0.3 * areas["mouth"] > 0
        assert areas["face"] > 4 * areas["nose"] > 0
        seen += 1
    assert seen >= 10


def test_the_nose_begins_halfway_down_its_bridge() -> None:
    points = _face()
    nose = regions.region_maps(points, 128, 128)["nose"]
    root, tip = points[27], points[30]
    for share, within in ((0.0, False), (0.2, False), (0.6, True), (1.0, True)):
        x, y = np.rint(root + share * (tip - root)).astype(int)
        assert nose[y, x] == within, share


def test_what_spills_into_a_weaker_neighbor_is_not_its_own() -> None:
    labels = np.zeros((60, 60), np.uint8)
    labels[:30], labels[30:] = 1, 2
    values = np.zeros((60, 60), np.float32)
    values[:30], values[30:36] = 0.5, 0.3
    scores = forged_regions.region_scores(values, labels)
    assert scores[1] > 0.05
    assert forged_regions.without_spill(scores, values, labels, 0.01, 70.0)[:2] == [0.5, 0.0]
    values[45:] = 0.1  # an edit of its own
    scores = forged_regions.region_scores(values, labels)
    assert forged_regions.without_spill(scores, values, labels, 0.01, 70.0)[1] > 0.05
    # Where the band covers all of the weaker region, its deepest part is judged.
    assert forged_regions.without_spill(scores, values, labels, 0.01, 500.0)[1] > 0.05
    values[45:] = 0.0
    scores = forged_regions.region_scores(values, labels)
    assert forged_regions.without_spill(scores, values, labels, 0.01, 500.0)[:2] == [0.5, 0.0]


def test_a_change_of_one_eye_alone_counts_for_the_eyes() -> None:
    points = _face()
    labels = regions.region_labels(points, 128, 128)
    index = REGIONS.index("eyes")
    values = np.zeros((128, 128), np.float32)
    x, y = np.rint(points[36:42].mean(axis=0)).astype(int)
    values[y - 3 : y + 4, x - 3 : x + 4] = 0.5
    mean = forged_regions.region_scores(values, labels)[index]
    assert forged_regions.eyes_score(mean, values, points) > 1.5 * mean
    evenly = np.full((128, 128), 0.5, np.float32)
    assert forged_regions.eyes_score(0.5, evenly, points) == 0.5
