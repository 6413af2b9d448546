"""Packed sets made by somebody else: what they name is neither imported nor opened."""

from __future__ import annotations

import dataclasses
import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tensorflow_datasets.proto import tf_example_pb2

from data_pipeline.packed.reader import PackedSplit
from data_pipeline.packed.record import parse_record
from data_pipeline.packed.remote import set_digest
from jax_vlffd.errors import UserError
from jax_vlffd.inference.detector import Detector
from jax_vlffd.inference.trained import open_trained
from tests.support import tiny, tiny_workdir
from tests.support.packed_sets import make_set

#: Runs when it is imported.
EVIL = "import pathlib\npathlib.Path(__file__).with_name('ran').touch()\n"


@pytest.fixture
def mine(packed: Path, tmp_path: Path) -> Path:
    """A copy of a packed set, to be changed."""
    return Path(shutil.copytree(packed, tmp_path / "mine"))


def change(path: Path, edit: Callable[[Any], object]) -> None:
    """Edits a JSON file in place."""
    content = json.loads(path.read_text())
    edit(content)
    path.write_text(json.dumps(content))


def poison(packed: Path) -> Path:
    """Puts a module into a set and names a class of it in the set's schema; gives what shows that it ran."""
    (packed / "evil.py").write_text(EVIL)

    def edit(content: Any) -> None:
        features = content["featuresDict"]["features"]
        features["mask"]["pythonClassName"] = "evil.Feature"

    change(packed / "features.json", edit)
    return packed / "ran"


@pytest.mark.parametrize("name", ["pythonClassName", "python_class_name", "type"])
@pytest.mark.parametrize("module", ["evil.Feature", "antigravity.X"])
def test_a_schema_that_names_a_class_is_refused_and_imports_nothing(
    mine: Path, name: str, module: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    ran = poison(mine)
    monkeypatch.syspath_prepend(mine)
    monkeypatch.setattr("webbrowser.open", lambda *_: ran.touch())

    def edit(content: Any) -> None:
        mask = content["featuresDict"]["features"]["mask"]
        del mask["pythonClassName"]
        mask[name] = module

    change(mine / "features.json", edit)
    with pytest.raises(UserError, match=r"features\.json is not the schema of a packed set"):
        PackedSplit(mine, "train")
    assert not ran.exists()


def test_no_command_runs_what_lies_in_a_set(mine: Path, tmp_path: Path) -> None:
    ran = poison(mine)
    run = tiny_workdir.write_scoring(tmp_path / "run", train=str(mine), validation=str(mine))
    recipe = tiny.write_recipe(tmp_path / "tiny.py", *tiny.settings(mine))
    named = f"--data=own={mine}"
    for module, *arguments in (
        ("train", f"--config={recipe}", f"--workdir={tmp_path / 'new'}"),
        ("evaluate", f"--workdir={run}", named, "--split=validation", f"--out={tmp_path / 'eval'}"),
        ("score_reasons", f"--workdir={run}", named, "--split=validation", f"--validation={mine}"),
    ):
        done = tiny.command(f"launch.{module}", *arguments, cwd=mine)
        assert done.returncode == 1
        assert len(done.stderr.strip().splitlines()) == 1, done.stderr
        assert "features.json is not the schema of a packed set" in done.stderr
    assert not ran.exists()


def test_key_order_and_space_do_not_matter(mine: Path, packed: Path) -> None:
    def turned(value: Any) -> Any:
        if isinstance(value, dict):
            return {key: turned(value[key]) for key in reversed(value)}
        return value

    for file in ("features.json", "dataset_info.json"):
        content = turned(json.loads((mine / file).read_text()))
        (mine / file).write_text(json.dumps(content))
    assert PackedSplit(mine, "train")[1].id == PackedSplit(packed, "train")[1].id


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("name", "../other/face_forgery"),
        ("fileFormat", "tfrecord"),
        ("filepathTemplate", "../other/{DATASET}-{SPLIT}.{FILEFORMAT}-{SHARD_X_OF_Y}"),
        ("shardLengths", ["-1"]),
        ("shardLengths", ["99999999999999999999"]),
        ("shardLengths", [8.9]),
        ("shardLengths", ["1"] * 100_001),
        ("shardLengths", [[]]),
        ("name", "x" * 1_000_000),
    ],
)
def test_names_that_are_not_ours_are_refused(mine: Path, key: str, value: object) -> None:
    # A whole set stands where they point.
    shutil.copytree(mine, mine.parent / "other")

    def edit(content: Any) -> None:
        (content if key in content else content["splits"][0])[key] = value

    change(mine / "dataset_info.json", edit)
    with pytest.raises(UserError, match=r"dataset_info\.json") as error:
        PackedSplit(mine, "train")
    assert len(str(error.value)) < 600


@pytest.mark.parametrize("where", ["shard", "index", "features.json", "index/train.npy"])
def test_a_link_out_of_a_set_is_refused(mine: Path, packed: Path, where: str) -> None:
    path = next(mine.glob("*train.array_record*")) if where == "shard" else mine / where
    shutil.rmtree(path) if path.is_dir() else path.unlink()
    path.symlink_to(packed / path.relative_to(mine))
    with pytest.raises(UserError, match="is a link out of its set; copy the file itself"):
        PackedSplit(mine, "train")
    if where.startswith("index"):  # which the digest reads
        with pytest.raises(UserError, match="is a link out of its set"):
            set_digest(mine)


def test_links_that_stay_are_followed(mine: Path, tmp_path: Path) -> None:
    (tmp_path / "way").symlink_to(mine)
    shard = next(mine.glob("*train.array_record*"))
    shard.rename(mine / "first")
    shard.symlink_to("first")
    assert PackedSplit(tmp_path / "way", "train")[0].id
    # As the Hugging Face cache lays a set out.
    cache = tmp_path / "datasets--me--set"
    cache.joinpath("snapshots").mkdir(parents=True)
    snapshot = Path(shutil.copytree(mine, cache / "snapshots" / "abc", symlinks=True))
    shard = snapshot / "first"
    shutil.move(shard, cache / "blobs")
    shard.symlink_to("../../blobs")
    assert PackedSplit(snapshot, "train")[0].id


@pytest.mark.parametrize(
    "file", ["features.json", "dataset_info.json", "index/index.json", "shard"]
)
def test_pipes_and_giants_are_refused_at_once(mine: Path, file: str) -> None:
    path = next(mine.glob("*train.array_record*")) if file == "shard" else mine / file
    path.unlink()
    os.mkfifo(path)
    with pytest.raises(UserError, match=r"regular file|is not a packed set"):
        PackedSplit(mine, "train")
    if file != "shard":
        path.unlink()
        with path.open("wb") as sparse:
            sparse.truncate(8 << 30)
        with pytest.raises(UserError, match="larger than"):
            PackedSplit(mine, "train")


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("label", 1, "label is 0, in the index 1"),
        ("label", 7, "labels or rows that are not there"),
        ("method", 9, "methods, labels"),
        ("pair", 10_000, "rows that are not there"),
    ],
)
def test_an_index_that_contradicts_the_records_is_refused(
    mine: Path, field: str, value: int, message: str
) -> None:
    index = np.load(mine / "index/train.npy")
    real = int(np.flatnonzero(index["label"] == 0)[0])
    index[field][real] = value
    np.save(mine / "index/train.npy", index)
    (mine / "SHA256SUMS").unlink()  # whoever makes a set also makes its list
    with pytest.raises(UserError, match=message):
        PackedSplit(mine, "train").sample(real)


def test_a_changed_byte_of_an_index_is_noticed(mine: Path) -> None:
    random = np.random.default_rng(0)
    for name in ("index/index.json", "index/train.npy"):
        whole = (mine / name).read_bytes()
        for place in random.integers(len(whole), size=20):
            changed = bytearray(whole)
            changed[place] ^= 1 << int(random.integers(8))
            (mine / name).write_bytes(changed)
            with pytest.raises(UserError):
                PackedSplit(mine, "train")
        (mine / name).write_bytes(whole)
    assert len(PackedSplit(mine, "train"))


@pytest.mark.parametrize("label", [-1, 7])
def test_a_label_that_is_neither_is_refused(packed: Path, label: int) -> None:
    data = PackedSplit(packed, "train")._source[0]
    example = tf_example_pb2.Example.FromString(data)
    example.features.feature["label"].int64_list.value[0] = label
    with pytest.raises(ValueError, match=f"the label is {label}"):
        parse_record(example.SerializeToString())
    example.features.feature["label"].int64_list.value[0] = 0
    example.features.feature["video"].bytes_list.value[0] = b"x" * 20_000
    with pytest.raises(ValueError, match="video has 20,000 bytes"):
        parse_record(example.SerializeToString())


def test_a_model_of_numbers_that_are_not_finite_gives_no_verdict(workdir: Path) -> None:
    opened = open_trained(workdir)
    assert not [name for name in opened.parameters if name.startswith("text/")]
    broken = {name: np.full_like(value, np.nan) for name, value in opened.parameters.items()}
    detector = Detector(dataclasses.replace(opened, parameters=broken))
    with pytest.raises(UserError, match="the model's numbers overflow"):
        detector.predict([np.zeros((16, 16, 3), np.uint8)])


def test_tfds_still_opens_a_set_of_ours(tmp_path: Path) -> None:
    import tensorflow_datasets as tfds

    packed = make_set(tmp_path, 2)
    source = tfds.builder_from_directory(packed).as_data_source("train")
    assert len(source) == len(PackedSplit(packed, "train")) == 6
