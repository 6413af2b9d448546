"""What a workdir keeps of the sets that it was trained on."""

from __future__ import annotations

import dataclasses
import json
import os
import shutil
from pathlib import Path

import pytest

from data_pipeline.packed import remote
from jax_vlffd.errors import UserError
from jax_vlffd.files import read_regular
from launch.experiment import training_data
from tests.support import tiny


def test_a_description_names_digest_records_and_methods(packed: Path, tmp_path: Path) -> None:
    _, data = tiny.settings(packed)
    described = training_data.describe(data)
    training_data.save(tmp_path, described)
    assert training_data.read(tmp_path) == described
    (entry,) = described["train"]
    assert entry["set"] == str(packed)
    assert entry["digest"] == remote.set_digest(packed)
    assert entry["records"] > 0
    assert "real" not in entry["methods"]
    assert training_data.methods(described) == tuple(entry["methods"])


def test_only_the_methods_that_are_trained_on_are_named(folder: Path) -> None:
    _, data = tiny.settings(folder)
    data = dataclasses.replace(data, train=((str(folder), 1.0),), validation=())
    every = training_data.methods(training_data.describe(data))
    one = dataclasses.replace(data, methods=every[:1])
    assert len(every) == 2
    assert training_data.methods(training_data.describe(one)) == every[:1]


def test_a_digest_changes_with_the_set(folder: Path, tmp_path: Path) -> None:
    copy = shutil.copytree(folder, tmp_path / "copy")
    assert remote.set_digest(copy) == remote.set_digest(folder)
    index = next((copy / "index").glob("*.npy"))
    index.write_bytes(index.read_bytes()[:-1] + b"\x07")
    assert remote.set_digest(copy) != remote.set_digest(folder)


def test_a_workdir_of_before_has_none(tmp_path: Path) -> None:
    assert training_data.read(tmp_path) is None


@pytest.mark.parametrize(
    "text", ["[", "[]", "[" * 100_000, '{"version": 2}', json.dumps({"version": 1, "train": [1]})]
)
def test_a_damaged_description_is_refused(tmp_path: Path, text: str) -> None:
    (tmp_path / training_data.FILE).write_text(text)
    with pytest.raises(UserError, match=training_data.FILE):
        training_data.read(tmp_path)


def test_only_regular_files_of_a_bounded_size_are_read(tmp_path: Path) -> None:
    (tmp_path / "small").write_bytes(b"12345")
    assert read_regular(tmp_path / "small", 5) == b"12345"
    os.mkfifo(tmp_path / "pipe")
    for path, limit in (("small", 4), ("pipe", 5), ("missing", 5), ("/dev/zero", 5)):
        with pytest.raises(UserError, match=path):
            read_regular(tmp_path / path, limit)
