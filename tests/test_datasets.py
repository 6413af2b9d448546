"""Adapters on miniature trees of real encoded videos, in the layouts that the sets have."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from video_trees import write_picture, write_video

from data_pipeline.datasets import COMPRESSED, PLAIN, Collection, Video, deepfakebench
from data_pipeline.datasets.video_records import crops, pictures, read_label
from data_pipeline.errors import UserError
from data_pipeline.video import open_frames


@pytest.fixture(scope="session")
def clip_bytes(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """A video of two frames, encoded."""
    frames = [np.full((48, 64, 3), level, np.uint8) for level in (60, 120)]
    return write_video(tmp_path_factory.mktemp("clip") / "a.mp4", frames, "mp4v").read_bytes()


class Tree:
    """A data set in the making."""

    def __init__(self, root: Path, clip: bytes):
        self.root = root
        self._clip = clip

    def videos(self, *names: str) -> None:
        for name in names:
            path = self.root / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(self._clip)

    def pictures(self, *names: str) -> None:
        for name in names:
            write_picture(self.root / name)

    def text(self, name: str, content: Any) -> None:
        path = self.root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(content if isinstance(content, str) else json.dumps(content))


@pytest.fixture
def tree(tmp_path: Path, clip_bytes: bytes) -> Tree:
    return Tree(tmp_path, clip_bytes)


def by_name(found: Collection) -> dict[str, Video]:
    return {video.name: video for video in found.videos}


def check(found: Collection) -> None:
    """What is true of every collection: unique keys, reals that are there, files that open."""
    keys = {video.key: video for video in found.videos}
    assert len(keys) == len(found.videos)
    for video in found.videos:
        assert (video.method == "real") == (video.label == 0)
        assert not video.real or keys[video.real].label == 0
        assert not video.real or keys[video.real].split == video.split
        assert not (video.real and video.label == 0)
        assert "/" not in video.name
        assert video.split in ("", "train", "validation", "test")
        if video.cropped:
            assert crops(video)[0]
        else:
            open_frames(video.path).close()


# ---- FaceForensics++ and DeepFakeDetection

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
    found = COMPRESSED["faceforensics"](tree.root, compression)
    check(found)
    methods = Counter(video.method for video in found.videos)
    assert methods == {
        **{"real": 7, "DeepFakeDetection": 1},
        **dict.fromkeys(("Deepfakes", "Face2Face", "FaceSwap", "NeuralTextures", "FaceShifter"), 4),
    }
    fakes = {(video.method, video.name): video for video in found.videos}
    one = fakes["FaceSwap", "003_000"]
    assert one.real == f"FaceForensics++/original_sequences/youtube/{compression}/003"
    assert one.bench_label == "FF-FS"
    assert one.compression == compression
    assert {v.name: v.split for v in found.videos if v.method == "NeuralTextures"} == {
        **{"000_003": "train", "003_000": "train"},
        **{"004_982": "validation", "183_253": "test"},
    }
    actors = fakes["DeepFakeDetection", "01_02__walk_down__YVGY8LOK"]
    assert actors.dataset == "DeepFakeDetection"
    assert actors.real.endswith("/01__walk_down")
    assert actors.split == "test"
    assert found.expected["FaceForensics++", "Deepfakes"] == 1000
    assert found.expected["DeepFakeDetection", "DeepFakeDetection"] == 3068


def test_raw_may_be_called_c0(tree: Tree) -> None:
    ffpp(tree, "c0")
    found = COMPRESSED["faceforensics"](tree.root, "raw")
    check(found)
    assert {video.compression for video in found.videos} == {"raw"}
    assert all(video.real for video in found.videos if video.label)


def test_the_dfd_adapter_takes_the_actors_alone(tree: Tree) -> None:
    ffpp(tree)
    found = COMPRESSED["dfd"](tree.root, "c23")
    check(found)
    assert {video.dataset for video in found.videos} == {"DeepFakeDetection"}
    assert len(found.videos) == 3


def test_without_split_lists_it_says_what_to_do(tree: Tree) -> None:
    ffpp(tree, lists=None)
    found = COMPRESSED["faceforensics"](tree.root, "c23")
    assert {v.split for v in found.videos if v.dataset == "FaceForensics++"} == {""}
    assert "train.json" in found.notes[0]
    assert "github.com/ondyari/FaceForensics" in found.notes[0]


def test_a_fake_across_splits_and_an_unlisted_real_are_left_out(tree: Tree) -> None:
    ffpp(tree)
    tree.videos(
        "manipulated_sequences/Deepfakes/c23/videos/000_183.mp4",
        "original_sequences/youtube/c23/videos/777.mp4",
    )
    found = COMPRESSED["faceforensics"](tree.root, "c23")
    assert sum(found.left_out.values()) == 2
    assert {"000_183", "777"}.isdisjoint(by_name(found))


@pytest.mark.parametrize(
    ("name", "content", "told"),
    [
        ("train.json", [["000", "183"]], "repeats id 183"),
        ("val.json", {"000": "003"}, "no list of pairs"),
        ("val.json", [["000"]], "no list of pairs"),
        ("val.json", [[0, 3]], "no list of pairs"),
        ("test.json", "[[", "is not JSON"),
    ],
)
def test_wrong_split_lists_are_told(tree: Tree, name: str, content: Any, told: str) -> None:
    ffpp(tree)
    tree.text(f"splits/{name}", content)
    with pytest.raises(UserError, match=told):
        COMPRESSED["faceforensics"](tree.root, "c23")


def test_a_missing_split_list_is_told(tree: Tree) -> None:
    ffpp(tree)
    (tree.root / "splits/val.json").unlink()
    with pytest.raises(UserError, match=r"val\.json is missing"):
        COMPRESSED["faceforensics"](tree.root, "c23")


def test_another_compression_is_told(tree: Tree) -> None:
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
    found = {video.method: video for video in videos.videos}
    assert [found[m].cropped for m in ("real", "Deepfakes", "FaceSwap")] == [True, True, False]
    frames, masks = crops(found["Deepfakes"])
    assert list(frames) == list(masks) == [17]
    assert list(crops(found["real"])[0]) == [0, 17]


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


# ---- Celeb-DF


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
    found = by_name(collection)
    assert found["id0_id1_0000"].real == f"{dataset}/Celeb-real/id0_0000"
    assert found["id2_id1_0000"].real == ""  # its real is not there
    assert found["id0_id1_0000"].split == found["id0_0000"].split == "test"
    assert found["id1_0003"].split == found["id2_id1_0000"].split == "train"
    assert {video.bench_label for video in found.values()} == {f"{label}_real", f"{label}_fake"}
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
    found = {video.method: video for video in collection.videos if video.label}
    assert set(found) == {"BlendFace", "Celeb-DF", "FLOAT"}
    assert found["BlendFace"].real == "Celeb-DF++/Celeb-real/id0_0000"
    assert found["FLOAT"].real == ""  # no video of the set has its frames
    assert [found[m].split for m in ("BlendFace", "Celeb-DF")] == ["test", "train"]


def test_a_fake_in_another_split_than_its_real_stands_alone(tree: Tree) -> None:
    tree.videos("Celeb-real/id0_0000.mp4", "Celeb-synthesis/id0_id1_0000.mp4")
    tree.text("List_of_testing_videos.txt", "0 Celeb-synthesis/id0_id1_0000.mp4\n")
    found = PLAIN["celeb_df_v2"](tree.root)
    check(found)
    assert {video.name: (video.split, video.real) for video in found.videos} == {
        "id0_0000": ("train", ""),
        "id0_id1_0000": ("test", ""),
    }
    assert "1 fakes are in another split" in found.notes[0]


def test_celeb_df_says_that_the_list_is_missing(tree: Tree) -> None:
    tree.videos("Celeb-real/id0_0000.mp4")
    found = PLAIN["celeb_df_v2"](tree.root)
    assert "List_of_testing_videos.txt" in found.notes[0]
    assert found.videos[0].split == ""


@pytest.mark.parametrize("line", ["0 Celeb-real/id0_0000.mp4", "real id0_0000.mp4", "1"])
def test_a_wrong_test_list_is_told(tree: Tree, line: str) -> None:
    tree.videos("Celeb-real/id0_0000.mp4")
    tree.text("List_of_testing_videos.txt", f"1 Celeb-real/id0_0000.mp4\n{line}\n")
    with pytest.raises(UserError, match="line 2"):
        PLAIN["celeb_df_v2"](tree.root)


# ---- DFDC and its preview


def test_dfdc(tree: Tree) -> None:
    part = "train/dfdc_train_part_0"
    tree.videos(f"{part}/aaa.mp4", f"{part}/bbb.mp4", f"{part}/unlabelled.mp4", "test/ccc.mp4")
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
    found = by_name(collection)
    assert found["bbb"].real == f"DFDC/{part}/aaa"
    assert {name: video.label for name, video in found.items()} == {
        **{"aaa": 0, "bbb": 1, "ccc": 0, "ddd": 1, "eee": 1}
    }
    assert [found[name].split for name in ("bbb", "ddd", "eee")] == ["train", "test", "validation"]
    assert sum(collection.left_out.values()) == 1


def test_dfdc_parts_may_lie_at_the_root(tree: Tree) -> None:
    tree.videos("dfdc_train_part_7/aaa.mp4")
    tree.text("dfdc_train_part_7/metadata.json", {"aaa.mp4": {"label": "REAL"}})
    assert PLAIN["dfdc"](tree.root).videos[0].split == "train"


def test_a_label_of_dfdc_that_is_none_is_told(tree: Tree) -> None:
    tree.videos("test/ccc.mp4")
    tree.text("test/labels.csv", "filename,label\nccc.mp4,maybe\n")
    with pytest.raises(UserError, match=r"labels\.csv, 'ccc\.mp4'.*'maybe'"):
        PLAIN["dfdc"](tree.root)


def test_dfdc_without_labels_is_told(tree: Tree) -> None:
    tree.videos("test/ccc.mp4")
    with pytest.raises(UserError, match="no labelled videos"):
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
    found = by_name(collection)
    assert found["22_11_A_001"].real == "DFDCP/original_videos/11_A_001"
    assert found["22_11_A_001"].bench_label == "DFDCP_FakeB"
    assert [found[name].split for name in ("11_A_001", "22_11_A_001")] == ["train", "train"]
    assert sum(collection.left_out.values()) == 1
    assert "1 of the 3" in collection.notes[0]
    expected = {("DFDCP", "real"): 1131, ("DFDCP", "method_A"): 1, ("DFDCP", "method_B"): 1}
    assert collection.expected == expected


@pytest.mark.parametrize(
    "record", [{"label": "real", "set": "test"}, {"label": "fake", "set": "x"}, "fake"]
)
def test_a_wrong_record_of_the_preview_is_told(tree: Tree, record: Any) -> None:
    tree.videos("method_A/a.mp4")
    tree.text("dataset.json", {"method_A/a.mp4": record})
    with pytest.raises(UserError, match=r"dataset\.json, 'method_A/a\.mp4'"):
        PLAIN["dfdc_preview"](tree.root)


# ---- the others


def test_wild_deepfake(tree: Tree) -> None:
    tree.pictures(
        *(f"deepfake_in_the_wild/fake_train/0/fake/1/{i}.png" for i in (9, 10, 100)),
        "deepfake_in_the_wild/fake_train/0/fake/2/5.png",
        "deepfake_in_the_wild/real_test/3/real/1/7.png",
    )
    collection = PLAIN["wild_deepfake"](tree.root)
    check(collection)
    found = {(video.group, video.name): video for video in collection.videos}
    assert set(found) == {
        ("fake_train", "0_fake_1"),
        ("fake_train", "0_fake_2"),
        ("real_test", "3_real_1"),
    }
    assert all(video.cropped and not video.real for video in found.values())
    assert list(crops(found["fake_train", "0_fake_1"])[0]) == [9, 10, 100]
    assert found["real_test", "3_real_1"].split == "test"
    assert sum(collection.expected.values()) == 7314


def test_packed_archives_of_wild_deepfake_are_told(tree: Tree) -> None:
    tree.text("real_train/0.tar.gz", "")
    with pytest.raises(UserError, match="unpack"):
        PLAIN["wild_deepfake"](tree.root)


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


def test_uadfv(tree: Tree) -> None:
    tree.videos("real/0000.mp4", "real/0001.mp4", "fake/0000_fake.mp4")
    collection = PLAIN["uadfv"](tree.root)
    check(collection)
    assert by_name(collection)["0000_fake"].real == "UADFV/real/0000"
    assert {video.split for video in collection.videos} == {"test"}


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
    found = {(video.method, video.name): video for video in collection.videos}
    assert set(found) == {
        ("simswap", "000_003"),
        ("simswap", "id0_id1_0000"),
        ("sadtalker", "000_003"),
        ("StyleGAN2", "some_picture"),
        ("MidJourney", "a"),
        ("real", "b"),
        ("real", "000"),
        ("fsgan", "004_982"),
    }
    assert found["simswap", "000_003"].real.endswith("youtube/c23/000")
    assert found["sadtalker", "000_003"].real == ""
    assert found["simswap", "000_003"].bench_label == "simswap_Fake"
    assert not found["fsgan", "004_982"].cropped
    assert {video.split for video in collection.videos} == {"test"}


def test_df40_with_training_data(tree: Tree) -> None:
    tree.pictures("train/lia/ff/frames/a/0.png", "test/lia/ff/frames/a/0.png")
    splits = Counter(video.split for video in PLAIN["df40"](tree.root).videos)
    assert splits == {"train": 1, "test": 1}


# ---- a folder of one's own


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


def test_folder_with_a_table(tree: Tree) -> None:
    tree.pictures("x/1.png", "x/2.png", "y/3.png", "x/unlisted.png")
    tree.text(
        "pairs.csv",
        "real,fake,method,split\nx/1.png,x/2.png,swap,val\nx/1.png,,,val\n,y\\3.png,gan,test\n",
    )
    collection = PLAIN["folder"](tree.root)
    check(collection)
    found = by_name(collection)
    assert set(found) == {"1", "2", "3"}
    assert found["2"].real == found["1"].key
    assert (found["2"].method, found["2"].split) == ("swap", "validation")
    assert (found["3"].method, found["3"].real) == ("gan", "")


@pytest.mark.parametrize(
    ("row", "told"),
    [
        ("../a.png,,", "leaves"),
        ("gone.png,,", "is not there"),
        ("x/1.png,x/1.png,", "another row"),
        ("x/1.png,x/2.png,dev", "'dev'"),
    ],
)
def test_wrong_rows_are_told(tree: Tree, row: str, told: str) -> None:
    tree.pictures("x/1.png", "x/2.png")
    tree.text("pairs.csv", f"real,fake,split\n{row}\n")
    with pytest.raises(UserError, match=told) as caught:
        PLAIN["folder"](tree.root)
    assert "row 2" in str(caught.value)


def test_two_videos_of_one_name_are_told(tree: Tree) -> None:
    tree.videos("real/a.mp4", "real/a.avi", "fake/b.mp4")
    with pytest.raises(UserError, match="rename or remove"):
        PLAIN["folder"](tree.root)
    tree.videos("source/val/a.mp4", "source/val/a.avi")
    with pytest.raises(UserError, match="two videos called 'a'"):
        PLAIN["ffiw"](tree.root)


@pytest.mark.parametrize("name", [*COMPRESSED, *PLAIN])
def test_a_wrong_root_is_told(tmp_path: Path, name: str) -> None:
    (tmp_path / "empty").mkdir()
    for root in (tmp_path / "absent", tmp_path / "empty"):
        with pytest.raises(UserError, match=r"--root=|cannot be read"):
            COMPRESSED[name](root, "c23") if name in COMPRESSED else PLAIN[name](root)


# ---- DeepfakeBench's JSON


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
    found = by_name(collection)
    assert set(found) == {"183", "183_253"}
    fake = found["183_253"]
    assert fake.real == found["183"].key
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
        deepfakebench.find(file, "c23")


def test_a_root_that_lies_too_deep_is_told(tree: Tree) -> None:
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
    found = COMPRESSED["deepfakebench"](tree.root, "c23")
    assert [video.split for video in found.videos] == ["test"]
    assert "2 videos are listed under several splits" in found.notes[0]


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
    found = COMPRESSED["deepfakebench"](tree.root, "c23")
    assert [video.name for video in found.videos] == ["183"]
    assert found.left_out == {
        "frame not there": 3,
        "frame outside the root": 1,
        "video without any frame on disk": 1,
    }
    methods = ("real", "Deepfakes")
    assert found.expected == {("FaceForensics++", method): 1 for method in methods}


@pytest.mark.parametrize(
    ("content", "told"),
    [
        ("{", "is not JSON"),
        ([], "exactly one data set"),
        ({"a": {}, "b": {}}, "exactly one data set"),
        ({"X": []}, "must hold labels"),
        ({"X": {"FF-real": {"test": {"a": 3}}}}, "where a video should be"),
        ({"X": {"FF-real": {"test": {"a": {"frames": [3]}}}}}, "no list of paths"),
        ({"X": {"FF-real": {"test": {}}}}, "no video of compression"),
        ({"X": {"FF-real": {"test": {"a": {"b": {"c": {}}}}}}}, "has no frames"),
        ({"X": {"FF-odd": {"test": {"183": REAL}}}}, "'FF-odd' is neither real nor fake"),
        ({"X": {"FF-DF": {"test": {"183": REAL}}}}, "labelled 'FF-real' under 'FF-DF'"),
        ({"X": {"FF-DF": {"c40": {"test": {"183_253": FAKE}}}}}, "compression c23; it has c40"),
    ],
)
def test_wrong_json_is_told(tree: Tree, content: Any, told: str) -> None:
    lay(tree, REAL)
    tree.text("a.json", content)
    with pytest.raises(UserError, match=told):
        COMPRESSED["deepfakebench"](tree.root, "c23")


def test_several_json_files_must_be_told_apart(tree: Tree) -> None:
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


def test_labels_in_any_spelling() -> None:
    assert [read_label(x, "") for x in ("REAL", " Fake ", 0, 1, "1", True, False)] == [
        *(0, 1, 0, 1, 1, 1, 0)
    ]
    with pytest.raises(UserError, match="row 3: the label 'x'"):
        read_label("x", "row 3")


def test_frame_numbers_are_the_last_in_a_name(tmp_path: Path) -> None:
    for name in ("img2_010.png", "img2_009.jpg", "notes.txt"):
        write_picture(tmp_path / name) if name[-3:] != "txt" else (tmp_path / name).touch()
    assert {n: p.name for n, p in pictures(tmp_path).items()} == {
        9: "img2_009.jpg",
        10: "img2_010.png",
    }
    write_picture(tmp_path / "cover.png")
    assert list(pictures(tmp_path)) == [0, 1, 2]  # one has no number: the positions count
