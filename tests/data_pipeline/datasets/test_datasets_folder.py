"""A folder of one's own: paired by path and name, or by a table."""

from __future__ import annotations

import pytest

from data_pipeline.datasets import PLAIN
from jax_vlffd.errors import UserError
from tests.support.dataset_trees import Tree, by_name, check


def test_folder_pairs_by_path_and_by_name(tree: Tree) -> None:
    tree.videos("real/a.mp4", "real/deep/c.mp4", "fake/a.avi", "fake/swap/c.mp4", "fake/z.mp4")
    tree.pictures("real/p.png", "fake/p.jpg", "real/seq/0.png", "fake/seq/0.png", "fake/seq/1.png")
    collection = PLAIN["folder"](tree.root)
    check(collection)
    reals = {video.name: video.real for video in collection.videos if video.label}
    top = tree.root.name
    assert reals == {
        "a": f"{top}/real/a",
        "c": f"{top}/real/deep/c",
        "z": "",
        "p": f"{top}/real/p",
        "seq": f"{top}/real/seq",
    }
    assert {video.method for video in collection.videos if video.label} == {"fake", "swap"}
    assert {video.split for video in collection.videos} == {""}


def test_folders_may_be_in_capitals(tree: Tree) -> None:
    tree.videos("Real/a.mp4", "FAKE/a.mp4")
    [fake, real] = PLAIN["folder"](tree.root).videos
    assert (fake.label, fake.real, fake.method) == (1, real.key, "fake")
    tree.videos("real/b.mp4")
    with pytest.raises(UserError, match="has both Real/ and real/"):
        PLAIN["folder"](tree.root)


def test_folder_with_a_table(tree: Tree) -> None:
    tree.pictures("x/1.png", "x/2.png", "y/3.png", "x/unlisted.png")
    tree.text(
        "pairs.csv",
        "real,fake,method,split\nx/1.png,x/2.png,swap,val\nx/1.png,,,val\n,y\\3.png,gan,test\n",
    )
    collection = PLAIN["folder"](tree.root)
    check(collection)
    result = by_name(collection)
    assert set(result) == {"1", "2", "3"}
    assert result["2"].real == result["1"].key
    assert (result["2"].method, result["2"].split) == ("swap", "validation")
    assert (result["3"].method, result["3"].real) == ("gan", "")


@pytest.mark.parametrize(
    ("row", "error"),
    [
        ("../a.png,,", "leaves"),
        ("gone.png,,", "is not there"),
        ("x/1.png,x/1.png,", "another row"),
        ("x/1.png,x/2.png,dev", "'dev'"),
    ],
)
def test_wrong_rows_are_reported(tree: Tree, row: str, error: str) -> None:
    tree.pictures("x/1.png", "x/2.png")
    tree.text("pairs.csv", f"real,fake,split\n{row}\n")
    with pytest.raises(UserError, match=error) as caught:
        PLAIN["folder"](tree.root)
    assert "row 2" in str(caught.value)
