"""DeepfakeBench's JSON: its orders and separators, what lies where it says, and what is wrong with it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from data_pipeline.datasets import COMPRESSED, deepfakebench
from data_pipeline.datasets.base import crops
from jax_vlffd.errors import UserError
from tests.support.dataset_trees import Tree, by_name, check
from tests.support.video_trees import write_picture


def bench(label: str, name: str, numbers: tuple[int, ...] = (0, 7), **more: Any) -> dict[str, Any]:
    frames = [f"../data/FaceForensics++/{label}/frames/{name}/{i:03d}.png" for i in numbers]
    return {"label": label, "frames": [path.removeprefix("../") for path in frames], **more}


def lay(tree: Tree, *entries: dict[str, Any]) -> None:
    for entry in entries:
        for path in entry["frames"]:
            tree.pictures(path.removeprefix("data/"))


REAL, FAKE = bench("FF-real", "183"), bench("FF-DF", "183_253")
ORDERS = {
    "split, compression": {
        "FF-real": {"train": {"c23": {}, "c40": {}}, "test": {"c23": {"183": REAL}}},
        "FF-DF": {"train": {"c23": {}}, "test": {"c23": {"183_253": FAKE}, "c40": {}}},
    },
    "compression, split": {
        "FF-real": {"c23": {"train": {}, "test": {"183": REAL}}, "c40": {"test": {}}},
        "FF-DF": {"c23": {"test": {"183_253": FAKE}, "val": {}}},
    },
    "no compression": {
        "FF-real": {"test": {"183": REAL}, "train": {}},
        "FF-DF": {"test": {"183_253": FAKE}},
    },
}


@pytest.mark.parametrize("order", list(ORDERS))
@pytest.mark.parametrize("windows", [False, True])
def test_json_of_either_order_and_separator(tree: Tree, order: str, windows: bool) -> None:
    lay(tree, REAL, FAKE)
    text = json.dumps({"FaceForensics++": ORDERS[order]})
    if windows:
        text = text.replace("data/", "F:\\\\data\\\\").replace("/", "\\\\")
    tree.text("FaceForensics++.json", text)
    collection = COMPRESSED["deepfakebench"](tree.root, "c23")
    check(collection)
    result = by_name(collection)
    assert set(result) == {"183", "183_253"}
    fake = result["183_253"]
    assert fake.real == result["183"].key
    assert (fake.method, fake.split, fake.bench_label) == ("Deepfakes", "test", "FF-DF")
    assert list(crops(fake)[0]) == [0, 7]
    assert fake.compression == ("c23" if "," in order else "")
    assert not collection.left_out


def test_json_may_lie_elsewhere(tree: Tree, tmp_path_factory: pytest.TempPathFactory) -> None:
    lay(tree, REAL, FAKE)
    file = tmp_path_factory.mktemp("json") / "FF-DF.json"
    file.write_text(json.dumps({"FF-DF": ORDERS["split, compression"]}))
    assert len(deepfakebench.read(file, tree.root, "c23").videos) == 2
    with pytest.raises(UserError, match="none of its frames"):
        deepfakebench.scan(file, "c23")


def test_a_root_that_lies_too_deep_is_reported(tree: Tree) -> None:
    swap = bench("FF-FS", "183_253")
    lay(tree, FAKE, swap)
    labels = {"FF-DF": {"test": {"183_253": FAKE}}, "FF-FS": {"test": {"183_253": swap}}}
    tree.text("FF.json", {"FaceForensics++": labels})
    file = tree.root / "FF.json"
    assert len(deepfakebench.read(file, tree.root, "c23").videos) == 2
    deep = (tree.root / FAKE["frames"][0].removeprefix("data/")).parent.parent
    with pytest.raises(UserError, match=r"'FF-DF' and '183_253' of 'FF-FS' would both be"):
        deepfakebench.read(file, deep, "c23")


def test_the_worst_split_wins_where_a_video_has_several(tree: Tree) -> None:
    entry = {"label": "CelebDFv2_real", "frames": ["Celeb-DF-v2/Celeb-real/frames/id0_0000/0.png"]}
    tree.pictures(entry["frames"][0])
    labels = {"CelebDFv2_real": {s: {"id0_0000": entry} for s in ("test", "train", "val")}}
    tree.text("Celeb-DF-v2.json", {"Celeb-DF-v2": labels})
    result = COMPRESSED["deepfakebench"](tree.root, "c23")
    assert [video.split for video in result.videos] == ["test"]
    assert "2 videos are listed under several splits" in result.notes[0]


def test_masks_are_found_by_the_list_or_beside(tree: Tree) -> None:
    listed = bench("FF-DF", "183_253", masks=["FaceForensics++/elsewhere/007.png"])
    lay(tree, listed, bench("FF-FS", "183_253"))
    tree.pictures("FaceForensics++/elsewhere/007.png")
    tree.pictures("FaceForensics++/FF-FS/masks/183_253/000.png")
    labels = {
        "FF-DF": {"test": {"183_253": listed}},
        "FF-FS": {"test": {"183_253": bench("FF-FS", "183_253")}},
    }
    tree.text("a.json", {"FaceForensics++": labels})
    masks = {v.method: v.masks for v in COMPRESSED["deepfakebench"](tree.root, "c23").videos}
    assert list(masks["Deepfakes"]) == [7]
    assert list(masks["FaceSwap"]) == [0]


def test_frames_that_are_not_there_or_outside_are_counted(tree: Tree) -> None:
    lay(tree, REAL)
    bad = dict(REAL, frames=[*REAL["frames"], "FaceForensics++/gone/frames/183/1.png"])
    bad["frames"].append("FaceForensics++/../../../etc/frames/2.png")
    gone = bench("FF-DF", "000_003")
    labels = {"FF-real": {"test": {"183": bad}}, "FF-DF": {"test": {"000_003": gone}}}
    tree.text("a.json", {"FaceForensics++": labels})
    result = COMPRESSED["deepfakebench"](tree.root, "c23")
    assert [video.name for video in result.videos] == ["183"]
    assert result.left_out == {
        "frame not there": 3,
        "frame outside the root": 1,
        "video without any frame on disk": 1,
    }
    methods = ("real", "Deepfakes")
    assert result.expected == {("FaceForensics++", method): 1 for method in methods}


@pytest.mark.parametrize(
    ("content", "error"),
    [
        ("{", "is not JSON"),
        ([], "exactly one data set"),
        ({"a": {}, "b": {}}, "exactly one data set"),
        ({"X": []}, "must hold labels"),
        ({"X": {"FF-real": {"test": {"a": 3}}}}, "where a video should be"),
        ({"X": {"FF-real": {"test": {"a": {"frames": [3]}}}}}, "not a list of paths"),
        ({"X": {"FF-real": {"test": {}}}}, "no video of compression"),
        ({"X": {"FF-real": {"test": {"a": {"b": {"c": {}}}}}}}, "has no frames"),
        (
            {"X": {"FF-odd": {"test": {"183": {**REAL, "label": "FF-odd"}}}}},
            "'FF-odd' is neither real nor",
        ),
        (
            {"X": {"FF-real": {"test": {"183": {**REAL, "label": "odd"}}}}},
            r"a\.json: the label 'odd'",
        ),
        ({"X": {"FF-DF": {"test": {"183": REAL}}}}, "labeled 'FF-real' under 'FF-DF'"),
        ({"X": {"FF-DF": {"c40": {"test": {"183_253": FAKE}}}}}, "compression c23; it has c40"),
    ],
)
def test_wrong_json_is_reported(tree: Tree, content: Any, error: str) -> None:
    lay(tree, REAL)
    tree.text("a.json", content)
    with pytest.raises(UserError, match=error):
        COMPRESSED["deepfakebench"](tree.root, "c23")


def test_labels_may_be_numbers_or_stand_with_the_video_alone(tree: Tree) -> None:
    for name in ("r", "s", "a", "b", "c"):
        tree.pictures(f"X/{name}/frames/{name}/000_0.png", f"X/{name}/frames/{name}/010_0.png")

    def of(name: str, **label: Any) -> dict[str, Any]:
        frames = [f"X/{name}/frames/{name}/{number:03d}_0.png" for number in (0, 10)]
        return {"test": {name: {"frames": frames, **label}}}

    labels = {
        "X_Real": of("r", label=0), "0": of("s"), "X_Fake": of("a", label=1), "1": of("b", label=None),
        "Deepfakes": of("c", label="1"),
    }  # fmt: skip
    tree.text("a.json", {"X": labels})
    videos = by_name(COMPRESSED["deepfakebench"](tree.root, "c23"))
    assert {name: video.label for name, video in videos.items()} == {
        "r": 0, "s": 0, "a": 1, "b": 1, "c": 1,
    }  # fmt: skip
    assert [videos[name].method for name in "abc"] == ["X", "X", "Deepfakes"]
    assert all(list(video.frames) == [0, 10] for video in videos.values())
    # What is written of them can be read again.
    for video in videos.values():
        assert deepfakebench.read_label(video.bench_label, Path()) == video.label


@pytest.mark.slow
@settings(max_examples=60)
@given(
    st.one_of(st.integers(), st.floats(), st.booleans(), st.none(), st.text(), st.lists(st.text())),
    st.text(min_size=1),
    st.text(min_size=1),
)
def test_whatever_stands_for_a_label_is_taken_or_refused_by_its_file(
    tmp_path_factory: pytest.TempPathFactory, label: Any, level: str, split: str
) -> None:
    root = tmp_path_factory.mktemp("labels")
    write_picture(root / "X/frames/v/000.png")
    video = {"label": label, "frames": ["X/frames/v/000.png"]}
    (root / "a.json").write_text(json.dumps({"X": {level: {split: {"v": video}}}}))
    refused = ""
    try:
        result = COMPRESSED["deepfakebench"](root, "c23")
    except UserError as error:
        refused = str(error)
    if refused:
        assert str(root) in refused or "cannot be a name" in refused
    else:
        stated = level if label is None else label
        assert [v.label for v in result.videos] == [deepfakebench.read_label(stated, root)]


def test_several_json_files_must_be_separated(tree: Tree) -> None:
    tree.text("a.json", {})
    tree.text("b.json", {})
    with pytest.raises(UserError, match=r"a\.json, b\.json.*--json"):
        COMPRESSED["deepfakebench"](tree.root, "c23")


@pytest.mark.parametrize(
    ("label", "expected"),
    [
        *((name, 0) for name in ("FF-real", "CelebDFv1_real", "DFDCP_Real", "DFD_real", "DF_real")),
        *((name, 1) for name in ("FF-DF", "FF-F2F", "FF-FS", "FF-NT", "FF-SH", "FF-FH")),
        *((name, 1) for name in ("DFDCP_FakeA", "DFDCP_FakeB", "UADFV_Fake", "DFDC_Fake")),
    ],
)
def test_labels_of_deepfakebench(label: str, expected: int) -> None:
    assert deepfakebench.read_label(label, Path("a.json")) == expected
