"""Crops that lie on disk already: taken as they are, paired where they look alike."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

from data_pipeline.datasets import COMPRESSED, PLAIN
from data_pipeline.faces import stored_landmarks
from tests.preparing import ffpp, prepare
from tests.video_trees import DiscFinder, scene, write_picture


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
