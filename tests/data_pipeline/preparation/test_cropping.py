"""From encoded videos to crops: pairs, which face, which frames, and what is skipped."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest

from data_pipeline.datasets import PLAIN
from data_pipeline.faces.alignment import CropSettings, crop_matrix, move
from data_pipeline.faces.landmarks import stored_landmarks
from data_pipeline.preparation import store
from data_pipeline.preparation.store import PreparedVideo
from tests.support.preparing import SIZE, prepare, read
from tests.support.video_trees import (
    blank_frames,
    clip,
    landmarks,
    scene,
    write_picture,
    write_timed,
    write_video,
)


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
    expected = move(*_template())
    assert np.abs(points - expected).max() < 3


def _template() -> tuple[np.ndarray, np.ndarray]:
    points = landmarks((80, 50, 152, 122))
    return points, crop_matrix(points, CropSettings(SIZE, 1.3))


@pytest.mark.parametrize("cut", [(22, 0), (22, 10), (23, 11), (0, 12)])
def test_a_center_cropped_fake_is_cropped_and_not_resized(
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
    table = store.summary(PLAIN["folder"](root).videos, _keyed(outcomes), {})
    assert "videos failed: unreadable_video 2" in table
    assert "unpaired_real_unreadable 1" in table
    assert f"failed: unreadable_video: {root / 'real/a.avi'} is damaged" in table


def _keyed(outcomes: dict[str, PreparedVideo]) -> dict[str, PreparedVideo]:
    return {outcome.key: outcome for outcome in outcomes.values()}


def test_a_truncated_real_gives_as_many_frames(root: Path, out: Path) -> None:
    real = write_video(root / "real/a.avi", clip(8, 30))
    write_video(root / "fake/a.avi", clip(8, 30, forged=[0]))
    real.write_bytes(real.read_bytes()[: real.stat().st_size * 6 // 10])
    outcomes, rows = prepare(PLAIN["folder"](root), out, frames=10)
    assert outcomes["real/a"].remarks == {"fewer_frames_than_stated": 1}
    assert 9 <= len(rows) <= 10  # the last one may be cut in its middle
    assert outcomes["real/a"].indices[-1] < 20


def test_frames_are_spread_over_those_that_a_trimmed_video_shows(root: Path, out: Path) -> None:
    seconds = [-0.8 + i / 25 for i in range(40)]  # the first 20 are stored and not shown
    for side, forged in (("real", []), ("fake", [0])):
        write_timed(root / side / "a.mp4", clip(8, 40, forged=forged), seconds)
    _, rows = prepare(PLAIN["folder"](root), out, frames=10)
    assert len(rows) == 10
    assert all(row["real"] and row["fake"] for row in rows)
    assert [int(row["frame"]) for row in rows] == sorted({i * 19 // 9 for i in range(10)})


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
