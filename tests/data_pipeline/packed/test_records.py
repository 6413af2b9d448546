"""The packed set: TFDS reads it without TensorFlow, we read it faster, and bad folders are told."""

from __future__ import annotations

import dataclasses
import json
import pickle
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import tensorflow_datasets as tfds

from data_pipeline.core.images import decode_image
from data_pipeline.packed import builder, reader
from data_pipeline.packed.reader import PackedSplit, split_names
from data_pipeline.packed.record import INDEX_DTYPE
from jax_vlffd.errors import UserError
from tests.support.packed_sets import draw, encode, make_set


@pytest.fixture(scope="module")
def packed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_set(tmp_path_factory.mktemp("set"), 4)


_READ_WITH_TFDS = """
import json, sys
import tensorflow_datasets as tfds
source = tfds.builder_from_directory(sys.argv[1]).as_data_source()
rows = [
    {**{k: v for k, v in e.items() if k not in ("image", "regions", "types")},
     "sum": int(e["image"].sum()), "shape": e["image"].shape,
     "regions": e["regions"].tolist(), "types": e["types"].tolist()}
    for e in source["train"]
]
assert "tensorflow" not in sys.modules
print(json.dumps(rows, default=lambda b: b.decode()))
"""


def test_tfds_reads_it_without_tensorflow(packed: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", _READ_WITH_TFDS, str(packed)],
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    rows = json.loads(done.stdout.splitlines()[-1])
    split = PackedSplit(packed, "train")
    assert len(rows) == len(split) == 12
    for row, record in zip(rows, (split[i] for i in range(len(split))), strict=True):
        for name in ("id", "label", "dataset", "method", "video", "frame", "pair", "caption_key"):
            assert row[name] == getattr(record, name)
        assert row["captions"] == list(record.captions)
        assert row["types"] == record.types.tolist()
        assert row["shape"] == [40, 40, 3]
        # TFDS decodes gray as gray and so on; ours are color images, so the pixels agree.
        assert row["sum"] == int(decode_image(record.image).sum())


def test_parsing_agrees_with_tfds_features(packed: Path) -> None:
    source = tfds.builder_from_directory(packed).as_data_source(
        "train", decoders={"image": tfds.decode.SkipDecoding()}
    )
    record = dataclasses.asdict(PackedSplit(packed, "train")[1])
    for name, value in source[1].items():
        ours = record[name]
        if name == "captions":
            assert [text.encode() for text in ours] == value
        elif isinstance(ours, np.ndarray):
            np.testing.assert_array_equal(ours, value)
        else:
            assert ours == (value.decode() if isinstance(ours, str) else value)


def test_images_are_stored_as_they_were(packed: Path) -> None:
    assert PackedSplit(packed, "train")[0].image == encode(draw(0))


def test_index_pairs_fakes_with_their_reals(packed: Path) -> None:
    split = PackedSplit(packed, "train")
    assert split.index.dtype == INDEX_DTYPE
    assert isinstance(split.index, np.memmap)
    for row, entry in enumerate(split.index):
        record = split[row]
        assert entry["label"] == record.label
        assert split.methods[entry["method"]] == record.method
        if record.label:
            assert split[int(entry["pair"])].id == record.pair
        else:
            assert entry["pair"] == -1


def test_opening_reads_no_record(packed: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reader, "parse_record", lambda data: pytest.fail("a record was read"))
    assert len(PackedSplit(packed, "train")) == 12


def test_pickles_small_and_reads_on(packed: Path) -> None:
    split = PackedSplit(packed, "train")
    before = split[5].id
    data = pickle.dumps(split)
    assert len(data) < 4000
    assert pickle.loads(data)[5].id == before


def test_shards_are_bounded_and_keep_pairs_together(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(builder, "SHARD_BYTES", 6000)
    folder = make_set(tmp_path, 6)
    shards = sorted(folder.glob("*.array_record-*"))
    assert len(shards) > 2
    info = json.loads((folder / "dataset_info.json").read_text())["splits"][0]
    starts = np.cumsum([0, *map(int, info["shardLengths"])])
    split = PackedSplit(folder, "train")
    assert starts[-1] == len(split) == 18
    for row, entry in enumerate(split.index):
        real = row if entry["pair"] < 0 else entry["pair"]
        assert np.searchsorted(starts, row, "right") == np.searchsorted(starts, real, "right")
        assert split[row].id  # every row can be read


@pytest.mark.parametrize("damage", ["cut", "overwritten", "gone"])
def test_damaged_shards_are_reported(tmp_path: Path, damage: str) -> None:
    folder = make_set(tmp_path, 4)
    shard = next(folder.glob("*.array_record-*"))
    data = shard.read_bytes()
    if damage == "gone":
        shard.unlink()
    else:
        half = len(data) // 2
        shard.write_bytes(data[:half] if damage == "cut" else bytes(half) + data[half:])
    with pytest.raises(UserError, match=r"cannot be read .*pack"):
        [PackedSplit(folder, "train")[row] for row in range(12)]


def test_errors_name_the_folder_and_the_remedy(packed: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"nowhere does not exist.*launch\.pack"):
        PackedSplit(tmp_path / "nowhere", "train")
    with pytest.raises(UserError, match=r"is not a packed set.*launch\.pack"):
        PackedSplit(tmp_path, "train")
    with pytest.raises(UserError, match=r"no records in split 'test' \(it has: train\)"):
        PackedSplit(packed, "test")
    assert split_names(packed) == ("train",)


@pytest.mark.parametrize(
    ("file", "content", "message"),
    [
        ("index/index.json", b"{", "index.json cannot be read"),
        ("index/index.json", b'{"version": 2}', "version 2, not 1"),
        ("index/train.npy", b"junk", "train.npy cannot be read"),
        ("index/train.npy", None, "the shards have"),
        ("dataset_info.json", b"{}", "cannot be read"),
    ],
)
def test_damaged_sets_are_reported(
    tmp_path: Path, file: str, content: bytes | None, message: str
) -> None:
    folder = make_set(tmp_path, 1)
    if content is None:
        np.save(folder / file, np.zeros(2, INDEX_DTYPE))
    else:
        (folder / file).write_bytes(content)
    with pytest.raises(UserError, match=message):
        PackedSplit(folder, "train")
