"""From encoded videos to crops: pairs, skips, restarts, shards, tables and the command."""

from __future__ import annotations

import csv
import json
import os
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import cv2
import numpy as np
import pytest
from video_trees import DiscFinder, blank_frames, clip, landmarks, scene, write_picture, write_video

from data_pipeline import prepared
from data_pipeline.datasets import COMPRESSED, PLAIN, Collection
from data_pipeline.errors import UserError
from data_pipeline.face_crops import CropSettings, crop_matrix, move, onto_real
from data_pipeline.faces import Face, align_crop, stored_landmarks
from data_pipeline.preparation import Preparer, families, prepare_all
from data_pipeline.prepared import Outcome
from data_pipeline.video import read_picture

REPOSITORY = Path(__file__).resolve().parent.parent
SIZE = 96


def prepare(
    found: Collection,
    out: Path,
    frames: int = 4,
    finder: DiscFinder | None = None,
    workers: int = 1,
    shard: slice = slice(None),
) -> tuple[dict[str, Outcome], list[dict[str, str]]]:
    """Prepares a collection; the outcomes by `<group>/<name>`, and the rows of pairs.csv."""
    preparer = Preparer(out, frames, CropSettings(SIZE), finder=finder or DiscFinder())
    every = families(found.videos)
    for _ in prepare_all(preparer, every[shard], workers):
        pass
    videos = [video for family in every for video in family.videos]
    outcomes = {v.key: o for v in videos if (o := prepared.load(out, v)) is not None}
    prepared.write_tables(out, videos, outcomes)
    with (out / "pairs.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    return {key.split("/", 1)[1]: outcome for key, outcome in outcomes.items()}, rows


def read(path: Path) -> np.ndarray:
    picture = read_picture(path)
    assert picture is not None
    return picture.astype(int)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return tmp_path / "set"


@pytest.fixture
def out(tmp_path: Path) -> Path:
    return tmp_path / "out"


def test_a_fake_is_cropped_as_its_real(root: Path, out: Path) -> None:
    write_video(root / "real/a.avi", clip(1, 20))
    write_video(root / "fake/a.avi", clip(1, 20, forged=[0]))
    write_video(root / "real/b.avi", clip(2, 20))
    outcomes, rows = prepare(PLAIN["folder"](root), out)
    assert outcomes["real/a"].indices == outcomes["fake/a"].indices == [0, 6, 12, 19]
    fakes = [row for row in rows if row["fake"]]
    assert [row["frame"] for row in fakes] == ["0", "6", "12", "19"]
    for row in fakes:
        assert row["real"].endswith(f"real/frames/a/{int(row['frame']):03d}.png")
        real, fake = read(out / row["real"]), read(out / row["fake"])
        assert real.shape == fake.shape == (SIZE, SIZE, 3)
        difference = np.abs(real - fake).max(axis=2)
        outside, mouth = difference[: SIZE // 2], difference[60:75, 40:56]
        assert np.quantile(outside, 0.99) < 12  # JPEG inside the videos, no shift
        assert mouth.mean() > 40
        for name in ("real", "fake"):
            points = stored_landmarks(out / row[name])
            assert points is not None
            assert points.shape == (68, 2)
            assert points.min() > 0
            assert points.max() < SIZE
    # The real without a fake has rows of its own; the one with a fake has none.
    alone = [row for row in rows if not row["fake"]]
    assert {row["video"] for row in alone} == {"b"}
    assert {row["method"] for row in alone} == {"real"}
    assert len(alone) == 4


def test_the_face_is_where_the_template_has_it(root: Path, out: Path) -> None:
    write_video(root / "real/a.avi", clip(1, 3))
    write_video(root / "fake/a.avi", clip(1, 3, forged=[0]))
    prepare(PLAIN["folder"](root), out)
    points = stored_landmarks(out / "set/real/frames/a/000.png")
    assert points is not None
    expected = move(*_template(scene(1, [(80, 50, 72)])))
    assert np.abs(points - expected).max() < 3


def _template(frame: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    points = landmarks((80, 50, 152, 122))
    return points, align_crop(frame, points, SIZE, 1.3)[2]


def test_crops_without_rotation_keep_centre_and_scale() -> None:
    frame = scene(1, [(80, 50, 72)])
    turn = cv2.getRotationMatrix2D((116, 86), 30, 1.0)
    points = move(landmarks((80, 50, 152, 122)), turn)
    upright = crop_matrix(frame, points, CropSettings(SIZE))
    flat = crop_matrix(frame, points, CropSettings(SIZE, align=False))
    assert flat[0, 1] == flat[1, 0] == 0
    assert abs(upright[0, 1]) > 0.1
    assert np.isclose(np.linalg.det(flat[:, :2]), np.linalg.det(upright[:, :2]))
    centre = np.linalg.solve(flat[:, :2], SIZE / 2 - flat[:, 2])
    np.testing.assert_allclose(upright[:, :2] @ centre + upright[:, 2], SIZE / 2, atol=1e-6)


@pytest.mark.parametrize("cut", [(22, 0), (22, 10), (23, 11), (0, 12)])
def test_a_centre_cropped_fake_is_cropped_and_not_resized(
    root: Path, out: Path, cut: tuple[int, int]
) -> None:
    right, bottom = cut
    aside = [(20, 30, 72)]  # a resize would move it
    write_video(root / "real/a.avi", clip(3, 8, aside))
    x, y = right // 2, bottom // 2
    smaller = [
        f[y : f.shape[0] - bottom + y, x : f.shape[1] - right + x] for f in clip(3, 8, aside)
    ]
    write_video(root / "fake/a.avi", smaller)
    _, rows = prepare(PLAIN["folder"](root), out)
    assert len(rows) == 4
    for row in rows:
        # The videos differ by what lies outside the cut and by JPEG.
        real, fake = read(out / row["real"]), read(out / row["fake"])
        middle = slice(SIZE // 4, -SIZE // 4)
        difference = np.abs(real - fake)[middle, middle].max(axis=2)
        assert difference.mean() < 8


def test_a_resized_fake_is_brought_to_the_size_of_its_real(root: Path, out: Path) -> None:
    write_video(root / "real/a.avi", clip(3, 8))
    half = [cv2.resize(f, (120, 90), interpolation=cv2.INTER_AREA) for f in clip(3, 8)]
    write_video(root / "fake/a.avi", half)
    _, rows = prepare(PLAIN["folder"](root), out)
    difference = np.abs(read(out / rows[0]["real"]) - read(out / rows[0]["fake"])).max(axis=2)
    assert difference[24:72, 24:72].mean() < 8


def test_of_several_faces_the_forged_one_is_taken(root: Path, out: Path) -> None:
    discs = [(20, 30, 84), (130, 60, 60)]
    write_video(root / "real/a.avi", clip(4, 6, discs))
    write_video(root / "fake/first/a.avi", clip(4, 6, discs, forged=[0]))
    write_video(root / "fake/second/a.avi", clip(4, 6, discs, forged=[1]))
    write_video(root / "fake/none/a.avi", clip(4, 6, discs))
    outcomes, rows = prepare(PLAIN["folder"](root), out, frames=2)
    reals = {row["method"]: Path(row["real"]).name for row in rows if row["frame"] == "5"}
    assert reals == {"first": "005.png", "second": "005_1.png", "none": "005.png"}
    forged = {row["method"]: row for row in rows if row["frame"] == "5"}
    for method in ("first", "second"):
        row = forged[method]
        change = np.abs(read(out / row["real"]) - read(out / row["fake"])).max(axis=2)
        assert change[60:75, 40:56].mean() > 40
    assert len(outcomes["real/a"].frames) == 4  # both faces, two frames


def test_a_real_without_fakes_gives_its_largest_face(root: Path, out: Path) -> None:
    write_video(root / "real/a.avi", clip(4, 3, [(130, 60, 60), (20, 30, 84)]))
    (root / "fake").mkdir()
    outcomes, _ = prepare(PLAIN["folder"](root), out, frames=1)
    assert [frame.image[-7:] for frame in outcomes["real/a"].frames] == ["000.png"]


def test_a_shorter_fake_sets_the_frames_of_all(root: Path, out: Path) -> None:
    write_video(root / "real/a.avi", clip(5, 30))
    write_video(root / "fake/x/a.avi", clip(5, 20, forged=[0]))
    write_video(root / "fake/y/a.avi", clip(5, 40, forged=[0]))
    outcomes, rows = prepare(PLAIN["folder"](root), out)
    assert {tuple(outcome.indices) for outcome in outcomes.values()} == {(0, 6, 12, 19)}
    assert len(rows) == 8
    assert all(not outcome.skipped for outcome in outcomes.values())


def test_a_stub_of_a_fake_does_not_shorten_the_others(root: Path, out: Path) -> None:
    write_video(root / "real/a.avi", clip(5, 30))
    write_video(root / "fake/x/a.avi", clip(5, 3, forged=[0]))
    outcomes, _ = prepare(PLAIN["folder"](root), out)
    assert outcomes["real/a"].indices == [0, 9, 19, 29]
    assert outcomes["fake/x/a"].skipped == {"fake_is_shorter": 3}
    assert [frame.number for frame in outcomes["fake/x/a"].frames] == [0]


def test_frames_without_a_face_are_skipped_and_counted(root: Path, out: Path) -> None:
    faceless = [scene(6, [(80, 50, 72)] if i < 5 else []) for i in range(10)]
    write_video(root / "real/a.avi", faceless)
    write_video(root / "fake/a.avi", faceless)
    outcomes, rows = prepare(PLAIN["folder"](root), out)
    assert outcomes["real/a"].skipped == {"no_face": 2}
    assert outcomes["fake/a"].skipped == {"no_face_in_real": 2}
    assert len(rows) == 2


def test_a_video_without_any_face_is_done_all_the_same(root: Path, out: Path) -> None:
    write_video(root / "real/a.avi", clip(6, 5, discs=[]))
    write_video(root / "real/b.avi", clip(6, 5))
    (root / "fake").mkdir()
    outcomes, rows = prepare(PLAIN["folder"](root), out)
    assert outcomes["real/a"].skipped == {"no_face": 4}
    assert not outcomes["real/a"].failed
    assert {row["video"] for row in rows} == {"b"}


def test_videos_that_cannot_be_read_fail_alone(root: Path, out: Path) -> None:
    for name in ("a", "b", "c"):
        write_video(root / f"real/{name}.avi", clip(7, 6))
        write_video(root / f"fake/{name}.avi", clip(7, 6, forged=[0]))
    (root / "real/a.avi").write_bytes(b"")
    (root / "fake/b.avi").write_bytes(b"no video")
    outcomes, rows = prepare(PLAIN["folder"](root), out)
    assert outcomes["real/a"].failed.startswith("unreadable_video: ")
    assert outcomes["fake/b"].failed.startswith("unreadable_video: ")
    assert outcomes["fake/a"].remarks == {"unpaired_real_unreadable": 1}
    by_video = {name: [row for row in rows if row["video"] == name] for name in "abc"}
    assert all(row["fake"] and not row["real"] for row in by_video["a"])
    assert all(row["real"] and not row["fake"] for row in by_video["b"])
    assert all(row["real"] and row["fake"] for row in by_video["c"])
    table = prepared.summary(PLAIN["folder"](root).videos, _keyed(outcomes), {})
    assert "videos failed: unreadable_video 2" in table
    assert "unpaired_real_unreadable 1" in table
    assert f"failed: unreadable_video: {root / 'real/a.avi'} is damaged" in table


def _keyed(outcomes: dict[str, Outcome]) -> dict[str, Outcome]:
    return {outcome.key: outcome for outcome in outcomes.values()}


def test_a_truncated_real_keeps_the_pairs_that_are_left(root: Path, out: Path) -> None:
    real = write_video(root / "real/a.avi", clip(8, 30))
    write_video(root / "fake/a.avi", clip(8, 30, forged=[0]))
    real.write_bytes(real.read_bytes()[: real.stat().st_size * 6 // 10])
    outcomes, rows = prepare(PLAIN["folder"](root), out, frames=10)
    skipped = outcomes["real/a"].skipped["unreadable_frame"]
    assert 2 <= skipped <= 8
    assert outcomes["fake/a"].skipped == {"unreadable_frame_in_real": skipped}
    assert len(rows) == 10 - skipped


def test_a_fake_of_another_scene_is_not_paired(root: Path, out: Path) -> None:
    write_video(root / "real/a.avi", clip(9, 6))
    write_video(root / "fake/a.avi", clip(10, 6, [(60, 40, 90)], forged=[0]))
    outcomes, rows = prepare(PLAIN["folder"](root), out)
    assert outcomes["fake/a"].remarks["unpaired_unlike_real"] == 1
    assert not outcomes["fake/a"].skipped
    fakes = [row for row in rows if row["fake"]]
    assert len(fakes) == 4
    assert not any(row["real"] for row in fakes)
    assert sum(not row["fake"] for row in rows) == 4  # its real stands alone


def test_a_lost_start_breaks_the_pair(root: Path, out: Path) -> None:
    write_video(root / "real/a.avi", clip(9, 12))
    fake = write_video(root / "fake/a.avi", clip(9, 12, forged=[0]))
    blank_frames(fake, {0})
    outcomes, rows = prepare(PLAIN["folder"](root), out)
    assert outcomes["fake/a"].remarks["unpaired_no_key_frame_at_start"] == 1
    assert [row["real"] for row in rows if row["fake"]] == [""] * 4


def test_pictures_are_prepared_too(root: Path, out: Path) -> None:
    frame, forged = (scene(11, [(80, 50, 72)], marks) for marks in ((), (0,)))
    write_picture(root / "real/p.png", frame)
    write_picture(root / "fake/p.png", forged)
    _, rows = prepare(PLAIN["folder"](root), out)
    assert [(row["video"], row["frame"]) for row in rows] == [("p", "0")]
    np.testing.assert_array_equal(
        read(out / rows[0]["real"])[:40], read(out / rows[0]["fake"])[:40]
    )


# ---- once, in shards, in processes


def two_families(root: Path) -> Collection:
    for seed, name in enumerate("ab"):
        write_video(root / f"real/{name}.avi", clip(seed, 9))
        write_video(root / f"fake/{name}.avi", clip(seed, 9, forged=[0]))
    return PLAIN["folder"](root)


def test_a_second_run_does_nothing(root: Path, out: Path) -> None:
    found = two_families(root)
    _, first = prepare(found, out)
    finder = DiscFinder()
    times = {path: path.stat().st_mtime_ns for path in out.rglob("*.png")}
    _, second = prepare(found, out, finder=finder)
    assert finder.calls == 0
    assert second == first
    assert {path: path.stat().st_mtime_ns for path in out.rglob("*.png")} == times


def test_a_run_goes_on_where_it_was_stopped(root: Path, out: Path) -> None:
    found = two_families(root)

    class Stops(DiscFinder):
        def find(self, image: np.ndarray) -> list[Face]:
            if self.calls == 14:
                raise KeyboardInterrupt
            return super().find(image)

    with pytest.raises(KeyboardInterrupt):
        prepare(found, out, finder=Stops())
    done = list((out / ".prepared").rglob("*.json"))
    assert len(done) == 2  # the first family, whole
    assert not (out / "pairs.csv").exists()
    finder = DiscFinder()
    _, rows = prepare(found, out, finder=finder)
    assert len(rows) == 8
    assert finder.calls == 4 + 8  # four frames of one real, the crops of it and its fake
    _, fresh = prepare(found, out.parent / "other")
    assert rows == fresh


def test_a_fake_that_comes_later_joins_the_frames_of_its_real(root: Path, out: Path) -> None:
    found = two_families(root)
    prepare(found, out)
    write_video(root / "fake/late/a.avi", clip(0, 6, forged=[0]))
    times = {path: path.stat().st_mtime_ns for path in out.rglob("*.png")}
    outcomes, rows = prepare(PLAIN["folder"](root), out)
    assert outcomes["fake/late/a"].indices == outcomes["real/a"].indices == [0, 2, 5, 8]
    assert sum(row["method"] == "late" for row in rows) == 3
    assert {path: path.stat().st_mtime_ns for path in times} == times


def test_a_video_that_changed_is_done_again(root: Path, out: Path) -> None:
    found = two_families(root)
    (root / "fake/a.avi").write_bytes(b"")
    outcomes, _ = prepare(found, out)
    assert outcomes["fake/a"].failed
    write_video(root / "fake/a.avi", clip(0, 9, forged=[0]))
    outcomes, rows = prepare(PLAIN["folder"](root), out)
    assert not outcomes["fake/a"].failed
    assert len(rows) == 8


def test_shards_make_the_same_as_one_run(root: Path, out: Path) -> None:
    found = two_families(root)
    _, half = prepare(found, out, shard=slice(1, None, 2))
    assert {row["video"] for row in half} == {"b"}
    _, rows = prepare(found, out, shard=slice(0, None, 2))
    _, whole = prepare(found, out.parent / "whole")
    assert rows == whole
    for path in (out.parent / "whole").rglob("*.png"):
        same = out / path.relative_to(out.parent / "whole")
        assert same.read_bytes() == path.read_bytes()


def test_processes_make_the_same_as_one(root: Path, out: Path) -> None:
    found = two_families(root)
    _, rows = prepare(found, out, workers=2)
    _, single = prepare(found, out.parent / "single")
    assert rows == single


class Dies(DiscFinder):
    def find(self, image: np.ndarray) -> list[Face]:
        os._exit(9)


def test_a_killed_process_is_told(root: Path, out: Path) -> None:
    with pytest.raises(UserError, match=r"killed.*fewer --workers"):
        prepare(two_families(root), out, finder=Dies(), workers=2)


def test_other_settings_need_another_folder(out: Path) -> None:
    prepared.check_settings(out, {"frames": 32, "size": 256})
    prepared.check_settings(out, {"frames": 32, "size": 256})
    with pytest.raises(UserError, match="--frames=32, not 8"):
        prepared.check_settings(out, {"frames": 8, "size": 256})


def test_a_damaged_marker_counts_as_none(root: Path, out: Path) -> None:
    found = two_families(root)
    prepare(found, out)
    marker = out / ".prepared/set/fake/a.json"
    for content in ("{", '{"key": 3}', "[]"):
        marker.write_text(content)
        _, rows = prepare(found, out)
        assert len(rows) == 8


# ---- DeepfakeBench's JSON and crops as they are


def ffpp(root: Path) -> Collection:
    original, fake = "original_sequences/youtube", "manipulated_sequences/Deepfakes"
    write_video(root / original / "c23/videos/000.avi", clip(0, 9))
    write_video(root / original / "c23/videos/003.avi", clip(3, 9))
    write_video(root / fake / "c23/videos/000_003.avi", clip(0, 9, forged=[0]))
    for split, pairs in {"train": [["000", "003"]], "val": [], "test": []}.items():
        (root / "splits").mkdir(exist_ok=True)
        (root / f"splits/{split}.json").write_text(json.dumps(pairs))
    return COMPRESSED["faceforensics"](root, "c23")


def test_the_json_is_deepfakebench_s(root: Path, out: Path) -> None:
    _, rows = prepare(ffpp(root), out)
    content = json.loads((out / "FaceForensics++.json").read_text())["FaceForensics++"]
    assert set(content) == {"FF-real", "FF-DF"}
    for label in content:
        # Its reader asks every split of a label for the compression.
        assert {split: list(place) for split, place in content[label].items()} == {
            "train": ["c23"],
            "val": ["c23"],
            "test": ["c23"],
        }
    video = content["FF-DF"]["train"]["c23"]["000_003"]
    assert video["label"] == "FF-DF"
    assert video["frames"] == [row["fake"] for row in rows if row["fake"]]
    assert all((out / path).is_file() for path in video["frames"])
    assert {row["split"] for row in rows} == {"train"}
    path = out / video["frames"][0]
    assert path.parts[-6:-1] == ("manipulated_sequences", "Deepfakes", "c23", "frames", "000_003")
    assert Path(str(path).replace("frames", "landmarks")).with_suffix(".npy").is_file()


def test_what_was_written_is_read_back(root: Path, out: Path) -> None:
    _, rows = prepare(ffpp(root), out)
    mask = out / rows[0]["fake"].replace("/frames/", "/masks/") if rows[0]["fake"] else None
    assert mask is not None
    write_picture(mask)
    (out / "prepare.json").unlink(missing_ok=True)
    again = COMPRESSED["deepfakebench"](out, "c23")
    finder = DiscFinder()
    _, copied = prepare(again, out.parent / "again", finder=finder)
    assert finder.calls == 0  # crops are taken as they are
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


def test_a_family_of_crops_and_videos_is_not_paired(root: Path, out: Path) -> None:
    write_video(root / "source/val/a.avi", clip(1, 4))
    write_picture(root / "target/val/frames/a/000.png", scene(1, [(80, 50, 72)]))
    outcomes, rows = prepare(PLAIN["ffiw"](root), out)
    assert len(outcomes) == 2
    assert Counter(bool(row["real"]) for row in rows) == {True: 4, False: 1}


# ---- how frames lie on each other


def test_unlike_scenes_have_no_place_on_each_other() -> None:
    assert onto_real(scene(1, []), scene(2, [])) is None
    black = np.zeros((180, 240, 3), np.uint8)
    assert onto_real(black, black) is not None
    assert onto_real(black + 200, black) is None
    np.testing.assert_array_equal(onto_real(scene(1, []), scene(1, [])), [[1, 0, 0], [0, 1, 0]])


def test_a_cut_of_22_columns_is_told_from_a_resize() -> None:
    real = cv2.resize(scene(1, [(80, 50, 72)]), (854, 480))
    cut = real[:, 11:843]
    np.testing.assert_array_equal(onto_real(cut, real), [[1, 0, 11], [0, 1, 0]])
    resized = onto_real(cv2.resize(real, (832, 480)), real)
    assert resized is not None
    np.testing.assert_allclose(resized, [[854 / 832, 0, 0], [0, 1, 0]])


# ---- the command


def command(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "launch.prepare", *arguments],
        cwd=REPOSITORY,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=120,
    )


def test_help_is_quick_and_names_every_data_set() -> None:
    started = time.perf_counter()
    shown = command("--help")
    assert time.perf_counter() - started < 3  # under one alone; the machine may be busy
    assert shown.returncode == 0
    text = "".join(shown.stdout.split())
    assert "|".join([*COMPRESSED, *PLAIN]) in text


@pytest.mark.parametrize(
    ("arguments", "status", "told"),
    [
        (["--dataset=uadfv", "--compression=c23"], 1, "--compression means nothing"),
        (["--dataset=uadfv", "--json=a.json"], 1, "--json goes with"),
        (["--dataset=uadfv"], 1, "there is no such folder"),
        (["--dataset=nothing"], 2, "nothing"),
        (["--dataset=uadfv", "--shard=2/2"], 1, "--shard=2/2"),
    ],
)
def test_mistakes_are_told_in_one_line(
    tmp_path: Path, arguments: list[str], status: int, told: str
) -> None:
    ran = command(f"--root={tmp_path / 'absent'}", f"--out={tmp_path / 'out'}", *arguments)
    assert ran.returncode == status
    assert told in ran.stderr
    assert len(ran.stderr.splitlines()) == 1
    assert not (tmp_path / "out").exists()


def test_a_set_without_any_face_ends_with_an_error(tmp_path: Path) -> None:
    pytest.importorskip("dlib")
    write_picture(tmp_path / "set/real/a.png", scene(1, []))
    (tmp_path / "set/fake").mkdir()
    ran = command(
        "--dataset=folder",
        f"--root={tmp_path / 'set'}",
        f"--out={tmp_path / 'out'}",
        "--workers=1",
    )
    assert ran.returncode == 1
    assert "no_face 1" in ran.stdout
    assert "could be prepared" in ran.stderr


def test_the_sample_of_faceforensics_is_prepared_and_annotated(
    shared_dir: Path, tmp_path: Path
) -> None:
    pytest.importorskip("dlib")
    source = shared_dir / "data" / "FaceForensics++"
    if not source.is_dir():
        pytest.skip(f"no videos at {source}")
    ran = command(
        *("--dataset=faceforensics", f"--root={source}", f"--out={tmp_path}"),
        *("--compression=c40", "--frames=2", "--workers=1", "--methods=Deepfakes,NeuralTextures"),
    )
    assert ran.returncode == 0, ran.stderr
    assert "Face2Face" not in ran.stdout
    with (tmp_path / "pairs.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 8
    assert {row["method"] for row in rows} == {"Deepfakes", "NeuralTextures"}
    for row in rows:
        real, fake = read(tmp_path / row["real"]), read(tmp_path / row["fake"])
        assert real.shape == fake.shape == (256, 256, 3)
        change = np.abs(real - fake).max(axis=2)
        assert np.median(change[:24]) <= 8  # above the face nothing but the codec
        points = stored_landmarks(tmp_path / row["real"])
        assert points is not None
        eyes, mouth = points[36:48].mean(axis=0), points[48:].mean(axis=0)
        assert abs(eyes[0] - 128) < 20
        assert eyes[1] < 128 < mouth[1]
    from data_pipeline.fftg.annotate import Annotator
    from data_pipeline.fftg.pairs import read_pairs

    job = next(j for j in read_pairs(tmp_path / "pairs.csv") if j.columns["method"] == "Deepfakes")
    line = Annotator(root=tmp_path).annotate(job)
    assert line is not None
    assert not line["error"]
    assert any(region["forged"] for region in line["regions"].values())
