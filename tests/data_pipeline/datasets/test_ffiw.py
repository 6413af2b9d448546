"""FFIW: sources are the reals of targets."""

from __future__ import annotations

from data_pipeline.datasets import PLAIN
from tests.support.dataset_trees import Tree, check


def test_ffiw(tree: Tree) -> None:
    tree.videos(
        *("source/train/a.mp4", "source/val/a.mp4", "target/train/a.mp4", "target/val/b.mp4"),
        "target_mask/train/a.mp4",
    )
    collection = PLAIN["ffiw"](tree.root)
    check(collection)
    fakes = {video.key: video for video in collection.videos if video.label}
    assert fakes["FFIW/target/train/a"].real == "FFIW/source/train/a"
    assert fakes["FFIW/target/val/b"].real == ""
    assert fakes["FFIW/target/val/b"].split == "validation"
    assert len(collection.videos) == 4
