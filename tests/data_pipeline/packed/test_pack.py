"""Packing: every image once, people in one split, nothing half-written, faults told by line."""

from __future__ import annotations

import collections
import gc
import json
import os
import subprocess
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from data_pipeline.packed import builder
from data_pipeline.packed.builder import pack
from data_pipeline.packed.reader import PackedSplit, split_names
from data_pipeline.packed.record import Record
from data_pipeline.packed.splits import Groups, people
from jax_vlffd.errors import UserError
from tests.support import tiny
from tests.support.packed_sets import METHODS, draw, encode, undecodable, write_annotations
from tests.support.video_trees import write_picture


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


def test_splits_as_stated(tmp_path: Path) -> None:
    file = write_annotations(tmp_path / "in", 4, ("Deepfakes",), split=None)
    _edit(file, 1, split="val")
    _edit(file, 2, split="test")
    with pytest.raises(UserError, match=r"only 2 of 4 lines state a split.*--split"):
        pack([file], tmp_path / "out")
    pack([file], tmp_path / "out", split="train")
    records = _records(tmp_path / "out")
    assert {name: len(content) for name, content in records.items()} == {
        "train": 4, "validation": 2, "test": 2,
    }  # fmt: skip
    assert split_names(tmp_path / "out") == ("train", "validation", "test")


def test_a_real_in_two_splits_is_refused(tmp_path: Path) -> None:
    file = write_annotations(tmp_path / "in", 1)
    _edit(file, 2, split="test")
    with pytest.raises(UserError, match=r"annotations.jsonl:2: its real .* one split"):
        pack([file], tmp_path / "out")


def test_hashed_splits_keep_people_together_and_repeat(tmp_path: Path) -> None:
    file = write_annotations(tmp_path / "in", 40, split=None)
    for number in range(1, 81):  # a ring of swaps in groups of two videos
        real = (number - 1) // 2
        _edit(file, number, video=f"{real:03d}_{real ^ 1:03d}")
    pack([file], tmp_path / "a")
    pack([file], tmp_path / "b")
    splits = _records(tmp_path / "a")
    assert {k: list(v) for k, v in splits.items()} == {
        k: list(v) for k, v in _records(tmp_path / "b").items()
    }
    assert set(splits) == {"train", "validation", "test"}
    assert sum(map(len, splits.values())) == 120
    seen: dict[str, str] = {}
    for name, content in splits.items():
        for record in content.values():
            for person in people(record.dataset, record.video):
                assert seen.setdefault(person, name) == name


def test_equal_reals_stay_in_one_split(tmp_path: Path) -> None:
    """Without videos, the real's own content is what must not cross splits."""
    file = write_annotations(tmp_path / "in", 30, ("Deepfakes",), split=None, video=None)
    for number in range(30):
        (tmp_path / f"in/real_{number}.png").write_bytes(encode(draw(number % 10)))
    pack([file], tmp_path / "out")
    seen: dict[bytes, str] = {}
    for name, content in _records(tmp_path / "out").items():
        for record in content.values():
            if not record.label:
                assert seen.setdefault(record.image, name) == name


def test_faces_that_are_alike_stay_in_one_split(tmp_path: Path) -> None:
    """Without videos, reals that the eye takes for one person may be told by a grouping."""
    file = write_annotations(tmp_path / "in", 30, ("Deepfakes",), split=None, video=None)
    assert pack([file], tmp_path / "alone")["reals_told_by_content"] == 30
    alone = _records(tmp_path / "alone")

    def person(name: str) -> int:
        return int(name.split("_")[1].split("/")[0].split(".")[0]) % 10

    def faces(pictures: list[Path]) -> list[int]:
        return [person(picture.name) for picture in pictures]

    card = pack([file], tmp_path / "out", faces=faces, shares=(40, 30, 30))
    assert card["reals_told_by_content"] == 0
    assert card["split_rule"].startswith("40/30/30")
    for splits, kept in ((_records(tmp_path / "out"), True), (alone, False)):
        seen = {name: {person(record) for record in content} for name, content in splits.items()}
        assert sum(map(len, seen.values())) == 10 or not kept
        assert (len(set.union(*seen.values())) == sum(map(len, seen.values()))) == kept
    stated = write_annotations(tmp_path / "stated", 2, split="test")
    with pytest.raises(UserError, match="--by_face would change nothing"):
        pack([stated], tmp_path / "no", faces=faces)


def no_picture(line: int) -> Path:
    raise AssertionError(f"line {line} names its video")


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 30), st.integers(0, 30)), min_size=1, max_size=40))
def test_groups_never_cross_splits(swaps: list[tuple[int, int]]) -> None:
    groups = Groups()
    reals = {target: place for place, target in enumerate(dict.fromkeys(t for t, _ in swaps))}

    class Pair:
        dataset = "d"
        real_video = ""

    for target, source in swaps:
        pair: Any = Pair()
        pair.video = f"{target:03d}_{source:03d}"
        groups.add(pair)
    of_line = np.array([reals[target] for target, _ in swaps])
    splits = groups.splits(of_line, np.unique(of_line, return_index=True)[1], no_picture)
    of_person: dict[int, set[int]] = collections.defaultdict(set)
    for target, source in swaps:
        of_person[target].add(splits[reals[target]])
        of_person[source].add(splits[reals[target]])
    assert all(len(result) == 1 for result in of_person.values())


@pytest.mark.parametrize(
    ("video", "result"),
    [
        ("183_253", {"d/183", "d/253"}),
        ("183", {"d/183"}),
        ("01_02__outside_talking__ABC123", {"d/01", "d/02"}),
        ("id0_id1_0007", {"d/id0", "d/id1"}),
        ("holiday", {"d/holiday"}),
        ("", set()),
    ],
)
def test_people_of_a_video(video: str, result: set[str]) -> None:
    assert people("d", video) == result


def test_shares_of_the_hashed_splits() -> None:
    groups = Groups()

    class Pair:
        dataset = "d"
        real_video = ""

    for number in range(3000):
        pair: Any = Pair()
        pair.video = f"video {number}"
        groups.add(pair)
    lines = np.arange(3000)
    counts = np.bincount(groups.splits(lines, lines, no_picture)) / 3000
    np.testing.assert_allclose(counts, [0.8, 0.1, 0.1], atol=0.02)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"real": "gone.png"}, "gone.png cannot be read"),
        ({"fake": "gone.png"}, "gone.png cannot be read"),
        ({"mask": "gone.png"}, "gone.png cannot be read"),
        ({"mask": "Deepfakes_0.img"}, "is not a PNG"),
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


def wide(folder: Path, lines: int, **columns: Any) -> Path:
    """Annotations of so many fakes, four of each real, over a few files of pictures."""
    for part in range(max(lines // 4000, 1)):
        write_picture(folder / f"{part}.png", np.zeros((8, 8, 3), np.uint8))
    with (folder / "annotations.jsonl").open("w") as file:
        for number in range(lines):
            real = folder / f"real/{number // 4:09d}.png"
            if not number % 4:
                real.parent.mkdir(exist_ok=True)
                os.link(folder / f"{number // 4 % (part + 1)}.png", real)
            line = {
                "id": f"DeepFakeDetection/manipulated_sequences/c23/frames/{number:09d}", "label": 1,
                "real": f"real/{real.name}", "fake": f"{number % (part + 1)}.png",
                "caption": "The nose is blurred.", "dataset": "d", "method": f"m{number % 4}",
            }  # fmt: skip
            named = {k: f(number) if callable(f) else f for k, f in columns.items()}
            file.write(json.dumps(line | named) + "\n")
    return folder / "annotations.jsonl"


LARGE = pytest.mark.campaign


@pytest.mark.slow
@pytest.mark.parametrize(
    ("columns", "sizes"),
    [
        pytest.param({"video": lambda i: f"{i // 128:06d}"}, (200, 800), id="named"),
        pytest.param({"video": lambda i: f"{i // 128:06d}"}, (10_000, 20_000, 40_000), marks=LARGE),
        pytest.param({"split": "train"}, (10_000, 20_000, 40_000), marks=LARGE),
        pytest.param({}, (10_000, 20_000, 40_000), marks=LARGE),
    ],
)
def test_a_line_is_kept_as_a_few_bytes(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    record_property: Callable[[str, object], None],
    sizes: tuple[int, ...],
    columns: dict[str, Any],
) -> None:
    write_card, kept = builder.write_card, []

    def measure(*args: Any, **kwargs: Any) -> dict[str, Any]:
        gc.collect()
        kept.append(tracemalloc.get_traced_memory()[0])
        return write_card(*args, **kwargs)

    monkeypatch.setattr(builder, "write_card", measure)
    monkeypatch.setattr(builder, "SHARD_BYTES", 200_000)
    peaks = []
    for number, lines in enumerate((100, *sizes)):  # the first for what is imported and cached
        file = wide(tmp_path / str(number), lines, **columns)
        tracemalloc.start()
        pack([file], tmp_path / f"out_{number}")
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    growth = np.diff(kept[1:]) / np.diff(sizes)
    record_property("bytes_a_line", [round(float(rate), 1) for rate in growth])
    assert growth.max() <= 100  # where all ids and paths are kept it is 190
    if sizes[0] > 1000:  # what is uncollected of the pictures grows at first
        assert (np.diff(peaks[1:]) / np.diff(sizes)).max() <= 90


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
    assert "file/out cannot be written" in done.stderr
    shares = run(f"--annotations={file}", "--shares=80,30")
    assert (shares.returncode, shares.stderr.count("\n")) == (1, 1)
    assert "three numbers that add up to 100" in shares.stderr
