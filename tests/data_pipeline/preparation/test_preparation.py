"""Families of videos: each once, restarted, in shards, in processes."""

from __future__ import annotations

import os
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from data_pipeline.datasets import PLAIN
from data_pipeline.faces.detection import Face
from jax_vlffd.errors import UserError
from tests.support.preparing import prepare, two_families
from tests.support.video_trees import DiscDetector, clip, scene, write_picture, write_video


def test_a_second_run_does_nothing(root: Path, out: Path) -> None:
    result = two_families(root)
    _, first = prepare(result, out)
    face_detector = DiscDetector()
    times = {path: path.stat().st_mtime_ns for path in out.rglob("*.png")}
    _, second = prepare(result, out, face_detector=face_detector)
    assert face_detector.calls == 0
    assert second == first
    assert {path: path.stat().st_mtime_ns for path in out.rglob("*.png")} == times


def test_a_run_goes_on_where_it_was_stopped(root: Path, out: Path) -> None:
    result = two_families(root)

    class Stops(DiscDetector):
        def detect(self, image: np.ndarray) -> list[Face]:
            if self.calls == 14:
                raise KeyboardInterrupt
            return super().detect(image)

    with pytest.raises(KeyboardInterrupt):
        prepare(result, out, face_detector=Stops())
    done = list((out / ".prepared").rglob("*.json"))
    assert len(done) == 2  # the first group, whole
    assert not (out / "pairs.csv").exists()
    face_detector = DiscDetector()
    _, rows = prepare(result, out, face_detector=face_detector)
    assert len(rows) == 8
    assert face_detector.calls == 4 + 8  # four frames of one real, the crops of it and its fake
    _, fresh = prepare(result, out.parent / "other")
    assert rows == fresh


def test_a_fake_that_comes_later_joins_the_frames_of_its_real(root: Path, out: Path) -> None:
    result = two_families(root)
    prepare(result, out)
    write_video(root / "fake/late/a.avi", clip(0, 6, forged=[0]))
    times = {path: path.stat().st_mtime_ns for path in out.rglob("*.png")}
    outcomes, rows = prepare(PLAIN["folder"](root), out)
    assert outcomes["fake/late/a"].indices == outcomes["real/a"].indices == [0, 2, 5, 8]
    assert sum(row["method"] == "late" for row in rows) == 3
    assert {path: path.stat().st_mtime_ns for path in times} == times


def test_a_video_that_changed_is_done_again(root: Path, out: Path) -> None:
    result = two_families(root)
    (root / "fake/a.avi").write_bytes(b"")
    outcomes, _ = prepare(result, out)
    assert outcomes["fake/a"].failed
    write_video(root / "fake/a.avi", clip(0, 9, forged=[0]))
    outcomes, rows = prepare(PLAIN["folder"](root), out)
    assert not outcomes["fake/a"].failed
    assert len(rows) == 8


def test_shards_make_the_same_as_one_run(root: Path, out: Path) -> None:
    result = two_families(root)
    _, half = prepare(result, out, shard=slice(1, None, 2))
    assert {row["video"] for row in half} == {"b"}
    _, rows = prepare(result, out, shard=slice(0, None, 2))
    _, whole = prepare(result, out.parent / "whole")
    assert rows == whole
    for path in (out.parent / "whole").rglob("*.png"):
        same = out / path.relative_to(out.parent / "whole")
        assert same.read_bytes() == path.read_bytes()


def test_processes_make_the_same_as_one(root: Path, out: Path) -> None:
    result = two_families(root)
    _, rows = prepare(result, out, workers=2)
    _, single = prepare(result, out.parent / "single")
    assert rows == single


class Dies(DiscDetector):
    def detect(self, image: np.ndarray) -> list[Face]:
        os._exit(9)


def test_a_killed_process_is_reported(root: Path, out: Path) -> None:
    with pytest.raises(UserError, match=r"killed.*fewer --workers"):
        prepare(two_families(root), out, face_detector=Dies(), workers=2)


def test_a_family_of_crops_and_videos_is_not_paired(root: Path, out: Path) -> None:
    write_video(root / "source/val/a.avi", clip(1, 4))
    write_picture(root / "target/val/frames/a/000.png", scene(1, [(80, 50, 72)]))
    outcomes, rows = prepare(PLAIN["ffiw"](root), out)
    assert len(outcomes) == 2
    assert Counter(bool(row["real"]) for row in rows) == {True: 4, False: 1}
