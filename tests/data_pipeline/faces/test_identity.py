"""Grouping pictures by the face that they show."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from data_pipeline.faces.identity import MAX_PICTURES, connected_groups, group_by_face
from jax_vlffd.errors import UserError
from tests.support.video_trees import write_picture


def test_near_ones_are_joined_in_chains() -> None:
    points = np.array([[0.0], [5.0], [0.5], [np.nan], [1.0], [9.0], [np.nan], [5.5]], np.float32)
    assert connected_groups(points, 0.6) == [0, 1, 0, 3, 0, 5, 3, 1]
    assert connected_groups(points, 0.4) == [0, 1, 2, 3, 4, 5, 3, 7]
    assert connected_groups(points[:0], 0.6) == []


def test_many_rows_are_compared_by_blocks() -> None:
    rng = np.random.default_rng(0)
    people = rng.normal(size=(40, 8)).astype(np.float32) * 10
    whose = rng.integers(0, 40, 1200)
    group = connected_groups(
        people[whose] + rng.normal(size=(1200, 8)).astype(np.float32) * 0.01, 0.6
    )
    assert all(len({group[i] for i in np.flatnonzero(whose == who)}) == 1 for who in set(whose))
    assert len(set(group)) == len(set(whose))


def test_real_people_are_reported_apart(shared_dir: Path) -> None:
    """Two frames of one man, a woman, and a picture without a face."""
    folder = shared_dir / "data/ffpp_crops"
    names = ("Deepfakes/real/roi_4.jpg", "Face2Face/real/roi_4.jpg", "Deepfakes/real/roi_15.jpg")
    groups, unknown = group_by_face([folder / name for name in names])
    assert (groups, unknown) == ([0, 0, 2], 0)


@pytest.mark.slow
def test_pictures_without_a_face_stay_together_and_damage_is_reported(tmp_path: Path) -> None:
    pytest.importorskip("dlib")
    paths = [write_picture(tmp_path / f"{name}.png") for name in "ab"]
    assert group_by_face(paths) == ([0, 0], 2)
    paths[1].write_bytes(b"no picture")
    with pytest.raises(UserError, match=r"b\.png is not a picture"):
        group_by_face(paths)
    with pytest.raises(UserError, match="too many to compare"):
        group_by_face([paths[0]] * (MAX_PICTURES + 1))
