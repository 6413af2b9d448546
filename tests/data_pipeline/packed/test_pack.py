"""Packing: every image once, people in one split, nothing half-written, faults told by line."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from data_pipeline.packed import builder
from data_pipeline.packed.builder import pack
from data_pipeline.packed.reader import PackedSplit, split_names
from data_pipeline.packed.record import Record
from jax_vlffd.errors import UserError
from tests.support import tiny
from tests.support.packed_sets import METHODS, draw, encode, undecodable, write_annotations


def _edit(file: Path, number: int, **changes: Any) -> None:
    """Changes keys of line `number` (from 1); a value of `...` takes the key out."""
    lines = file.read_text().splitlines()
    content = {**json.loads(lines[number - 1]), **changes}
    lines[number - 1] = json.dumps({k: v for k, v in content.items() if v is not ...})
    file.write_text("\n".join(lines) + "\n")


def _records(folder: Path) -> dict[str, dict[str, Record]]:
    splits = {name: PackedSplit(folder, name) for name in split_names(folder)}
    return {
        name: {record.id: record for record in (split[i] for i in range(len(split)))}
        for name, split in splits.items()
    }


def test_each_fake_and_each_real_once(tmp_path: Path) -> None:
    file = write_annotations(tmp_path / "in", 3)
    mask = encode(draw(9))
    (tmp_path / "in/mask.png").write_bytes(mask)
    _edit(file, 2, mask="mask.png", captions=["", "Another."], raw_caption=...)
    pack([file], tmp_path / "out")
    records = _records(tmp_path / "out")["train"]
    assert len(records) == 3 * (1 + len(METHODS))

    real = records["Deepfakes_0/real"]
    assert (real.label, real.method, real.pair) == (0, "real", "")
    assert real.captions == ("This is a real face. Fine, 0 0.", "This is a real face. Fine, 0 1.")
    assert (real.video, real.caption_key, real.mask) == ("000", "real", b"")
    assert not real.regions.any()

    fake = records["FaceSwap_0"]
    assert (fake.label, fake.method, fake.pair) == (1, "FaceSwap", "Deepfakes_0/real")
    assert (fake.video, fake.frame, fake.dataset) == ("000_500", "1", "drawn")
    assert fake.captions == ("This is a fake face. The mouth is odd, FaceSwap_0 0.", "Another.")
    assert fake.raw_caption == fake.captions[0]
    assert records["Deepfakes_0"].raw_caption == "raw Deepfakes_0"
    assert fake.regions.tolist() == [1, 0, 0, 0]
    assert fake.types.tolist() == [[0, 1, 0, 0, 0], *[[0] * 5] * 3]
    assert fake.mask == mask
    assert fake.image == (tmp_path / "in/FaceSwap_0.img").read_bytes()


def test_a_line_may_hold_a_real_alone(tmp_path: Path) -> None:
    file = write_annotations(tmp_path / "in", 1)
    alone = {"id": "the real", "real": "real_0.png", "fake": None, "label": 0, "split": "train"}
    with file.open("a") as stream:
        stream.write(json.dumps({**alone, "real_captions": ["Alone."], "video": "x"}) + "\n\n")
    pack([file], tmp_path / "out")
    records = _records(tmp_path / "out")["train"]
    assert set(records) == {"the real", "Deepfakes_0", "FaceSwap_0"}
    assert records["the real"].captions[-1] == "Alone."
    assert records["the real"].video == "x"
    assert records["Deepfakes_0"].pair == "the real"


def test_captions_and_keys_that_are_missing_are_written(tmp_path: Path) -> None:
    file = write_annotations(tmp_path / "in", 1, ("Deepfakes",))
    _edit(
        file, 1, real_captions=..., caption_key=..., real_caption_key=..., dataset=..., method=...,
        video=..., frame=..., label=...,
    )  # fmt: skip
    pack([file], tmp_path / "out")
    records = _records(tmp_path / "out")["train"]
    assert "real face" in records["Deepfakes_0/real"].captions[0]
    assert records["Deepfakes_0/real"].caption_key == "real"
    fake = records["Deepfakes_0"]
    assert fake.caption_key == "fake:mouth=blur"
    assert (fake.dataset, fake.method, fake.frame) == ("annotations", "unknown", "")
    assert fake.video == "Deepfakes_0"


@pytest.mark.parametrize(
    ("fake", "real", "video", "expected"),
    [
        ("F2F/000_003/12.png", "original/000/12.png", "000_003", "000"),
        ("a.png", "b.png", "000_003", "000"),
        ("a.png", "b.png", "id0_id1_0000", "id0_id1_0000"),
        ("swap/id0_id1_0/1.png", "real/id0_0/1.png", "id0_id1_0", "id0_0"),
    ],
)
def test_video_of_the_real(tmp_path: Path, fake: str, real: str, video: str, expected: str) -> None:
    file = write_annotations(tmp_path / "in", 1, ("Deepfakes",))
    for name, path in (("Deepfakes_0.img", fake), ("real_0.png", real)):
        target = tmp_path / "in" / path
        target.parent.mkdir(parents=True, exist_ok=True)
        os.link(tmp_path / "in" / name, target)
    _edit(file, 1, real=real, fake=fake, video=video)
    pack([file], tmp_path / "out")
    assert _records(tmp_path / "out")["train"]["Deepfakes_0/real"].video == expected


def test_pairs_that_were_not_annotated_are_counted(tmp_path: Path) -> None:
    file = write_annotations(tmp_path / "in", 2)
    _edit(file, 1, caption="", error="rate_limit: slow down")
    _edit(file, 2, error="refused: but a raw caption is there")
    card = pack([file], tmp_path / "out")
    assert card["skipped"] == {"rate_limit": 1}
    assert "Deepfakes_0" not in _records(tmp_path / "out")["train"]
    assert "FaceSwap_0" in _records(tmp_path / "out")["train"]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"real": "gone.png"}, "gone.png cannot be read"),
        ({"fake": "gone.png"}, "gone.png cannot be read"),
        ({"mask": "gone.png"}, "gone.png cannot be read"),
        ({"mask": "annotations.jsonl"}, "annotations.jsonl is not a picture"),
        ({"fake": "annotations.jsonl"}, "not a PNG, JPEG, WebP or BMP"),
        ({"real": ...}, "names no real image"),
        ({"real": ["a"]}, "'real' that is not text"),
        ({"id": ""}, "has no id"),
        ({"id": "Deepfakes_0"}, "annotations.jsonl:1"),
        ({"label": 0}, "label 0, but it names a fake"),
        ({"fake": None}, "label 1, but it names no fake"),
        ({"caption": ""}, "has no caption"),
        ({"captions": "text"}, "'captions' that is not a list of text"),
        ({"regions": {"ear": {"forged": True}}}, "region 'ear'"),
        ({"regions": {"nose": {"forged": True, "types": ["odd"]}}}, "type 'odd' in 'nose'"),
        ({"regions": {"nose": True}}, "not {forged, types}"),
        ({"source": "guessed"}, "source 'guessed'"),
        ({"method": "real"}, "method 'real'"),
        ({"split": "holdout"}, "split 'holdout'"),
    ],
)
def test_faults_are_reported_by_file_and_line(
    tmp_path: Path, changes: dict[str, Any], message: str
) -> None:
    file = write_annotations(tmp_path / "in", 1)
    _edit(file, 2, **changes)
    with pytest.raises(UserError, match=r"annotations\.jsonl:2: ") as caught:
        pack([file], tmp_path / "out")
    assert message in str(caught.value)
    assert os.listdir(tmp_path) == ["in"]  # nothing half-written


def test_a_mask_of_another_format_is_packed_as_png(tmp_path: Path) -> None:
    file = write_annotations(tmp_path / "in", 1)
    mask = np.zeros((40, 40), np.uint8)
    mask[10:20, 10:20] = 255
    cv2.imwrite(str(file.parent / "mask.bmp"), mask)
    _edit(file, 2, mask="mask.bmp")
    pack([file], tmp_path / "out")
    (packed,) = [
        record.mask for record in _records(tmp_path / "out")["train"].values() if record.mask
    ]
    assert packed.startswith(b"\x89PNG")
    decoded = cv2.imdecode(np.frombuffer(packed, np.uint8), cv2.IMREAD_UNCHANGED)
    np.testing.assert_array_equal(decoded, mask)


def test_junk_lines_are_reported_and_summed_up(tmp_path: Path) -> None:
    file = write_annotations(tmp_path / "in", 1)
    with file.open("ab") as stream:
        stream.write(b"{\n[]\n\xff\n" + b"[" * 100_000 + b"\n")
    with pytest.raises(UserError, match=r"jsonl:3: not JSON.*:4: not a JSON object.* and 1 more"):
        pack([file], tmp_path / "out")


def test_nothing_to_pack_is_reported(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"none\.jsonl does not exist"):
        pack([tmp_path / "none.jsonl"], tmp_path / "out")
    file = tmp_path / "empty.jsonl"
    file.write_text("\n")
    with pytest.raises(UserError, match="no annotated pair"):
        pack([file], tmp_path / "out")


def test_an_existing_folder_is_respected(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = write_annotations(tmp_path / "in", 1)
    other = tmp_path / "other"
    other.mkdir()
    (other / "thesis.txt").write_text("years of work")
    for overwrite in (False, True):
        with pytest.raises(UserError, match="exists and is not a packed set"):
            pack([file], other, overwrite=overwrite)
    out = tmp_path / "out"
    out.mkdir()  # an empty folder is free
    pack([file], out)
    with pytest.raises(UserError, match="--overwrite"):
        pack([file], out)

    _edit(file, 1, fake="FaceSwap_0.img")
    pack([file], out, overwrite=True)
    records = _records(out)["train"]
    assert records["Deepfakes_0"].image == records["FaceSwap_0"].image

    (out / "notes.txt").write_text("mine")
    with pytest.raises(UserError, match=r"notes\.txt is not part of the packed set"):
        pack([file], out, overwrite=True)
    (out / "notes.txt").unlink()

    def meanwhile(done: int, total: int) -> None:
        pack([file], tmp_path / "third") if done == 1 else None

    with pytest.raises(UserError, match="third is a packed set already"):
        pack([file], tmp_path / "third", progress=meanwhile)
    shutil.rmtree(tmp_path / "third")

    def fail(*args: Any, **kwargs: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(builder, "write_card", fail)
    with pytest.raises(UserError, match="cannot be written"):
        pack([file], out, overwrite=True)
    assert len(_records(out)["train"]) == 3
    assert sorted(os.listdir(tmp_path)) == ["in", "other", "out"]


def test_of_two_runs_the_first_to_end_keeps_its_set(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = write_annotations(tmp_path / "first", 1)
    second = write_annotations(tmp_path / "second", 2)
    out = tmp_path / ("x" * 255)
    write_card, ended = builder.write_card, False

    def write_late(*args: Any, **kwargs: Any) -> dict[str, Any]:
        nonlocal ended
        if not ended:
            ended = True
            pack([first], out)
        return write_card(*args, **kwargs)

    monkeypatch.setattr(builder, "write_card", write_late)
    with pytest.raises(UserError, match="is a packed set already"):
        pack([second], out)
    assert len(_records(out)["train"]) == 3
    assert sorted(os.listdir(tmp_path)) == ["first", "second", out.name]


def test_card_counts_and_checksums_hold(tmp_path: Path) -> None:
    file = write_annotations(tmp_path / "in", 2)
    out = tmp_path / "out"
    card = pack([file], out)
    assert json.loads((out / "data_card.json").read_text()) == card
    train = card["splits"]["train"]
    assert (card["records"], train["real"], train["fake"], train["captions"]) == (6, 2, 4, 12)
    assert card["fakes_by_caption_source"] == {"raw": 2, "refined": 2}
    assert {(row["method"], row["records"]) for row in train["by_method"]} == {
        ("real", 2), ("Deepfakes", 2), ("FaceSwap", 2),
    }  # fmt: skip
    assert "| train | drawn | FaceSwap | fake | 2 |" in (out / "README.md").read_text()
    subprocess.run(["sha256sum", "-c", "--quiet", "SHA256SUMS"], cwd=out, check=True)
    listed = {line.split("  ")[1] for line in (out / "SHA256SUMS").read_text().splitlines()}
    files = {p.relative_to(out).as_posix() for p in out.rglob("*") if p.is_file()}
    assert listed == files - {"SHA256SUMS"}


def test_undecodable_pixels_are_left_to_the_loader(tmp_path: Path) -> None:
    """Packing looks at headers only; decoding every image would cost more than all the rest."""
    file = write_annotations(tmp_path / "in", 1, bad=(0,))
    pack([file], tmp_path / "out")
    assert _records(tmp_path / "out")["train"]["Deepfakes_0"].image == undecodable()


def test_command(tmp_path: Path) -> None:
    file = write_annotations(tmp_path / "in", 2)

    def run(*flags: str) -> subprocess.CompletedProcess[str]:
        return tiny.command("launch.pack", f"--out={tmp_path / 'out'}", *flags)

    done = run(f"--annotations={file}")
    assert done.returncode == 0, done.stderr
    assert "train: 6 records, 2 real, 4 fake" in done.stdout
    again = run(f"--annotations={file}")
    assert again.returncode == 1
    assert again.stderr.startswith("error: ")
    assert again.stderr.count("\n") == 1
    assert run(f"--annotations={file}", "--split=holdout").returncode == 2
    (tmp_path / "file").touch()
    done = run(f"--annotations={file}", f"--out={tmp_path / 'file/out'}")
    assert (done.returncode, done.stderr.count("\n")) == (1, 1)
    assert "file is not a folder, so nothing can be below it" in done.stderr
    shares = run(f"--annotations={file}", "--shares=80,30")
    assert (shares.returncode, shares.stderr.count("\n")) == (1, 1)
    assert "three numbers that add up to 100" in shares.stderr
