"""WildDeepfake: sequences of crops."""

from __future__ import annotations

import pytest

from data_pipeline.datasets import PLAIN
from data_pipeline.datasets.base import crops
from jax_vlffd.errors import UserError
from tests.support.dataset_trees import Tree, check


def test_wild_deepfake(tree: Tree) -> None:
    tree.pictures(
        *(f"deepfake_in_the_wild/fake_train/0/fake/1/{i}.png" for i in (9, 10, 100)),
        "deepfake_in_the_wild/fake_train/0/fake/2/5.png",
        "deepfake_in_the_wild/real_test/3/real/1/7.png",
    )
    collection = PLAIN["wild_deepfake"](tree.root)
    check(collection)
    result = {(video.group, video.name): video for video in collection.videos}
    assert set(result) == {
        ("fake_train", "0_fake_1"),
        ("fake_train", "0_fake_2"),
        ("real_test", "3_real_1"),
    }
    assert all(video.cropped and not video.real for video in result.values())
    assert list(crops(result["fake_train", "0_fake_1"])[0]) == [9, 10, 100]
    assert result["real_test", "3_real_1"].split == "test"
    assert sum(collection.expected.values()) == 7314


def test_packed_archives_of_wild_deepfake_are_reported(tree: Tree) -> None:
    tree.text("real_train/0.tar.gz", "")
    with pytest.raises(UserError, match="unpack"):
        PLAIN["wild_deepfake"](tree.root)
