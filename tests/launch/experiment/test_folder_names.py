"""Runs and exports in folders whose names hold brackets, stars, blanks and marks."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest

from jax_vlffd.config import LossConfig
from jax_vlffd.inference.detector import Detector
from launch.experiment import export, remote_workdir, workdir
from launch.experiment.remote_workdir import UserError
from tests.support import tiny
from tests.support.training_runs import run


@pytest.mark.slow
@pytest.mark.parametrize(
    "name", ["*[a]? %20 #1", pytest.param("data [v2]", marks=pytest.mark.campaign)]
)
def test_a_run_and_its_export_are_read_back_from_a_folder_of_any_name(
    name: str, tmp_path: Path
) -> None:
    place = tmp_path / name
    packed = tiny.pack_set(place / "set")
    loss = LossConfig(alignment=0, fusion=0)
    run(place / "run", packed, loss=loss, duration="2 steps", evaluate_every="2 steps")
    before = os.stat(place / "run" / workdir.CHECKPOINTS / "2").st_ino
    run(place / "run", packed, loss=loss, duration="2 steps", evaluate_every="2 steps")
    assert os.stat(place / "run" / workdir.CHECKPOINTS / "2").st_ino == before
    trained = workdir.load_run(place / "run")
    export.export(place / "run", place / "export")
    exported = workdir.load_run(place / "export")
    for path, value in trained.parameters.items():
        np.testing.assert_array_equal(value, exported.parameters[path], err_msg=path)
    for source in ("run", "export"):
        Detector.from_pretrained(place / source)


def test_a_bucket_name_that_is_a_pattern_to_its_client_is_refused() -> None:
    with (
        pytest.raises(UserError, match="are patterns"),
        remote_workdir.local("gs://bucket/runs [1]/a"),
    ):
        pass
