"""Every recipe: checked, and its whole train and eval step traced on shapes alone."""

from __future__ import annotations

import importlib
import re
from functools import cache

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from ml_collections import config_dict

from configs.base import recipe
from data_pipeline.loading.settings import DataSettings
from jax_vlffd.config import RunConfig
from jax_vlffd.training.state import TrainPlan
from jax_vlffd.training.step import make_eval_step, make_train_step
from launch.experiment import config as configs
from launch.experiment import plan as plans
from tests.support import tiny

RECIPES = sorted(
    file.stem
    for file in (tiny.ROOT / "configs").glob("*.py")
    if re.search(r"^(def )?get_config\b", file.read_text(), re.MULTILINE)
)

#: Branches, tuning of (vision, text), image size and dtype, as the recipes' names promise.
PROMISED = {
    "demo": ((1, 1, 1), ("full", "full"), 64, "float32"),
    "ffpp_crops": ((1, 1, 1), ("full", "full"), 224, "float32"),
    "vlffd_clip_b16": ((1, 1, 1), ("full", "full"), 224, "bfloat16"),
    "vlffd_clip_l14": ((1, 1, 1), ("full", "full"), 224, "bfloat16"),
    "vlffd_clip_l14_336": ((1, 1, 1), ("full", "full"), 336, "bfloat16"),
    "image_only_l14": ((1, 0, 0), ("full", "full"), 224, "bfloat16"),
    "layernorm_l14": ((1, 1, 1), ("layernorm", "layernorm"), 224, "bfloat16"),
}


@cache
def load(name: str) -> config_dict.ConfigDict:
    result: config_dict.ConfigDict = importlib.import_module(f"configs.{name}").get_config()
    return result


@cache
def plan_of(name: str) -> tuple[RunConfig, DataSettings, TrainPlan]:
    run, data = configs.settings(load(name))
    return run, data, plans.make_plan(run, data, steps=1000, warmup_steps=50)


def test_the_recipes_are_those_that_are_promised() -> None:
    assert set(RECIPES) >= set(PROMISED)


@pytest.mark.parametrize("name", RECIPES)
def test_a_recipe_is_locked_and_survives_the_command_line(name: str) -> None:
    config = load(name)
    assert config.is_locked
    with pytest.raises(AttributeError):
        config.optim.learning_rat = 1.0
    run, data = configs.settings(config)
    assert configs.settings(recipe(run, data)) == (run, data)
    assert run.train.duration


@pytest.mark.parametrize("name", PROMISED)
def test_a_recipe_is_what_its_name_says(name: str) -> None:
    run, _ = configs.settings(load(name))
    weights, tuning, size, dtype = PROMISED[name]
    on = (run.loss.image > 0, run.loss.alignment > 0, run.loss.fusion > 0)
    assert on == tuple(map(bool, weights))
    assert (run.tuning.vision, run.tuning.text) == tuning
    assert run.model.clip.vision.image_size == size
    assert run.model.compute.dtype == dtype


@pytest.mark.slow
@pytest.mark.parametrize("name", RECIPES)
def test_the_whole_train_step_of_a_recipe_fits_together(name: str) -> None:
    run, data, plan = plan_of(name)
    batch = tiny.abstract_batch(data.batch_size, run.model.clip)
    state, metrics = jax.eval_shape(make_train_step(plan), plan.abstract, batch)
    shape_of = jax.tree.map(lambda leaf: (leaf.shape, leaf.dtype), state)
    assert shape_of == jax.tree.map(lambda leaf: (leaf.shape, leaf.dtype), plan.abstract)
    expected = {
        "loss",
        "loss_image",
        "accuracy_image",
        "gradient_norm",
        "parameter_norm",
        "learning_rate",
    }
    if run.loss.alignment:
        expected |= {"loss_alignment", "logit_scale"}
    if run.loss.local:
        expected |= {"loss_local_image", "loss_local_alignment"}
    if run.loss.fusion:
        expected |= {
            "loss_fusion", "accuracy_fusion", "accuracy_fusion_without_image", "auc_fusion_without_image",
        }  # fmt: skip
    assert metrics.keys() == expected
    assert {(leaf.shape, leaf.dtype) for leaf in metrics.values()} == {((), jnp.dtype("float32"))}


@pytest.mark.parametrize("name", RECIPES)
def test_the_eval_step_of_a_recipe_fits_together(name: str) -> None:
    run, data, plan = plan_of(name)
    size, side = data.batch_size, run.model.clip.vision.image_size
    batch = {
        "image": jax.ShapeDtypeStruct((size, side, side, 3), np.uint8),
        "label": jax.ShapeDtypeStruct((size,), np.int32),
        "index": jax.ShapeDtypeStruct((size,), np.int32),
        "valid": jax.ShapeDtypeStruct((size,), np.bool_),
    }
    result = jax.eval_shape(make_eval_step(plan), plan.abstract.parameters, batch)
    assert (result["logits"].shape, result["logits"].dtype) == ((size, 2), jnp.dtype("float32"))


@pytest.mark.parametrize("name", [n for n in RECIPES if "14" in n or "b16" in n])
def test_the_large_recipes_run_on_every_mesh_of_eight(name: str) -> None:
    run, data = configs.settings(load(name))
    for sizes in ({"fsdp": 4}, {"tensor": 2}, {"fsdp": 2, "tensor": 2}, {"fsdp": 8}):
        changed = load(name).to_dict()
        changed["mesh"] |= sizes
        run, data = configs.settings(changed)
        plan = plans.make_plan(run, data, steps=10)
        held = sum(
            np.prod(place.shard_shape(plan.shapes[path].shape))
            for path, place in plan.sharding.parameters.items()
        )
        assert held < 0.65 * sum(shape.size for shape in plan.shapes.values())
