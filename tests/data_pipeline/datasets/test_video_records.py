"""What the adapters share: labels, numbers of frames, names that are there twice."""

from __future__ import annotations

from pathlib import Path

import pytest

from data_pipeline.core.frame_numbers import pictures
from data_pipeline.core.tables import split_name
from data_pipeline.datasets import PLAIN
from data_pipeline.datasets.base import read_label
from jax_vlffd.errors import UserError
from tests.support.dataset_trees import Tree
from tests.support.video_trees import write_picture


def test_labels_in_any_spelling() -> None:
    assert [read_label(x, "") for x in ("REAL", " Fake ", 0, 1, "1", True, False)] == [
        *(0, 1, 0, 1, 1, 1, 0)
    ]
    with pytest.raises(UserError, match="row 3: the label 'x'"):
        read_label("x", "row 3")


def test_splits_in_any_spelling() -> None:
    names = ("train", "val", "valid", "validation", "test", "dev", "")
    assert [split_name(name) for name in names] == [
        *("train", "validation", "validation", "validation", "test", None, None)
    ]


def test_frame_numbers_are_the_last_in_a_name(tmp_path: Path) -> None:
    for name in ("img2_010.png", "img2_009.jpg", "notes.txt"):
        write_picture(tmp_path / name) if name[-3:] != "txt" else (tmp_path / name).touch()
    assert {n: p.name for n, p in pictures(tmp_path).items()} == {
        9: "img2_009.jpg",
        10: "img2_010.png",
    }
    write_picture(tmp_path / "cover.png")
    assert list(pictures(tmp_path)) == [0, 1, 2]  # one has no number: the positions count


def test_two_videos_of_one_name_are_reported(tree: Tree) -> None:
    tree.videos("real/a.mp4", "real/a.avi", "fake/b.mp4")
    with pytest.raises(UserError, match="rename or remove"):
        PLAIN["folder"](tree.root)
    tree.videos("source/val/a.mp4", "source/val/a.avi")
    with pytest.raises(UserError, match="two videos called 'a'"):
        PLAIN["ffiw"](tree.root)
