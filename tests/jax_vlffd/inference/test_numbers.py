"""A model with damaged numbers, or with parts of another model or step, gives no ordinary verdict."""

from __future__ import annotations

import dataclasses
import json
import math
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors import safe_open
from safetensors.numpy import save_file

from jax_vlffd.errors import UserError
from jax_vlffd.evaluation.calibration import Calibration
from jax_vlffd.explanation import Explainer
from jax_vlffd.inference.detector import Detector
from jax_vlffd.inference.trained import TrainedModel, open_trained
from jax_vlffd.training.checkpoints import Checkpoints
from launch.experiment import workdir as runs
from tests.support import tiny, tiny_workdir
from tests.support.packed_sets import draw

DAMAGED = (math.nan, math.inf, -math.inf, 1e300, -1e300, 1e38)


@pytest.fixture(scope="module")
def model(workdir: Path) -> TrainedModel:
    return open_trained(workdir)


def outcome(call: Callable[[], Any]) -> tuple[Any, str]:
    """What a call returns, and the line of its UserError; other errors pass."""
    try:
        return call(), ""
    except UserError as error:
        text = str(error)
    assert "\n" not in text
    return None, text


def finite(value: Any) -> bool:
    """Whether all numbers in a value of JSON are; null is none."""
    if isinstance(value, dict | list):
        return all(map(finite, value.values() if isinstance(value, dict) else value))
    return not isinstance(value, float) or math.isfinite(value)


@pytest.mark.slow
@settings(max_examples=12)
@given(data=st.data(), value=st.sampled_from(DAMAGED))
def test_damaged_parameters_give_no_verdict(
    model: TrainedModel, data: st.DataObject, value: float
) -> None:
    name = data.draw(st.sampled_from(sorted(model.parameters)))
    damaged = np.array(model.parameters[name], np.float32)
    with np.errstate(over="ignore"):
        damaged[...] = np.float32(value)
    broken = dataclasses.replace(model, parameters={**model.parameters, name: damaged})
    detector = Detector(broken)
    predictions, error = outcome(lambda: detector.predict([draw(n, 40) for n in range(2)]))
    if error:
        assert "overflow" in error
    else:
        assert all(finite(prediction.as_dict()) for prediction in predictions)


@settings(max_examples=20)
@given(data=st.data(), value=st.sampled_from((*DAMAGED, "1", None, True, 10**400)))
def test_damaged_files_beside_the_parameters_are_refused(
    workdir: Path, tmp_path_factory: pytest.TempPathFactory, data: st.DataObject, value: Any
) -> None:
    folder = tmp_path_factory.mktemp("run")
    calibration = json.loads((workdir / "calibration.json").read_text())
    name = data.draw(st.sampled_from(sorted(calibration)))
    calibration[name] = value
    fitted, error = outcome(lambda: Calibration.from_json(json.dumps(calibration), "c.json"))
    if not error:
        assert all(0 <= fitted.probability(logit) <= 1 for logit in (-50.0, 0.0, 50.0))
        assert fitted.probability(50.0) > 0.5  # a temperature of 1e300 would make all alike

    with safe_open(workdir / "explanation.safetensors", "numpy") as file:
        table = json.loads(file.metadata()["explanation"])
        embeddings = file.get_tensor("embeddings")
    scaling = data.draw(st.sampled_from([table["real"], *table["regions"], *table["types"]]))
    scaling[data.draw(st.sampled_from(["slope", "offset", "threshold"]))] = value
    save_file(
        {"embeddings": embeddings}, folder / "bank", {"explanation": json.dumps(table)}
    )  # a scaling has numbers alone; True is 1
    if value is True:
        return
    assert outcome(lambda: Explainer.load(folder / "bank"))[1]


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_a_checkpoint_of_what_is_not_a_number_is_refused(tmp_path: Path, value: float) -> None:
    folder = tiny_workdir.write(tmp_path / "run")
    shutil.rmtree(folder / runs.CHECKPOINTS)
    state = tiny.state(tiny.plan())
    name = next(name for name in state.parameters if name.startswith("image_head/"))
    damaged = {**state.parameters, name: np.full_like(state.parameters[name], value)}
    with Checkpoints(folder / runs.CHECKPOINTS) as checkpoints:
        state = type(state)(np.int32(5), damaged, state.optimizer)
        checkpoints.save(state, {"data": {}, "clock": {}}, {"auc": 0.9})
    with pytest.raises(UserError, match=f"the parameter {name} holds values that are not numbers"):
        open_trained(folder)


def test_a_bank_of_another_width_is_refused(workdir: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(workdir, tmp_path / "run")
    bank = tiny_workdir.explainer(2 * tiny.CLIP.embed_dim)
    (folder / "explanation.safetensors").write_bytes(bank.to_bytes())
    with pytest.raises(UserError, match=r"explanation\.safetensors.* is of another model") as error:
        open_trained(folder)
    assert "\n" not in str(error.value)


def test_a_calibration_of_another_step_is_not_used(
    workdir: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = shutil.copytree(workdir, tmp_path / "run")
    for best, used in ((tiny_workdir.STEP, True), (tiny_workdir.STEP + 1, False)):
        (folder / runs.SUMMARY).write_text(json.dumps({"best_step": best}))
        model = open_trained(folder)
        assert (model.calibration is not None, model.explainer is not None) == (used, used)
        note = capsys.readouterr().err
        assert ("are of step 6, and this is step 5, so they are not used" in note) is not used
    for unknown in ("{}", "[", '{"best_step": "6"}'):
        (folder / runs.SUMMARY).write_text(unknown)
        assert open_trained(folder).calibration is not None
