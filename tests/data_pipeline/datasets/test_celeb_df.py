"""Celeb-DF of every version: which real a fake has, and the list of test videos."""

from __future__ import annotations

import pytest

from data_pipeline.datasets import PLAIN
from jax_vlffd.errors import UserError
from tests.support.dataset_trees import Tree, by_name, check


@pytest.mark.parametrize(
    ("name", "dataset", "label", "place"),
    [
        ("celeb_df_v1", "Celeb-DF-v1", "CelebDFv1", ""),
        ("celeb_df_v2", "Celeb-DF-v2", "CelebDFv2", "videos/"),
    ],
)
def test_celeb_df(tree: Tree, name: str, dataset: str, label: str, place: str) -> None:
    tree.videos(
        f"Celeb-real/{place}id0_0000.mp4",
        f"Celeb-real/{place}id1_0003.mp4",
        f"YouTube-real/{place}00000.mp4",
        f"Celeb-synthesis/{place}id0_id1_0000.mp4",
        f"Celeb-synthesis/{place}id2_id1_0000.mp4",
    )
    tree.text(
        "List_of_testing_videos.txt",
        "1 Celeb-real/id0_0000.mp4\n0 Celeb-synthesis/id0_id1_0000.mp4\n1 YouTube-real/00099.mp4\n",
    )
    collection = PLAIN[name](tree.root)
    check(collection)
    result = by_name(collection)
    assert result["id0_id1_0000"].real == f"{dataset}/Celeb-real/id0_0000"
    assert result["id2_id1_0000"].real == ""  # its real is not there
    assert result["id0_id1_0000"].split == result["id0_0000"].split == "test"
    assert result["id1_0003"].split == result["id2_id1_0000"].split == "train"
    assert {video.bench_label for video in result.values()} == {f"{label}_real", f"{label}_fake"}
    assert collection.notes == ("1 of the 3 videos of List_of_testing_videos.txt are not there",)


def test_celeb_df_pp(tree: Tree) -> None:
    swap = "Celeb-synthesis/FaceSwap/BlendFace/id0_id1_0000.mp4"
    tree.videos(
        *("Celeb-real/id0_0000.mp4", "YouTube-real/00000.mp4", swap),
        "Celeb-synthesis/FaceSwap/Celeb-DF/id0_id1_0000.mp4",
        "Celeb-synthesis/TalkingFace/FLOAT/id0_id1_0000.mp4",
    )
    tree.text("List_of_testing_videos.txt", f"0 {swap}\n1 Celeb-real/id0_0000.mp4\n")
    collection = PLAIN["celeb_df_pp"](tree.root)
    check(collection)
    result = {video.method: video for video in collection.videos if video.label}
    assert set(result) == {"BlendFace", "Celeb-DF", "FLOAT"}
    assert result["BlendFace"].real == "Celeb-DF++/Celeb-real/id0_0000"
    assert result["FLOAT"].real == ""  # no video of the set has its frames
    assert [result[m].split for m in ("BlendFace", "Celeb-DF")] == ["test", "train"]


def test_a_fake_in_another_split_than_its_real_stands_alone(tree: Tree) -> None:
    tree.videos("Celeb-real/id0_0000.mp4", "Celeb-synthesis/id0_id1_0000.mp4")
    tree.text("List_of_testing_videos.txt", "0 Celeb-synthesis/id0_id1_0000.mp4\n")
    result = PLAIN["celeb_df_v2"](tree.root)
    check(result)
    assert {video.name: (video.split, video.real) for video in result.videos} == {
        "id0_0000": ("train", ""),
        "id0_id1_0000": ("test", ""),
    }
    assert "1 fakes are in another split" in result.notes[0]


def test_celeb_df_says_that_the_list_is_missing(tree: Tree) -> None:
    tree.videos("Celeb-real/id0_0000.mp4")
    result = PLAIN["celeb_df_v2"](tree.root)
    assert "List_of_testing_videos.txt" in result.notes[0]
    assert result.videos[0].split == ""


@pytest.mark.parametrize("line", ["0 Celeb-real/id0_0000.mp4", "real id0_0000.mp4", "1"])
def test_a_wrong_test_list_is_reported(tree: Tree, line: str) -> None:
    tree.videos("Celeb-real/id0_0000.mp4")
    tree.text("List_of_testing_videos.txt", f"1 Celeb-real/id0_0000.mp4\n{line}\n")
    with pytest.raises(UserError, match="line 2"):
        PLAIN["celeb_df_v2"](tree.root)
