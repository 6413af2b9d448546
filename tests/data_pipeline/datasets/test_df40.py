"""DF40: methods over the reals of other sets."""

from __future__ import annotations

from collections import Counter

from data_pipeline.datasets import PLAIN
from tests.support.dataset_trees import Tree, check


def test_df40(tree: Tree) -> None:
    tree.pictures(
        "simswap/ff/frames/000_003/012.png",
        "simswap/cdf/frames/id0_id1_0000/012.png",
        "sadtalker/ff/frames/000_003/012.png",
        "StyleGAN2/ff/some_picture.png",
        "MidJourney/fake/a.png",
        "MidJourney/real/b.png",
        "FaceForensics++/original_sequences/youtube/c23/frames/000/012.png",
    )
    tree.videos("fsgan/ff/videos/004_982.mp4")
    collection = PLAIN["df40"](tree.root)
    check(collection)
    result = {(video.method, video.name): video for video in collection.videos}
    assert set(result) == {
        ("simswap", "000_003"),
        ("simswap", "id0_id1_0000"),
        ("sadtalker", "000_003"),
        ("StyleGAN2", "some_picture"),
        ("MidJourney", "a"),
        ("real", "b"),
        ("real", "000"),
        ("fsgan", "004_982"),
    }
    assert result["simswap", "000_003"].real.endswith("youtube/c23/000")
    assert result["sadtalker", "000_003"].real == ""
    assert result["simswap", "000_003"].bench_label == "simswap_Fake"
    assert not result["fsgan", "004_982"].cropped
    assert {video.split for video in collection.videos} == {"test"}


def test_df40_with_training_data(tree: Tree) -> None:
    tree.pictures("train/lia/ff/frames/a/0.png", "test/lia/ff/frames/a/0.png")
    splits = Counter(video.split for video in PLAIN["df40"](tree.root).videos)
    assert splits == {"train": 1, "test": 1}
