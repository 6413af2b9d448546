"""Pairs of a real and of fakes that drop, repeat or resample its frames."""

from __future__ import annotations

import json
from fractions import Fraction
from pathlib import Path

import cv2
import numpy as np
import pytest

from data_pipeline.datasets import PLAIN
from data_pipeline.packed.annotation import parse_line
from data_pipeline.packed.pair_records import fake_record, real_record
from tests.support.preparing import prepare
from tests.support.video_trees import clip, scene, write_picture, write_video

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


def write_timed(path: Path, frames: list[np.ndarray], seconds: list[float]) -> None:
    """Encodes frames with time stamps of their own."""
    av = pytest.importorskip("av", reason="PyAV is not installed (extra `dev`)")
    path.parent.mkdir(parents=True, exist_ok=True)
    with av.open(str(path), "w") as file:
        stream = file.add_stream("mpeg4", rate=25)
        stream.height, stream.width = frames[0].shape[:2]
        stream.bit_rate, stream.codec_context.time_base = 4_000_000, Fraction(1, 1000)
        for picture, second in zip(frames, seconds, strict=True):
            frame = av.VideoFrame.from_ndarray(picture, format="rgb24")
            frame.pts, frame.time_base = round(second * 1000), Fraction(1, 1000)
            file.mux(stream.encode(frame))
        file.mux(stream.encode(None))


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
