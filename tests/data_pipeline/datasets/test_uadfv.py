"""UADFV: fakes are named after their reals."""

from __future__ import annotations

from data_pipeline.datasets import PLAIN
from tests.support.dataset_trees import Tree, by_name, check


def test_uadfv(tree: Tree) -> None:
    tree.videos("real/0000.mp4", "real/0001.mp4", "fake/0000_fake.mp4")
    collection = PLAIN["uadfv"](tree.root)
    check(collection)
    assert by_name(collection)["0000_fake"].real == "UADFV/real/0000"
    assert {video.split for video in collection.videos} == {"test"}
