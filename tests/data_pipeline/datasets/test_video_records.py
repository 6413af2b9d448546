"""What the adapters share: labels, numbers of frames, names that are there twice."""

from __future__ import annotations

from pathlib import Path

import pytest

from data_pipeline.core.frame_numbers import pictures
from data_pipeline.core.tables import split_name
from data_pipeline.datasets import COMPRESSED, PLAIN, Collection
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
    names = ("train", "val", "valid", "Validation", " TEST", "dev", "")
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


LAYOUTS = {
    "folder": ["real/a.mp4", "fake/x/a.mp4", "real/seq/0.png"],
    "faceforensics": [
        "original_sequences/youtube/c23/videos/000.mp4",
        "manipulated_sequences/Deepfakes/c23/frames/000_001/000.png",
    ],
    "wild_deepfake": ["real_train/1/real/7/0.png", "fake_test/2/fake/9/0.png"],
    "df40": ["simswap/ff/frames/000_001/000.png", "gan/fake/deep/1.png"],
    "uadfv": ["real/0001.mp4", "fake/0001_fake.mp4"],
    "ffiw": ["source/val/a.mp4", "target/val/a.mp4"],
}


@pytest.mark.parametrize("name", LAYOUTS)
def test_what_systems_leave_beside_files_is_passed_over(tree: Tree, name: str) -> None:
    tree.videos(*(file for file in LAYOUTS[name] if file.endswith(".mp4")))
    tree.pictures(*(file for file in LAYOUTS[name] if file.endswith(".png")))

    def scan(root: Path) -> Collection:
        return COMPRESSED[name](root, "c23") if name in COMPRESSED else PLAIN[name](root)

    clean = scan(tree.root)
    assert len(clean.videos) == len(LAYOUTS[name])
    for folder in [tree.root, *(path for path in tree.root.rglob("*") if path.is_dir())]:
        for file in ("._000.mp4", "._000.png", ".DS_Store", "Thumbs.db", "desktop.ini"):
            (folder / file).write_bytes(b"not a picture")
        (folder / "__MACOSX/000").mkdir(parents=True)
        (folder / "__MACOSX/000/000.png").write_bytes(b"not a picture")
    assert scan(tree.root) == clean


def test_files_that_are_not_read_are_counted_by_their_suffix(tree: Tree) -> None:
    tree.videos("real/a.mp4", "fake/a.mp4", "real/b.rmvb", "fake/x/c.RMVB", "fake/x/d.mp4")
    tree.text("real/list.txt", "")
    reason = "files with the suffix .rmvb, which are not read here"
    assert PLAIN["folder"](tree.root).left_out == {reason: 2}
    folder = "original_sequences/youtube/c23/videos"
    tree.videos(f"{folder}/000.mp4", f"{folder}/001.rmvb")
    assert COMPRESSED["faceforensics"](tree.root, "c23").left_out == {reason: 1}


def test_two_videos_of_one_name_are_reported(tree: Tree) -> None:
    tree.videos("real/a.mp4", "real/a.avi", "fake/b.mp4")
    with pytest.raises(UserError, match="rename or remove"):
        PLAIN["folder"](tree.root)
    tree.videos("source/val/a.mp4", "source/val/a.avi")
    with pytest.raises(UserError, match="two videos called 'a'"):
        PLAIN["ffiw"](tree.root)
