"""DFDC and its preview: labels and splits from their records."""

from __future__ import annotations

from typing import Any

import pytest

from data_pipeline.datasets import PLAIN
from jax_vlffd.errors import UserError
from tests.support.dataset_trees import Tree, by_name, check


def test_dfdc(tree: Tree) -> None:
    part = "train/dfdc_train_part_0"
    tree.videos(f"{part}/aaa.mp4", f"{part}/bbb.mp4", f"{part}/unlabeled.mp4", "test/ccc.mp4")
    tree.videos("test/ddd.mp4", "validation/eee.mp4")
    tree.text(
        f"{part}/metadata.json",
        {
            "aaa.mp4": {"label": "REAL", "split": "train"},
            "bbb.mp4": {"label": "FAKE", "split": "train", "original": "aaa.mp4"},
            "gone.mp4": {"label": "FAKE", "original": "aaa.mp4"},
        },
    )
    tree.text("test/labels.csv", "filename,label\nccc.mp4,0\nddd.mp4,1\n")
    tree.text("validation/metadata.json", {"eee.mp4": {"is_fake": 1}})
    collection = PLAIN["dfdc"](tree.root)
    check(collection)
    result = by_name(collection)
    assert result["bbb"].real == f"DFDC/{part}/aaa"
    assert {name: video.label for name, video in result.items()} == {
        **{"aaa": 0, "bbb": 1, "ccc": 0, "ddd": 1, "eee": 1}
    }
    assert [result[name].split for name in ("bbb", "ddd", "eee")] == ["train", "test", "validation"]
    assert sum(collection.left_out.values()) == 1


def test_dfdc_parts_may_lie_at_the_root(tree: Tree) -> None:
    tree.videos("dfdc_train_part_7/aaa.mp4")
    tree.text("dfdc_train_part_7/metadata.json", {"aaa.mp4": {"label": "REAL"}})
    assert PLAIN["dfdc"](tree.root).videos[0].split == "train"


def test_a_label_of_dfdc_that_is_none_is_reported(tree: Tree) -> None:
    tree.videos("test/ccc.mp4")
    tree.text("test/labels.csv", "filename,label\nccc.mp4,maybe\n")
    with pytest.raises(UserError, match=r"labels\.csv, 'ccc\.mp4'.*'maybe'"):
        PLAIN["dfdc"](tree.root)


def test_dfdc_without_labels_is_reported(tree: Tree) -> None:
    tree.videos("test/ccc.mp4")
    with pytest.raises(UserError, match="no labeled videos"):
        PLAIN["dfdc"](tree.root)


def test_dfdc_preview(tree: Tree) -> None:
    real, fake = "original_videos/11/11_A_001.mp4", "method_B/11/11_A/22_11_A_001.mp4"
    tree.videos(real, fake, "method_A/extra.mp4")
    tree.text(
        "dataset.json",
        {
            real: {"label": "real", "set": "train", "target_id": "11"},
            fake: {"label": "fake", "set": "train", "target_id": "11", "swapped_id": "22"},
            "method_A/33/33_A/44_33_A_000.mp4": {"label": "fake", "set": "train"},
        },
    )
    collection = PLAIN["dfdc_preview"](tree.root)
    check(collection)
    result = by_name(collection)
    assert result["22_11_A_001"].real == "DFDCP/original_videos/11_A_001"
    assert result["22_11_A_001"].bench_label == "DFDCP_FakeB"
    assert [result[name].split for name in ("11_A_001", "22_11_A_001")] == ["train", "train"]
    assert sum(collection.left_out.values()) == 1
    assert "1 of the 3" in collection.notes[0]
    expected = {("DFDCP", "real"): 1131, ("DFDCP", "method_A"): 1, ("DFDCP", "method_B"): 1}
    assert collection.expected == expected


@pytest.mark.parametrize(
    "record", [{"label": "real", "set": "test"}, {"label": "fake", "set": "x"}, "fake"]
)
def test_a_wrong_record_of_the_preview_is_reported(tree: Tree, record: Any) -> None:
    tree.videos("method_A/a.mp4")
    tree.text("dataset.json", {"method_A/a.mp4": record})
    with pytest.raises(UserError, match=r"dataset\.json, 'method_A/a\.mp4'"):
        PLAIN["dfdc_preview"](tree.root)
