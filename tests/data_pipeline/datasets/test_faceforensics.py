"""FaceForensics++ and DeepFakeDetection, which lies in the same tree."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from data_pipeline.datasets import COMPRESSED
from data_pipeline.datasets.base import crops
from jax_vlffd.errors import UserError
from tests.support.dataset_trees import Tree, by_name, check

SPLITS = {"train": [["000", "003"]], "val": [["004", "982"]], "test": [["183", "253"]]}


def ffpp(tree: Tree, compression: str = "c23", lists: str | None = "splits") -> None:
    for id_ in ("000", "003", "004", "183", "253"):
        tree.videos(f"original_sequences/youtube/{compression}/videos/{id_}.mp4")
    for method in ("Deepfakes", "Face2Face", "FaceSwap", "NeuralTextures", "FaceShifter"):
        for name in ("000_003", "003_000", "004_982", "183_253"):
            tree.videos(f"manipulated_sequences/{method}/{compression}/videos/{name}.mp4")
    tree.videos(
        f"original_sequences/actors/{compression}/videos/01__walk_down.mp4",
        f"original_sequences/actors/{compression}/videos/02__walk_down.mp4",
        f"manipulated_sequences/DeepFakeDetection/{compression}/videos/01_02__walk_down__YVGY8LOK.mp4",
    )
    for split, pairs in SPLITS.items():
        if lists is not None:
            tree.text(f"{lists}/{split}.json", pairs)


@pytest.mark.parametrize(
    ("compression", "lists"), [("raw", "splits"), ("c23", "."), ("c40", "splits")]
)
def test_faceforensics(tree: Tree, compression: str, lists: str) -> None:
    ffpp(tree, compression, lists)
    result = COMPRESSED["faceforensics"](tree.root, compression)
    check(result)
    methods = Counter(video.method for video in result.videos)
    assert methods == {
        **{"real": 7, "DeepFakeDetection": 1},
        **dict.fromkeys(("Deepfakes", "Face2Face", "FaceSwap", "NeuralTextures", "FaceShifter"), 4),
    }
    fakes = {(video.method, video.name): video for video in result.videos}
    one = fakes["FaceSwap", "003_000"]
    assert one.real == f"FaceForensics++/original_sequences/youtube/{compression}/003"
    assert one.bench_label == "FF-FS"
    assert one.compression == compression
    assert {v.name: v.split for v in result.videos if v.method == "NeuralTextures"} == {
        **{"000_003": "train", "003_000": "train"},
        **{"004_982": "validation", "183_253": "test"},
    }
    actors = fakes["DeepFakeDetection", "01_02__walk_down__YVGY8LOK"]
    assert actors.dataset == "DeepFakeDetection"
    assert actors.real.endswith("/01__walk_down")
    assert actors.split == "test"
    assert result.expected["FaceForensics++", "Deepfakes"] == 1000
    assert result.expected["DeepFakeDetection", "DeepFakeDetection"] == 3068


def test_raw_may_be_called_c0(tree: Tree) -> None:
    ffpp(tree, "c0")
    result = COMPRESSED["faceforensics"](tree.root, "raw")
    check(result)
    assert {video.compression for video in result.videos} == {"raw"}
    assert all(video.real for video in result.videos if video.label)


def test_the_dfd_adapter_takes_the_actors_alone(tree: Tree) -> None:
    ffpp(tree)
    result = COMPRESSED["dfd"](tree.root, "c23")
    check(result)
    assert {video.dataset for video in result.videos} == {"DeepFakeDetection"}
    assert len(result.videos) == 3


def test_without_split_lists_it_says_what_to_do(tree: Tree) -> None:
    ffpp(tree, lists=None)
    result = COMPRESSED["faceforensics"](tree.root, "c23")
    assert {v.split for v in result.videos if v.dataset == "FaceForensics++"} == {""}
    assert "train.json" in result.notes[0]
    assert "github.com/ondyari/FaceForensics" in result.notes[0]


def test_a_fake_across_splits_and_an_unlisted_real_are_left_out(tree: Tree) -> None:
    ffpp(tree)
    tree.videos(
        "manipulated_sequences/Deepfakes/c23/videos/000_183.mp4",
        "original_sequences/youtube/c23/videos/777.mp4",
    )
    result = COMPRESSED["faceforensics"](tree.root, "c23")
    assert sum(result.left_out.values()) == 2
    assert {"000_183", "777"}.isdisjoint(by_name(result))


@pytest.mark.parametrize(
    ("name", "content", "error"),
    [
        ("train.json", [["000", "183"]], "repeats id 183"),
        ("val.json", {"000": "003"}, "not a list of pairs"),
        ("val.json", [["000"]], "not a list of pairs"),
        ("val.json", [[0, 3]], "not a list of pairs"),
        ("test.json", "[[", "is not JSON"),
    ],
)
def test_wrong_split_lists_are_reported(tree: Tree, name: str, content: Any, error: str) -> None:
    ffpp(tree)
    tree.text(f"splits/{name}", content)
    with pytest.raises(UserError, match=error):
        COMPRESSED["faceforensics"](tree.root, "c23")


def test_a_missing_split_list_is_reported(tree: Tree) -> None:
    ffpp(tree)
    (tree.root / "splits/val.json").unlink()
    with pytest.raises(UserError, match=r"val\.json is missing"):
        COMPRESSED["faceforensics"](tree.root, "c23")


def test_another_compression_is_reported(tree: Tree) -> None:
    ffpp(tree, "c40")
    with pytest.raises(UserError, match="no videos of compression c23"):
        COMPRESSED["faceforensics"](tree.root, "c23")


def test_deepfakebench_crops_and_whole_frames_take_the_place_of_videos(tree: Tree) -> None:
    tree.pictures(
        "original_sequences/youtube/c23/frames/000/000.png",
        "original_sequences/youtube/c23/frames/000/017.png",
        "manipulated_sequences/Deepfakes/c23/frames/000_003/017.png",
        "manipulated_sequences/Deepfakes/c23/masks/000_003/017.png",
        "manipulated_sequences/FaceSwap/c23/images/000_003/0000.png",
    )
    videos = COMPRESSED["faceforensics"](tree.root, "c23")
    check(videos)
    result = {video.method: video for video in videos.videos}
    assert [result[m].cropped for m in ("real", "Deepfakes", "FaceSwap")] == [True, True, False]
    frames, masks = crops(result["Deepfakes"])
    assert list(frames) == list(masks) == [17]
    assert list(crops(result["real"])[0]) == [0, 17]


def test_the_sample_of_faceforensics(shared_dir: Path) -> None:
    root = shared_dir / "data" / "FaceForensics++"
    if not root.is_dir():
        pytest.skip(f"no videos at {root}")
    c40 = COMPRESSED["faceforensics"](root, "c40")
    check(c40)
    assert Counter(video.method for video in c40.videos) == dict.fromkeys(
        ("real", "Deepfakes", "Face2Face", "FaceSwap", "NeuralTextures"), 2
    )
    assert all(video.real for video in c40.videos if video.label)
    c23 = COMPRESSED["faceforensics"](root, "c23")
    assert sorted(by_name(c23)) == ["004", "004_982"]


def test_files_that_are_none_of_the_actors_are_left_out(tree: Tree) -> None:
    real, fake = "original_sequences/actors", "manipulated_sequences/DeepFakeDetection"
    tree.videos(f"{real}/c23/videos/01__walk.mp4", f"{real}/c23/videos/copy of 01.mp4")
    tree.videos(
        f"{fake}/c23/videos/01_02__walk__YVGY8LOK.mp4", f"{fake}/c23/videos/01_02__walk.mp4"
    )
    for name in ("dfd", "faceforensics"):
        result = COMPRESSED[name](tree.root, "c23")
        assert {video.name for video in result.videos} == {"01__walk", "01_02__walk__YVGY8LOK"}
        assert sum(result.left_out.values()) == 2
