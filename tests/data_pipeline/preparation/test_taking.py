"""Crops that lie on disk already: taken as they are, paired where they look alike."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path

import pytest

from data_pipeline.datasets import COMPRESSED, PLAIN, Collection
from data_pipeline.faces.landmarks import stored_landmarks
from tests.support.preparing import ffpp, prepare
from tests.support.video_trees import DiscDetector, clip, scene, write_picture, write_video


def test_what_was_written_is_read_back(root: Path, out: Path) -> None:
    _, rows = prepare(ffpp(root), out)
    mask = out / rows[0]["fake"].replace("/frames/", "/masks/") if rows[0]["fake"] else None
    assert mask is not None
    write_picture(mask)
    (out / "prepare.json").unlink(missing_ok=True)
    again = COMPRESSED["deepfakebench"](out, "c23")
    face_detector = DiscDetector()
    _, copied = prepare(again, out.parent / "again", face_detector=face_detector)
    assert face_detector.calls == 0  # crops are taken as they are
    pick = ("method", "video", "frame", "split")
    assert sorted([row[c] for c in pick] for row in copied) == sorted(
        [row[c] for c in pick] for row in rows
    )
    fake = next(row for row in copied if row["fake"])
    source = out / rows[0]["fake"]
    assert (out.parent / "again" / fake["fake"]).read_bytes() == source.read_bytes()
    assert (out.parent / "again" / fake["mask"]).read_bytes() == mask.read_bytes()
    assert stored_landmarks(out.parent / "again" / fake["fake"]) is not None
    # Frames are drawn evenly from those that both have.
    few, _ = prepare(again, out.parent / "few", frames=2)
    assert [f.number for f in few["FF-DF/c23/000_003"].frames] == [0, 8]


def test_crops_that_do_not_look_like_their_real_are_not_paired(root: Path, out: Path) -> None:
    swap, real = "simswap/ff/frames/000_003", "FaceForensics++/original_sequences/youtube/c23"
    for number in range(4):
        write_picture(root / real / f"frames/000/{number:03d}.png", scene(1, [(80, 50, 72)]))
        write_picture(root / swap / f"{number:03d}.png", scene(2, [(30, 20, 90)]))
    outcomes, rows = prepare(PLAIN["df40"](root), out)
    fake = next(o for key, o in outcomes.items() if "simswap" in key)
    assert fake.remarks == {"unpaired_unlike_real": 1}
    assert Counter((bool(r["real"]), bool(r["fake"])) for r in rows) == {
        (True, False): 4,
        (False, True): 4,
    }


REAL = "FaceForensics++/original_sequences/youtube/c23/frames"
FAKE = "FaceForensics++/manipulated_sequences/Deepfakes/c23/frames"


def lay(root: Path, reals: list[str], fakes: list[str], listed: bool = True) -> None:
    """DeepfakeBench's crops of 000 and 000_003, each frame another picture, with their JSON."""
    for folder, names, marks in ((f"{REAL}/000", reals, ()), (f"{FAKE}/000_003", fakes, (0,))):
        for i, name in enumerate(names):
            write_picture(root / folder / name, scene(2, [(60 + 2 * i, 50, 90)], marks))
    content = {
        label: {"train": {"c23": {video: {"label": label, "frames": frames}}}}
        for label, video, frames in (
            ("FF-real", "000", [f"{REAL}/000/{name}" for name in reals]),
            ("FF-DF", "000_003", [f"{FAKE}/000_003/{name}" for name in fakes]),
        )
    }
    if listed:
        (root / "FF.json").write_text(json.dumps({"FaceForensics++": content}))


def find(root: Path, listed: bool) -> Collection:
    if listed:
        return COMPRESSED["deepfakebench"](root, "c23")
    return COMPRESSED["faceforensics"](root / "FaceForensics++", "c23")


@pytest.mark.parametrize("name", ["{:03d}_0.png", "{:06d}_0.png", "f{:03d}_face0.png"])
@pytest.mark.parametrize("listed", [True, False])
def test_a_number_that_is_in_every_name_is_no_frame(
    root: Path, out: Path, name: str, listed: bool
) -> None:
    missing = [i for i in range(8) if i not in (1, 4)]
    lay(root, [name.format(i) for i in range(8)], [name.format(i) for i in missing], listed)
    _, rows = prepare(find(root, listed), out, frames=32)
    pairs = [(Path(row["real"]).stem, Path(row["fake"]).stem) for row in rows if row["fake"]]
    assert pairs == [(f"{i:03d}", f"{i:03d}") for i in missing]


@pytest.mark.parametrize("listed", [True, False])
def test_positions_pair_only_where_the_counts_agree(root: Path, out: Path, listed: bool) -> None:
    names = [f"{letter}.png" for letter in "abcdef"]
    lay(root, names, names[1:], listed)
    outcomes, rows = prepare(find(root, listed), out, frames=32)
    fake = next(outcome for key, outcome in outcomes.items() if "000_003" in key)
    assert fake.remarks["unpaired_no_frame_numbers"] == 1
    assert [row["real"] for row in rows if row["fake"]] == [""] * 5
    lay(root, names, names, listed)
    _, rows = prepare(find(root, listed), out.parent / "all", frames=32)
    assert sum(bool(row["real"] and row["fake"]) for row in rows) == 6


def test_several_faces_are_read_back_as_the_same_pairs(root: Path, out: Path) -> None:
    discs = [(130, 60, 60), (20, 30, 84)]
    original, made = "original_sequences/youtube/c23/videos", "manipulated_sequences"
    write_video(root / original / "000.avi", clip(4, 9, discs))
    write_video(root / made / "Deepfakes/c23/videos/000_003.avi", clip(4, 9, discs, forged=[0]))
    write_video(root / made / "Face2Face/c23/videos/000_003.avi", clip(4, 9, discs, forged=[1]))
    _, rows = prepare(COMPRESSED["faceforensics"](root, "c23"), out)
    assert {Path(row["real"]).stem[3:] for row in rows} == {"", "_1"}
    _, again = prepare(COMPRESSED["deepfakebench"](out, "c23"), out.parent / "again")

    def pairs(table: list[dict[str, str]], folder: Path) -> list[tuple[str, bytes, bytes]]:
        sides = ((folder / row["real"], folder / row["fake"]) for row in table)
        result = [(fake.name, real.read_bytes(), fake.read_bytes()) for real, fake in sides]
        return sorted(result)

    assert pairs(again, out.parent / "again") == pairs(rows, out)


def test_crops_of_deepfakedetection_are_not_paired_by_number(root: Path, out: Path) -> None:
    real = "original_sequences/actors/c40/frames/01__walk"
    fake = "manipulated_sequences/DeepFakeDetection/c40/frames/01_02__walk__ABC123"
    for i in range(6):
        write_picture(root / real / f"{i:03d}.png", scene(2, [(60, 50, 90)]))
        write_picture(root / fake / f"{i:03d}.png", scene(2, [(60, 50, 90)], [0]))
    result = COMPRESSED["dfd"](root, "c40")
    assert "cannot be paired" in result.notes[0]
    _, rows = prepare(result, out)
    assert {bool(row["real"]) for row in rows if row["fake"]} == {False}
    again = COMPRESSED["deepfakebench"](out, "c40")
    assert "cannot be paired" in again.notes[0]
    assert not any(video.real for video in again.videos)
