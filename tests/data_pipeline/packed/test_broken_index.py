"""An index or geometry whose bytes are broken is one line, whatever NumPy makes of it."""

from __future__ import annotations

import random
import shutil
from pathlib import Path

import pytest

from data_pipeline.packed import face_geometry
from data_pipeline.packed.reader import PackedSplit
from jax_vlffd.errors import UserError
from tests.support.bad_inputs import broken


@pytest.mark.parametrize("name", ["train.npy", "train.geometry.npy"])
def test_broken_arrays_are_refused_in_one_line(packed: Path, tmp_path: Path, name: str) -> None:
    copy = Path(shutil.copytree(packed, tmp_path / "set"))
    sound = (copy / "index" / name).read_bytes()
    rng = random.Random(0)
    refused = []
    # The first shows what NumPy raises as a TokenError.
    for data in (sound.replace(b"'", b"(", 1), *(broken(sound, rng) for _ in range(200))):
        (copy / "index" / name).write_bytes(data)
        try:
            split = PackedSplit(copy, "train")
            len(split.index)
            face_geometry.read(copy, "train", len(split))
        except UserError as error:
            refused.append(str(error))
    assert len(refused) > 100
    assert all(str(copy) in line and "\n" not in line for line in refused)
