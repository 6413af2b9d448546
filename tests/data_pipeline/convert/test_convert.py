"""`launch.convert`: masks as truth, and others' captions scored on the pictures of ours."""

from __future__ import annotations

import csv
import json
import shutil
from pathlib import Path

import numpy as np
import pytest

from data_pipeline.convert.masks import read_masks
from data_pipeline.core.frame_numbers import swap_folder
from data_pipeline.fftg.scoring import read_truth, score
from data_pipeline.synthetic.dataset import DrawnSet, write_drawn_set
from jax_vlffd.errors import UserError
from jax_vlffd.jsonl import read_lines
from jax_vlffd.vocabulary import REGIONS
from tests.support import tiny
from tests.support.drawn_pairs import run


def _landmarks(folder: Path, frame: str) -> Path:
    return swap_folder(folder / frame, "landmarks").with_suffix(".npy")


@pytest.fixture(scope="module")
def drawn(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A drawn set with masks and landmarks, and its fakes as a DeepfakeBench JSON of another machine."""
    folder = tmp_path_factory.mktemp("drawn") / "set"
    write_drawn_set(folder, DrawnSet(identities=10))
    lines = read_lines(folder / "annotations.jsonl")
    for line in lines:  # the fakes' landmarks are the reals'
        real, fake = (_landmarks(folder, line[name]) for name in ("real", "fake"))
        fake.parent.mkdir(exist_ok=True)
        shutil.copy(real, fake)
    videos = {
        line["id"]: {
            "label": "X_Fake",
            "frames": [f"E:\\data\\set\\{line['fake']}".replace("/", "\\")],
            "masks": [f"/data/set/{line['mask']}"] if line.get("mask") else [],
        }
        for line in lines
    }
    (folder / "bench.json").write_text(json.dumps({"X": {"X_Fake": {"test": videos}}}))
    return folder


def test_masks_give_the_regions_that_were_forged(drawn: Path, tmp_path: Path) -> None:
    text, rows, left_out = read_masks(drawn / "bench.json", drawn, drawn / "truth.csv", "c23")
    with (drawn / "pairs.csv").open() as file:
        known = {row["fake"]: [row[name] for name in REGIONS] for row in csv.DictReader(file)}
    result = {
        row["fake"]: [row[name] for name in REGIONS] for row in csv.DictReader(text.splitlines())
    }
    assert rows == len(result) >= 15
    assert not left_out
    agree = np.mean([np.array(flags) == known[fake] for fake, flags in result.items()])
    assert agree >= 0.95


def test_a_frame_without_landmarks_or_with_a_broken_mask_is_counted(
    drawn: Path, tmp_path: Path
) -> None:
    line = read_lines(drawn / "annotations.jsonl")[0]
    for name in ("frames", "masks", "landmarks"):
        (tmp_path / name).mkdir()
    for number in range(4):
        (tmp_path / f"frames/{number}.jpg").write_bytes((drawn / line["fake"]).read_bytes())
        (tmp_path / f"masks/{number}.jpg").write_bytes((drawn / line["mask"]).read_bytes())
    points = _landmarks(drawn, line["fake"])
    for number in (0, 1, 3):
        (tmp_path / f"landmarks/{number}.npy").write_bytes(points.read_bytes())
    (tmp_path / "masks/1.jpg").write_bytes(b"mask")
    (tmp_path / "masks/3.jpg").unlink()
    content = {"X": {"X_Fake": {"v": {"frames": [f"frames/{n}.jpg" for n in range(4)]}}}}
    file = tmp_path / "x.json"
    file.write_text(json.dumps(content))
    _, rows, left_out = read_masks(file, tmp_path, tmp_path / "t.csv", "c23")
    assert (rows, left_out) == (1, {"bad_mask": 1, "no_landmarks": 1, "no_mask": 1})
    (tmp_path / "landmarks/0.npy").unlink()
    with pytest.raises(UserError, match="no frame of a fake has a mask and landmarks"):
        read_masks(file, tmp_path, tmp_path / "t.csv", "c23")


def test_their_captions_and_ours_are_scored_on_the_same_pictures(
    drawn: Path, tmp_path: Path
) -> None:
    bench, truth = drawn / "bench.json", tmp_path / "truth.csv"
    done = run(
        "launch.convert", "--from=deepfakebench", f"--annotations={bench}", f"--root={drawn}",
        f"--out={truth}",
    )  # fmt: skip
    assert "20 fakes" in done.stdout
    ours = drawn / "annotations.jsonl"
    theirs = [
        {"image": f"/their/{line['fake']}", "caption": "This is a fake face. The nose is blurry."}
        for line in read_lines(ours)
    ]
    file, lines = tmp_path / "FFTG_X.json", tmp_path / "theirs.jsonl"
    file.write_text(json.dumps(theirs))
    run(
        "launch.convert",
        "--from=fftg",
        f"--annotations={file}",
        f"--root={drawn}",
        f"--out={lines}",
    )
    figures = {}
    for name, path in (("ours", ours), ("theirs", lines)):
        figures[name] = score(read_lines(path, ("id", "fake")), read_truth(truth), path.parent)
        assert figures[name]["images"] == 20
        assert figures[name]["unknown"] == figures[name]["missing"] == 0
    assert figures["ours"]["words"]["micro"]["f1"] >= 0.95
    nose = figures["theirs"]["words"]["nose"]
    assert nose["recall"] == 1
    assert nose["tp"] + nose["fp"] == 20
    assert figures["theirs"]["flags"] is None


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "give either --from, whose file to read, or --to"),
        (["--from=fftg", "--to=llava"], "give either --from"),
        (["--from=ddvqa", "--label=fake"], "--label has no effect with --from=ddvqa"),
        (["--from=fftg", "--balance"], "--balance has no effect with --from=fftg"),
        (["--to=llava", "--pairs=x.csv"], "--pairs has no effect with --to=llava"),
        (["--to=llava", "--seed=3"], "--seed has no effect without --balance"),
        (["--from=fftg", "--fields=text"], "--fields=text: write NAME=PATH"),
        (["--from=deepfakebench"], "is not a JSON of DeepfakeBench"),
        (["--from=ddvqa"], "entry 'a': is not METHOD_VIDEO"),
        (["--from=llava"], "record 'a': is a int, not an object"),
        (["--to=llava"], "line 1: not a JSON object with id"),
    ],
)
def test_wrong_flags_and_files_are_one_line(
    arguments: list[str], message: str, tmp_path: Path
) -> None:
    file, out = tmp_path / "x.json", tmp_path / "out"
    file.write_text('{"a": 1, "b": 2}')
    done = tiny.command("launch.convert", f"--annotations={file}", f"--out={out}", *arguments)
    assert (done.returncode, done.stderr.count("\n")) == (1, 1), done.stderr
    assert message in done.stderr
    assert not out.exists()
