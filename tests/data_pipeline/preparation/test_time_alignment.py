"""Pairs of a real and of fakes that drop, repeat or resample its frames."""

from __future__ import annotations

import json
from pathlib import Path

import cv2
import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from data_pipeline.datasets import PLAIN
from data_pipeline.packed.annotation import parse_line
from data_pipeline.packed.pair_records import fake_record, real_record
from data_pipeline.preparation.time_alignment import Thumbnails, align
from tests.support.preparing import prepare
from tests.support.video_trees import clip, scene, write_picture, write_timed, write_video

COUNT = 70


def acting(count: int, forged: bool = False, seed: int = 3) -> list[np.ndarray]:
    """Frames of somebody whose arms and hand are elsewhere in each frame."""
    frames = []
    for i in range(count):
        frame = scene(seed, [(80 + i % 7, 40, 72)], [0] if forged else [])
        x, y = round(110 + 90 * np.sin(i / 9)), round(150 + 20 * np.cos(i / 5))
        cv2.rectangle(frame, (x - 25, y - 12), (x + 25, y + 12), (200, 200, 200), -1)
        cv2.circle(frame, (20 + 3 * i % 200, 20), 10, (10, 10, 10), -1)
        frames.append(frame)
    return frames


def moments(rows: list[dict[str, str]]) -> list[tuple[int, int]]:
    """(frame of the fake, frame of its real) of the pairs, by the table and by the crops' names."""
    result = []
    for row in rows:
        if row["real"] and row["fake"]:
            pair = int(row["frame"]), int(row.get("real_frame") or row["frame"])
            assert pair == (int(Path(row["fake"]).stem), int(Path(row["real"]).stem))
            result.append(pair)
    return result


def test_dropped_frames_are_paired_by_moment(root: Path, out: Path) -> None:
    real, forged = acting(COUNT), acting(COUNT, forged=True)
    kept = [i for i in range(COUNT) if i % 9 not in (3, 4) and i not in range(30, 36)]
    write_video(root / "real/a.avi", real)
    write_video(root / "fake/a.avi", [forged[i] for i in kept])
    outcomes, rows = prepare(PLAIN["folder"](root), out, frames=12)
    pairs = moments(rows)
    assert len(pairs) >= 11
    assert [real for _, real in pairs] == [kept[fake] for fake, _ in pairs]
    assert any(fake != real for fake, real in pairs)
    assert len(outcomes["real/a"].frames) == 12


@st.composite
def slipped(draw: st.DrawFn) -> tuple[int, list[int]]:
    """The frames of a real, and which of them a fake shows: runs are dropped, others shown again."""
    count = draw(st.integers(60, 240))
    shown: list[int] = []
    at = draw(st.integers(0, 20))
    while at < count:
        run = draw(st.integers(4, 40))
        shown += range(at, min(at + run, count))
        at += run
        if draw(st.booleans()):
            at += draw(st.integers(1, 25))
        elif at < count:
            shown += [at] * draw(st.integers(1, 6))
    assume(len(shown) >= 20)
    return count, shown


@pytest.mark.slow
@settings(max_examples=12)
@given(slipped(), st.integers(0, 2**31), st.sampled_from([0.5, 2.0]), st.integers(-30, 30))
def test_whatever_is_dropped_or_repeated_is_paired_by_moment(
    slip: tuple[int, list[int]], seed: int, noise: float, forged: int
) -> None:
    count, shown = slip
    rng = np.random.default_rng(seed)
    phase = rng.uniform(0, 6, 3)
    moving = (
        np.arange(count)[:, None] / rng.uniform(6, 14, 3) + phase
    )  # three limbs, each by itself
    still = cv2.resize(rng.uniform(40, 180, (6, 10)).astype(np.float32), (96, 54))

    def thumbnails(numbers: list[int], face: float) -> Thumbnails:
        pictures = []
        for number in numbers:
            picture = still.copy()
            for limb, x in enumerate(48 + 40 * np.sin(moving[number])):
                cv2.rectangle(
                    picture, (round(x) - 7, 8 + 15 * limb), (round(x) + 7, 16 + 15 * limb), 220, -1
                )
            picture[14:40, 40:56] += face  # is not compared
            pictures.append(np.clip(picture + rng.normal(0, noise, picture.shape), 0, 255))
        compared = np.ones((54, 96), bool)
        compared[14:40, 40:56] = False
        stack = np.array(pictures).astype(np.uint8)
        return Thumbnails(stack, np.arange(len(numbers)), np.arange(len(numbers)) / 25, compared)

    moments = align(thumbnails(shown, 60.0 + forged), thumbnails(list(range(count)), 0.0))
    if moments is None:
        moments = {number: number for number in range(min(count, len(shown)))}
    real = list(moments)
    assert real == sorted(real)
    assert list(moments.values()) == sorted(set(moments.values()))
    assert all(abs(shown[fake] - at) <= 1 for at, fake in moments.items())
    assert len(moments) >= 0.9 * len(set(shown))


def test_fakes_that_drop_different_frames_share_those_of_their_real(root: Path, out: Path) -> None:
    real, forged = acting(COUNT), acting(COUNT, forged=True)
    kept = {
        "x": [i for i in range(COUNT) if i % 6 != 2],
        "y": [i for i in range(COUNT) if i % 5 != 1],
        "z": list(range(COUNT)),
    }
    write_video(root / "real/a.avi", real)
    for method, numbers in kept.items():
        write_video(root / f"fake/{method}/a.avi", [forged[i] for i in numbers])
    outcomes, rows = prepare(PLAIN["folder"](root), out, frames=10)
    for method, numbers in kept.items():
        pairs = moments([row for row in rows if row["method"] == method])
        assert len(pairs) == 10
        assert [real for _, real in pairs] == [numbers[fake] for fake, _ in pairs]
    assert len(outcomes["real/a"].frames) == 10


def test_repeated_frames_are_paired_by_moment(root: Path, out: Path) -> None:
    forged = acting(COUNT, forged=True)
    shown = sorted([*range(COUNT), *range(10, 40, 3), 50, 50, 50])
    write_video(root / "real/a.avi", acting(COUNT))
    write_video(root / "fake/a.avi", [forged[i] for i in shown])
    _, rows = prepare(PLAIN["folder"](root), out, frames=12)
    pairs = moments(rows)
    assert len(pairs) == 12
    assert [real for _, real in pairs] == [shown[fake] for fake, _ in pairs]


@pytest.mark.parametrize("faster", [1 / 2, 2, 6 / 5])
def test_another_frame_rate_is_paired_by_time(root: Path, out: Path, faster: float) -> None:
    forged = acting(COUNT, forged=True)
    shown = [int(i / faster) for i in range(int(COUNT * faster))]
    write_timed(root / "real/a.mp4", acting(COUNT), [i / 25 for i in range(COUNT)])
    times = [i / 25 / faster for i in range(len(shown))]
    write_timed(root / "fake/a.mp4", [forged[i] for i in shown], times)
    _, rows = prepare(PLAIN["folder"](root), out, frames=12)
    pairs = moments(rows)
    assert len(pairs) == 12
    assert [real for _, real in pairs] == [shown[fake] for fake, _ in pairs]


def test_a_variable_frame_rate_is_paired_by_its_time_stamps(root: Path, out: Path) -> None:
    # The pictures alone cannot tell: nothing moves but the face.
    real, forged = clip(5, COUNT), clip(5, COUNT, forged=[0])
    shown = [*range(0, 30, 3), *range(30, COUNT)]
    write_timed(root / "real/a.mp4", real, [i / 25 for i in range(COUNT)])
    write_timed(root / "fake/a.mp4", [forged[i] for i in shown], [i / 25 for i in shown])
    _, rows = prepare(PLAIN["folder"](root), out, frames=12)
    pairs = moments(rows)
    assert len(pairs) == 12
    assert all(abs(shown[fake] - real) <= 1 for fake, real in pairs)


def test_the_same_frames_played_faster_keep_their_numbers(root: Path, out: Path) -> None:
    write_timed(root / "real/a.mp4", acting(COUNT), [i / 25 for i in range(COUNT)])
    write_timed(root / "fake/a.mp4", acting(COUNT, forged=True), [i / 30 for i in range(COUNT)])
    _, rows = prepare(PLAIN["folder"](root), out, frames=8)
    assert len(rows) == 8
    assert "real_frame" not in rows[0]


def test_frames_that_the_real_lacks_are_refused(root: Path, out: Path) -> None:
    forged = acting(COUNT, forged=True)
    other = acting(25, forged=True, seed=40)  # the same room after a cut, with other light
    write_video(root / "real/a.avi", acting(COUNT))
    write_video(root / "fake/a.avi", [*forged[:40], *other, *forged[60:]])
    outcomes, rows = prepare(PLAIN["folder"](root), out, frames=14)
    pairs = moments(rows)
    shown = [*range(40), *[-1] * 25, *range(60, COUNT)]
    assert [real for _, real in pairs] == [shown[fake] for fake, _ in pairs]
    assert outcomes["fake/a"].skipped["misaligned"] == 14 - len(pairs) >= 3


def test_a_fake_at_no_moment_of_its_real_stands_alone(root: Path, out: Path) -> None:
    write_video(root / "real/a.avi", acting(COUNT))
    later = [np.roll(frame, 40, axis=1) for frame in acting(COUNT + 9, forged=True)]
    write_video(root / "fake/a.avi", later)
    outcomes, rows = prepare(PLAIN["folder"](root), out, frames=6)
    assert outcomes["fake/a"].remarks["unpaired_misaligned"] == 1
    assert [row["real"] for row in rows if row["fake"]] == [""] * 6


def test_a_crop_of_its_real_is_aligned_too(root: Path, out: Path) -> None:
    forged = acting(COUNT, forged=True)
    kept = [i for i in range(COUNT) if i % 7 != 3]
    write_video(root / "real/a.avi", acting(COUNT))
    write_video(root / "fake/a.avi", [forged[i][:, 8:-8] for i in kept])
    _, rows = prepare(PLAIN["folder"](root), out, frames=10)
    pairs = moments(rows)
    assert len(pairs) == 10
    assert [real for _, real in pairs] == [kept[fake] for fake, _ in pairs]


def test_a_fake_that_is_found_later_shares_the_frames_of_its_real(root: Path, out: Path) -> None:
    real, forged = acting(COUNT), acting(COUNT, forged=True)
    write_video(root / "real/a.avi", real)
    write_video(root / "fake/x/a.avi", forged)
    prepare(PLAIN["folder"](root), out, frames=10)
    kept = [i for i in range(COUNT) if i % 7 != 0]
    write_video(root / "fake/y/a.avi", [forged[i] for i in kept])
    outcomes, rows = prepare(PLAIN["folder"](root), out, frames=10)
    pairs = moments([row for row in rows if row["method"] == "y"])
    assert len(pairs) == 10
    assert [real for _, real in pairs] == [kept[fake] for fake, _ in pairs]
    assert len(outcomes["fake/x/a"].frames) == 10
    images = {frame.image for frame in outcomes["real/a"].frames}
    assert {row["real"].split("/", 1)[1] for row in rows} <= {i.split("/", 1)[1] for i in images}


def test_pairs_by_number_of_an_older_version_are_made_anew(root: Path, out: Path) -> None:
    forged = acting(COUNT, forged=True)
    kept = [i for i in range(COUNT) if i % 7 != 3]
    write_video(root / "real/a.avi", acting(COUNT))
    write_video(root / "fake/x/a.avi", [forged[i] for i in kept])
    write_video(root / "fake/y/a.avi", forged)
    prepare(PLAIN["folder"](root), out, frames=10)
    for name in ("x", "y"):  # as that version left it
        marker = out / f".prepared/set/fake/{name}/a.json"
        content = json.loads(marker.read_text())
        del content["timed"]
        number = content["indices"][4]
        crop = f"set/fake/{name}/frames/a/{number:03d}.png"
        content["frames"] = [[number, crop, f"set/real/frames/a/{number:03d}.png", ""]]
        marker.write_text(json.dumps(content))
    _, rows = prepare(PLAIN["folder"](root), out, frames=10)
    pairs = moments([row for row in rows if row["method"] == "x"])
    assert len(pairs) == 10
    assert [real for _, real in pairs] == [kept[fake] for fake, _ in pairs]
    assert len([row for row in rows if row["method"] == "y"]) == 1  # cannot slip: stays as it is


def test_records_keep_both_frame_numbers(tmp_path: Path) -> None:
    for name in ("real", "fake"):
        write_picture(tmp_path / f"{name}.png")
    line = {"id": "a", "real": "real.png", "fake": "fake.png", "caption": "The nose is blurred."}
    line |= {"video": "01_02", "frame": "300", "real_frame": "341"}
    pair = parse_line(json.dumps(line).encode(), tmp_path / "a.jsonl")
    assert not isinstance(pair, str)
    assert real_record([(pair, "a.jsonl, line 1")]).frame == "341"
    assert fake_record(pair, "a.jsonl, line 1", "a/real").frame == "300"
